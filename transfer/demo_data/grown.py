"""Grown things: butterfly, fish, leaf, mushroom. Each a parametric family with its own inner structure.

In: a random generator. Out: a `Design`; every call is another instance (own proportions, part counts, patterns).
"""

from __future__ import annotations

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
    ellipse,
    line,
    mirrored,
    smooth,
    solid,
    turned,
)


def butterfly(rng: np.random.Generator) -> Design:
    """Two mirrored pairs of wings with eye-spots, veins from the root and a border; segmented body, antennae."""
    spread, drop = rng.uniform(0.75, 1.0), rng.uniform(0.5, 0.9)
    upper = line(
        (0.03, -0.1), (0.3, -0.75), (spread, -rng.uniform(0.6, 0.95)), (spread * 0.98, -0.2), (0.5, 0.12), (0.03, 0.1)
    )
    lower = line(
        (0.03, 0),
        (0.5, -0.02),
        (spread * rng.uniform(0.65, 0.95), 0.2),
        (rng.uniform(0.3, 0.65), drop),
        (0.2, drop * 0.8),
        (0.03, 0.3),
    )
    wings = [smooth(lower + rng.normal(0, 0.025, lower.shape)), smooth(upper + rng.normal(0, 0.03, upper.shape))]
    centres = [(spread * 0.6, -0.42), (spread * 0.42, 0.34)]
    layers = []
    border = rng.uniform(0.05, 0.14)
    for wing, centre, colour, sign in zip(wings, centres[::-1], (SECOND, BODY), (1, -1), strict=True):
        both = (wing, mirrored(wing))
        layers.append(Layer(both, colour, solid=True))
        root = np.array([0.05, 0.05 * sign])
        count = int(rng.integers(4, 8))
        tips = wing[(np.linspace(0.12, 0.88, count) * len(wing)).astype(int)]
        veins = tuple(np.stack([root, (root + tip) / 2 + rng.normal(0, 0.02, 2), tip]) for tip in tips)
        for curves, clip in ((veins, wing), (tuple(mirrored(v) for v in veins), mirrored(wing))):
            layers.append(Layer(curves, LINE, width=0.03, clip=(clip,)))
        for half in both:
            layers.append(Layer((half,), DARK, width=border, closed=True, clip=(half,)))
        for _ in range(int(rng.integers(1, 4))):
            x, y = np.array(centre) + rng.uniform(-0.16, 0.16, 2)
            size, aspect = rng.uniform(0.07, 0.19), rng.uniform(0.75, 1.3)
            for shrink, ring in ((1.0, LIGHT), (0.68, THIRD), (0.34, DARK)):
                spot = ellipse(x, y, size * shrink, size * aspect * shrink, num=18)
                layers.append(Layer((spot,), ring, clip=(wing,)))
                layers.append(Layer((mirrored(spot),), ring, clip=(mirrored(wing),)))
    feeler = smooth(line((0.02, -0.3), (0.1, -0.6), (rng.uniform(0.15, 0.35), -0.85)), closed=False)
    layers.append(Layer((feeler, mirrored(feeler)), DARK, width=0.035, solid=True))
    girth = rng.uniform(0.06, 0.1)
    layers.append(solid(ellipse(0, 0.05, girth, 0.5), colour=DARK))
    layers.append(Layer(tuple(line((-0.1, y), (0.1, y)) for y in np.arange(-0.25, 0.5, 0.13)), LIGHT, width=0.035))
    return Design(tuple(layers), np.radians(60))


