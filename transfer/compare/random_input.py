"""Which input random weights get in a study: that of the weights with which they are compared.

In: the initialisations. Out: for each row of random weights the row whose input it takes, and one sentence why. Without this a row
`random` would differ from the others in channel order, mean, deviation and place of the stride, besides the weights.
"""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

from pretrain.base.contract import InputContract
from transfer.compare.seen_input import SeenInput, of_contract, of_values
from transfer.compare.study_config import NO_WEIGHTS, PRETRAINED, InitConfig, StudyConfig, weight_file

OUR_OWN = InputContract()  # what random weights get where nothing is said, in a detector and in a readout


@functools.lru_cache(maxsize=64)
def encoder_of(path: Path) -> tuple[str, InputContract]:
    """Architecture and input of a weight file, by its sidecar or itself. Raises CheckpointError, ConfigError."""
    from transfer.conversion.sidecar import parse_sidecar, sidecar_path
    from transfer.conversion.towers import load_encoders

    if path.is_file() and sidecar_path(path).is_file():
        sidecar = parse_sidecar(path)
        return sidecar.arch, sidecar.contract
    encoders = load_encoders(path)
    return encoders.arch, encoders.contract


def random_inputs(config: StudyConfig) -> tuple[dict[str, str], list[str]]:
    """("inits.NAME.input_of" -> name of a row, sentences) for the rows of random weights that say nothing themselves.

    Where the others disagree it is the input of the study's own pre-training, which the headline compares with random weights;
    without one, that of most rows; of equally many, the first.
    """
    random = [init.name for init in config.inits if init.weights == NO_WEIGHTS and init.input_of is None]
    inputs = {init.name: found for init in config.inits if (found := _input_of(init)) is not None}
    if not random or not inputs:
        return {}, []
    names = ", ".join(random)
    kinds = Counter(inputs.values())
    if len(kinds) == 1:
        chosen = next(iter(inputs))
        why = f"as {'all other rows' if len(inputs) > 1 else chosen}"
    else:
        own = [init.name for init in config.inits if init.weights == PRETRAINED]
        chosen = own[0] if own else next(name for name in inputs if inputs[name] == kinds.most_common(1)[0][0])
        reason = (
            "the study's own pre-training" if own else "the input of most rows" if _is_most(kinds) else "the first row"
        )
        others = "; ".join(f"{name}: {found}" for name, found in inputs.items() if found != inputs[chosen])
        why = (
            f"as {chosen} ({reason}). The rows disagree: {others}; against those rows a difference to {names} is one of the input "
            "too. Another choice: input_of: NAME of the row in a study file"
        )
    note = f"{names}: input {inputs[chosen]}, {why}"
    if inputs[chosen] == of_contract(OUR_OWN):
        return {}, [note]
    return {f"inits.{name}.input_of": chosen for name in random}, [note]


def _is_most(kinds: Counter[SeenInput]) -> bool:
    first, second = kinds.most_common(2)
    return first[1] > second[1]


def _input_of(init: InitConfig) -> SeenInput | None:
    """None for random weights."""
    if init.weights == NO_WEIGHTS:
        return None
    if init.weights == PRETRAINED:
        return of_contract(OUR_OWN)
    path = weight_file(init)
    if path is not None:
        return of_contract(encoder_of(path)[1])
    from transfer.detect.inits import CONTRACT_KEYS, RANDOM, parse_init

    if init.weights in RANDOM:
        return None
    settings = parse_init(f"other={init.weights}").settings
    order, mean, std, stride = (settings[key] for key in CONTRACT_KEYS)
    return of_values(order, mean, std, stride)
