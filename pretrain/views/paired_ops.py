"""The operations of a recipe that are drawn once for a pair of views: data only. paired.py draws and applies them.

In: nothing. Out: FrequencySplit, PatchDistance, ChannelSplit. Source: infomin.md 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.base.errors import ConfigError

MAX_SPLIT_SIGMA = 100.0


def check_probability(name: str, field: str, value: float) -> None:
    """Raise ConfigError for a value outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected {field} in [0, 1], found {value}")


@dataclass(frozen=True)
class FrequencySplit:
    """Low frequencies in one view, the rest in the other: blur(x) and x - blur(x) + mid grey. See paired.py.

    sigma: of the Gaussian in pixels of the view. swap: probability that it is the first view which gets the rest.
    """

    sigma: float
    swap: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= MAX_SPLIT_SIGMA:
            raise ConfigError(f"FrequencySplit: expected 0 < sigma <= {MAX_SPLIT_SIGMA:g} pixels, found {self.sigma}")
        check_probability("FrequencySplit", "swap", self.swap)


@dataclass(frozen=True)
class PatchDistance:
    """Two squares of `patch` pixels of the image as it is, at (x, y) and (x + distance, y + distance). A crop.

    Both are resized to the view's size where that is another. The image's shorter side must be patch + distance at least.
    """

    patch: int = 64
    distance: int = 64

    def __post_init__(self) -> None:
        if self.patch < 1 or self.distance < 0:
            raise ConfigError(
                f"PatchDistance: expected a patch of 1 px or more and a distance of 0 px or more, found {self.patch} "
                f"and {self.distance}"
            )

    @property
    def smallest_side(self) -> int:
        """Pixels that the shorter side of an image must have."""
        return self.patch + self.distance


@dataclass(frozen=True)
class ChannelSplit:
    """One view keeps the first channel of a colour space, the other the second and third. See paired.py.

    space: a name in colour.py. p: of doing it at all. swap: probability that the first view gets channels 2 and 3.
    generator: the channels are those of a learned generator that starts from `space`: its whole file as text
    (generator_file.embed_generator), so that a recipe and the checkpoints made with it need no other file. In a recipe file
    it may be the path of a generator.safetensors, relative to the recipe; reading the recipe puts the text in its place.
    """

    space: str
    p: float = 1.0
    swap: float = 0.5
    generator: str | None = None

    def __post_init__(self) -> None:
        check_probability("ChannelSplit", "p", self.p)
        check_probability("ChannelSplit", "swap", self.swap)


PairedOp = FrequencySplit | PatchDistance | ChannelSplit
