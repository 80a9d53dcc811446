"""The sidecar: a JSON file beside converted weights that says what they are, what they want, and how that was proven.

In: `Sidecar` and the path of the weights. Out: PATH.json, or the sidecar read back and checked.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pretrain.contract import InputContract
from pretrain.encoder import ARCHITECTURES
from pretrain.errors import CheckpointError

FORMAT = "infomin-transfer/sidecar"
VERSION = 1


def sidecar_path(weights: Path) -> Path:
    """The sidecar's place: beside the weights, suffix .json."""
    return weights.with_suffix(".json")


@dataclass(frozen=True)
class Sidecar:
    """source: file name, sha256, layout, branch, all branches. contract: how the encoder wants its input.

    detectron2: the configuration keys that say the same to Detectron2. proof: transfer/parity.py's `Proof` as a dictionary.
    """

    weights_sha256: str
    arch: str
    source: dict[str, Any]
    contract: InputContract
    detectron2: dict[str, Any]
    proof: dict[str, Any]

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
        "MODEL.RESNETS.STEM_OUT_CHANNELS": spec.base_channels,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": spec.res2_channels,
        "MODEL.RESNETS.NUM_GROUPS": spec.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": spec.res2_group_channels,
    }


def read_sidecar(weights: Path) -> Sidecar:
    """The sidecar of a weight file. Raises CheckpointError when it is absent, damaged or of another version."""
    path = sidecar_path(weights)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{weights} has no sidecar at {path}; convert the checkpoint again with tools/convert_weights.py"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable sidecar ({error})") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a sidecar of tools/convert_weights.py (no format {FORMAT!r})")
    if values.get("version") != VERSION:
        raise CheckpointError(f"{path}: expected sidecar version {VERSION}, found {values.get('version')!r}")
    fields = set(Sidecar.__dataclass_fields__)
    given = {key: value for key, value in values.items() if key not in ("format", "version")}
    dictionaries = ("source", "contract", "detectron2", "proof")
    if set(given) != fields or not all(isinstance(given[name], dict) for name in dictionaries):
        raise CheckpointError(f"{path}: expected the fields {sorted(fields)}, found {sorted(given)}")
    return Sidecar(**{**given, "contract": InputContract.from_dict(given["contract"])})
