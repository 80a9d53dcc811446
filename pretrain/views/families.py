"""Families of views: one knob each, from views that share nearly everything to views that share nearly nothing.

tools/sweep_views.py runs along them.
Source: docs/specification.md 3; ranges and the paper's sweet spots are its "UNVERIFIED recall" unless `source` says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pretrain.base.errors import ConfigError, did_you_mean
from pretrain.views.colour import COLOUR_SPACES
from pretrain.views.operations import (
    MAX_JITTER_STRENGTH,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    PillowBlur,
    RandAugment,
    RandomResizedCrop,
)
from pretrain.views.paired import MAX_SPLIT_SIGMA, ChannelSplit, FrequencySplit, PatchDistance
from pretrain.views.recipes import Op, Recipe, takers

Setting = float | str
Change = Callable[[Recipe, Setting, int], tuple[Op, ...]]  # (base, setting, image size in pixels) -> operations
MAX_DISTANCE = 4096
# Augmentations in the order in which they are stacked, and what counts as each.
STACK: dict[str, tuple[type[Op], ...]] = {
    "crop": (RandomResizedCrop,),
    "+flip": (HorizontalFlip,),
    "+jitter": (ColorJitter,),
    "+blur": (GaussianBlur, PillowBlur),
    "+grey": (Grayscale,),
    "+randaugment": (RandAugment,),
}


@dataclass(frozen=True)
class Family:
    """One knob.

    parameter, unit: what it is, for captions.
    settings: the default ones, in order, over the paper's range.
    change: the base recipe's operations at a setting.
    shares_more: the end of the range whose views share more; None: neither.
    limits: what can be asked for, both included (numbers only).
    sweet_spot: the paper's, None where it gives none.
    geometric: settings are factors apart.
    """

    name: str
    parameter: str
    unit: str
    settings: tuple[Setting, ...]
    change: Change
    shares_more: Literal["low", "high"] | None
    source: str
    limits: tuple[float, float] | None = None
    sweet_spot: Setting | None = None
    geometric: bool = False

    def parse(self, text: str) -> Setting:
        """A setting as typed. Raises ConfigError for one outside the limits or an unknown name (with the nearest)."""
        if self.limits is None:
            names = [str(setting) for setting in self.settings]
            if text in names:
                return text
            hint = did_you_mean(text, names)
            raise ConfigError(f"family {self.name}: expected a setting out of {', '.join(names)}, found {text!r}{hint}")
        low, high = self.limits
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ConfigError(
                f"family {self.name}: expected {self.parameter} from {low:g} to {high:g} {self.unit}, found {text!r}"
            )
        return value

    def place(self, setting: Setting) -> float:
        """Where a setting stands: its number, or the position of its name."""
        return setting if isinstance(setting, float) else float(self.settings.index(setting))

    def recipe(self, base: Recipe, setting: Setting, *, image_size: int) -> Recipe:
        """`base` at `setting`, named after both. Raises ConfigError where the base lacks the operation that changes."""
        return dataclasses.replace(
            base, name=f"{self.name}_{show_setting(setting).lstrip('+')}", ops=self.change(base, setting, image_size)
        )


def show_setting(setting: Setting) -> str:
    """0.2 -> `0.2`, names as they are."""
    return setting if isinstance(setting, str) else f"{setting:g}"


def family_named(name: str) -> Family:
    """Raises ConfigError for an unknown family, with the nearest one."""
    if name in FAMILIES:
        return FAMILIES[name]
    raise ConfigError(f"family: expected one of {', '.join(FAMILIES)}, found {name!r}{did_you_mean(name, FAMILIES)}")


def _require(base: Recipe, family: str, present: bool, wanted: str) -> None:
    if not present:
        raise ConfigError(f"family {family}: the base recipe {base.name} has no {wanted}; pass views.recipe=infomin")


def _strength(family: str, key: str, value: Callable[[Any, float], Any]) -> Change:
    """The base with `value` in place of the field that the override `key` stands for.

    value: (operation, setting) -> the override's value.
    """

    def change(base: Recipe, setting: Setting, image_size: int) -> tuple[Op, ...]:
        _require(base, family, any(key in op.overrides for op in base.ops), takers(key))
        return tuple(op.override(key, value(op, float(setting))) if key in op.overrides else op for op in base.ops)

    return change


def _sigma_up_to(op: Any, high: float) -> tuple[float, float]:
    return min(getattr(op, op.overrides["blur_sigma"])[0], high), high


def _crop_and_flip(base: Recipe, family: str) -> list[RandomResizedCrop | HorizontalFlip]:
    """The base's crop and flip and nothing else of it: the split alone makes the difference."""
    _require(base, family, any(isinstance(op, RandomResizedCrop) for op in base.ops), "RandomResizedCrop")
    return [op for op in base.ops if isinstance(op, RandomResizedCrop | HorizontalFlip)]