def fish(rng: np.random.Generator) -> Design:
    """Side view: spindle with rows of scales, rayed fins, forked tail, gill arc, ringed eye; bars on some."""
    height, fullness = rng.uniform(0.26, 0.55), rng.uniform(0.65, 1.1)
    along = np.linspace(0, 1, 22)
    profile = height * np.sin(np.pi * along**fullness) ** 0.8 + 0.07 * along
    xs = 0.85 - 1.45 * along
    body = np.concatenate([np.stack([xs, -profile], 1), np.stack([xs, profile * rng.uniform(0.8, 1.0)], 1)[::-1]])
    fork, fan = rng.uniform(0.0, 0.25), rng.uniform(0.28, 0.5)
    tail = smooth(line((-0.5, -0.08), (-1.0, -fan), (-1.0 + fork, 0), (-1.0, fan), (-0.5, 0.08)), rounds=1)
    start, length, rise = rng.uniform(0.2, 0.45), rng.uniform(0.45, 0.8), rng.uniform(0.15, 0.35)
    dorsal = line(
        (start, -height * 0.8),
        (start - 0.15, -height - rise),
        (start - length, -height * 0.7 - rise * rng.uniform(0.2, 1)),
        (start - length, -height * 0.4),
    )
    belly = line((0.15, height * 0.75), (-0.1, height + rise * 0.8), (-0.3, height * 0.6))
    fins = (smooth(dorsal, rounds=1), smooth(belly, rounds=1), tail)
    layers = [solid(fin, colour=SECOND) for fin in fins]
    for fin, root in zip(fins, ((start - length / 2, 0.0), (0.0, 0.0), (-0.3, 0.0)), strict=True):
        rays = tuple(line(root, tuple(point)) for point in fin[:: max(len(fin) // 9, 1)])
        layers.append(Layer(rays, LINE, width=0.022, clip=(fin,)))
    layers.append(solid(body))
    if rng.random() < 0.6:  # bars or a side line, as individuals of a kind differ
        bars = rng.uniform(-0.5, 0.45, int(rng.integers(2, 6)))
        layers.append(
            Layer(
                tuple(line((x, -0.7), (x - 0.06, 0.7)) for x in bars),
                THIRD,
                width=rng.uniform(0.05, 0.13),
                clip=(body,),
            )
        )
    size = rng.uniform(0.1, 0.19)
    scales = tuple(
        ellipse(x + (row % 2) * size * 0.5, y, size * 0.55, size * 0.55, start=np.pi * 0.5, stop=np.pi * 1.5, num=7)
        for row, y in enumerate(np.arange(-0.6, 0.6, size * 0.62))
        for x in np.arange(-0.6, 0.42, size)
    )
    layers.append(Layer(scales, LINE, width=0.022, clip=(body,)))
    gill = rng.uniform(0.38, 0.5)
    layers.append(
        Layer(
            (ellipse(gill + 0.1, 0, 0.14, height * 0.7, start=np.pi * 0.55, stop=np.pi * 1.45, num=10),),
            DARK,
            width=0.035,
            clip=(body,),
        )
    )
    eye_y, eye = -height * rng.uniform(0.1, 0.3), rng.uniform(0.055, 0.09)
    layers += [
        Layer((ellipse(0.63, eye_y, eye, eye),), LIGHT),
        Layer((ellipse(0.64, eye_y, eye * 0.55, eye * 0.55),), DARK),
    ]
    layers.append(Layer((line((0.84, 0.05), (0.7, 0.09)),), DARK, width=0.025))
    flipper = turned(ellipse(0.2, 0.12, 0.17, 0.08), rng.uniform(-0.6, 0.4), about=(0.3, 0.1))
    layers += [Layer((flipper,), SECOND, clip=(body,)), Layer((flipper,), LINE, width=0.02, closed=True, clip=(body,))]
    return Design(tuple(layers), np.radians(40))


def leaf(rng: np.random.Generator) -> Design:
    """Blade (lance-shaped to lobed, smooth to toothed) with a midrib, 4 to 10 pairs of curved veins, and a stalk."""
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
    layers = [Layer((stalk,), LINE, width=rng.uniform(0.05, 0.09), solid=True), solid(blade)]
    count, rise, curl = int(rng.integers(4, 11)), rng.uniform(0.15, 0.5), rng.uniform(-0.1, 0.2)
    roots = spine(np.linspace(0.06, 0.82, count))
    veins, finer = [], []
    for root in roots:
        for side in (-1, 1):
            path = smooth(
                root + np.array([[0, 0], [side * 0.4, -rise * 0.5 - curl], [side * 0.8, -rise * 1.1]]),
                rounds=1,
                closed=False,
            )
            veins.append(path)
            finer += [np.stack([p, p + np.array([side * 0.06, -0.16])]) for p in path[1:4]]
    clip = (blade,)
    if rng.random() < 0.4:  # pale or dark bands along the veins
        layers.append(Layer(tuple(veins), SECOND, width=rng.uniform(0.06, 0.12), clip=clip))
    layers.append(Layer(tuple(veins), LINE, width=rng.uniform(0.025, 0.05), clip=clip))
    layers.append(Layer(tuple(finer), LINE, width=0.018, clip=clip))
    layers.append(Layer((centre[:-3],), LINE, width=rng.uniform(0.045, 0.08), clip=clip))
    if rng.random() < 0.35:
        spots = tuple(ellipse(*rng.uniform(-0.4, 0.4, 2), *rng.uniform(0.03, 0.09, 2), num=10) for _ in range(6))
        layers.append(Layer(spots, THIRD, clip=clip))
    return Design(tuple(layers), np.pi)


def mushroom(rng: np.random.Generator) -> Design:
    """Domed cap with warts of one kind, a band of gills under it, fibrous stem with ring and bulb; one or two together."""
    layers: list[Layer] = []
    twins = rng.random() < 0.3
    for scale, shift in ((0.6, rng.choice([-0.6, 0.6])), (1.0, 0.0)) if twins else ((1.0, 0.0),):
        layers += _one_mushroom(rng, scale=float(scale), shift=float(shift))
    return Design(tuple(layers), np.radians(40))


def _one_mushroom(rng: np.random.Generator, *, scale: float, shift: float) -> list[Layer]:
    """A mushroom whose foot stands at (shift, 0.9)."""

    def placed(curve: np.ndarray) -> np.ndarray:
        return np.array([shift, 0.9]) + scale * (curve - np.array([0, 0.9]))

    radius, dome, brim = rng.uniform(0.5, 0.95), rng.uniform(0.4, 0.85), rng.uniform(-0.2, 0.15)
    sag = rng.uniform(0.08, 0.2)
    neck, foot = rng.uniform(0.1, 0.22), rng.uniform(0.12, 0.3)
    lean = rng.uniform(-0.12, 0.12)
    stem = placed(
        smooth(
            line(
                (-neck + lean, brim),
                (neck + lean, brim),
                (foot, 0.8),
                (foot * 0.6, 0.93),
                (-foot * 0.6, 0.93),
                (-foot, 0.8),
            ),
            rounds=1,
        )
    )
    top = ellipse(lean, brim, radius, dome, start=np.pi, stop=2 * np.pi, num=22)
    under = ellipse(lean, brim, radius, sag, start=0, stop=np.pi, num=16)
    cap = placed(np.concatenate([top, under]))
    gills = placed(np.concatenate([ellipse(lean, brim, radius * 0.97, sag * 0.9, num=28)]))
    fibres = tuple(
        placed(line((x + lean, brim), (x * 1.3, 0.95))) for x in np.linspace(-0.2, 0.2, int(rng.integers(4, 8)))
    )
    layers = [solid(stem, colour=SECOND), Layer(fibres, LINE, width=0.02, clip=(stem,))]
    if rng.random() < 0.6:
        y = brim + sag + rng.uniform(0.08, 0.25)
        layers.append(
            Layer(
                (placed(ellipse(lean * 0.6, y, neck * 1.6, 0.07, start=0, stop=np.pi)),), LIGHT, width=0.07, solid=True
            )
        )
    layers += [solid(cap), Layer((gills,), THIRD, clip=(cap,))]
    comb = tuple(
        placed(line((lean + 0.3 * a, brim - sag * 0.4), (lean + a, brim + sag)))
        for a in np.linspace(-radius, radius, int(rng.integers(13, 26)))
    )
    layers.append(Layer(comb, LINE, width=0.022, clip=(gills,)))
    dome_only = placed(
        np.concatenate([top, ellipse(lean, brim, radius, sag * rng.uniform(-0.3, 0.3), start=0, stop=np.pi, num=12)])
    )
    layers.append(Layer((dome_only,), BODY))
    count, size = int(rng.integers(5, 16)), rng.uniform(0.05, 0.13)
    angles = np.arange(count) * 2.39996 + rng.uniform(0, 6)  # golden angle: spread without a grid
    reach = np.sqrt((np.arange(count) + 0.5) / count)
    warts = tuple(
        placed(
            ellipse(
                lean + radius * r * np.cos(a),
                brim - dome * 0.42 + dome * 0.55 * r * np.sin(a),
                size * rng.uniform(0.7, 1.3),
                size * rng.uniform(0.5, 1.0),
                num=10,
            )
        )
        for a, r in zip(angles, reach, strict=True)
    )
    layers += [Layer(warts, LIGHT, clip=(dome_only,)), Layer(warts, DARK, width=0.015, closed=True, clip=(dome_only,))]
    layers.append(Layer((dome_only,), LINE, width=0.025, closed=True))
    return layers
