"""Recipes: which operations make a view, in which order, with which strengths.

RECIPES has them by name; recipe_file.py reads and writes them as files; pipeline.py runs them. To vary one,
`dataclasses.replace` its operations. Source of every figure: docs/specification.md 1.4, 1.6 and 1.7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.base.errors import ConfigError, did_you_mean
from pretrain.views.jigsaw import JigsawSpec
from pretrain.views.operations import (
    AUGMENTATIONS,
    CMC_OPS,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Operation,
    PillowBlur,
    RandAugment,
    RandomResizedCrop,
)
from pretrain.views.paired import PAIRED

Op = Operation[Any]
OPERATIONS: dict[str, type[Op]] = {cls.__name__: cls for cls in (*AUGMENTATIONS, *PAIRED)}
# Keys of a run's `views.` configuration that replace a value of the recipe's operations, and so change the recipe.
OVERRIDES = ("crop_scale", "blur_kernel", "blur_sigma", "jitter_strength")
# Files for small images set the blur for every method, whichever blur its recipe has; the other keys must find their operation.
MAY_FIND_NOTHING = ("blur_kernel", "blur_sigma")


@dataclass(frozen=True)
class Recipe:
    """Operations in order, the first one a crop to the image size; and how patches are cut where a method wants them."""

    name: str
    ops: tuple[Op, ...]
    patches: JigsawSpec = dataclasses.field(default_factory=JigsawSpec)

    def __post_init__(self) -> None:
        if [op.is_crop for op in self.ops] != [position == 0 for position in range(max(1, len(self.ops)))]:
            raise ConfigError(f"recipe {self.name}: expected one crop, and as the first operation")

    @property
    def is_paired(self) -> bool:
        """Something is drawn once for two views: the recipe makes pairs and nothing else."""
        return any(op.shared for op in self.ops)

    @property
    def smallest_side(self) -> int:
        """Pixels that the shorter side of every image must have."""
        return max(op.smallest_side for op in self.ops)


def takers(key: str) -> str:
    """Names of the operations that take the override `key`, for messages."""
    return " or ".join(name for name, cls in OPERATIONS.items() if key in cls.overrides)


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """`recipe` with the values of `overrides` (a key of OVERRIDES -> a value, None: the recipe's own) in place.

    Raises ConfigError for a value that no operation of the recipe takes, MAY_FIND_NOTHING apart.
    """
    ops = recipe.ops
    for key, value in overrides.items():
        if value is None:
            continue
        if key not in MAY_FIND_NOTHING and not any(key in op.overrides for op in ops):
            raise ConfigError(f"views.{key}: recipe {recipe.name} has no {takers(key)}; leave {key} out")
        ops = tuple(op.override(key, value) if key in op.overrides else op for op in ops)
    return dataclasses.replace(recipe, ops=ops)


def named_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ConfigError with the nearest one."""
    if name in RECIPES:
        return RECIPES[name]
    hint = did_you_mean(name, RECIPES, shown="'{}'", cutoff=0.5)
    raise ConfigError(
        f"views.recipe: expected one of {', '.join(RECIPES)}, or a recipe file (.yaml or .yml), found {name!r}{hint}"
    )


_CROP, _BANK_CROP, _FLIP = RandomResizedCrop(), RandomResizedCrop(scale=(0.08, 1.0)), HorizontalFlip()

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "infomin",  # the reference's "D"
            (
                _CROP,
                _FLIP,
                ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
                GaussianBlur(kernel=23, sigma=(0.1, 2.0), p=0.5),
                RandAugment(),
                Grayscale(0.2),
            ),
        ),
        # Ours, not the paper's: InfoMin's operations in their order for images of about 64 px and runs of minutes, where the
        # full strength leaves nothing that a few hundred steps can learn. Blur is 224 px's in proportion.
        Recipe(
            "infomin_small",
            (
                RandomResizedCrop(scale=(0.3, 1.0)),
                _FLIP,
                ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
                GaussianBlur(kernel=7, sigma=(0.1, 0.6), p=0.5),
                RandAugment(magnitude=5.0, p_each=0.25),
                Grayscale(0.2),
            ),
        ),
        Recipe("moco_v2", (_CROP, _FLIP, ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), Grayscale(0.2), PillowBlur())),  # "B"
        # "A". A queue likes boxes from 0.2 of the area, a memory bank from 0.08 [specification 1.6].
        Recipe("moco_v1", (_CROP, _FLIP, ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), Grayscale(0.2))),
        Recipe("instdis", (_BANK_CROP, _FLIP, ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), Grayscale(0.2))),
        Recipe("cmc", (_BANK_CROP, _FLIP, ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0))),  # "C"
        Recipe(
            "cmc_v2",  # "E"
            (
                _CROP,
                _FLIP,
                ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
                GaussianBlur(kernel=23, sigma=(0.1, 2.0), p=0.5),
                RandAugment(ops=CMC_OPS),
            ),
        ),
        Recipe(
            "simclr",  # Chen et al., 2020, appendix A; the order of the operations is MoCo v2's
            (
                _BANK_CROP,
                _FLIP,
                ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
                Grayscale(0.2),
                GaussianBlur(kernel=23, sigma=(0.1, 2.0), p=0.5),
            ),
        ),
        Recipe("supervised", (_BANK_CROP, _FLIP)),  # torchvision's ImageNet training
        Recipe("linear", (_CROP, _FLIP)),  # readout, training images
        Recipe("linear_randaugment", (_CROP, _FLIP, RandAugment())),
        Recipe("center", (CenterCrop(),)),  # evaluation
    )
}
