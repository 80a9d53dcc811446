"""How a network gets its images: what may differ between the rows of a comparison besides their weights, and must then be said.

In: an input contract, or a finished run. Out: `SeenInput`; a sentence where the rows of an experiment see different inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pretrain.base.contract import InputContract
from transfer.compare.results import Run

DIGITS = 2  # of 0..255: the rounding of one and the same mean in other files


@dataclass(frozen=True)
class SeenInput:
    """channel_order: RGB or BGR. mean, std: in 0..255. stride_in_1x1: which convolution of a bottleneck has the stride."""

    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride_in_1x1: bool

    def __str__(self) -> str:
        """ "BGR, mean 103.5 116.3 123.7, std 1 1 1, stride in the 1x1 convolutions"."""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        place = "1x1" if self.stride_in_1x1 else "3x3"
        return f"{self.channel_order}, mean {mean}, std {std}, stride in the {place} convolutions"


def of_values(order: str, mean: Sequence[float], std: Sequence[float], stride_in_1x1: bool) -> SeenInput:
    """mean, std: in 0..255."""
    first, second = (tuple(round(float(value), DIGITS) for value in values) for values in (mean, std))
    return SeenInput(order, first, second, bool(stride_in_1x1))


def of_contract(contract: InputContract) -> SeenInput:
    """Of weights."""
    mean, std = ([255 * value for value in values] for values in (contract.mean, contract.std))
    return of_values(contract.channel_order, mean, std, contract.stride_in_1x1)


def of_run(run: Run) -> SeenInput | None:
    """What a finished run fed its network; None where its record does not say."""
    try:
        if run.kind == "detection":
            keys = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1")
            return of_values(*(run.setting(key) for key in keys))
        fed = run.record.details.get("input")
        return of_contract(InputContract.from_dict(fed)) if isinstance(fed, Mapping) else None
    except (TypeError, ValueError):
        return None


def input_notes(rows: Mapping[str, Sequence[Run]]) -> list[str]:
    """One sentence where rows are fed differently; none where they are not, or nothing is known."""
    found: dict[SeenInput, list[str]] = {}
    for name, runs in rows.items():
        for fed in {one for one in map(of_run, runs) if one is not None}:
            found.setdefault(fed, []).append(name)
    if len(found) < 2:
        return []
    groups = "; ".join(f"{', '.join(names)}: {fed}" for fed, names in found.items())
    return [f"Rows see different inputs, so a difference between them is one of the input too: {groups}."]
