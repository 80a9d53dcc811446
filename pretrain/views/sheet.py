"""The views sheet: what the network is really fed, for a human to look at.

One row an image: original, views, nine patches. Where towers see channels of YDbDr instead (CMC), each channel of a view is a
grey picture beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pretrain.base.atomic import atomic_file
from pretrain.views.colour import colour_space
from pretrain.views.jigsaw import GRID
from pretrain.views.pipeline import SampleViews

CELL = 224  # pixels of a column; smaller views are enlarged so that every pixel stays visible
GAP = 8
PATCH_GAP = 4
CAPTION_HEIGHT = 26
STRIP_CELL = 96  # pixels of a view in `draw_strips`
STRIP_CAPTION = 130
BACKGROUND = (250, 250, 250)
INK = (40, 40, 40)
# The channels of YDbDr that a tower is fed with, with the lowest and highest value that a colour can have: drawn black and white.
TOWER_CHANNELS = {
    "RGB": {},
    "Y": {"Y": (0.0, 1.0)},
    "DbDr": {"Db": (-1.333, 1.333), "Dr": (-1.333, 1.333)},
}


def draw_sheet(
    images: Sequence[np.ndarray],
    samples: Sequence[SampleViews],
    *,
    permuted: bool = False,
    towers: Sequence[str] = ("RGB",),
) -> np.ndarray:
    """uint8 (H, W, 3) picture of `images` (uint8 (h, w, 3) each) beside their views.

    permuted: a last column with the patches in the order in which the jigsaw head takes them.
    towers: what the towers of the method see, of TOWER_CHANNELS.
    """
    rows = [_row(image, sample, permuted, towers) for image, sample in zip(images, samples, strict=True)]
    captions = [caption for caption, _ in rows[0]]
    sheet = Image.new(
        "RGB",
        (GAP + len(captions) * (CELL + GAP), CAPTION_HEIGHT + len(rows) * (CELL + GAP)),
        BACKGROUND,
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, caption in enumerate(captions):
        centre = GAP + column * (CELL + GAP) + CELL / 2
        pen.text((centre, CAPTION_HEIGHT / 2), caption, fill=INK, font=font, anchor="mm")
    for row, cells in enumerate(rows):
        for column, (_, cell) in enumerate(cells):
            sheet.paste(cell, (GAP + column * (CELL + GAP), CAPTION_HEIGHT + row * (CELL + GAP)))
    return np.asarray(sheet)


def draw_strips(
    images: Sequence[np.ndarray], strips: Sequence[tuple[str, Sequence[SampleViews]]], *, title: str
) -> np.ndarray:
    """uint8 (H, W, 3): a row of originals, then one row a strip (its caption, the samples of the same images).

    The views of one image stand close together. title: what the captions are settings of.
    """
    num_views = len(strips[0][1][0].images)
    group = num_views * STRIP_CELL + (num_views - 1) * PATCH_GAP
    width = STRIP_CAPTION + len(images) * (group + 2 * GAP)
    sheet = Image.new("RGB", (width, GAP + (len(strips) + 1) * (STRIP_CELL + GAP)), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for row, (caption, samples) in enumerate([(title, None), *strips]):
        top = GAP + row * (STRIP_CELL + GAP)
        pen.text((GAP, top + STRIP_CELL / 2), caption, fill=INK, font=font, anchor="lm")
        for column, image in enumerate(images):
            left = STRIP_CAPTION + column * (group + 2 * GAP)
            if samples is None:
                picture = _fit(Image.fromarray(image), Image.Resampling.NEAREST, STRIP_CELL)
                sheet.paste(picture, (left + (group - STRIP_CELL) // 2, top))
                continue
            for number, view in enumerate(_channels_last(samples[column].images)):
                picture = _fit(Image.fromarray(view), Image.Resampling.NEAREST, STRIP_CELL)
                sheet.paste(picture, (left + number * (STRIP_CELL + PATCH_GAP), top))
    return np.asarray(sheet)


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as PNG, atomically."""
    with atomic_file(path) as file:
        Image.fromarray(picture).save(file, format="PNG")


def _row(
    image: np.ndarray, sample: SampleViews, permuted: bool, towers: Sequence[str]
) -> list[tuple[str, Image.Image]]:
    """(caption, CELL x CELL picture) of every column."""
    cells = [("original", _fit(Image.fromarray(image), Image.Resampling.LANCZOS))]
    split = {name: ends for tower in towers for name, ends in TOWER_CHANNELS[tower].items()}
    unsplit = ", not split" if split else ""
    for number, view in enumerate(_channels_last(sample.images)):
        caption = f"view {number + 1} ({view.shape[1]} px{unsplit})"
        cells.append((caption, _fit(Image.fromarray(view), Image.Resampling.NEAREST)))
        for name, ends in split.items():
            channel = Image.fromarray(channel_picture(view, name, ends)).convert("RGB")
            cells.append((f"view {number + 1}: {name}", _fit(channel, Image.Resampling.NEAREST)))
    if sample.patches is not None and sample.permutation is not None:
        patches = _channels_last(sample.patches)
        cells.append((f"patches ({patches.shape[1]} px{unsplit})", _board(patches)))
        if permuted:
            cells.append(("as the head sees them", _board(patches[sample.permutation.numpy()])))
    return cells


def channel_picture(image: np.ndarray, name: str, ends: tuple[float, float]) -> np.ndarray:
    """uint8 (H, W): channel `name` of YDbDr of uint8 RGB (H, W, 3), 0 and 255 at `ends`."""
    space = colour_space("ydbdr")
    rgb = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).double() / 255
    values = space.to_space(rgb)[space.channels.index(name)].numpy()
    low, high = ends
    return np.clip(np.rint(255 * (values - low) / (high - low)), 0, 255).astype(np.uint8)


def _channels_last(images: object) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(images).transpose(0, 2, 3, 1))


def _board(patches: np.ndarray) -> Image.Image:
    """Nine patches on a 3 x 3 board with gaps, fitted into a cell."""
    side = patches.shape[1]
    # Enlarge by whole steps first, so that the gaps stay thin against small patches.
    scale = max(1, (CELL - (GRID - 1) * PATCH_GAP) // (GRID * side))
    step = side * scale + PATCH_GAP
    board = Image.new("RGB", (GRID * step - PATCH_GAP,) * 2, BACKGROUND)
    for position, patch in enumerate(patches):
        enlarged = Image.fromarray(patch).resize((side * scale,) * 2, Image.Resampling.NEAREST)
        board.paste(enlarged, ((position % GRID) * step, (position // GRID) * step))
    return _fit(board, Image.Resampling.NEAREST)


def _fit(picture: Image.Image, enlarge: Image.Resampling, side: int = CELL) -> Image.Image:
    """Scale into the middle of a square of `side` pixels, keeping proportions."""
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    scaled = picture if factor == 1 else picture.resize(size, enlarge if factor > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (side, side), BACKGROUND)
    cell.paste(scaled, ((side - scaled.width) // 2, (side - scaled.height) // 2))
    return cell
