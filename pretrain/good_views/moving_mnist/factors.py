"""The factors of a Moving-MNIST scene, what two views may share of them, and what the paper measured for each choice.

Source: docs/specification.md 3, row "task dependence".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.base.errors import ConfigError, did_you_mean

FACTORS = ("digit", "position", "background")
ALL = "all"


@dataclass(frozen=True)
class Sharing:
    """The factors that the second view has in common with the first; the others are drawn anew. At least one."""

    factors: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = [factor for factor in self.factors if factor not in FACTORS]
        if unknown or not self.factors or len(set(self.factors)) < len(self.factors):
            raise ValueError(f"a sharing expected one or more of {', '.join(FACTORS)}, each once, found {self.factors}")

    @property
    def name(self) -> str:
        """ "digit+position": the factors in the order of FACTORS, so that one sharing has one name."""
        return "+".join(factor for factor in FACTORS if factor in self.factors)


# The order of the paper's table.
SHARINGS = (
    Sharing(("digit",)),
    Sharing(("background",)),
    Sharing(("position",)),
    Sharing(("digit", "position", "background")),
    Sharing(("digit", "background")),
    Sharing(("position", "background")),
    Sharing(("digit", "position")),
)

SUPERVISED, RANDOM, CONSTANT = "supervised", "random weights", "constant predictor"


@dataclass(frozen=True)
class PaperFigures:
    """Digit and background class error in percent, localisation error in pixels."""

    digit: float
    position: float
    background: float


# UNVERIFIED: recalled from the paper, whose full text was not at hand. For print beside our figures, never for a test.
# That 13.6 to 13.7 px is what a constant predictor gets is computed: positions are uniform on a square of 64 - 28 = 36 px,
# and the mean distance from its centre is 0.3826 * 36 = 13.8 px. The 16 px of the background rows are worse than that.
PAPER: dict[str, PaperFigures] = {
    "digit": PaperFigures(16.8, 13.6, 88.6),
    "background": PaperFigures(88.6, 16.1, 51.7),
    "position": PaperFigures(57.9, 3.95, 87.6),
    "digit+position+background": PaperFigures(88.8, 16.2, 53.9),
    "digit+background": PaperFigures(88.2, 16.3, 51.3),
    "position+background": PaperFigures(88.8, 15.9, 53.8),
    "digit+position": PaperFigures(14.5, 13.7, 88.7),
    SUPERVISED: PaperFigures(3.4, 0.93, 46.1),
}


def parse_sharings(texts: Sequence[str]) -> tuple[Sharing, ...]:
    """["digit,position", "background"] -> sharings in the order of the table; ["all"] -> all seven.

    Factors may be joined by `,` or `+` in any order. Raises ConfigError for an unknown factor (naming the nearest one), a
    factor given twice, or a sharing given twice.
    """
    if list(texts) == [ALL]:
        return SHARINGS
    wanted = [_parse(text) for text in texts]
    for name in wanted:
        if wanted.count(name) > 1:
            raise ConfigError(f"--sharing: {name} is given twice")
    return tuple(sharing for sharing in SHARINGS if sharing.name in wanted)


def _parse(text: str) -> str:
    factors = [part.strip() for part in text.replace("+", ",").split(",")]
    for factor in factors:
        if factor not in FACTORS:
            raise ConfigError(
                f"--sharing {text}: expected factors of {', '.join(FACTORS)} joined by commas, or {ALL} alone, "
                f"found {factor!r}{did_you_mean(factor, (*FACTORS, ALL))}"
            )
        if factors.count(factor) > 1:
            raise ConfigError(f"--sharing {text}: {factor} is given twice")
    return Sharing(tuple(factors)).name
