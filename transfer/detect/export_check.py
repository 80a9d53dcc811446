"""Does an exported file find what the detector finds?

In: two functions from an image to (boxes, scores, classes, ...), and images. Out: an `Agreement`, or a CheckpointError that says
where they differ. Each detection of one is paired with one of the other of the same class, the nearest box; the order among equal
scores is no difference. One whose score lies within SCORE_TOLERANCE of the detector's least score may be in one alone.

Proposals of exactly equal score (flat parts of an image, where a network's features are all zero) compete in NMS, and torch.topk orders
them by no rule, ONNX by position. So where an image does not agree, it is compared once more with the detector under ONNX's rule;
images for which that was needed are counted (`ties`). Rounding alone does not explain such a difference: noise of 1e-3 grey levels
changes none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from detectron2.structures import Boxes, ROIMasks
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pretrain.base.errors import CheckpointError, ConfigError

BOX_TOLERANCE = 0.05  # pixels
SCORE_TOLERANCE = 1e-3
MASK_TOLERANCE = 1e-3  # of a mask's values, in 0..1
PASTED_TOLERANCE = 1e-3  # share of the pixels of all pasted masks
KEYPOINT_TOLERANCE = 2.0  # pixels: the place of a maximum among the cells of a heat map

Runner = Callable[[Tensor], tuple[Tensor, ...]]


class Reference(Protocol):
    """The detector. outputs: names of what it returns."""

    outputs: tuple[str, ...]

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Agreement:
    """outputs: that were compared, with the classes. images, detections: compared. unpaired: at the least score, in one alone.
    ties: images that agree with the detector once equal scores are ordered by position. Largest differences: boxes, keypoints px;
    scores and masks in 0..1; pasted: share of the pixels of the pasted masks."""

    outputs: tuple[str, ...] = ()
    images: int = 0
    detections: int = 0
    unpaired: int = 0
    ties: int = 0
    boxes: float = 0.0
    scores: float = 0.0
    masks: float = 0.0
    pasted: float = 0.0
    keypoints: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For the sidecar."""
        return asdict(self)

    def sentence(self) -> str:
        """For the command."""
        parts = [f"boxes within {self.boxes:.1e} px", f"scores {self.scores:.1e}"]
        if "masks" in self.outputs:
            parts.append(f"masks {self.masks:.1e} ({self.pasted:.1e} of the pasted pixels)")
        if "keypoints" in self.outputs:
            parts.append(f"keypoints {self.keypoints:.1e} px")
        return (
            f"agrees with the detector on {self.detections} detections of {self.images} images: {', '.join(parts)}"
            + (f"; {self.unpaired} at the least score are in one alone" if self.unpaired else "")
            + (f"; on {self.ties} images proposals of equal score come in another order" if self.ties else "")
        )


class EqualScoresByPosition(TorchFunctionMode):
    """While it lasts, torch.topk orders equal values as ONNX's TopK does: the earlier one first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.topk, torch.Tensor.topk):
            return func(*args, **kwargs)
        (values, count), dim = args, kwargs.get("dim", -1)
        values, positions = values.sort(dim=dim, descending=True, stable=True)
        return values.narrow(dim, 0, int(count)), positions.narrow(dim, 0, int(count))


def spread(items: Sequence[str], count: int) -> list[str]:
    """`count` of them, evenly over the list."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


