"""Whole images: background, clutter, objects with shadows, occluders, camera.

In: configuration, seed, index, on which alone everything depends. Out: an object-centred image, or a scene with visible masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from transfer.demo_data.config import CLASS_NAMES, SyntheticConfig
from transfer.demo_data.objects import Light, Sprite, random_light, render_sprite
from transfer.demo_data.photos import photo_crop, random_colour, recolour
from transfer.demo_data.shapes import box, ellipse, smooth, turned

_STREAMS = {"unlabelled/train": 0, "unlabelled/val": 1, "train": 2, "test": 3}
_PLACEMENT_TRIES = 12


@dataclass(frozen=True)
class SceneObject:
    """An object that stands in a scene.

    class_index: into CLASS_NAMES.
    mask: (H, W) bool, its visible pixels.
    visible: visible share of the object's own pixels.
    """

    class_index: int
    mask: np.ndarray
    visible: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Extent of `mask`, (left, top, right, bottom) in pixel edges: right and bottom exclusive."""
        columns, rows = np.flatnonzero(self.mask.any(0)), np.flatnonzero(self.mask.any(1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def sample_rng(seed: int, stream: str, index: int) -> np.random.Generator:
    """Generator that depends on its arguments only. stream: a key of `_STREAMS`."""
    return np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[stream], index]))


def _blend(image: np.ndarray, sprite: Sprite, left: int, top: int, light: Light, *, shadow: float) -> None:
    """Paint `sprite` with its cast shadow onto `image` (float32, in place)."""
    height, width = image.shape[:2]
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + sprite.alpha.shape[0], height), min(left + sprite.alpha.shape[1], width)
    if y0 >= y1 or x0 >= x1:
        return
    part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    if shadow > 0:
        cover = np.zeros((height, width), np.float32)
        cover[y0:y1, x0:x1] = sprite.alpha[part]
        reach = 0.08 * max(sprite.alpha.shape)
        shift = np.array([[1, 0, -light.direction[0] * reach], [0, 1, -light.direction[1] * reach]])
        cast = cv2.warpAffine(cover, shift, (width, height))
        cast = cv2.blur(cast, (int(reach) | 1, int(reach) | 1))
        image *= (1 - shadow * cast)[..., None]
    region = image[y0:y1, x0:x1]
    region += sprite.alpha[part][..., None] * (sprite.colour[part] - region)


def clutter_sprite(rng: np.random.Generator, size: float, light: Light) -> Sprite:
    """A thing of no class: blob, stick, block or disc with a photo or a flat colour on it."""
    kind, side = rng.integers(4), max(int(np.ceil(size)) + 4, 8)
    radius = size / 2
    if kind == 0:
        rough = ellipse(0, 0, radius, radius, num=int(rng.integers(4, 10)))
        outline = smooth(rough * rng.uniform(0.45, 1.0, (len(rough), 1)), rounds=int(rng.integers(0, 3)))
    elif kind == 1:
        outline = ellipse(0, 0, radius, radius * rng.uniform(0.06, 0.2), num=4 if rng.random() < 0.5 else 20)
    elif kind == 2:
        outline = 0.7 * radius * box(-1, -rng.uniform(0.4, 1), 1, rng.uniform(0.4, 1))
    else:
        outline = ellipse(0, 0, radius, radius * rng.uniform(0.5, 1.0))
    outline = turned(outline, rng.uniform(0, 2 * np.pi)) + side / 2
    alpha = np.zeros((side, side), np.uint8)
    cv2.fillPoly(alpha, [np.round(outline * 16).astype(np.int32)[:, None]], 255, cv2.LINE_AA, 4)
    colour = recolour(photo_crop(rng, side, side), rng).astype(np.float32)
    if rng.random() < 0.4:
        colour = np.float32(0.3) * colour + np.float32(0.7) * random_colour(rng)
    ramp = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    shade = 0.9 + 0.5 * (ramp[None] * light.direction[0] + ramp[:, None] * light.direction[1])
    return Sprite(np.clip(colour * shade[..., None], 0, 255), alpha.astype(np.float32) / 255)


def background(
    rng: np.random.Generator,
    side: int,
    light: Light,
    *,
    num_clutter: int,
    defocus: float,
    blur: tuple[float, float] = (0.6, 3.0),
) -> np.ndarray:
    """(side, side, 3) float32: a photo crop, sometimes two along an edge, with clutter.

    Out of focus at a rate of `defocus`, by a Gaussian whose sigma in pixels is uniform in `blur`.
    """
    zoom = (0.5 * 96 / side, 3.5 * 96 / side) if side > 96 else (0.5, 3.5)
    image = recolour(photo_crop(rng, side, side, zoom=zoom), rng).astype(np.float32)
    if rng.random() < 0.4:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
        ramp = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
        edge = ramp[None] * np.float32(np.cos(angle)) + ramp[:, None] * np.float32(np.sin(angle)) - np.float32(offset)
        weight = np.clip(edge * side / rng.uniform(1, 8) + 0.5, 0, 1)[..., None]
        image += weight * (recolour(photo_crop(rng, side, side, zoom=zoom), rng) - image)
    for _ in range(num_clutter):
        sprite = clutter_sprite(rng, side * float(np.exp(rng.uniform(np.log(0.08), np.log(0.45)))), light)
        left, top = (rng.uniform(-0.15, 1.0, 2) * side - 0.1 * side).astype(int)
        _blend(image, sprite, int(left), int(top), light, shadow=rng.uniform(0, 0.5))
    image = image.mean() + (image - image.mean()) * np.float32(rng.uniform(0.35, 1.05))  # haze: the subject stands out
    if rng.random() < defocus:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*blur))
    return image


