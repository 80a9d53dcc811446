"""Boxes, masks and keypoints with their class names, drawn into a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

MASK_OPACITY = 0.4
PIXELS_PER_POINT = 80  # of the longer side, for one pixel of text height: a large picture has larger names
SMALLEST_TEXT = 11  # pixels
DASH = 5  # pixels
BOX_COLOURS = ("#e11d48", "#2563eb", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[Mapping[str, Any]],
    colours: Mapping[str, str],
    *,
    within: tuple[int, int],
    truth: Sequence[Mapping[str, Any]] = (),
    skeleton: Sequence[tuple[int, int]] = (),
) -> Image.Image:
    """A copy of `image`, as large as `within` (width, height px) allows, with each {"box": [x1, y1, x2, y2] px, "class", "score"?,
    "mask"?: bool (H, W), "keypoints"?: (K, 2 or more) px} drawn and named.

    truth: boxes that are drawn dashed and in white below them. skeleton: pairs of keypoints to join.
    """
    scale = min(within[0] / image.width, within[1] / image.height)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    masked = _with_masks(image, boxes, colours)
    canvas = masked.resize((size[0], size[1]), Image.Resampling.LANCZOS) if masked.size != size else masked.copy()
    draw = ImageDraw.Draw(canvas)
    height = max(SMALLEST_TEXT, round(max(size) / PIXELS_PER_POINT))
    width = max(2, height // 7)
    font = ImageFont.load_default(size=height)
    for box in truth:
        _dashed(draw, [float(value) * scale for value in box["box"]])
    for box in boxes:
        x1, y1, x2, y2 = (float(value) * scale for value in box["box"])
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=_colour(box, colours), width=width)
        _draw_keypoints(draw, box, skeleton, _colour(box, colours), scale=scale, width=width)
    for box in boxes:  # names above all lines
        x1, y1 = (float(value) * scale for value in box["box"][:2])
        name = str(box.get("class", "?"))
        text = f"{name} {float(box['score']):.2f}" if "score" in box else name
        place = (
            min(max(0.0, x1) + 2, max(0.0, size[0] - 8.0 - draw.textlength(text, font=font))),
            max(0.0, y1 - height - 3),
        )
        left, top, right, bottom = draw.textbbox(place, text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=_colour(box, colours))
        draw.text(place, text, fill="white", font=font)
    return canvas


def _with_masks(image: Image.Image, boxes: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> Image.Image:
    """`image` with each mask tinted and its border drawn; `image` itself where there is none."""
    masks = [(box["mask"], ImageColor.getrgb(_colour(box, colours))) for box in boxes if box.get("mask") is not None]
    if not masks:
        return image
    pixels = np.array(image)
    for mask, colour in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))  # the rest need not be looked at
        inside, there = mask[part], pixels[part]
        tinted = (1 - MASK_OPACITY) * there[inside] + MASK_OPACITY * np.asarray(colour)
        there[inside] = np.round(tinted).astype(np.uint8)
        around = np.pad(inside, 1)
        core = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        there[inside & ~core] = colour
    return Image.fromarray(pixels)


def _draw_keypoints(
    draw: ImageDraw.ImageDraw,
    box: Mapping[str, Any],
    skeleton: Sequence[tuple[int, int]],
    colour: str,
    *,
    scale: float,
    width: int,
) -> None:
    points = box.get("keypoints")
    if points is None:
        return
    places = [(float(point[0]) * scale, float(point[1]) * scale) for point in points]
    for first, second in skeleton:
        draw.line((*places[first], *places[second]), fill=colour, width=width)
    for x, y in places:
        draw.ellipse((x - width, y - width, x + width, y + width), fill=colour, outline="white")


def _colour(box: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    return colours.get(str(box.get("class", "?")), BOX_COLOURS[0])


def _dashed(draw: ImageDraw.ImageDraw, box: Sequence[float]) -> None:
    """A rectangle of white dashes on a black line, visible on any ground."""
    x1, y1, x2, y2 = box
    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        draw.line((ax, ay, bx, by), fill="black", width=1)
        length = max(1.0, abs(bx - ax) + abs(by - ay))
        for start in range(0, int(length), 2 * DASH):
            a, b = start / length, min(1.0, (start + DASH) / length)
            draw.line(
                (ax + (bx - ax) * a, ay + (by - ay) * a, ax + (bx - ax) * b, ay + (by - ay) * b), fill="white", width=1
            )
