"""Configuration of the fast readout: features encoded once, many heads in one pass, kNN, few labels.

In: a YAML file (optional) and `key=value` overrides. Out: `FastConfig`. It is no published protocol; what it shares with one
(schedule, batch, crops) has that one's values [docs/specification.md 1.7].
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pretrain.base.strict import load_config, require
from transfer.readout.config import LARGEST_RATE, LinearConfig
from transfer.readout.heads import Head, Start

MOST_HEADS = 1024
MOST_WORKERS = 8


def usual_workers() -> int:
    """A process for every core that this one may use, at most 8."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True)
class FastConfig:
    """One fast readout.

    view: what heads are trained on, and part of the names of the figures. "centre": one centre crop of every image, the same in
        all epochs. "augmented": num_views random crops of every image, encoded once, of which epoch e trains on view e mod
        num_views: comparable to a published protocol, which draws anew in each epoch. Whatever is measured is measured on centre
        crops.
    recipe, crop_scale: of augmented views, as `LinearConfig` has them.
    image_size: pixels; None: what the encoder was pre-trained at, else the images' own size.
    learning_rates, weight_decays: a head for every pair.
    epochs, least_steps: of training; more epochs where they are fewer steps than that (few labels).
    standardize: every feature to mean 0 and deviation 1 over the images trained on, so that the same rates span the best one of
        encoders of unlike feature scale. Without it, rates as large as a published protocol's 30 belong into the list.
    held_out: share of each class of the training images that the heads are compared on. The best pair is then trained on all of
        them, and that head alone meets the validation images.
    neighbours: k of the kNN readout, each with votes weighted by exp(cosine / temperature) and with equal votes; empty: none.
    fractions, fraction_seeds: shares of each class's labels, each drawn by every seed and read out the same way; empty: none.
    precision: of the encoder; "auto" is bf16 where the device computes it natively. Features are stored in float16, heads float32.
    """

    seed: int = 0
    view: Literal["centre", "augmented"] = "centre"
    num_views: int = 10
    recipe: Literal["linear", "linear_randaugment"] = "linear"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    image_size: int | None = None
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    weight_decays: tuple[float, ...] = (0.0, 1e-4, 1e-3, 1e-2)
    epochs: int = 60
    least_steps: int = 1000
    batch_size: int = 256
    momentum: float = 0.9
    schedule: Literal["step", "cosine"] = "step"
    decay: float = 0.2
    milestones: tuple[int, ...] = (30, 40, 50)
    classifier_start: Start = "torch"
    standardize: bool = True
    held_out: float = 0.1
    neighbours: tuple[int, ...] = (20, 200)
    temperature: float = 0.07
    fractions: tuple[float, ...] = (0.01, 0.1)
    fraction_seeds: tuple[int, ...] = (0, 1, 2)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_workers: int = field(default_factory=usual_workers)

    def __post_init__(self) -> None:
        """Raise ValueError (a ConfigError when read from a file) for values out of range."""
        require(self.num_views > 0, f"num_views expected positive, found {self.num_views}")
        require(0 < self.held_out < 1, f"held_out expected in (0, 1), found {self.held_out}")
        require(self.least_steps >= 0, f"least_steps expected at least 0, found {self.least_steps}")
        require(bool(self.learning_rates), "learning_rates expected one rate or more, found none")
        require(bool(self.weight_decays), "weight_decays expected one or more (0 for none), found none")
        for name, values in (
            ("learning_rates", self.learning_rates),
            ("weight_decays", self.weight_decays),
            ("neighbours", self.neighbours),
            ("fractions", self.fractions),
            ("fraction_seeds", self.fraction_seeds),
        ):
            require(len(set(values)) == len(values), f"{name} expected different values, found {list(values)}")
        require(
            all(0 < rate <= LARGEST_RATE for rate in self.learning_rates),
            f"learning_rates expected positive and at most {LARGEST_RATE:g}, found {list(self.learning_rates)}",
        )
        require(
            all(0 <= decay < math.inf for decay in self.weight_decays),
            f"weight_decays expected at least 0 and finite, found {list(self.weight_decays)}",
        )
        require(
            len(self.heads) <= MOST_HEADS,
            f"learning_rates x weight_decays expected at most {MOST_HEADS} heads, found {len(self.heads)}",
        )
        require(all(k > 0 for k in self.neighbours), f"neighbours expected positive, found {list(self.neighbours)}")
        require(0 < self.temperature < math.inf, f"temperature expected positive and finite, found {self.temperature}")
        require(
            all(0 < share < 1 for share in self.fractions),
            f"fractions expected in (0, 1), found {list(self.fractions)}",
        )
        require(all(seed >= 0 for seed in self.fraction_seeds), "fraction_seeds expected at least 0")
        require(
            bool(self.fractions) <= bool(self.fraction_seeds),
            "fraction_seeds expected one seed or more (or fractions=[])",
        )
        self._usual()  # what it shares with a usual readout has the same limits

    def _usual(self) -> LinearConfig:
        """A usual readout with the settings that both have."""
        return LinearConfig(
            seed=self.seed,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rates[0],
            momentum=self.momentum,
            schedule=self.schedule,
            decay=self.decay,
            milestones=self.milestones,
            recipe=self.recipe,
            crop_scale=self.crop_scale,
            image_size=224 if self.image_size is None else self.image_size,
            num_workers=self.num_workers,
        )

    @property
    def heads(self) -> tuple[Head, ...]:
        """Every pair of a rate and a decay, the rates in order for each decay."""
        return tuple(Head(rate, decay) for decay in self.weight_decays for rate in self.learning_rates)

    def protocol_name(self) -> str:
        """What the result may call itself."""
        views = "one centre crop" if self.view == "centre" else f"{self.num_views} augmented views"
        return (
            f"fast readout, no published protocol: {views} an image encoded once, {len(self.heads)} heads "
            f"({len(self.learning_rates)} rates x {len(self.weight_decays)} decays) compared on {self.held_out:g} of the "
            f"training images"
        )


def load_fast_config(path: Path | None, overrides: Sequence[str] = ()) -> FastConfig:
    """Read `path` (None: the defaults) and apply `overrides`. Raises ConfigError naming file and key."""
    return load_config(FastConfig, path, overrides, "fast_readout")