def _camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Falling light, exposure, slight blur and sensor noise: (H, W, 3) float32 -> uint8."""
    side = image.shape[0]
    ramp = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    fall_x, fall_y = rng.uniform(-0.45, 0.45, 2).astype(np.float32)
    image = image * (rng.uniform(0.75, 1.15) + ramp[None] * fall_x + ramp[:, None] * fall_y)[..., None]
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.9))
    # uint8 noise of mean 128 from raw bits: a sum of two uniform bytes is triangular and much cheaper than normals
    bits = np.frombuffer(rng.bytes(2 * image.size), np.uint8).reshape(2, *image.shape)
    noise = bits[0].astype(np.float32) + bits[1] - 255
    return np.clip(image + noise * (rng.uniform(0.5, 5) / 104), 0, 255).astype(np.uint8)


def render_object_image(
    config: SyntheticConfig, seed: int, index: int, *, split: str = "train"
) -> tuple[np.ndarray, int]:
    """Object-centred image `index` of split train or val: ((image_size, image_size, 3) uint8 RGB, class index = index % 8).

    One object over 75-95 % of the side (configuration), off centre, at times partly covered, before a background far out of
    focus, as portraits are taken: what is particular to the image is then mostly the object, not what happens to lie behind.
    """
    rng = sample_rng(seed, f"unlabelled/{split}", index)
    class_index, side = index % len(CLASS_NAMES), config.image_size
    light = random_light(rng)
    image = background(rng, side, light, num_clutter=int(rng.integers(0, 4)), defocus=1.0, blur=(2.5, 6.0))
    sprite = render_sprite(
        class_index, long_side=side * rng.uniform(config.min_cover, config.max_cover), light=light, rng=rng
    )
    free = side - np.array(sprite.alpha.shape[::-1])
    left, top = np.round(free / 2 + rng.uniform(-0.5, 0.5, 2) * (np.abs(free) * 0.8 + 0.08 * side)).astype(int)
    _blend(image, sprite, int(left), int(top), light, shadow=rng.uniform(0.1, 0.6))
    if rng.random() < 0.2:
        cover = clutter_sprite(rng, side * rng.uniform(0.12, 0.4), light)
        around = rng.uniform(0, 2 * np.pi)
        at = (
            side / 2
            + rng.uniform(0.25, 0.45) * side * np.array([np.cos(around), np.sin(around)])
            - cover.alpha.shape[0] / 2
        )
        _blend(image, cover, int(at[0]), int(at[1]), light, shadow=rng.uniform(0.1, 0.5))
    return _camera(image, rng), class_index


def render_scene(
    config: SyntheticConfig, seed: int, index: int, *, split: str = "train"
) -> tuple[np.ndarray, list[SceneObject]]:
    """Scene `index` of split train or test: ((scene_size, scene_size, 3) uint8 RGB, its objects, back to front).

    An object is placed only where it and everything behind it keep `min_visible` of their pixels, so nothing in the picture
    is without annotation. Every object shows at least one pixel; classes follow a random order without repetition first.
    """
    rng = sample_rng(seed, split, index)
    side, light = config.scene_size, random_light(rng)
    num_clutter = int(rng.integers(config.min_clutter, config.max_clutter + 1))
    image = background(rng, side, light, num_clutter=num_clutter, defocus=0.4)
    owner = np.full((side, side), -1, np.int32)
    placed: list[tuple[int, int]] = []  # class index, own number of pixels
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    classes = np.concatenate(
        [rng.permutation(config.num_scene_classes), rng.integers(0, config.num_scene_classes, 12)]
    )[:count]
    for class_index in classes.tolist():
        long_side = float(np.exp(rng.uniform(np.log(config.min_object), np.log(config.max_object))))
        sprite = render_sprite(class_index, long_side=long_side, light=light, rng=rng)
        own = int((sprite.alpha > 0.5).sum())
        shadow = rng.uniform(0.1, 0.6)
        for _ in range(_PLACEMENT_TRIES):
            left, top = np.round(rng.uniform(-0.12 * long_side, side - 0.88 * long_side, 2)).astype(int).tolist()
            proposed = _claim(owner, sprite, left, top, len(placed))
            pixels = np.bincount(proposed[proposed >= 0], minlength=len(placed) + 1)
            wholes = np.array([whole for _, whole in placed] + [own])
            if (pixels >= np.maximum(config.min_visible * wholes, 1)).all():
                owner = proposed
                placed.append((class_index, own))
                _blend(image, sprite, left, top, light, shadow=shadow)
                break
    masks = [owner == number for number in range(len(placed))]
    objects = [
        SceneObject(class_index, mask, float(mask.sum()) / whole)
        for mask, (class_index, whole) in zip(masks, placed, strict=True)
    ]
    return _camera(image, rng), objects


def _claim(owner: np.ndarray, sprite: Sprite, left: int, top: int, number: int) -> np.ndarray:
    """Copy of `owner` (object number a pixel, -1 = none) where pixels that `sprite` covers by more than half are `number`."""
    height, width = owner.shape
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = max(min(top + sprite.alpha.shape[0], height), y0), max(min(left + sprite.alpha.shape[1], width), x0)
    result = owner.copy()
    inside = sprite.alpha[y0 - top : y1 - top, x0 - left : x1 - left] > 0.5
    result[y0:y1, x0:x1][inside] = number
    return result
