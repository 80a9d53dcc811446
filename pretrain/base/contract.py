"""The input contract: what an encoder was trained to be fed. It travels with the weights from the door to the detector.

In: nothing. Out: `InputContract`, a value that checkpoints and sidecars carry and the detector's configuration must match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pretrain.base.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputContract:
    """How pixels must reach the encoder.

    channel_order: "RGB" or "BGR". mean, std: per channel, in units of [0, 1] intensities, in `channel_order`.
    stride_in_1x1: True for the caffe/MSRA ResNet, False for v1.5 (stride on the 3x3). stem: "basic" = 7x7 stride 2,
    then 3x3 max-pool stride 2; "small" = 3x3 stride 1, no pooling. bn_eps: epsilon of every BatchNorm.
    """

    channel_order: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    stride_in_1x1: bool = False
    stem: str = "basic"
    bn_eps: float = 1e-5

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputContract:
        """Inverse of `to_dict`. Raises CheckpointError on a missing or unknown field."""
        names = set(cls.__dataclass_fields__)
        if set(values) != names:
            raise CheckpointError(f"input contract: expected the fields {sorted(names)}, found {sorted(values)}")
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
