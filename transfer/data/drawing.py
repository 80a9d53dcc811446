"""Boxes with their class names, drawn into a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

BOX_COLOURS = ("#e11d48", "#2563eb", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
SAMPLE_WIDTH = 320  # pixels of a drawn image


def draw_boxes(
    image: Image.Image, boxes: Sequence[Mapping[str, Any]], colours: Mapping[str, str], *, width: int = SAMPLE_WIDTH
) -> Image.Image:
    """A copy of `image`, `width` px wide, with each {"box": [x1, y1, x2, y2] px, "class", "score"?} drawn and named."""
    scale = width / image.width
    canvas = image.resize((width, max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=11)
    for box in boxes:
        x1, y1, x2, y2 = (float(value) * scale for value in box["box"])
        name = str(box.get("class", "?"))
        colour = colours.get(name, BOX_COLOURS[0])
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=2)
        text = f"{name} {float(box['score']):.2f}" if "score" in box else name
        left, top, right, bottom = draw.textbbox((x1 + 2, max(0.0, y1 - 14)), text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour)
        draw.text((x1 + 2, max(0.0, y1 - 14)), text, fill="white", font=font)
    return canvas
