"""From a design to a sprite: pose, palette, photographic surface, shading.

In: a class, a size in pixels, a light, a random generator. Out: `Sprite`, colour and coverage, cropped to the object.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from transfer.demo_data.config import CLASS_NAMES
from transfer.demo_data.photos import LUMA, photo_crop, random_colour, recolour
from transfer.demo_data.shapes import KINDS, LIGHT, LINE, NUM_COLOURS, Design, Layer

SUPERSAMPLE = 2
_SHIFT = 4  # fractional bits of cv2's drawing coordinates


@dataclass(frozen=True)
class Light:
    """Where light comes from and what colour it has.

    direction: unit (x, y), towards the light.
    ambient: share of light that comes from everywhere, in [0, 1].
    colour: factor of each RGB channel, (3,) float32.
    """

    direction: tuple[float, float]
    ambient: float
    colour: np.ndarray


@dataclass(frozen=True)
class Sprite:
    """A drawn object, cropped.

    colour: (H, W, 3) float32 in 0..255.
    alpha: (H, W) float32 in 0..1, the part of each pixel that the object covers.
    """

    colour: np.ndarray
    alpha: np.ndarray


def random_light(rng: np.random.Generator) -> Light:
    """Light from anywhere, rather from above; slightly warm or cool."""
    angle = rng.normal(-np.pi / 2, 0.9)
    warmth = rng.uniform(-0.12, 0.12)
    return Light(
        (float(np.cos(angle)), float(np.sin(angle))),
        rng.uniform(0.45, 0.8),
        np.array([1 + warmth, 1, 1 - warmth], np.float32),
    )


def random_palette(rng: np.random.Generator) -> np.ndarray:
    """(NUM_COLOURS, 3) float32 colours. Hues are free; lines differ from the body in luma, darker or lighter alike."""
    colours = np.stack([random_colour(rng) for _ in range(NUM_COLOURS)])
    if rng.random() < 0.35:  # close-coloured individuals: structure shows by relief more than by colour
        colours = colours[:1] + (colours - colours[:1]) * rng.uniform(0.25, 0.6)
    sign = rng.choice([-1, 1])
    for slot, direction in ((LINE, sign), (LIGHT, -sign)):
        gap = float(LUMA @ (colours[slot] - colours[0])) * direction
        if gap < 30:
            colours[slot] = np.clip(colours[slot] + direction * (rng.uniform(30, 80) - gap), 5, 250)
    return colours


@dataclass(frozen=True)
class _Posed:
    """A design on its canvas.

    curves, clips: a list a layer of (N, 1, 2) int32 points in 1/16 supersampled pixels.
    scale: supersampled pixels an object unit.
    size: canvas (height, width).
    """

    curves: list[list[np.ndarray]]
    clips: list[list[np.ndarray]]
    scale: float
    size: tuple[int, int]


def _pose(design: Design, long_side: float, rng: np.random.Generator) -> _Posed:
    """Rotation, shear, stretch, flip and mild perspective; then scaled so that the silhouette's longer side fits."""
    max_rotation = np.radians(design.max_rotation)
    angle = rng.uniform(-max_rotation, max_rotation)
    stretch = np.exp(rng.uniform(-0.18, 0.18))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, rng.uniform(-0.22, 0.22)], [0, 1]])
    linear = rotation @ shear @ np.diag([stretch * rng.choice([-1, 1]), 1 / stretch])
    vanishing = rng.uniform(-0.12, 0.12, 2)

    groups = [layer.curves for layer in design.layers]
    groups += [() if layer.clip is None else (layer.clip,) for layer in design.layers]
    lengths = [len(curve) for group in groups for curve in group]
    points = np.concatenate([curve for group in groups for curve in group])
    points = (points @ linear.T) / (1 + points @ vanishing)[:, None]
    # Half a stroke's width beyond its points; what is not solid does not count.
    pads = [layer.width / 2 if layer.solid else -np.inf for layer in design.layers for _ in layer.curves]
    pad = np.repeat(pads, lengths[: len(pads)])[:, None]
    outline = points[: len(pad)][pad[:, 0] >= 0]
    pad = pad[pad[:, 0] >= 0]
    low, high = (outline - pad).min(0), (outline + pad).max(0)
    scale = SUPERSAMPLE * long_side / float((high - low).max())
    margin = 2 * SUPERSAMPLE
    width, height = (np.ceil((high - low) * scale / SUPERSAMPLE).astype(int) * SUPERSAMPLE + 2 * margin).tolist()

    fixed = np.round(((points - low) * scale + margin) * (1 << _SHIFT)).astype(np.int32)[:, None]
    ends = itertools.accumulate(lengths)
    parts = (fixed[end - length : end] for end, length in zip(ends, lengths, strict=True))
    placed = [list(itertools.islice(parts, len(group))) for group in groups]
    return _Posed(placed[: len(design.layers)], placed[len(design.layers) :], scale, (height, width))


