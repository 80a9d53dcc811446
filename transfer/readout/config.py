"""Configuration of the linear readout by a published protocol: typed, frozen, strict. The defaults are InfoMin's, the paper's.

In: a YAML file (optional) and `key=value` overrides. Out: `LinearConfig`, and in words what differs from the protocol.
Source of the defaults: docs/specification.md 1.7 (PyContrast options/test_options.py, learning/linear_trainer.py); of MoCo's protocol
the same section (main_lincls.py). The fast protocol has a configuration of its own, fast_config.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pretrain.base.strict import load_config, require
from pretrain.config import to_plain
from transfer.readout.heads import Start

REFERENCE_BATCH = 256
LARGEST_RATE = 1e30  # float32 ends at 3e38, and batches may multiply it
PREDICTIONS = "predictions.csv"  # in a readout's folder: the last epoch's answer to every image of val/
# How, not what: these leave the protocol's name alone.
NOT_PROTOCOL = ("seed", "device", "precision", "num_workers")


@dataclass(frozen=True)
class LinearConfig:
    """One readout. SGD on a single linear layer, features of the frozen encoder in eval() mode.

    learning_rate: made for 2048 features of a 224 px ResNet-50 at batch 256.
    scale_with_batch: multiply learning_rate by batch_size / 256.
    schedule: "step" = times `decay` after each milestone epoch (1-based); "cosine" = down to learning_rate * decay^3.
    recipe: of training images; "linear_randaugment" adds RandAugment.
    crop_scale: area range of the recipe's crop.
    image_size: pixels; validation resizes the shorter side to image_size * 256 / 224 and cuts the centre.
    cached_views: 0 = a new view of every image in every epoch, the protocol; V = so many views an image, encoded once, of
        which epoch e trains on view e mod V.
    standardize: every feature to mean 0 and deviation 1 over the cached training views, so that one learning rate fits
        encoders of unlike feature scale (random weights!); needs cached_views > 0.
    images_per_class: train on so many images of each class, drawn by `seed`; None = on all.
    fraction: the same as a share of each class, at least one image of it.
    classifier_start: "torch" = nn.Linear's own values, InfoMin's; "normal" = N(0, 0.01) and a bias of 0, MoCo's.
    precision: of the encoder; "auto" is bf16 where the device computes it natively. The classifier is always float32.
    """

    seed: int = 0
    epochs: int = 60
    batch_size: int = REFERENCE_BATCH
    learning_rate: float = 30.0
    scale_with_batch: bool = False
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["step", "cosine"] = "step"
    decay: float = 0.2
    milestones: tuple[int, ...] = (30, 40, 50)
    recipe: Literal["linear", "linear_randaugment"] = "linear"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    image_size: int = 224
    cached_views: int = 0
    standardize: bool = False
    images_per_class: int | None = None
    fraction: float | None = None
    classifier_start: Start = "torch"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_workers: int = 8

    def __post_init__(self) -> None:
        """Raise ValueError (a ConfigError when read from a file) for values out of range."""
        require(self.seed >= 0, f"seed expected at least 0, found {self.seed}")
        require(self.epochs > 0 and self.batch_size > 0, "epochs and batch_size expected positive")
        require(
            0 < self.learning_rate <= LARGEST_RATE,
            f"learning_rate expected positive and at most {LARGEST_RATE:g}, found {self.learning_rate}",
        )
        require(0 <= self.momentum < 1, f"momentum expected in [0, 1), found {self.momentum}")
        require(
            0 <= self.weight_decay < math.inf, f"weight_decay expected at least 0 and finite, found {self.weight_decay}"
        )
        require(0 < self.decay <= 1, f"decay expected in (0, 1], found {self.decay}")
        require(
            all(milestone > 0 for milestone in self.milestones),
            f"milestones expected to be epochs, counted from 1, found {list(self.milestones)}",
        )
        low, high = self.crop_scale
        require(0 < low <= high <= 1, f"crop_scale expected 0 < low <= high <= 1, found {list(self.crop_scale)}")
        require(
            self.image_size >= 32, f"image_size expected at least 32 (the encoder's stride), found {self.image_size}"
        )
        require(
            self.images_per_class is None or self.images_per_class > 0,
            f"images_per_class expected positive, found {self.images_per_class}",
        )
        require(self.fraction is None or 0 < self.fraction <= 1, f"fraction expected in (0, 1], found {self.fraction}")
        require(
            self.fraction is None or self.images_per_class is None,
            "fraction and images_per_class both say how many images; pass one of them as null",
        )
        require(self.cached_views >= 0 and self.num_workers >= 0, "cached_views and num_workers expected at least 0")
        require(
            not self.standardize or self.cached_views > 0,
            "standardize needs features that are encoded before training; pass cached_views=1 (or more) with it",
        )

    @property
    def scaled_learning_rate(self) -> float:
        """The rate that is used: linear in the batch size if that was asked for."""
        return self.learning_rate * (self.batch_size / REFERENCE_BATCH if self.scale_with_batch else 1.0)

    def differences_from_paper(self) -> tuple[str, ...]:
        """`key=value`, as one types it, of every setting that is not the paper's; empty: this is the paper's protocol."""
        return self._differences(LinearConfig())

    def _differences(self, protocol: LinearConfig) -> tuple[str, ...]:
        theirs = to_plain(protocol)
        return tuple(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in to_plain(self).items()
            if name not in NOT_PROTOCOL and value != theirs[name]
        )

    def protocol_name(self) -> str:
        """What the result may call itself."""
        different = self.differences_from_paper()
        if not different:
            return "the paper's protocol (60 epochs, lr 30, x0.2 at 30, 40, 50, a new view each epoch)"
        if not self._differences(moco_protocol()):
            return "MoCo's protocol, not the paper's (100 epochs, lr 30, x0.1 at 60, 80, crops from 0.08, a new view each epoch)"
        return f"not the paper's protocol: {', '.join(different)}"


def moco_protocol() -> LinearConfig:
    """MoCo's readout [specification 1.7, main_lincls.py]; configs/linear/imagenet_r50_moco.yaml writes it out.

    DEVIATION: MoCo prints the best epoch's top-1 on the test images; the figure of a record is the last epoch's.
    """
    return LinearConfig(
        epochs=100, decay=0.1, milestones=(60, 80), crop_scale=(0.08, 1.0), classifier_start="normal"
    )  # fmt: skip


def load_linear_config(path: Path | None, overrides: Sequence[str] = ()) -> LinearConfig:
    """Read `path` (None: the paper's protocol) and apply `overrides`. Raises ConfigError naming file and key."""
    return load_config(LinearConfig, path, overrides, "linear", "views")
