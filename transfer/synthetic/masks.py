"""Binary masks as polygons along pixel edges, holes included.

In: a visible mask. Out: COCO polygons that pycocotools rasterises back to exactly that mask.
"""

from __future__ import annotations

import numpy as np

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up; inside lies on the right hand (y down)


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """(H, W) bool -> COCO polygons [x0, y0, x1, y1, ...], one a connected part (4-neighbourhood), on integer pixel edges.

    A COCO polygon has no holes of its own. A hole is joined to its outline by a bridge walked there and back: rasterisers
    count crossings by the even-odd rule, so the bridge vanishes and the hole stays.
    """
    outlines: list[np.ndarray] = []
    holes: list[np.ndarray] = []
    for loop in _loops(mask):
        x, y = loop[:, 0], loop[:, 1]
        area = float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
        (outlines if area > 0 else holes).append(loop)
    for hole in holes:
        host = _host(hole, outlines)
        outline = outlines[host]
        join = int(np.abs(outline - hole[0]).sum(1).argmin())
        outlines[host] = np.concatenate([outline[: join + 1], hole, hole[:1], outline[join:]])
    return [loop.astype(float).ravel().tolist() for loop in outlines]


def _host(hole: np.ndarray, outlines: list[np.ndarray]) -> int:
    """Index of the smallest outline whose box holds the hole's. Any host gives the right pixels; this one bridges least."""
    inside = [
        (float(np.ptp(outline, 0).prod()), i)
        for i, outline in enumerate(outlines)
        if (outline.min(0) <= hole.min(0)).all() and (outline.max(0) >= hole.max(0)).all()
    ]
    return min(inside)[1]


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed boundary curves (N, 2) of corner points: clockwise on screen around the inside, the other way around holes."""
    padded = np.pad(mask.astype(bool), 1)
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    starts: dict[tuple[int, int], list[int]] = {}
    # Edge from a corner, by direction, with the inside on its right hand.
    for y, x in np.argwhere(inside & ~above).tolist():
        starts.setdefault((x, y), []).append(0)
    for y, x in np.argwhere(~inside & above).tolist():
        starts.setdefault((x + 1, y), []).append(2)
    for y, x in np.argwhere(inside & ~left).tolist():
        starts.setdefault((x, y + 1), []).append(3)
    for y, x in np.argwhere(~inside & left).tolist():
        starts.setdefault((x, y), []).append(1)
    loops = []
    while starts:
        corner = first = next(iter(starts))
        heading, points = -1, []
        while True:
            leaving = starts[corner]
            # Two edges leave where the mask touches itself at a corner: turning right keeps the parts apart.
            choice = (heading + 1) % 4 if len(leaving) > 1 and heading >= 0 else leaving[0]
            leaving.remove(choice)
            if not leaving:
                del starts[corner]
            if choice != heading:
                points.append(corner)
            heading = choice
            corner = (corner[0] + _STEPS[heading][0], corner[1] + _STEPS[heading][1])
            if corner == first:
                break
        loops.append(np.array(points))
    return loops