def _draw(canvas: np.ndarray, layer: Layer, curves: list[np.ndarray], scale: float, colour: tuple[float, ...]) -> None:
    """Paint one layer onto `canvas` (uint8, in place), anti-aliased."""
    if layer.width:
        thickness = max(round(layer.width * scale), 1)
        cv2.polylines(canvas, curves, layer.closed, colour, thickness, cv2.LINE_AA, _SHIFT)
    else:
        cv2.fillPoly(canvas, curves, colour, cv2.LINE_AA, _SHIFT)


def paint(
    design: Design, *, long_side: float, palette: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Flat colours under a random pose: ((H, W, 3) uint8, (H, W) uint8 coverage), both supersampled."""
    posed = _pose(design, long_side, rng)
    canvas = np.full((*posed.size, 3), palette[0], np.uint8)
    alpha = np.zeros(posed.size, np.uint8)
    for layer, curves, clip in zip(design.layers, posed.curves, posed.clips, strict=True):
        colour = tuple(palette[layer.colour].tolist())
        if layer.clip is None:
            _draw(canvas, layer, curves, posed.scale, colour)
        else:
            stencil = np.zeros(posed.size, np.uint8)
            cv2.fillPoly(stencil, clip, 255, cv2.LINE_8, _SHIFT)
            copy = canvas.copy()
            _draw(copy, layer, curves, posed.scale, colour)
            cv2.copyTo(copy, stencil, canvas)
        if layer.solid:
            _draw(alpha, layer, curves, posed.scale, (255,))
    return canvas, alpha


def _shading(
    flat: np.ndarray, alpha: np.ndarray, light: Light, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(diffuse factor, highlight 0..255), both (H, W) float32: a dome over the silhouette plus relief of the painting."""
    depth = cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    reach = max(float(depth.max()) * rng.uniform(0.5, 1.0), 2.0)
    height = np.sqrt(np.minimum(depth / reach, 1)) * np.float32(reach * 0.5)
    relief = cv2.cvtColor(flat, cv2.COLOR_RGB2GRAY).astype(np.float32) * rng.uniform(-0.02, 0.02)
    height = cv2.GaussianBlur(height, (0, 0), 2.0) + cv2.GaussianBlur(relief, (0, 0), 1.0)
    slope_x, slope_y = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.25), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.25)
    towards = -(slope_x * light.direction[0] + slope_y * light.direction[1])
    lit = towards / np.sqrt(1 + slope_x**2 + slope_y**2)
    rows, columns = np.arange(height.shape[0], dtype=np.float32), np.arange(height.shape[1], dtype=np.float32)
    ramp = (columns[None] / len(columns) - 0.5) * light.direction[0] + (
        rows[:, None] / len(rows) - 0.5
    ) * light.direction[1]
    diffuse = light.ambient + (1 - light.ambient) * (0.75 + 1.3 * lit) + rng.uniform(0.1, 0.4) * ramp
    rim = np.exp(-depth / (0.08 * reach + 1)) * rng.uniform(0.1, 0.5)
    gloss = rng.choice([0.0, rng.uniform(30, 140)])
    return np.clip(diffuse * (1 - rim), 0.1, 1.7), gloss * np.clip(lit * 1.3, 0, 1) ** 4


def render_sprite(class_index: int, *, long_side: float, light: Light, rng: np.random.Generator) -> Sprite:
    """A new instance of class `class_index` whose longer side is `long_side` px, under a random pose, lit by `light`."""
    kind = KINDS[CLASS_NAMES[class_index]]
    design = kind.draw(rng)
    flat, alpha = paint(design, long_side=long_side, palette=random_palette(rng), rng=rng)
    height, width = alpha.shape
    surface = recolour(photo_crop(rng, height, width, zoom=(0.6, 1.2), photos=(kind.material,)), rng)
    luma = cv2.cvtColor(surface, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grain = 1 + rng.uniform(0.6, 1.0) * np.clip(luma / max(float(luma.mean()), 20.0) - 1, -0.75, 0.9)
    diffuse, highlight = _shading(flat, alpha, light, rng)
    mix = rng.uniform(0.1, 0.5)
    cover = alpha.astype(np.float32) * (1 / 255)
    # colour = flat * body + surface * veneer + highlight, each premultiplied by coverage, in OpenCV's multi-channel calls
    body, veneer = (1 - mix) * grain * diffuse * cover, mix * diffuse * cover
    painted = cv2.multiply(flat, cv2.merge([body] * 3), dtype=cv2.CV_32F)
    veneered = cv2.multiply(surface, cv2.merge([veneer] * 3), dtype=cv2.CV_32F)
    colour = painted + veneered + cv2.merge([highlight * cover] * 3)
    size = (width // SUPERSAMPLE, height // SUPERSAMPLE)
    small_cover = cv2.resize(cover, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(colour, size, interpolation=cv2.INTER_AREA) * light.colour
    return Sprite(np.clip(small / np.maximum(small_cover, 1e-3)[..., None], 0, 255), small_cover)