@torch.no_grad()
def compare(reference: Reference, exported: Runner, images: Sequence[Tensor], *, min_score: float) -> Agreement:
    """Run both on every image. Raises CheckpointError where they differ by more than the tolerances, ConfigError where nothing was
    found on any image, so that nothing could be compared."""
    total = Agreement(outputs=tuple(reference.outputs), images=len(images))
    different, pixels = 0, 0
    for number, image in enumerate(images):
        height, width = image.shape[1:]
        where = f"image {number + 1} of {len(images)} ({width} x {height})"
        first, second = (dict(zip(reference.outputs, run(image), strict=True)) for run in (reference, exported))
        ties = 0
        try:
            pairs, unpaired = _pairs(first, second, min_score, where)
        except CheckpointError:
            with EqualScoresByPosition():
                first = dict(zip(reference.outputs, reference(image), strict=True))
            pairs, unpaired = _pairs(first, second, min_score, where)
            ties = 1
        found = _differences(first, second, pairs)
        if "masks" in first:
            masks = [
                _pasted({name: value[side] for name, value in values.items()}, height, width)
                for values, side in ((first, pairs[:, 0]), (second, pairs[:, 1]))
            ]
            different += int((masks[0] != masks[1]).sum())
            pixels += int((masks[0] | masks[1]).sum())
        worst = {name: _larger(getattr(total, name), value) for name, value in found.items()}
        counts = {
            "detections": total.detections + len(pairs),
            "unpaired": total.unpaired + unpaired,
            "ties": total.ties + ties,
        }
        total = Agreement(**{**asdict(total), **worst, **counts})
        _require(total, where)
    total = Agreement(**{**asdict(total), "pasted": different / max(pixels, 1)})
    _require(total, "all images together")
    if not total.detections:
        raise ConfigError(
            f"the detector finds nothing of score {min_score:g} or more on the {len(images)} images, so nothing was compared; pass --images "
            "of what it was trained for"
        )
    return total


def _pairs(first: dict[str, Tensor], second: dict[str, Tensor], min_score: float, where: str) -> tuple[Tensor, int]:
    """(n, 2) positions of the same detection in both, and how many are in one alone. Raises CheckpointError for any other."""
    apart = torch.cdist(first["boxes"].double(), second["boxes"].double(), p=torch.inf)
    apart[first["classes"][:, None] != second["classes"][None]] = torch.inf
    near = (first["scores"][:, None] - second["scores"][None]).abs() <= SCORE_TOLERANCE  # of NaN nothing is near
    apart[~near] = torch.inf
    pairs = []
    for position in range(len(apart)):
        if apart.shape[1] and apart[position].min() <= BOX_TOLERANCE:
            other = int(apart[position].argmin())
            pairs.append((position, other))
            apart[:, other] = torch.inf
    found = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    alone = 0
    for values, side, owner in ((first, 0, "the detector"), (second, 1, "the exported file")):
        left = torch.ones(len(values["scores"]), dtype=torch.bool)
        left[found[:, side]] = False
        for position in left.nonzero()[:, 0].tolist():
            score = float(values["scores"][position])
            if not score <= min_score + SCORE_TOLERANCE:
                box = [round(value, 1) for value in values["boxes"][position].tolist()]
                raise CheckpointError(
                    f"the exported file does not agree with the detector on {where}: only {owner} finds class "
                    f"{int(values['classes'][position])} at {box} with score {score:.3f} (within {BOX_TOLERANCE:g} px and a score of "
                    f"{SCORE_TOLERANCE:g}); no file was written"
                )
            alone += 1
    return found, alone


def _differences(first: dict[str, Tensor], second: dict[str, Tensor], pairs: Tensor) -> dict[str, float]:
    """Largest absolute difference of each output over the pairs."""
    found: dict[str, float] = {}
    for name in ("boxes", "scores", "masks", "keypoints"):
        if name in first and len(pairs):
            here, there = first[name][pairs[:, 0]], second[name][pairs[:, 1]]
            if name == "keypoints":
                here, there = here[:, :, :2], there[:, :, :2]
            found[name] = float((here - there).abs().max())
    return found


def _larger(one: float, other: float) -> float:
    """The larger number; NaN where one is: `max` would keep whichever comes first."""
    return one if one >= other else other if other >= one else math.nan


def _pasted(values: dict[str, Tensor], height: int, width: int) -> Tensor:
    """bool (N, height, width), by Detectron2's own pasting."""
    masks = ROIMasks(values["masks"][:, 0])
    return masks.to_bitmasks(Boxes(values["boxes"]), height, width).tensor


def _require(found: Agreement, where: str) -> None:
    limits = {"masks": MASK_TOLERANCE, "pasted": PASTED_TOLERANCE, "keypoints": KEYPOINT_TOLERANCE}
    for name, limit in limits.items():
        if not getattr(found, name) <= limit:
            raise CheckpointError(
                f"the exported file does not agree with the detector on {where}: {name} differ by {getattr(found, name):.2g}, at most "
                f"{limit:g} is expected; no file was written"
            )