def _frequency(base: Recipe, setting: Setting, image_size: int) -> tuple[Op, ...]:
    """Both views from one crop."""
    one_crop = [dataclasses.replace(op, shared=True) for op in _crop_and_flip(base, "frequency")]
    return (*one_crop, FrequencySplit(float(setting)))


def _colour(base: Recipe, setting: Setting, image_size: int) -> tuple[Op, ...]:
    """The base's own crop and flip: the paper takes the two parts from two crops."""
    return (*_crop_and_flip(base, "colour"), ChannelSplit(str(setting)))


def _distance(base: Recipe, setting: Setting, image_size: int) -> tuple[Op, ...]:
    """Patches of the view's own size, as they are: nothing is resized, and the base recipe plays no part."""
    return (PatchDistance(patch=image_size, distance=round(float(setting))),)


def _stacking(base: Recipe, setting: Setting, image_size: int) -> tuple[Op, ...]:
    """What the base recipe has of the first augmentations up to `setting`, in the base's own order."""
    names = list(STACK)
    kinds = [STACK[name] for name in names[: names.index(str(setting)) + 1]]
    for kind in kinds:
        wanted = " or ".join(cls.__name__ for cls in kind)
        _require(base, "stacking", any(isinstance(op, kind) for op in base.ops), wanted)
    return tuple(op for op in base.ops if any(isinstance(op, kind) for kind in kinds))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="crop",
            parameter="the lower bound c of the crop's area",
            unit="of the image",
            settings=(0.02, 0.08, 0.2, 0.4, 0.7, 0.9),
            limits=(0.005, 1.0),
            change=_strength("crop", "crop_scale", lambda op, low: (low, max(low, op.scale[1]))),
            shares_more="high",
            sweet_spot=0.2,
            geometric=True,
            source="docs/specification.md 3, augmentation strength; the sweet spot is verified there",
        ),
        Family(
            name="jitter",
            parameter="the strength x of the colour jitter (0.8 x, 0.8 x, 0.8 x, 0.2 x)",
            unit="times the paper's",
            settings=(0.125, 0.25, 0.5, 1.0, 1.5, 2.0),
            limits=(0.0, MAX_JITTER_STRENGTH),
            change=_strength("jitter", "jitter_strength", lambda _, strength: strength),
            shares_more="low",
            sweet_spot=1.0,
            geometric=True,
            source="docs/specification.md 3, augmentation strength; the sweet spot is verified there",
        ),
        Family(
            name="blur",
            parameter="the largest sigma of the Gaussian blur",
            unit="px",
            settings=(0.25, 0.5, 1.0, 2.0, 4.0),
            limits=(0.1, 50.0),
            change=_strength("blur", "blur_sigma", _sigma_up_to),
            shares_more="low",
            geometric=True,
            source="ours: the paper blurs with sigma up to 2 px at 224 px and does not vary it",
        ),
        Family(
            name="frequency",
            parameter="the sigma that splits low frequencies from high ones",
            unit="px",
            settings=(0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0),
            limits=(0.1, MAX_SPLIT_SIGMA),
            change=_frequency,
            shares_more=None,  # I_NCE is largest at 0.7 and falls to both sides
            sweet_spot=1.0,
            geometric=True,
            source="docs/specification.md 3, frequency: largest I_NCE at sigma 0.7",
        ),
        Family(
            name="distance",
            parameter="the distance d of the patches at (x, y) and (x + d, y + d)",
            unit="px",
            settings=(64.0, 128.0, 192.0, 256.0, 320.0, 384.0),
            limits=(0.0, MAX_DISTANCE),
            change=_distance,
            shares_more="low",
            source="docs/specification.md 3, spatial distance: 64 px patches of DIV2K",
        ),
        Family(
            name="colour",
            parameter="the colour space whose channels are split into 1 and 2",
            unit="",
            settings=tuple(COLOUR_SPACES),
            change=_colour,
            shares_more=None,
            sweet_spot="ydbdr",
            source='docs/specification.md 3, colour spaces: "YDbDr is already near the sweet spot; Lab does similarly"',
        ),
        Family(
            name="stacking",
            parameter="the augmentations, one more at a time",
            unit="",
            settings=tuple(STACK),
            change=_stacking,
            shares_more="low",
            sweet_spot="+randaugment",
            source="docs/specification.md 1.8: the steps of the paper's figure are not retrievable there",
        ),
    )
}
