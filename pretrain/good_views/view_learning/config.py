"""The configuration of a game in which views are learned: typed, frozen, strict. Defaults are the paper's.

Source of every default: docs/specification.md 4 ([LV]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pretrain.base.strict import from_mapping, read_config, require
from pretrain.good_views.encoders import ViewEncoderConfig, require_image_size
from pretrain.views.generator import GeneratorConfig

Mode = Literal["unsupervised", "semi-supervised", "supervised"]


@dataclass(frozen=True)
class GameDataConfig:
    """side: images are resized and cut to side x side pixels as they are read; None: they must all have one size.
    skip_unreadable: leave unreadable images out, with a warning, instead of refusing to start.
    """

    side: int | None = None
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        require(self.side is None or self.side > 0, f"side expected positive, found {self.side}")


@dataclass(frozen=True)
class EstimatorConfig:
    """The two networks whose bound on I(view 1; view 2) the generator lowers.

    bound: "dv": Donsker-Varadhan of dot products of raw embeddings; "infonce": unit embeddings, negatives from the batch;
        "memory_bank": unit embeddings against rows of a bank.
    embedding_dim: None: 256 for dv, 128 for the others.
    temperature: of infonce and memory_bank.
    num_negatives, bank_momentum: rows drawn from the bank for each pair, and the momentum of its update.
    spectral_norm: of every layer, for games that do not settle (not in the paper).
    gradient_penalty: weight of the squared gradient of the joint scores by the views, likewise.
    """

    encoder: ViewEncoderConfig = field(default_factory=ViewEncoderConfig)
    bound: Literal["dv", "infonce", "memory_bank"] = "dv"
    embedding_dim: int | None = None
    temperature: float = 0.07
    num_negatives: int = 4096
    bank_momentum: float = 0.5
    spectral_norm: bool = False
    gradient_penalty: float = 0.0

    def __post_init__(self) -> None:
        require(self.embedding_dim is None or self.embedding_dim > 0, "embedding_dim expected positive")
        require(self.temperature > 0, f"temperature expected positive, found {self.temperature}")
        require(self.num_negatives > 0, f"num_negatives expected positive, found {self.num_negatives}")
        require(0 <= self.bank_momentum < 1, f"bank_momentum expected in [0, 1), found {self.bank_momentum}")
        require(self.gradient_penalty >= 0, f"gradient_penalty expected at least 0, found {self.gradient_penalty}")

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return self.embedding_dim or (256 if self.bound == "dv" else 128)


@dataclass(frozen=True)
class GameOptimizerConfig:
    """Adam.

    learning_rate: the estimator's.
    generator_factor: generator and classifiers take so many times it.
    epochs: passes over the unlabelled images.
    milestones, decay: after each milestone epoch both rates are multiplied by `decay`.
    """

    learning_rate: float = 2e-4
    generator_factor: float = 5.0
    betas: tuple[float, float] = (0.5, 0.999)
    epochs: int = 100
    milestones: tuple[int, ...] = (60, 80)
    decay: float = 0.2
    batch_size: int = 128
    labelled_batch_size: int = 64

    def __post_init__(self) -> None:
        require(self.learning_rate > 0 and self.generator_factor > 0, "rates expected positive")
        require(self.epochs > 0, f"epochs expected positive, found {self.epochs}")
        require(self.batch_size >= 2 and self.labelled_batch_size >= 1, "batch sizes expected at least 2 and 1")
        require(all(0 <= beta < 1 for beta in self.betas), f"betas expected in [0, 1), found {self.betas}")


@dataclass(frozen=True)
class HealthConfig:
    """When a game has diverged: a figure that is not finite, or one of these.

    max_information: more nats than this.
    min_deviation, max_deviation: a learned channel whose deviation over a batch leaves this range (it starts near 1).
    """

    max_information: float = 50.0
    min_deviation: float = 1e-3
    max_deviation: float = 1e3


@dataclass(frozen=True)
class GameRuntimeConfig:
    """How a game runs; nothing here changes what is computed.

    log_every_steps: also how often the generator is set aside.
    save_every_steps: None: once an epoch.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every_steps: int = 50
    save_every_steps: int | None = None

    def __post_init__(self) -> None:
        require(self.log_every_steps > 0, f"log_every_steps expected positive, found {self.log_every_steps}")
        require(self.save_every_steps is None or self.save_every_steps > 0, "save_every_steps expected positive")


@dataclass(frozen=True)
class GameConfig:
    """One game.

    mode: "unsupervised" has no classifiers, "supervised" no information in the generator's loss.
    image_size, crop_scale: of a crop: pixels, and the range of its share of the image's area.
    labels_per_class: so many images of each class folder count as labelled; None: all of them.
    information_weight, classification_weight: of the bound and of the cross-entropies in the generator's loss.
    """

    mode: Mode = "semi-supervised"
    image_size: int = 64
    crop_scale: tuple[float, float] = (0.2, 1.0)
    labels_per_class: int | None = None
    information_weight: float = 1.0
    classification_weight: float = 1.0
    data: GameDataConfig = field(default_factory=GameDataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    classifier: ViewEncoderConfig = field(default_factory=lambda: ViewEncoderConfig(kind="resnet18_half"))
    optimizer: GameOptimizerConfig = field(default_factory=GameOptimizerConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    runtime: GameRuntimeConfig = field(default_factory=GameRuntimeConfig)

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        low, high = self.crop_scale
        require(0 < low <= high <= 1, f"crop_scale expected 0 < low <= high <= 1, found {self.crop_scale}")
        require(self.labels_per_class is None or self.labels_per_class > 0, "labels_per_class expected positive")
        require(self.information_weight >= 0 and self.classification_weight >= 0, "weights expected at least 0")

    @property
    def uses_labels(self) -> bool:
        """Whether there are classifiers."""
        return self.mode != "unsupervised"

    @property
    def effective_information_weight(self) -> float:
        """Of the bound in the generator's loss: 0 in supervised mode."""
        return 0.0 if self.mode == "supervised" else self.information_weight


def load_game_config(path: Path | None, overrides: Sequence[str] = (), **given: Any) -> GameConfig:
    """Read `path` (None: defaults), apply `overrides`, then the `given` values that are not None. ConfigError names the key."""
    values, origin = read_config(path, overrides, "views")
    values |= {key: value for key, value in given.items() if value is not None}
    return from_mapping(GameConfig, values, where=origin)
