"""What the demo data set is made of: sizes, counts, seed and class names. The data set depends on nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from pretrain.base.errors import ConfigError
from transfer.demo_data.shapes import KINDS

FORMAT = "infomin-transfer/synthetic"
FORMAT_VERSION = 2  # raised whenever the same configuration would give other bytes; 2: masks are run lengths

CLASS_NAMES = tuple(KINDS)


@dataclass(frozen=True)
class SyntheticConfig:
    """The demo data set. Sides are in pixels; fractions are of the image side or of an object's own pixels.

    num_unlabelled: object-centred images for pre-training.
    num_readout: object-centred images for the readout's validation.
    num_train_scenes, num_test_scenes: labelled scenes.
    image_size: side of object-centred images.
    scene_size: side of scenes.
    num_scene_classes: how many kinds of objects scenes hold, the first ones of CLASS_NAMES; images for pre-training hold all.
    min_cover, max_cover: an object's long side over `image_size`.
    min_object, max_object: an object's long side in a scene.
    min_objects, max_objects: objects placed in a scene.
    min_clutter, max_clutter: things of no class behind the objects of a scene.
    min_visible: fraction of an object that must stay visible.
    """

    seed: int = 0
    num_unlabelled: int = 10_000
    num_readout: int = 1_000
    num_train_scenes: int = 160
    num_test_scenes: int = 200
    image_size: int = 96
    scene_size: int = 192
    num_scene_classes: int = len(CLASS_NAMES)
    min_cover: float = 0.75
    max_cover: float = 0.95
    min_object: int = 28
    max_object: int = 80
    min_objects: int = 3
    max_objects: int = 6
    min_clutter: int = 3
    max_clutter: int = 8
    min_visible: float = 0.35
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        """Raise ConfigError on values that no data set can be made of."""
        counts = ("num_unlabelled", "num_readout", "num_train_scenes", "num_test_scenes")
        for names, low, high, unit in (
            (("seed",), 0, None, ""),
            (("num_scene_classes",), 1, len(CLASS_NAMES), ""),
            *(((name,), 0, 999_999, "") for name in counts),
            (("image_size",), 32, 512, " px"),
            (("scene_size",), 64, 1024, " px"),
            (("min_cover", "max_cover"), 0.2, 1, ""),
            (("min_object", "max_object"), 16, self.scene_size, " px (the scene's side)"),
            (("min_objects", "max_objects"), 1, 12, ""),
            (("min_clutter", "max_clutter"), 0, 12, ""),
            (("min_visible",), 0.25, 1, ""),
            (("jpeg_quality",), 50, 100, ""),
        ):
            values = [getattr(self, name) for name in names]
            ordered = [low, *values, *([] if high is None else [high])]
            if not all(before <= after for before, after in pairwise(ordered)):  # not so for NaN either
                limits = f"{low} <= {' <= '.join(names)}" + ("" if high is None else f" <= {high}{unit}")
                raise ConfigError(f"synthetic data: expected {limits}, found {', '.join(map(str, values))}")

    @property
    def scene_class_names(self) -> tuple[str, ...]:
        """The classes of labelled scenes, in the order of their labels."""
        return CLASS_NAMES[: self.num_scene_classes]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        return asdict(self)
