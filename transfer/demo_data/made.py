"""Made things: car, gear, house, mug. Each a parametric family with its own inner structure.

In: a random generator. Out: a `Design`; every call is another instance (own proportions, part counts, patterns).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from transfer.demo_data.design import (
    BODY,
    DARK,
    LIGHT,
    LINE,
    SECOND,
    THIRD,
    Design,
    Layer,
    box,
    ellipse,
    line,
    smooth,
    solid,
    turned,
)

UPRIGHT = np.radians(40)


def car(rng: np.random.Generator) -> Design:
    """Side view: rounded body, cabin with windows, two spoked wheels, doors. From flat sports car to van."""
    height, cabin = rng.uniform(0.26, 0.5), rng.uniform(0.25, 0.5)
    back, front = rng.uniform(-0.95, -0.45), rng.uniform(0.1, 0.75)
    lean_back, lean_front = rng.uniform(0.02, 0.25), rng.uniform(0.1, 0.4)
    roof = -height / 2 - cabin
    body = smooth(
        box(-1, -height / 2, 1, height / 2) + np.array([[0.03, 0], [0, rng.uniform(0, 0.12)], [0, 0], [0, 0]]), rounds=1
    )
    hull = smooth(
        line(
            (back, -height / 2 + 0.06),
            (back + lean_back, roof),
            (front - lean_front, roof),
            (front, -height / 2 + 0.06),
        ),
        rounds=1,
    )
    layers = [solid(hull), solid(body)]
    inset = 0.07
    left, right = back + lean_back * 0.6 + inset, front - lean_front * 0.7 - inset
    num_windows = int(rng.integers(1, 4))
    edges = np.linspace(left, right, num_windows + 1)
    glass = tuple(
        line(
            (low + 0.03 - (0.05 if i == 0 else 0), -height / 2 - 0.02),
            (low + 0.03 + (0.04 if i == 0 else 0), roof + inset),
            (high - 0.03 - (0.06 if i == num_windows - 1 else 0), roof + inset),
            (high - 0.03 + (0.06 if i == num_windows - 1 else 0), -height / 2 - 0.02),
        )
        for i, (low, high) in enumerate(pairwise(edges.tolist()))
    )
    layers.append(Layer(glass, DARK))
    layers.append(Layer(tuple(line((x, -height / 2), (x, height * 0.38)) for x in edges[1:]), LINE, width=0.025))
    layers.append(
        Layer(
            tuple(line((x - 0.13, -height * 0.22), (x - 0.05, -height * 0.22)) for x in edges[1:]), LIGHT, width=0.035
        )
    )
    if rng.random() < 0.5:
        stripe = rng.uniform(-0.1, 0.25) * height
        layers.append(Layer((line((-0.97, stripe), (0.97, stripe)),), SECOND, width=rng.uniform(0.04, 0.1)))
    layers.append(Layer((ellipse(0.92, -height * 0.15, 0.08, 0.07), ellipse(-0.95, -height * 0.15, 0.05, 0.08)), LIGHT))
    radius, wheel_y = rng.uniform(0.18, 0.3), height / 2 - 0.02
    num_spokes, phase = int(rng.integers(4, 11)), rng.uniform(0, 6)
    for x in (rng.uniform(-0.7, -0.5), rng.uniform(0.48, 0.7)):
        layers.append(solid(ellipse(x, wheel_y, radius, radius), colour=DARK))
        layers.append(Layer((ellipse(x, wheel_y, radius * 0.64, radius * 0.64),), LIGHT))
        angles = phase + np.arange(num_spokes) * 2 * np.pi / num_spokes
        spokes = tuple(
            line((x, wheel_y), (x + 0.6 * radius * np.cos(a), wheel_y + 0.6 * radius * np.sin(a))) for a in angles
        )
        layers.append(Layer(spokes, LINE, width=0.035))
        layers.append(Layer((ellipse(x, wheel_y, radius * 0.2, radius * 0.2),), THIRD))
    return Design(tuple(layers), UPRIGHT)


def gear(rng: np.random.Generator) -> Design:
    """Toothed wheel: 7 to 20 teeth of one shape, turned rings, a bore, and spokes, holes or bolts."""
    num_teeth, depth, taper = int(rng.integers(7, 21)), rng.uniform(0.12, 0.28), rng.uniform(0.25, 0.8)
    pitch = 2 * np.pi / num_teeth
    share = rng.uniform(0.42, 0.58)
    offsets = np.array([-0.5 * share, -0.5 * share * taper, 0.5 * share * taper, 0.5 * share]) * pitch
    radii = np.tile([1 - depth, 1.0, 1.0, 1 - depth], num_teeth)
    angles = (np.arange(num_teeth)[:, None] * pitch + offsets).ravel()
    rim = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    bore = rng.uniform(0.1, 0.25)
    inner, hub = (1 - depth) * rng.uniform(0.68, 0.86), bore + rng.uniform(0.08, 0.16)
    holes = [ellipse(0, 0, bore, bore)]
    kind, count, phase = rng.integers(3), int(rng.integers(3, 8)), rng.uniform(0, 6)
    middle = (inner + hub) / 2
    if kind == 0:  # windows between spokes
        half = np.pi / count * rng.uniform(0.55, 0.8)
        for i in range(count):
            at = phase + 2 * np.pi * i / count
            outer_arc = ellipse(0, 0, inner, inner, start=at - half, stop=at + half, num=8)
            inner_arc = ellipse(0, 0, hub, hub, start=at + half * 0.8, stop=at - half * 0.8, num=6)
            holes.append(np.concatenate([outer_arc, inner_arc]))
    elif kind == 1:
        radius = min((inner - hub) * 0.4, middle * np.sin(np.pi / count) * 0.8)
        holes += [
            ellipse(middle * np.cos(a), middle * np.sin(a), radius, radius, num=14)
            for a in phase + np.arange(count) * 2 * np.pi / count
        ]
    layers = [solid(rim, *holes)]
    rings = np.linspace(hub, 1 - depth - 0.04, int(rng.integers(3, 7)))
    layers.append(
        Layer(tuple(ellipse(0, 0, r, r, num=40) for r in rings), LINE, width=rng.uniform(0.02, 0.045), closed=True)
    )
    layers.append(Layer((ellipse(0, 0, hub, hub), ellipse(0, 0, bore, bore)), SECOND))
    if kind == 2:
        bolts = tuple(
            ellipse(middle * np.cos(a), middle * np.sin(a), 0.09, 0.09, num=6)
            for a in phase + np.arange(count) * 2 * np.pi / count
        )
        layers.append(Layer(bolts, LIGHT))
        layers.append(Layer(bolts, DARK, width=0.03, closed=True))
    tips = tuple(
        line((r * np.cos(a), r * np.sin(a)), ((1 - depth) * np.cos(a), (1 - depth) * np.sin(a)))
        for a in np.arange(num_teeth) * pitch
        for r in (0.97,)
    )
    layers.append(Layer(tips, LIGHT, width=pitch * 0.14))
    return Design(tuple(layers), np.pi)


def house(rng: np.random.Generator) -> Design:
    """Front: wall with a grid of cross-barred windows and a door, gable or hipped roof with tile courses, chimney."""
    half, top, peak = rng.uniform(0.5, 0.9), rng.uniform(-0.45, 0.1), rng.uniform(0.35, 0.75)
    over, ridge = rng.uniform(0.05, 0.2), rng.choice([0.0, rng.uniform(0.1, 0.6)])
    bottom = 0.9
    layers = []
    if rng.random() < 0.6:
        x = rng.uniform(0.25, 0.7) * half * rng.choice([-1, 1])
        layers.append(solid(box(x - 0.09, top - peak * 1.05, x + 0.09, top), colour=THIRD))
    wall = box(-half, top - 0.02, half, bottom)
    roof = line((-half - over, top), (-half * ridge, top - peak), (half * ridge, top - peak), (half + over, top))
    layers += [solid(wall), solid(roof, colour=SECOND)]
    courses = np.linspace(top - peak, top, int(rng.integers(5, 10)))[1:]
    step = courses[1] - courses[0]
    tiles = [line((-1.2, y), (1.2, y)) for y in courses]
    for i, y in enumerate(courses):
        tiles += [line((x, y - step), (x, y)) for x in np.arange(-1.1 + (i % 2) * step * 0.8, 1.2, step * 1.6)]
    layers.append(Layer(tuple(tiles), LINE, width=0.022, clip=(roof,)))
    if rng.random() < 0.5:
        planks = np.linspace(top, bottom, int(rng.integers(7, 14)))
        layers.append(Layer(tuple(line((-half, y), (half, y)) for y in planks), LINE, width=0.015, clip=(wall,)))
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
    x = -half + (door + 0.5) * cell_width
    entry = box(x - width * 1.05, bottom - min(cell_height * 0.85, 0.6), x + width * 1.05, bottom)
    layers += [
        Layer(tuple(panes), DARK),
        Layer(tuple(bars), LIGHT, width=0.03),
        Layer(tuple(panes), LIGHT, width=0.04, closed=True),
    ]
    layers += [Layer((entry,), THIRD), Layer((entry,), LINE, width=0.03, closed=True)]
    return Design(tuple(layers), np.radians(25))


def mug(rng: np.random.Generator) -> Design:
    """Cup from slightly above: tapering wall, open elliptic mouth, ring handle, bands that follow the rim."""
    half, height, taper = rng.uniform(0.42, 0.65), rng.uniform(0.9, 1.5), rng.uniform(0.68, 1.08)
    dip = rng.uniform(0.09, 0.2)
    top, bottom, low = -height / 2, height / 2, half * taper
    grip = rng.uniform(0.2, 0.34)
    handle = ellipse(
        half * 0.93,
        top + height * rng.uniform(0.4, 0.55),
        grip * rng.uniform(0.8, 1.3),
        height * rng.uniform(0.2, 0.32),
    )
    handle = turned(handle, rng.uniform(-0.15, 0.15), about=(half, 0))
    wall = np.concatenate(
        [ellipse(0, bottom, low, dip * taper, start=0, stop=np.pi, num=16), line((-half, top)), line((half, top))]
    )
    mouth = ellipse(0, top, half, dip)
    layers = [
        Layer((handle,), SECOND if rng.random() < 0.4 else BODY, width=rng.uniform(0.1, 0.17), closed=True, solid=True),
        solid(wall),
    ]
    clip = (wall,)
    num_bands = int(rng.integers(2, 7))
    heights = np.sort(rng.uniform(0.12, 0.95, num_bands)) if rng.random() < 0.5 else np.linspace(0.2, 0.9, num_bands)
    for i, part in enumerate(heights):
        radius = half + (low - half) * part
        arc = ellipse(0, top + height * part, radius, dip * (1 + (taper - 1) * part), start=0, stop=np.pi, num=14)
        layers.append(Layer((arc,), (SECOND, LINE, THIRD)[i % 3], width=rng.uniform(0.03, 0.14), clip=clip))
    if rng.random() < 0.5:  # emblem on the wall
        size, sides = rng.uniform(0.15, 0.3), int(rng.integers(3, 9))
        emblem = turned(
            ellipse(rng.uniform(-0.15, 0.15), dip, size, size, num=sides), rng.uniform(-0.5, 0.5), about=(0, dip)
        )
        layers += [Layer((emblem,), LIGHT, clip=clip), Layer((emblem,), DARK, width=0.03, closed=True, clip=clip)]
    layers += [
        solid(mouth, colour=DARK),
        Layer((ellipse(0, top + dip * 0.35, half * 0.86, dip * 0.7),), THIRD, clip=(mouth,)),
    ]
    layers.append(Layer((mouth,), LIGHT, width=rng.uniform(0.04, 0.07), closed=True))
    return Design(tuple(layers), UPRIGHT)
