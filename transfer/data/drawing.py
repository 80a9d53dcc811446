"""Boxes with their class names, drawn into a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

BOX_COLOURS = ("#e11d48", "#2563eb", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[Mapping[str, Any]],
    colours: Mapping[str, str],
    *,
    within: tuple[int, int],
    truth: Sequence[Mapping[str, Any]] = (),
) -> Image.Image:
    """A copy of `image`, as large as `within` (width, height px) allows, with each {"box": [x1, y1, x2, y2] px, "class", "score"?} drawn and named.

    truth: boxes that are drawn dashed and in white below them.
    """
    scale = min(within[0] / image.width, within[1] / image.height)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    canvas = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=11)
    for box in truth:
        _dashed(draw, [float(value) * scale for value in box["box"]])
    for box in boxes:
        x1, y1, x2, y2 = (float(value) * scale for value in box["box"])
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=_colour(box, colours), width=2)
    for box in boxes:  # names above all lines
        x1, y1 = (float(value) * scale for value in box["box"][:2])
        name = str(box.get("class", "?"))
        text = f"{name} {float(box['score']):.2f}" if "score" in box else name
        place = (min(max(0.0, x1) + 2, max(0.0, size[0] - 8.0 - draw.textlength(text, font=font))), max(0.0, y1 - 14))
        left, top, right, bottom = draw.textbbox(place, text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=_colour(box, colours))
        draw.text(place, text, fill="white", font=font)
    return canvas


def _colour(box: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    return colours.get(str(box.get("class", "?")), BOX_COLOURS[0])


def _dashed(draw: ImageDraw.ImageDraw, box: Sequence[float], *, dash: int = 5) -> None:
    """A rectangle of white dashes on a black line, visible on any ground."""
    x1, y1, x2, y2 = box
    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
    for (ax, ay), (bx, by) in itertools.pairwise(corners):
        draw.line((ax, ay, bx, by), fill="black", width=1)
        length = max(1.0, abs(bx - ax) + abs(by - ay))
        for start in range(0, int(length), 2 * dash):
            a, b = start / length, min(1.0, (start + dash) / length)
            draw.line(
                (ax + (bx - ax) * a, ay + (by - ay) * a, ax + (bx - ax) * b, ay + (by - ay) * b), fill="white", width=1
            )
