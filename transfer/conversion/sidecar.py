"""The sidecar: a JSON file beside converted weights that says what they are, what they want, and how that was proven.

In: `Sidecar` and the path of the weights. Out: PATH.json, or the sidecar read back, compared with the weights and checked by its own proof.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Any

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from pretrain.model.encoder import STAGES
from transfer.conversion.weight_files import file_sha256

FORMAT = "infomin-transfer/sidecar"
VERSION = 1
# What a proof must show (transfer/conversion/parity.py makes it, `read_sidecar` asks for it). Differences are relative to the largest
# activation of the stage, float32.
TOLERANCE = 1e-5
BREAKS = 10 * TOLERANCE  # a control differs more than this
PROVEN_STAGES = STAGES[1:]  # a target may leave the stem out (ONNX), not these
DEMANDED_CONTROLS = ("channel order", "two tensors swapped")
OTHER_BRANCH = "the other branch"  # reported, not demanded: after a step or two both copies are still the same


def sidecar_path(weights: Path) -> Path:
    """The sidecar's place: beside the weights, suffix .json."""
    return weights.with_suffix(".json")


@dataclass(frozen=True)
class Sidecar:
    """source: file name, sha256, layout, branch, all branches, and what is known of the training: method, method_source, image_size,
    pretraining (transfer/conversion/initialisation.py); sidecars of older versions lack the last ones. contract: how the encoder wants its input.

    detectron2: the configuration keys that say the same to Detectron2. proof: transfer/conversion/parity.py's `Proof` as a dictionary.
    target: for which library the weights are (transfer/conversion/targets.py); sidecars older than the field are Detectron2's.
    """

    weights_sha256: str
    arch: str
    source: dict[str, Any]
    contract: InputContract
    detectron2: dict[str, Any]
    proof: dict[str, Any]
    target: str = "detectron2"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with format and version."""
        return {"format": FORMAT, "version": VERSION, **asdict(self), "contract": self.contract.to_dict()}


def detectron2_settings(arch: str, contract: InputContract) -> dict[str, Any]:
    """Configuration keys that make Detectron2 build `arch` and feed it as `contract` says (pixels in 0..255)."""
    spec = ARCHITECTURES[arch]
    return {
        "INPUT.FORMAT": contract.channel_order,
        "MODEL.PIXEL_MEAN": [round(255 * value, 6) for value in contract.mean],
        "MODEL.PIXEL_STD": [round(255 * value, 6) for value in contract.std],
        "MODEL.RESNETS.DEPTH": spec.depth,
        "MODEL.RESNETS.STRIDE_IN_1X1": contract.stride_in_1x1,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": spec.stem_channels,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": spec.res2_channels,
        "MODEL.RESNETS.NUM_GROUPS": spec.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": spec.res2_group_channels,
    }


def read_sidecar(weights: Path) -> Sidecar:
    """The sidecar of a weight file. Raises CheckpointError when it is absent, damaged, of another version or of another
    file, and when its proof is absent or did not pass."""
    path = sidecar_path(weights)
    sidecar = parse_sidecar(weights)
    finding = proof_finding(sidecar.proof)
    if finding is not None:
        raise CheckpointError(f"{path} does not prove its weights: {finding}. Convert the checkpoint again")
    if not weights.is_file():
        raise CheckpointError(f"no weight file at {weights}, which {path} describes")
    found = file_sha256(weights)
    if found != sidecar.weights_sha256:
        raise CheckpointError(
            f"{weights} is not the file its sidecar describes: sha256 {found[:12]}... found, {sidecar.weights_sha256[:12]}... "
            "expected. Convert the checkpoint again"
        )
    return sidecar


def parse_sidecar(weights: Path) -> Sidecar:
    """The sidecar of a weight file as it stands, nothing in it checked. Raises CheckpointError when it is no sidecar."""
    path = sidecar_path(weights)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{weights} has no sidecar at {path}: put the one that was written with it back beside it, or convert the checkpoint that "
            "it was made from again: `python tools/convert_weights.py CHECKPOINT OUTPUT.pth`"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable sidecar ({error})") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a sidecar of tools/convert_weights.py (no format {FORMAT!r})")
    if values.get("version") != VERSION:
        raise CheckpointError(f"{path}: expected sidecar version {VERSION}, found {values.get('version')!r}")
    fields = Sidecar.__dataclass_fields__
    needed = {name for name, field in fields.items() if field.default is MISSING}
    given = {key: value for key, value in values.items() if key not in ("format", "version")}
    if not needed <= set(given) <= set(fields) or not all(
        isinstance(value, dict if key in ("source", "contract", "detectron2", "proof") else str)
        for key, value in given.items()
    ):
        raise CheckpointError(f"{path}: expected the fields {sorted(fields)}, found {sorted(given)}")
    source, pretraining = given["source"], given["source"].get("pretraining")
    if not isinstance(source.get("method"), (str, type(None))) or not (
        pretraining is None or (isinstance(pretraining, dict) and set(pretraining) == {"seed", "hash"})
    ):
        raise CheckpointError(f"{path}: source: expected a name as method, and seed and hash of the pretraining")
    return Sidecar(**{**given, "contract": InputContract.from_dict(given["contract"])})


def proof_finding(proof: Mapping[str, Any]) -> str | None:
    """What is missing or failed in a proof, None for one that holds: all tensors placed, every stage within 1e-5, every
    control beyond ten times that."""
    placed, expected = proof.get("tensors_placed"), proof.get("tensors_expected")
    if not (isinstance(placed, int) and placed == expected and placed > 0):
        return f"{placed} of {expected} tensors were placed"
    stages: Any = proof.get("relative_difference")
    controls: Any = proof.get("negative_controls")
    if not (_figures(stages) and _figures(controls)):
        return "it holds no differences of stages, or no controls"
    bad = [f"{stage} differs by {value:.1e}" for stage, value in stages.items() if not 0 <= value <= TOLERANCE]
    bad += [f"the stage {stage} was not compared" for stage in PROVEN_STAGES if stage not in stages]
    bad += [
        f"the control {name} made a difference of {value:.1e}"
        for name, value in controls.items()
        if not value > BREAKS and name != OTHER_BRANCH
    ]
    bad += [f"the control {name} was not run" for name in DEMANDED_CONTROLS if name not in controls]
    return "; ".join(bad) or None


def _figures(values: Any) -> bool:
    return (
        isinstance(values, dict)
        and bool(values)
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values.values())
    )
