"""Recipes: which operations make a view, in which order, with which strengths. Data only.

In: nothing. Out: RECIPES by name. To vary one, `dataclasses.replace` its operations; pipeline.py runs any of them.
Source of every figure: infomin.md 1.4, 1.6 and 1.7; of the paired operations 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.base.errors import ConfigError
from pretrain.views.paired_ops import PairedOp, PatchDistance, check_probability

Range = tuple[float, float]
# The paper's scale of colour jitter: strength x is (0.8 x, 0.8 x, 0.8 x, 0.2 x) [infomin.md 3]; hue ends at half a turn.
JITTER_SCALE = (0.8, 0.8, 0.8, 0.2)
MAX_JITTER_STRENGTH = 2.5


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of `scale` of the area and an aspect ratio (width / height) log-uniform in `ratio`, resized bilinearly.

    shared: drawn once, the same box for both views of a pair.
    """

    scale: Range = (0.2, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"RandomResizedCrop: expected 0 < low <= high <= 1 as its scale, found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"RandomResizedCrop: expected 0 < low <= high as its ratio, found {self.ratio}")


@dataclass(frozen=True)
class CenterCrop:
    """Shorter side to `resize_ratio` x image size, then the centre: 256 / 224 at evaluation. Draws nothing."""

    resize_ratio: float = 256 / 224


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right with probability `p`. shared: both views of a pair or none."""

    p: float = 0.5
    shared: bool = False

    def __post_init__(self) -> None:
        check_probability("HorizontalFlip", "p", self.p)


@dataclass(frozen=True)
class ColorJitter:
    """Four changes in random order, all or (with 1 - `p`) none.

    Factors uniform in [max(0, 1 - s), 1 + s]; the hue shift uniform in [-hue, hue] turns (hue at most 0.5).
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float

    def with_strength(self, strength: float) -> ColorJitter:
        """The paper's jitter of that strength with this one's p."""
        brightness, contrast, saturation, hue = (strength * scale for scale in JITTER_SCALE)
        return ColorJitter(brightness, contrast, saturation, hue, p=self.p)


@dataclass(frozen=True)
class GaussianBlur:
    """Normalised Gaussian of `kernel` taps (odd), sigma uniform in `sigma` pixels, mirrored border.

    Twenty-three taps belong to 224 px. Smaller images keep kernel and sigma as given: whoever wants SimCLR's rule of a
    tenth of the side asks for it (`views.blur_kernel=7` at 64 px).
    """

    kernel: int = 23
    sigma: Range = (0.1, 2.0)
    p: float = 0.5

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"the blur's kernel: expected an odd number of taps, found {self.kernel}")


@dataclass(frozen=True)
class PillowBlur:
    """Pillow's GaussianBlur (box approximation), radius uniform in `radius`: MoCo v2's blur."""

    radius: Range = (0.1, 2.0)
    p: float = 0.5


@dataclass(frozen=True)
class Grayscale:
    """Luma (ITU-R 601-2) in all three channels with probability `p`."""

    p: float = 0.2


RAND_AUGMENT_OPS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` draws with replacement from `ops`, each applied with `p_each`; see randaugment.py for the levels.

    Magnitude of each: normal(magnitude, magnitude_std) clipped to [0, 10]. `fill`: RGB of what a warp uncovers.
    """

    num_ops: int = 2
    magnitude: float = 10.0
    magnitude_std: float = 0.5
    p_each: float = 0.5
    ops: tuple[str, ...] = RAND_AUGMENT_OPS
    fill: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self) -> None:
        unknown = set(self.ops) - set(RAND_AUGMENT_OPS)
        if unknown or not self.ops:
            raise ConfigError(f"RandAugment: expected ops out of {', '.join(RAND_AUGMENT_OPS)}, found {self.ops}")


CropOp = RandomResizedCrop | CenterCrop | PatchDistance
Op = (
    RandomResizedCrop
    | CenterCrop
    | HorizontalFlip
    | ColorJitter
    | GaussianBlur
    | PillowBlur
    | Grayscale
    | RandAugment
    | PairedOp
)


def drawn_once(op: Op) -> bool:
    """True for an operation that is drawn once for the pair of views rather than once for each."""
    return isinstance(op, PairedOp) or (isinstance(op, RandomResizedCrop | HorizontalFlip) and op.shared)


@dataclass(frozen=True)
class JigsawSpec:
    """Nine patches: a crop of 255 px with `scale` of the area, flip, 3 x 3 cells of 85 px, 64 px at random from each.

    No photometric change on patches. At other patch sizes the cells keep the proportion 85 : 64.
    """

    crop: RandomResizedCrop = RandomResizedCrop(scale=(0.6, 1.0))
    flip: HorizontalFlip = HorizontalFlip(0.5)

    def __post_init__(self) -> None:
        if self.crop.shared or self.flip.shared:
            raise ConfigError("patches: `shared` is for the two views of a pair; the patches have a crop of their own")


@dataclass(frozen=True)
class Recipe:
    """Operations in order, the first one a crop to the image size; and how patches are cut where a method wants them."""

    name: str
    ops: tuple[Op, ...]
    patches: JigsawSpec = JigsawSpec()

    def __post_init__(self) -> None:
        crops = [isinstance(op, CropOp) for op in self.ops]
        if crops[:1] != [True] or sum(crops) != 1:
            raise ConfigError(f"recipe {self.name}: expected one crop, and as the first operation")

    @property
    def is_paired(self) -> bool:
        """Something is drawn once for two views: the recipe makes pairs and nothing else."""
        return any(drawn_once(op) for op in self.ops)

    @property
    def smallest_side(self) -> int:
        """Pixels that the shorter side of every image must have."""
        return max(op.smallest_side if isinstance(op, PatchDistance) else 1 for op in self.ops)


_CROP, _FLIP = RandomResizedCrop(), HorizontalFlip()

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
        Recipe("moco_v1", (_CROP, _FLIP, ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), Grayscale(0.2))),  # "A", queue's crop
        Recipe("linear", (_CROP, _FLIP)),  # readout, training images
        Recipe("linear_randaugment", (_CROP, _FLIP, RandAugment())),
        Recipe("center", (CenterCrop(),)),  # evaluation
    )
}
