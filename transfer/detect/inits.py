"""What a detector starts from: the text of `--init`, the weights that it names, and the configuration keys that belong to them.

In: `NAME=FILE`, `NAME=CATALOG`, a name of CATALOG, or `random`. Out: `Init` (parse_init); its keys written into a configuration,
with a sentence on what was applied (apply_init), or a ConfigError or CheckpointError with what to pass. A family of
transfer/configs says nothing about weights: how they want their input comes from their sidecar, or from CATALOG.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from detectron2.config import CfgNode

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, did_you_mean
from pretrain.base.same_run import flat
from pretrain.base.strict import load_yaml
from transfer.conversion.layouts import MSRA_BGR
from transfer.conversion.published import catalog_entry
from transfer.conversion.sidecar import detectron2_settings, read_sidecar, sidecar_path
from transfer.detect.checks import as_argument, config_value, contradictions, flat_settings, same_value, set_value
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT, shipped_runs
from transfer.detect.loading import CONFIG_FILE, without_sidecar

WEIGHTS_KEY = "MODEL.WEIGHTS"
CONTRACT_KEYS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1")
PYRAMID_KEY = (
    "MODEL.BACKBONE.NAME"  # a whole detector with a pyramid keeps its ResNet under another name than one without
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
LIKE = "like:"  # NAME=like:WHAT: random weights that want their input as WHAT, a file or a name, does
FORMS = "expected NAME=FILE of converted weights (mine=weights/mine.pth), random, or a name of the catalog"


@dataclass(frozen=True)
class Init:
    """One initialisation.

    name: of the row in tables, and of folders. weights: a file, an address, or "" for random weights.
    settings: Detectron2 keys of the input contract and of the network; of random weights those of the input alone.
    origin: who says so. "trusted": nobody, the user vouches for the file and gives the keys.
    """

    name: str
    weights: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    origin: Literal["sidecar", "catalog", "random", "trusted"] = "sidecar"


def _input_settings(contract: InputContract) -> dict[str, Any]:
    return {key: value for key, value in detectron2_settings("resnet50", contract).items() if key in CONTRACT_KEYS}


# `random`: the input of our own weights and of most published ones, so that a comparison differs in the weights alone.
# `random_bgr`: that of PyContrast's *_rand files, which inherit it from Detectron2 [specification 2.2].
RANDOM = {
    "random": Init("random", "", _input_settings(InputContract()), "random"),
    "random_bgr": Init("random_bgr", "", _input_settings(MSRA_BGR), "random"),
}
_ZOO = "detectron2://COCO-InstanceSegmentation/mask_rcnn_"
_ADDRESSES = {
    "msra_r50": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "msra_r101": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "fair_x101_32x8d": "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
    "fair_x152_in5k": "catalog://ImageNetPretrained/FAIR/X-152-32x8d-IN5k",
    "torchvision_r50": "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
    "coco_r50_fpn_3x": f"{_ZOO}R_50_FPN_3x/137849600/model_final_f10217.pkl",
    "coco_r101_fpn_3x": f"{_ZOO}R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
    "coco_x101_fpn_3x": f"{_ZOO}X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl",
    "coco_r50_c4_3x": f"{_ZOO}R_50_C4_3x/137849525/model_final_4ce675.pkl",
    "coco_r101_c4_3x": f"{_ZOO}R_101_C4_3x/138363239/model_final_a2914c.pkl",
}


def _of_address(name: str, address: str) -> Init:
    entry = catalog_entry(address)
    assert entry is not None
    settings = detectron2_settings(entry.arch, entry.contract)
    if entry.detector:
        settings[PYRAMID_KEY] = "build_resnet_fpn_backbone" if entry.detector == "FPN" else "build_resnet_backbone"
    return Init(name, address, settings, "catalog")


# Weights that Detectron2 fetches, and whose input and network are known. Trained with labels: ImageNet's, or COCO's boxes and masks.
CATALOG: Mapping[str, Init] = {name: _of_address(name, address) for name, address in _ADDRESSES.items()}


def parse_init(text: str, *, trust: bool = False) -> Init:
    """The initialisation that `--init TEXT` asks for, its sidecar read and compared with the file. `random=like:FILE` (or a name of
    the catalog, or another row's name before the =): random weights with the input of others, with which they are compared.

    trust: take a file without a valid sidecar, whose keys the user then gives. Raises ConfigError for a text of no known form,
    CheckpointError for a file that is absent, or whose sidecar is absent or proves nothing.
    """
    known = RANDOM | dict(CATALOG)
    if text in known:
        return known[text]
    name, equals, place = text.partition("=")
    if not equals:
        raise ConfigError(f"--init {text}: {FORMS} ({', '.join(known)}){_hint(text, known)}")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"--init {text}: expected a name of letters, digits and . _ + - before the =, found {name!r}; it becomes "
            "the row's name in tables and part of a folder's"
        )
    if not place:
        raise ConfigError(f"--init {text}: nothing after the =; {FORMS}")
    is_random = name not in known or name == "random"
    if place.startswith(LIKE) and is_random:
        other = parse_init(f"other={place.removeprefix(LIKE)}")
        return replace(RANDOM["random"], name=name, settings={key: other.settings[key] for key in CONTRACT_KEYS})
    if name in known and place != name and not (is_random and place in RANDOM):
        raise ConfigError(
            f"--init {text}: {name} is the name of {known[name].weights or 'random weights'}; give this row another one, for "
            f"example --init mine={place}"
        )
    if place in known:
        return replace(known[place], name=name)
    if "://" in place:
        if catalog_entry(place) is None:
            raise ConfigError(
                f"--init {text}: nothing here knows which input the weights at that address expect. Known: "
                f"{', '.join(CATALOG)}. For others pass their keys yourself: MODEL.WEIGHTS {place} --trust INPUT.FORMAT ..."
            )
        return _of_address(name, place)
    return _of_file(name, place, trust=trust)


def parses_to(text: str, init: Init) -> bool:
    """Whether `--init TEXT` asks for `init`, by its name and weights; the file need not be there."""
    name, _, place = text.partition("=")
    known = RANDOM | dict(CATALOG)
    weights = known[place or name].weights if (place or name) in known else str(Path(place).expanduser())
    weights = "" if place.startswith(LIKE) else weights
    return (name, place if "://" in place else weights) == (init.name, init.weights)


def _hint(text: str, known: Mapping[str, Init]) -> str:
    if "/" in text or Path(text).suffix in (".pth", ".pkl", ".pt", ".json") or Path(text).exists():
        return f"; a file needs a name for its row: --init mine={text}"
    return (
        did_you_mean(text, known, shown="--init {}", cutoff=0.6)
        or f"; where {text} is the name of your row: --init {text}=FILE"
    )


def _of_file(name: str, place: str, *, trust: bool) -> Init:
    path = Path(place).expanduser()
    if path.is_dir():
        raise CheckpointError(
            f"--init {name}={place} is a folder; of a pre-training run convert the newest checkpoint first: "
            f"`python tools/convert_weights.py {place} weights/{name}.pth`, then pass --init {name}=weights/{name}.pth"
        )
    if not path.is_file():
        raise CheckpointError(
            f"no weight file at {place} (--init {name}={place}){did_you_mean(place, (*RANDOM, *CATALOG), shown=f'--init {name}={{}}', cutoff=0.7)}"
        )
    if not sidecar_path(path).is_file() and not trust:
        message = without_sidecar(str(path), path, use=f"--init {name}=OUTPUT.pth")
        keys = f", and give {', '.join(CONTRACT_KEYS)}" if "--trust" in message else ""
        raise CheckpointError(f"{message}{keys}")
    try:
        sidecar = read_sidecar(path)
    except CheckpointError as error:
        if not trust:
            raise CheckpointError(f"--init {name}={place}: {error}") from None
        return Init(name, str(path), {}, "trusted")
    return Init(name, str(path), dict(sidecar.detectron2), "sidecar")


def apply_init(config: CfgNode, init: Init, given: frozenset[str]) -> tuple[str, ...]:
    """Write the initialisation into the configuration of a family. given: keys of the command line, which are never overwritten.

    Returns sentences on what was applied. Raises ConfigError with the lines to change where a given key contradicts, and with
    the family that fits where the network is another one.
    """
    asked = _words(init)
    if WEIGHTS_KEY in given and init.weights != config.MODEL.WEIGHTS:
        raise ConfigError(
            f"both {asked} and {WEIGHTS_KEY} {config.MODEL.WEIGHTS or chr(39) * 2}: they name different weights; leave one out"
        )
    if init.origin == "trusted":
        return (*_vouched(config, init, given, asked), _set_weights(config, init))
    found = contradictions(config, init.settings)
    explicit = {key: line for key, line in found.items() if key in CONTRACT_KEYS and key in given}
    network = {
        key: line for key, line in found.items() if key not in CONTRACT_KEYS and not _both_pyramids(config, key, init)
    }
    if explicit or network:
        raise ConfigError(_refusal(config, init, asked, given, explicit, network))
    applied = {key: value for key, value in init.settings.items() if key in CONTRACT_KEYS}
    for key, value in applied.items():
        set_value(config, key, list(value) if isinstance(value, tuple) else value)
    shown = ", ".join(f"{key} {as_argument(value)}" for key, value in applied.items())
    notes = [f"{asked}: set {shown}, from {_source(init)}"]
    fixed = [f"{key} {as_argument(value)}" for key, value in init.settings.items() if key not in CONTRACT_KEYS]
    if fixed:
        notes.append(f"{asked}: the configuration builds the network of the weights: {', '.join(fixed)}")
    return (*notes, _set_weights(config, init))


def _source(init: Init) -> str:
    """Who says how the weights want their input."""
    if init.origin == "sidecar":
        return f"the sidecar {sidecar_path(Path(init.weights))}"
    if init.origin == "random" and RANDOM.get(init.name) != init:
        return "the weights with which these random ones are compared"
    entry = catalog_entry(init.weights)
    return entry.source if entry is not None else f"transfer/detect/inits.py, for {init.name}"


def apply_detectors_input(config: CfgNode, given: frozenset[str]) -> tuple[str, ...]:
    """Feed a trained detector (MODEL.WEIGHTS) as it was trained: the input keys of the config.yaml beside it, where there is one.

    given: keys of the command line, left as they are; whoever loads the detector refuses what contradicts.
    """
    path = Path(config.MODEL.WEIGHTS).parent / CONFIG_FILE
    if not config.MODEL.WEIGHTS or not path.is_file():
        return ()
    trained = flat_settings(load_yaml(path))
    applied = {key: trained[key] for key in CONTRACT_KEYS if key in trained and key not in given}
    changed = {key: value for key, value in applied.items() if not same_value(config_value(config, key), value)}
    for key, value in changed.items():
        set_value(config, key, list(value) if isinstance(value, tuple) else value)
    shown = ", ".join(f"{key} {as_argument(value)}" for key, value in changed.items())
    return (f"set from the detector's own {path}: {shown}",) if changed else ()


def _words(init: Init) -> str:
    """The initialisation as it is typed."""
    known = RANDOM | dict(CATALOG)
    if init.origin == "random" and init.settings not in [entry.settings for entry in RANDOM.values()]:
        return f"--init {init.name}={LIKE}..."
    same = next((name for name, entry in known.items() if entry == replace(init, name=name)), init.weights)
    return f"--init {init.name}" if same == init.name else f"--init {init.name}={same}"


def _vouched(config: CfgNode, init: Init, given: frozenset[str], asked: str) -> tuple[str, ...]:
    missing = [key for key in CONTRACT_KEYS if key not in given]
    if missing:
        example = " ".join(f"{key} {as_argument(value)}" for key, value in RANDOM["random"].settings.items())
        raise ConfigError(
            f"{asked} has no sidecar that proves it, and you vouch for it (--trust): say how it wants its input, missing are "
            f"{', '.join(missing)}. Of a network of torchvision's kind they are: {example}"
        )
    shown = ", ".join(f"{key} {as_argument(config_value(config, key))}" for key in CONTRACT_KEYS)
    return (f"{asked}: NOT PROVEN, you vouch (--trust) for {shown}",)


def _set_weights(config: CfgNode, init: Init) -> str:
    before, config.MODEL.WEIGHTS = config.MODEL.WEIGHTS, init.weights
    replaced = f" in place of the configuration's {before}" if before not in ("", init.weights) else ""
    return f"{WEIGHTS_KEY} {init.weights or chr(39) * 2}{replaced}"


def _both_pyramids(config: CfgNode, key: str, init: Init) -> bool:
    """Backbones that keep the ResNet under the same names, whatever stands on it (RetinaNet's levels are others)."""
    return key == PYRAMID_KEY and ("fpn" in config.MODEL.BACKBONE.NAME) == ("fpn" in init.settings[key])


def _refusal(
    config: CfgNode,
    init: Init,
    asked: str,
    given: frozenset[str],
    explicit: Mapping[str, str],
    network: Mapping[str, str],
) -> str:
    lines = []
    if explicit:
        lines += [
            f"{asked}: the command line contradicts {_source(init)}; change these or leave them out:",
            *explicit.values(),
        ]
        if init.origin == "random":
            lines.append("  (to choose the input of random weights yourself pass MODEL.WEIGHTS '' in place of --init)")
    if network and set(network) <= given:
        lines.append(f"{asked}: the weights are of another network than the command line asks for; leave these out:")
        lines += network.values()
    elif network:
        lines.append(f"{asked}: the configuration builds another network than that of the weights ({_source(init)}):")
        lines += [line.partition("; pass:")[0] for line in network.values()]
        family = family_that_fits(config, init)
        pass_keys = " ".join(f"{key} {as_argument(init.settings[key])}" for key in network)
        lines.append(
            f"pass the family that fits: --config-file {family}"
            if family
            else f"no family of transfer/configs builds that network; pass: {pass_keys}"
        )
    return "\n".join(lines)


def family_that_fits(config: CfgNode, init: Init) -> str | None:
    """Of the shipped families whose network is that of the weights, the one that differs least from `config`: in data and kind of
    detector first, then in the number of keys."""
    asked, found = flat(config), dict[str, tuple[bool, bool, int, str]]()
    network = {key: value for key, value in init.settings.items() if key not in CONTRACT_KEYS}
    for name, family in _families().items():
        if all(_both_pyramids(family, key, init) for key in contradictions(family, network)):
            values = flat(family)
            others = [key for key in values if values[key] != asked.get(key)]
            found[name] = ("DATASETS.TRAIN" in others, "MODEL.META_ARCHITECTURE" in others, len(others), name)
    return min(found, key=found.__getitem__) if found else None


@functools.cache
def _families() -> Mapping[str, CfgNode]:
    """Every shipped family by its name; not to be written into."""
    return {path.relative_to(CONFIG_ROOT).as_posix(): load_detector_config(path) for path in shipped_runs()}
