"""Eight kinds of object as data: polygons and strokes in the object's own coordinates, before any pixel is drawn.

A kind is a function of a random generator; every call gives another instance (own proportions, part counts, patterns).
Coordinates: x right, y down, the object roughly inside [-1, 1]^2. The order of the random draws fixes the data set's pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# Palette slots. Which of LINE and LIGHT is the darker one is drawn per instance, so polarity says nothing of the class.
BODY, SECOND, THIRD, LINE, LIGHT, DARK = range(6)
NUM_COLOURS = 6


@dataclass(frozen=True)
class Layer:
    """Curves painted in one colour.

    curves: arrays (N, 2).
    width: 0 = filled together by the even-odd rule, so an inner curve is a hole; above 0 = stroked, in object units.
    closed: strokes return to their start.
    solid: part of the silhouette; layers that are not are cut by it.
    clip: curve that bounds where the layer may paint; None = anywhere on the canvas.
    """

    curves: tuple[np.ndarray, ...]
    colour: int
    width: float
    closed: bool
    solid: bool
    clip: np.ndarray | None


class Design:
    """One instance of a kind: layers in painting order, and the in-plane rotation it may be seen under (degrees, +-)."""

    def __init__(self, *, max_rotation: float) -> None:
        self.max_rotation = max_rotation
        self.layers: list[Layer] = []

    def fill(self, colour: int, *curves: np.ndarray, clip: np.ndarray | None = None, solid: bool = False) -> None:
        """Add a filled layer."""
        self.layers.append(Layer(curves, colour, 0.0, False, solid, clip))

    def stroke(
        self,
        colour: int,
        width: float,
        *curves: np.ndarray,
        closed: bool = False,
        clip: np.ndarray | None = None,
        solid: bool = False,
    ) -> None:
        """Add a layer of strokes."""
        self.layers.append(Layer(curves, colour, width, closed, solid, clip))


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


def butterfly(rng: np.random.Generator) -> Design:
    """Two mirrored pairs of wings with eye-spots, veins from the root and a border; segmented body, antennae."""
    design = Design(max_rotation=60)
    spread, drop = rng.uniform(0.75, 1.0), rng.uniform(0.5, 0.9)
    tip = (spread, -rng.uniform(0.6, 0.95))
    upper = line((0.03, -0.1), (0.3, -0.75), tip, (spread * 0.98, -0.2), (0.5, 0.12), (0.03, 0.1))
    side, low = (spread * rng.uniform(0.65, 0.95), 0.2), (rng.uniform(0.3, 0.65), drop)
    lower = line((0.03, 0), (0.5, -0.02), side, low, (0.2, drop * 0.8), (0.03, 0.3))
    lower, upper = (smooth(wing + rng.normal(0, noise, wing.shape)) for wing, noise in ((lower, 0.025), (upper, 0.03)))
    border = rng.uniform(0.05, 0.14)
    for wing, centre, colour, root_y in (
        (lower, (spread * 0.42, 0.34), SECOND, 0.05),
        (upper, (spread * 0.6, -0.42), BODY, -0.05),
    ):
        both = (wing, mirrored(wing))
        design.fill(colour, *both, solid=True)
        root = np.array([0.05, root_y])
        count = int(rng.integers(4, 8))
        tips = wing[(np.linspace(0.12, 0.88, count) * len(wing)).astype(int)]
        veins = [np.stack([root, (root + tip) / 2 + rng.normal(0, 0.02, 2), tip]) for tip in tips]
        design.stroke(LINE, 0.03, *veins, clip=wing)
        design.stroke(LINE, 0.03, *map(mirrored, veins), clip=mirrored(wing))
        for half in both:
            design.stroke(DARK, border, half, closed=True, clip=half)
        for _ in range(int(rng.integers(1, 4))):
            x, y = np.array(centre) + rng.uniform(-0.16, 0.16, 2)
            size, aspect = rng.uniform(0.07, 0.19), rng.uniform(0.75, 1.3)
            for shrink, ring in ((1.0, LIGHT), (0.68, THIRD), (0.34, DARK)):
                spot = ellipse(x, y, size * shrink, size * aspect * shrink, num=18)
                design.fill(ring, spot, clip=wing)
                design.fill(ring, mirrored(spot), clip=mirrored(wing))
    feeler = smooth(line((0.02, -0.3), (0.1, -0.6), (rng.uniform(0.15, 0.35), -0.85)), closed=False)
    design.stroke(DARK, 0.035, feeler, mirrored(feeler), solid=True)
    design.fill(DARK, ellipse(0, 0.05, rng.uniform(0.06, 0.1), 0.5), solid=True)
    design.stroke(LIGHT, 0.035, *(line((-0.1, y), (0.1, y)) for y in np.arange(-0.25, 0.5, 0.13)))
    return design


def car(rng: np.random.Generator) -> Design:
    """Side view: rounded body, cabin with windows, two spoked wheels, doors. From flat sports car to van."""
    design = Design(max_rotation=40)
    height, cabin = rng.uniform(0.26, 0.5), rng.uniform(0.25, 0.5)
    back, front = rng.uniform(-0.95, -0.45), rng.uniform(0.1, 0.75)
    lean_back, lean_front = rng.uniform(0.02, 0.25), rng.uniform(0.1, 0.4)
    roof, belt = -height / 2 - cabin, -height / 2
    bonnet = np.array([[0.03, 0], [0, rng.uniform(0, 0.12)], [0, 0], [0, 0]])
    body = smooth(box(-1, belt, 1, height / 2) + bonnet, rounds=1)
    hull = line((back, belt + 0.06), (back + lean_back, roof), (front - lean_front, roof), (front, belt + 0.06))
    design.fill(BODY, smooth(hull, rounds=1), solid=True)
    design.fill(BODY, body, solid=True)
    inset = 0.07
    left, right = back + lean_back * 0.6 + inset, front - lean_front * 0.7 - inset
    num_windows = int(rng.integers(1, 4))
    edges = np.linspace(left, right, num_windows + 1)
    glass = []
    for i, (low, high) in enumerate(pairwise(edges.tolist())):
        first, last = i == 0, i == num_windows - 1
        glass.append(
            line(
                (low + 0.03 - (0.05 if first else 0), belt - 0.02),
                (low + 0.03 + (0.04 if first else 0), roof + inset),
                (high - 0.03 - (0.06 if last else 0), roof + inset),
                (high - 0.03 + (0.06 if last else 0), belt - 0.02),
            )
        )
    design.fill(DARK, *glass)
    design.stroke(LINE, 0.025, *(line((x, belt), (x, height * 0.38)) for x in edges[1:]))
    design.stroke(LIGHT, 0.035, *(line((x - 0.13, -height * 0.22), (x - 0.05, -height * 0.22)) for x in edges[1:]))
    if rng.random() < 0.5:
        stripe = rng.uniform(-0.1, 0.25) * height
        design.stroke(SECOND, rng.uniform(0.04, 0.1), line((-0.97, stripe), (0.97, stripe)))
    design.fill(LIGHT, ellipse(0.92, -height * 0.15, 0.08, 0.07), ellipse(-0.95, -height * 0.15, 0.05, 0.08))
    radius, wheel_y = rng.uniform(0.18, 0.3), height / 2 - 0.02
    num_spokes, phase = int(rng.integers(4, 11)), rng.uniform(0, 6)
    angles = phase + np.arange(num_spokes) * 2 * np.pi / num_spokes
    for x in (rng.uniform(-0.7, -0.5), rng.uniform(0.48, 0.7)):
        design.fill(DARK, ellipse(x, wheel_y, radius, radius), solid=True)
        design.fill(LIGHT, ellipse(x, wheel_y, radius * 0.64, radius * 0.64))
        ends = [(x + 0.6 * radius * np.cos(a), wheel_y + 0.6 * radius * np.sin(a)) for a in angles]
        design.stroke(LINE, 0.035, *(line((x, wheel_y), end) for end in ends))
        design.fill(THIRD, ellipse(x, wheel_y, radius * 0.2, radius * 0.2))
    return design


def fish(rng: np.random.Generator) -> Design:
    """Side view: spindle with rows of scales, rayed fins, forked tail, gill arc, ringed eye; bars on some."""
    design = Design(max_rotation=40)
    height, fullness = rng.uniform(0.26, 0.55), rng.uniform(0.65, 1.1)
    along = np.linspace(0, 1, 22)
    profile = height * np.sin(np.pi * along**fullness) ** 0.8 + 0.07 * along
    xs = 0.85 - 1.45 * along
    body = np.concatenate([np.stack([xs, -profile], 1), np.stack([xs, profile * rng.uniform(0.8, 1.0)], 1)[::-1]])
    fork, fan = rng.uniform(0.0, 0.25), rng.uniform(0.28, 0.5)
    tail = line((-0.5, -0.08), (-1.0, -fan), (-1.0 + fork, 0), (-1.0, fan), (-0.5, 0.08))
    start, length, rise = rng.uniform(0.2, 0.45), rng.uniform(0.45, 0.8), rng.uniform(0.15, 0.35)
    end = start - length
    crest = -height * 0.7 - rise * rng.uniform(0.2, 1)
    dorsal = line((start, -height * 0.8), (start - 0.15, -height - rise), (end, crest), (end, -height * 0.4))
    belly = line((0.15, height * 0.75), (-0.1, height + rise * 0.8), (-0.3, height * 0.6))
    fins = [smooth(fin, rounds=1) for fin in (dorsal, belly, tail)]
    for fin in fins:
        design.fill(SECOND, fin, solid=True)
    for fin, root in zip(fins, ((start - length / 2, 0.0), (0.0, 0.0), (-0.3, 0.0)), strict=True):
        design.stroke(LINE, 0.022, *(line(root, tuple(p)) for p in fin[:: max(len(fin) // 9, 1)]), clip=fin)
    design.fill(BODY, body, solid=True)
    if rng.random() < 0.6:  # bars or a side line, as individuals of a kind differ
        bars = [line((x, -0.7), (x - 0.06, 0.7)) for x in rng.uniform(-0.5, 0.45, int(rng.integers(2, 6)))]
        design.stroke(THIRD, rng.uniform(0.05, 0.13), *bars, clip=body)
    size = rng.uniform(0.1, 0.19)
    centres = [
        (x + (row % 2) * size * 0.5, y)
        for row, y in enumerate(np.arange(-0.6, 0.6, size * 0.62))
        for x in np.arange(-0.6, 0.42, size)
    ]
    scale = ellipse(0, 0, size * 0.55, size * 0.55, start=np.pi * 0.5, stop=np.pi * 1.5, num=7)
    design.stroke(LINE, 0.022, *(scale + centre for centre in centres), clip=body)
    gill = rng.uniform(0.38, 0.5)
    arc = ellipse(gill + 0.1, 0, 0.14, height * 0.7, start=np.pi * 0.55, stop=np.pi * 1.45, num=10)
    design.stroke(DARK, 0.035, arc, clip=body)
    eye_y, eye = -height * rng.uniform(0.1, 0.3), rng.uniform(0.055, 0.09)
    design.fill(LIGHT, ellipse(0.63, eye_y, eye, eye))
    design.fill(DARK, ellipse(0.64, eye_y, eye * 0.55, eye * 0.55))
    design.stroke(DARK, 0.025, line((0.84, 0.05), (0.7, 0.09)))
    flipper = turned(ellipse(0.2, 0.12, 0.17, 0.08), rng.uniform(-0.6, 0.4), about=(0.3, 0.1))
    design.fill(SECOND, flipper, clip=body)
    design.stroke(LINE, 0.02, flipper, closed=True, clip=body)
    return design


def gear(rng: np.random.Generator) -> Design:
    """Toothed wheel: 7 to 20 teeth of one shape, turned rings, a bore, and spokes, holes or bolts."""
    design = Design(max_rotation=180)
    num_teeth, depth, taper = int(rng.integers(7, 21)), rng.uniform(0.12, 0.28), rng.uniform(0.25, 0.8)
    pitch = 2 * np.pi / num_teeth
    share = rng.uniform(0.42, 0.58)
    offsets = np.array([-0.5 * share, -0.5 * share * taper, 0.5 * share * taper, 0.5 * share]) * pitch
    radii = np.tile([1 - depth, 1.0, 1.0, 1 - depth], num_teeth)
    angles = (np.arange(num_teeth)[:, None] * pitch + offsets).ravel()
    rim = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    bore = rng.uniform(0.1, 0.25)
    inner, hub = (1 - depth) * rng.uniform(0.68, 0.86), bore + rng.uniform(0.08, 0.16)
    kind, count, phase = rng.integers(3), int(rng.integers(3, 8)), rng.uniform(0, 6)
    middle = (inner + hub) / 2
    around = [(middle * np.cos(a), middle * np.sin(a)) for a in phase + np.arange(count) * 2 * np.pi / count]
    holes = [ellipse(0, 0, bore, bore)]
    if kind == 0:  # windows between spokes
        half = np.pi / count * rng.uniform(0.55, 0.8)
        for i in range(count):
            at = phase + 2 * np.pi * i / count
            outer_arc = ellipse(0, 0, inner, inner, start=at - half, stop=at + half, num=8)
            inner_arc = ellipse(0, 0, hub, hub, start=at + half * 0.8, stop=at - half * 0.8, num=6)
            holes.append(np.concatenate([outer_arc, inner_arc]))
    elif kind == 1:
        radius = min((inner - hub) * 0.4, middle * np.sin(np.pi / count) * 0.8)
        holes += [ellipse(*at, radius, radius, num=14) for at in around]
    design.fill(BODY, rim, *holes, solid=True)
    rings = np.linspace(hub, 1 - depth - 0.04, int(rng.integers(3, 7)))
    design.stroke(LINE, rng.uniform(0.02, 0.045), *(ellipse(0, 0, r, r, num=40) for r in rings), closed=True)
    design.fill(SECOND, ellipse(0, 0, hub, hub), ellipse(0, 0, bore, bore))
    if kind == 2:
        bolts = [ellipse(*at, 0.09, 0.09, num=6) for at in around]
        design.fill(LIGHT, *bolts)
        design.stroke(DARK, 0.03, *bolts, closed=True)
    teeth = np.arange(num_teeth) * pitch
    tips = [line(*((r * np.cos(a), r * np.sin(a)) for r in (0.97, 1 - depth))) for a in teeth]
    design.stroke(LIGHT, pitch * 0.14, *tips)
    return design


def house(rng: np.random.Generator) -> Design:
    """Front: wall with a grid of cross-barred windows and a door, gable or hipped roof with tile courses, chimney."""
    design = Design(max_rotation=25)
    half, top, peak = rng.uniform(0.5, 0.9), rng.uniform(-0.45, 0.1), rng.uniform(0.35, 0.75)
    over, ridge = rng.uniform(0.05, 0.2), rng.choice([0.0, rng.uniform(0.1, 0.6)])
    bottom = 0.9
    if rng.random() < 0.6:
        x = rng.uniform(0.25, 0.7) * half * rng.choice([-1, 1])
        design.fill(THIRD, box(x - 0.09, top - peak * 1.05, x + 0.09, top), solid=True)
    wall = box(-half, top - 0.02, half, bottom)
    roof = line((-half - over, top), (-half * ridge, top - peak), (half * ridge, top - peak), (half + over, top))
    design.fill(BODY, wall, solid=True)
    design.fill(SECOND, roof, solid=True)
    courses = np.linspace(top - peak, top, int(rng.integers(5, 10)))[1:]
    step = courses[1] - courses[0]
    tiles = [line((-1.2, y), (1.2, y)) for y in courses]
    for i, y in enumerate(courses):
        tiles += [line((x, y - step), (x, y)) for x in np.arange(-1.1 + (i % 2) * step * 0.8, 1.2, step * 1.6)]
    design.stroke(LINE, 0.022, *tiles, clip=roof)
    if rng.random() < 0.5:
        planks = np.linspace(top, bottom, int(rng.integers(7, 14)))
        design.stroke(LINE, 0.015, *(line((-half, y), (half, y)) for y in planks), clip=wall)
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    cell_width, cell_height = 2 * half / columns, (bottom - top - 0.08) / rows
    width, height = cell_width * rng.uniform(0.28, 0.38), cell_height * rng.uniform(0.26, 0.36)
    door = int(rng.integers(columns))
    panes, bars = [], []
    for row in range(rows):
        for column in range(columns):
            x, y = -half + (column + 0.5) * cell_width, top + 0.06 + (row + 0.5) * cell_height
            if row == rows - 1 and column == door:
                continue
            panes.append(box(x - width, y - height, x + width, y + height))
            bars += [line((x, y - height), (x, y + height)), line((x - width, y), (x + width, y))]
    design.fill(DARK, *panes)
    design.stroke(LIGHT, 0.03, *bars)
    design.stroke(LIGHT, 0.04, *panes, closed=True)
    x = -half + (door + 0.5) * cell_width
    entry = box(x - width * 1.05, bottom - min(cell_height * 0.85, 0.6), x + width * 1.05, bottom)
    design.fill(THIRD, entry)
    design.stroke(LINE, 0.03, entry, closed=True)
    return design


def leaf(rng: np.random.Generator) -> Design:
    """Blade (lance-shaped to lobed, smooth to toothed) with a midrib, 4 to 10 pairs of curved veins, and a stalk."""
    design = Design(max_rotation=180)
    along = np.linspace(0, 1, 60)
    width, skew = rng.uniform(0.28, 0.68), rng.uniform(0.6, 1.4)
    half = width * np.sin(np.pi * along**skew) ** rng.uniform(0.7, 1.2)
    lobes, depth = int(rng.integers(2, 6)), rng.choice([0.0, rng.uniform(0.2, 0.5)], p=[0.65, 0.35])
    half *= 1 - depth * (0.5 + 0.5 * np.cos(2 * np.pi * lobes * along))
    teeth = int(rng.integers(8, 20))
    half *= 1 - rng.choice([0.0, rng.uniform(0.1, 0.25)], p=[0.4, 0.6]) * ((along * teeth) % 1.0)
    bend = rng.uniform(-0.25, 0.25)

    def spine(t: np.ndarray) -> np.ndarray:
        return np.stack([bend * np.sin(np.pi * t), 0.75 - 1.7 * t], 1)

    centre = spine(along)
    left, right = centre - half[:, None] * [1, 0], centre + half[:, None] * [rng.uniform(0.85, 1.15), 0]
    blade = np.concatenate([left, right[::-1]])
    stalk = np.concatenate([spine(np.array([0.05, 0.0])), line((rng.uniform(-0.15, 0.15), 1.0))])
    design.stroke(LINE, rng.uniform(0.05, 0.09), stalk, solid=True)
    design.fill(BODY, blade, solid=True)
    count, rise, curl = int(rng.integers(4, 11)), rng.uniform(0.15, 0.5), rng.uniform(-0.1, 0.2)
    veins, finer = [], []
    for root in spine(np.linspace(0.06, 0.82, count)):
        for side in (-1, 1):
            bow = np.array([[0, 0], [side * 0.4, -rise * 0.5 - curl], [side * 0.8, -rise * 1.1]])
            path = smooth(root + bow, rounds=1, closed=False)
            veins.append(path)
            finer += [np.stack([p, p + np.array([side * 0.06, -0.16])]) for p in path[1:4]]
    if rng.random() < 0.4:  # pale or dark bands along the veins
        design.stroke(SECOND, rng.uniform(0.06, 0.12), *veins, clip=blade)
    design.stroke(LINE, rng.uniform(0.025, 0.05), *veins, clip=blade)
    design.stroke(LINE, 0.018, *finer, clip=blade)
    design.stroke(LINE, rng.uniform(0.045, 0.08), centre[:-3], clip=blade)
    if rng.random() < 0.35:
        spots = [ellipse(*rng.uniform(-0.4, 0.4, 2), *rng.uniform(0.03, 0.09, 2), num=10) for _ in range(6)]
        design.fill(THIRD, *spots, clip=blade)
    return design


def mug(rng: np.random.Generator) -> Design:
    """Cup from slightly above: tapering wall, open elliptic mouth, ring handle, bands that follow the rim."""
    design = Design(max_rotation=40)
    half, height, taper = rng.uniform(0.42, 0.65), rng.uniform(0.9, 1.5), rng.uniform(0.68, 1.08)
    dip = rng.uniform(0.09, 0.2)
    top, bottom, low = -height / 2, height / 2, half * taper
    grip = rng.uniform(0.2, 0.34)
    handle_y = top + height * rng.uniform(0.4, 0.55)
    handle = ellipse(half * 0.93, handle_y, grip * rng.uniform(0.8, 1.3), height * rng.uniform(0.2, 0.32))
    handle = turned(handle, rng.uniform(-0.15, 0.15), about=(half, 0))
    foot = ellipse(0, bottom, low, dip * taper, start=0, stop=np.pi, num=16)
    wall = np.concatenate([foot, line((-half, top), (half, top))])
    colour = SECOND if rng.random() < 0.4 else BODY
    design.stroke(colour, rng.uniform(0.1, 0.17), handle, closed=True, solid=True)
    design.fill(BODY, wall, solid=True)
    num_bands = int(rng.integers(2, 7))
    heights = np.sort(rng.uniform(0.12, 0.95, num_bands)) if rng.random() < 0.5 else np.linspace(0.2, 0.9, num_bands)
    for i, part in enumerate(heights):
        radius = half + (low - half) * part
        arc = ellipse(0, top + height * part, radius, dip * (1 + (taper - 1) * part), start=0, stop=np.pi, num=14)
        design.stroke((SECOND, LINE, THIRD)[i % 3], rng.uniform(0.03, 0.14), arc, clip=wall)
    if rng.random() < 0.5:  # emblem on the wall
        size, sides = rng.uniform(0.15, 0.3), int(rng.integers(3, 9))
        emblem = ellipse(rng.uniform(-0.15, 0.15), dip, size, size, num=sides)
        emblem = turned(emblem, rng.uniform(-0.5, 0.5), about=(0, dip))
        design.fill(LIGHT, emblem, clip=wall)
        design.stroke(DARK, 0.03, emblem, closed=True, clip=wall)
    mouth = ellipse(0, top, half, dip)
    design.fill(DARK, mouth, solid=True)
    design.fill(THIRD, ellipse(0, top + dip * 0.35, half * 0.86, dip * 0.7), clip=mouth)
    design.stroke(LIGHT, rng.uniform(0.04, 0.07), mouth, closed=True)
    return design


def mushroom(rng: np.random.Generator) -> Design:
    """Domed cap with warts of one kind, a band of gills under it, fibrous stem with ring and bulb; one or two together."""
    design = Design(max_rotation=40)
    if rng.random() < 0.3:
        _add_mushroom(design, rng, scale=0.6, shift=float(rng.choice([-0.6, 0.6])))
    _add_mushroom(design, rng, scale=1.0, shift=0.0)
    return design


def _add_mushroom(design: Design, rng: np.random.Generator, *, scale: float, shift: float) -> None:
    """A mushroom whose foot stands at (shift, 0.9)."""

    def placed(curve: np.ndarray) -> np.ndarray:
        return np.array([shift, 0.9]) + scale * (curve - np.array([0, 0.9]))

    radius, dome, brim = rng.uniform(0.5, 0.95), rng.uniform(0.4, 0.85), rng.uniform(-0.2, 0.15)
    sag = rng.uniform(0.08, 0.2)
    neck, foot = rng.uniform(0.1, 0.22), rng.uniform(0.12, 0.3)
    lean = rng.uniform(-0.12, 0.12)
    bulb = ((foot, 0.8), (foot * 0.6, 0.93), (-foot * 0.6, 0.93), (-foot, 0.8))
    stem = placed(smooth(line((-neck + lean, brim), (neck + lean, brim), *bulb), rounds=1))
    top = ellipse(lean, brim, radius, dome, start=np.pi, stop=2 * np.pi, num=22)
    under = ellipse(lean, brim, radius, sag, start=0, stop=np.pi, num=16)
    cap = placed(np.concatenate([top, under]))
    gills = placed(ellipse(lean, brim, radius * 0.97, sag * 0.9, num=28))
    fibres = [placed(line((x + lean, brim), (x * 1.3, 0.95))) for x in np.linspace(-0.2, 0.2, int(rng.integers(4, 8)))]
    design.fill(SECOND, stem, solid=True)
    design.stroke(LINE, 0.02, *fibres, clip=stem)
    if rng.random() < 0.6:
        y = brim + sag + rng.uniform(0.08, 0.25)
        design.stroke(LIGHT, 0.07, placed(ellipse(lean * 0.6, y, neck * 1.6, 0.07, start=0, stop=np.pi)), solid=True)
    design.fill(BODY, cap, solid=True)
    design.fill(THIRD, gills, clip=cap)
    comb = [
        placed(line((lean + 0.3 * x, brim - sag * 0.4), (lean + x, brim + sag)))
        for x in np.linspace(-radius, radius, int(rng.integers(13, 26)))
    ]
    design.stroke(LINE, 0.022, *comb, clip=gills)
    edge = ellipse(lean, brim, radius, sag * rng.uniform(-0.3, 0.3), start=0, stop=np.pi, num=12)
    dome_only = placed(np.concatenate([top, edge]))
    design.fill(BODY, dome_only)
    count, size = int(rng.integers(5, 16)), rng.uniform(0.05, 0.13)
    angles = np.arange(count) * 2.39996 + rng.uniform(0, 6)  # golden angle: spread without a grid
    reach = np.sqrt((np.arange(count) + 0.5) / count)
    warts = []
    for angle, r in zip(angles, reach, strict=True):
        x, y = lean + radius * r * np.cos(angle), brim - dome * 0.42 + dome * 0.55 * r * np.sin(angle)
        warts.append(placed(ellipse(x, y, size * rng.uniform(0.7, 1.3), size * rng.uniform(0.5, 1.0), num=10)))
    design.fill(LIGHT, *warts, clip=dome_only)
    design.stroke(DARK, 0.015, *warts, closed=True, clip=dome_only)
    design.stroke(LINE, 0.025, dome_only, closed=True)


@dataclass(frozen=True)
class Kind:
    """One class of object.

    draw: a new instance.
    material: the photo whose fine texture its surface takes, as fur, bark or brick is in the world.
    """

    draw: Callable[[np.random.Generator], Design]
    material: str


# Colour says nothing of the class (`photos.recolour`), and each instance has its own crop, scale and turn of the material.
KINDS = {
    "butterfly": Kind(butterfly, "ihc.png"),
    "car": Kind(car, "motorcycle_left.png"),
    "fish": Kind(fish, "coins.png"),
    "gear": Kind(gear, "gravel.png"),
    "house": Kind(house, "brick.png"),
    "leaf": Kind(leaf, "grass.png"),
    "mug": Kind(mug, "page.png"),
    "mushroom": Kind(mushroom, "chelsea.png"),
}
