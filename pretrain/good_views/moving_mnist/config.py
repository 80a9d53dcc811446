"""The configuration of a Moving-MNIST experiment: scene, encoders, training, probes.

Without a file: the paper's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pretrain.base.strict import load_config, require

DIGIT_SIZE = 28  # pixels of MNIST's images, pasted unscaled


@dataclass(frozen=True)
class SceneConfig:
    """What a pair of views shows. Sizes in pixels, times in frames.

    canvas, num_frames: the paper's (UNVERIFIED). DEVIATION (the paper's choice is not known): the rest.
    future_steps: view 2 shows the trajectory this long after the last frame of view 1, so that the position they share has to
        be foreseen from the motion.
    speed: of the digit, drawn uniformly from this range, pixels a frame; its direction is uniform.
    background_size: backgrounds are scaled to this square, of which each view shows a random crop of the canvas's size.
    background_brightness: backgrounds are multiplied by this, in (0, 1]; below 1 the white digit stands out and is learned sooner.
    same_digit: what views share with the digit: the very image of it ("instance", as two frames of one film would) or only
        its class, by another image.
    same_background: two crops of one image, or of two images of one class.
    """

    canvas: int = 64
    num_frames: int = 10
    future_steps: int = 3
    speed: tuple[float, float] = (2.0, 5.0)
    background_size: int = 96
    background_brightness: float = 1.0
    same_digit: Literal["instance", "class"] = "instance"
    same_background: Literal["image", "class"] = "image"

    def __post_init__(self) -> None:
        require(self.canvas > DIGIT_SIZE, f"canvas expected more than a digit's {DIGIT_SIZE}, found {self.canvas}")
        require(self.num_frames >= 2, f"num_frames expected 2 or more (motion), found {self.num_frames}")
        require(self.future_steps >= 0, f"future_steps expected 0 or more, found {self.future_steps}")
        low, high = self.speed
        require(0 <= low <= high, f"speed expected [low, high] with 0 <= low <= high, found {list(self.speed)}")
        require(high <= self.free_range, f"speed expected at most {self.free_range} (the free range), found {high}")
        require(
            0 < self.background_brightness <= 1,
            f"background_brightness expected in (0, 1], found {self.background_brightness}",
        )
        require(
            self.background_size >= self.canvas,
            f"background_size expected at least the canvas's {self.canvas}, found {self.background_size}",
        )

    @property
    def free_range(self) -> int:
        """How far a digit can move along an axis: canvas less digit, pixels."""
        return self.canvas - DIGIT_SIZE


@dataclass(frozen=True)
class EncoderConfig:
    """input_pixels: the canvas is averaged down to this before the convolutions.
    width, feature_dim: those of SmallEncoder.
    num_points: places that an encoder can report (encoders.py).
    head: above the features that the probes see. Not "mlp": with it the embeddings of a slow factor, the digit, became one vector
        before anything was learned (InfoNCE at 0 for 500 steps; with BatchNorm 0.83 nats, one run each at the small scale).
    head_dim: of the embedding that InfoNCE compares.
    """

    input_pixels: int = 64
    width: int = 32
    feature_dim: int = 128
    num_points: int = 8
    head: Literal["linear", "mlp", "mlp_bn"] = "mlp_bn"
    head_dim: int = 64

    def __post_init__(self) -> None:
        sizes = (self.input_pixels, self.width, self.feature_dim, self.num_points, self.head_dim)
        require(min(sizes) > 0, f"sizes expected positive, found {sizes}")


@dataclass(frozen=True)
class TrainingConfig:
    """steps: of InfoNCE for each sharing and seed.
    supervised_steps: for each task and seed of the supervised row.
    """

    batch_size: int = 256
    steps: int = 50_000
    learning_rate: float = 1e-3
    temperature: float = 0.1
    supervised_steps: int = 20_000
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, f"batch_size expected 2 or more (negatives), found {self.batch_size}")
        require(min(self.steps, self.supervised_steps) > 0, "steps and supervised_steps expected positive")
        require(self.learning_rate > 0, f"learning_rate expected positive, found {self.learning_rate}")
        require(self.temperature > 0, f"temperature expected positive, found {self.temperature}")


@dataclass(frozen=True)
class ProbeConfig:
    """num_train, num_test: scenes that fit a probe, and held-out ones that judge it.
    information_batches: of held-out pairs, which estimate I_NCE.
    """

    num_train: int = 20_000
    num_test: int = 10_000
    weight_decay: float = 1e-3
    information_batches: int = 20

    def __post_init__(self) -> None:
        require(self.num_train >= 20 and self.num_test >= 20, "num_train and num_test expected 20 or more")
        require(self.weight_decay > 0, f"weight_decay expected positive, found {self.weight_decay}")
        require(self.information_batches > 0, "information_batches expected positive")


@dataclass(frozen=True)
class MovingMnistConfig:
    """One experiment: all sharings and seeds are run with it. held_out_share: of digits or backgrounds without a test split."""

    held_out_share: float = 0.2
    scene: SceneConfig = field(default_factory=SceneConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        require(0 < self.held_out_share < 1, f"held_out_share expected in (0, 1), found {self.held_out_share}")
        require(
            self.encoder.input_pixels <= self.scene.canvas and self.scene.canvas % self.encoder.input_pixels == 0,
            f"encoder.input_pixels expected to divide scene.canvas {self.scene.canvas}, found {self.encoder.input_pixels}",
        )


def load_moving_mnist_config(path: Path | None, overrides: Sequence[str] = ()) -> MovingMnistConfig:
    """The paper's scale without a file. Raises ConfigError naming file and key."""
    return load_config(MovingMnistConfig, path, overrides, "views")
