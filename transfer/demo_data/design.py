"""An object before it is drawn: layers of polygons and strokes in its own coordinates, and the curves they are made of.

In: shape parameters. Out: `Design`, data only. Coordinates: x right, y down, the object roughly inside [-1, 1]^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Palette slots. Which of LINE and LIGHT is the darker one is drawn per instance, so polarity says nothing of the class.
BODY, SECOND, THIRD, LINE, LIGHT, DARK = range(6)
NUM_COLOURS = 6


@dataclass(frozen=True)
class Layer:
    """Curves painted in one colour.

    curves: arrays (N, 2). width 0: filled together by the even-odd rule, so an inner curve is a hole; width > 0: stroked,
    in object units. closed: strokes return to their start. solid: part of the silhouette. clip: curves (even-odd) that bound
    where the layer may paint; None = anywhere on the canvas (non-solid layers are still cut by the silhouette).
    """

    curves: tuple[np.ndarray, ...]
    colour: int
    width: float = 0.0
    closed: bool = False
    solid: bool = False
    clip: tuple[np.ndarray, ...] | None = None


@dataclass(frozen=True)
class Design:
    """One instance of a class: layers in painting order, and the in-plane rotation it may be seen under (radians, +-)."""

    layers: tuple[Layer, ...]
    max_rotation: float


def solid(*curves: np.ndarray, colour: int = BODY) -> Layer:
    """Filled layer that belongs to the silhouette."""
    return Layer(curves, colour, solid=True)


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float, *, start: float = 0.0, stop: float = 2 * np.pi, num: int = 28
) -> np.ndarray:
    """(num, 2) points of an ellipse or of its arc from `start` to `stop` radians (y down: pi/2 is the lowest point)."""
    full = abs(stop - start - 2 * np.pi) < 1e-9
    angles = np.linspace(start, stop, num, endpoint=not full)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], 1)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """(4, 2) corners of an upright rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def line(*points: tuple[float, float]) -> np.ndarray:
    """(N, 2) polyline through `points`."""
    return np.array(points, float)


def smooth(points: np.ndarray, *, rounds: int = 2, closed: bool = True) -> np.ndarray:
    """Corner cutting (Chaikin, 1974): (N, 2) -> (N * 2**rounds, 2) for closed curves; open ones keep their ends."""
    for _ in range(rounds):
        after = np.roll(points, -1, 0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], 1).reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points


def turned(points: np.ndarray, angle: float, *, about: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """`points` rotated by `angle` radians around `about`."""
    cosine, sine = np.cos(angle), np.sin(angle)
    centre = np.asarray(about)
    return (points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre


def mirrored(points: np.ndarray) -> np.ndarray:
    """`points` reflected in the y axis."""
    return points * np.array([-1.0, 1.0])
