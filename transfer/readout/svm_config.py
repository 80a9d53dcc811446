"""Configuration of the multi-label SVM readout: one linear SVM a class on cached features.

In: a YAML file (optional) and `key=value` overrides. Out: `SvmConfig`. The defaults are the protocol of VOC07 classification by
Goyal et al., 2019 ("Scaling and benchmarking self-supervised visual representation learning", section 4.1) as VISSL runs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pretrain.base.strict import load_config, require
from transfer.readout.fast_config import usual_workers


@dataclass(frozen=True)
class SvmConfig:
    """One SVM readout.

    image_size: pixels of the centre crop.
    costs: C of the SVMs; each class takes the one with the best AP in cross-validation on the training images.
        DEVIATION: VISSL reads the list from its configuration; this grid, 6 decades wide, is ours.
    folds: of the cross-validation, stratified by the class.
    normalize: features of unit length.
    positive_weight: of images that show the class, against 1 of the others.
    max_iterations: of liblinear; a fit that needs more is announced.
    """

    seed: int = 0
    image_size: int = 224
    costs: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    folds: int = 3
    normalize: bool = True
    positive_weight: float = 2.0
    max_iterations: int = 2000
    batch_size: int = 256
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_workers: int = field(default_factory=usual_workers)

    def __post_init__(self) -> None:
        """Raise ValueError (a ConfigError when read from a file) for values out of range."""
        require(self.seed >= 0, f"seed expected at least 0, found {self.seed}")
        require(
            self.image_size >= 32, f"image_size expected at least 32 (the encoder's stride), found {self.image_size}"
        )
        require(
            bool(self.costs) and all(0 < cost < math.inf for cost in self.costs),
            f"costs expected one or more positive numbers, found {list(self.costs)}",
        )
        require(len(set(self.costs)) == len(self.costs), f"costs expected different values, found {list(self.costs)}")
        require(self.folds >= 2, f"folds expected at least 2, found {self.folds}")
        require(
            0 < self.positive_weight < math.inf,
            f"positive_weight expected positive and finite, found {self.positive_weight}",
        )
        require(self.max_iterations > 0 and self.batch_size > 0, "max_iterations and batch_size expected positive")
        require(self.num_workers >= 0, f"num_workers expected at least 0, found {self.num_workers}")


def load_svm_config(path: Path | None, overrides: Sequence[str] = ()) -> SvmConfig:
    """Read `path` (None: the defaults) and apply `overrides`. Raises ConfigError naming file and key."""
    return load_config(SvmConfig, path, overrides, "svm_readout")
