"""What the demo data set is made of: sizes, counts, seed and class names.

In: numbers. Out: `SyntheticConfig`, a frozen value; the data set depends on it alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pretrain.base.errors import ConfigError

FORMAT = "infomin-transfer/synthetic"
FORMAT_VERSION = 1  # raised whenever the same configuration would give other bytes

CLASS_NAMES = ("butterfly", "car", "fish", "gear", "house", "leaf", "mug", "mushroom")


@dataclass(frozen=True)
class SyntheticConfig:
    """The demo data set. Sides are in pixels; fractions are of the image side or of an object's own pixels.

    num_unlabelled, num_readout: object-centred images for pre-training and for the readout's validation.
    num_train_scenes, num_test_scenes: labelled scenes. image_size: side of object-centred images; scene_size: of scenes.
    min_cover, max_cover: an object's long side over `image_size`. min_object, max_object: its long side in a scene.
    min_objects, max_objects: objects placed in a scene. min_visible: fraction of an object that must stay visible.
    """

    seed: int = 0
    num_unlabelled: int = 10_000
    num_readout: int = 1_000
    num_train_scenes: int = 160
    num_test_scenes: int = 200
    image_size: int = 96
    scene_size: int = 192
    min_cover: float = 0.75
    max_cover: float = 0.95
    min_object: int = 28
    max_object: int = 80
    min_objects: int = 3
    max_objects: int = 6
    min_visible: float = 0.35
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        """Raise ConfigError on values that no data set can be made of."""
        if self.seed < 0:
            raise ConfigError(f"synthetic data: expected seed >= 0, found {self.seed}")
        for name in ("num_unlabelled", "num_readout", "num_train_scenes", "num_test_scenes"):
            if not 0 <= getattr(self, name) < 1_000_000:
                raise ConfigError(f"synthetic data: expected {name} in 0..999999, found {getattr(self, name)}")
        if not 32 <= self.image_size <= 512:
            raise ConfigError(f"synthetic data: expected image_size in 32..512 px, found {self.image_size}")
        if not 64 <= self.scene_size <= 1024:
            raise ConfigError(f"synthetic data: expected scene_size in 64..1024 px, found {self.scene_size}")
        if not 0.2 <= self.min_cover <= self.max_cover <= 1:
            raise ConfigError(
                f"synthetic data: expected 0.2 <= min_cover <= max_cover <= 1, found {self.min_cover} and {self.max_cover}"
            )
        if not 16 <= self.min_object <= self.max_object <= self.scene_size:
            raise ConfigError(
                "synthetic data: expected 16 <= min_object <= max_object <= scene_size px, found "
                f"{self.min_object}, {self.max_object}, {self.scene_size}"
            )
        if not 1 <= self.min_objects <= self.max_objects <= 12:
            raise ConfigError(
                f"synthetic data: expected 1 <= min_objects <= max_objects <= 12, found {self.min_objects} and {self.max_objects}"
            )
        if not 0.25 <= self.min_visible <= 1:
            raise ConfigError(f"synthetic data: expected min_visible in 0.25..1, found {self.min_visible}")
        if not 50 <= self.jpeg_quality <= 100:
            raise ConfigError(f"synthetic data: expected jpeg_quality in 50..100, found {self.jpeg_quality}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        return asdict(self)
