"""The samples sheet: a few sequences, and beside each the second view of every sharing, for a human to look at.

In: a `PairMaker`. Out: uint8 (H, W, 3) picture; one row a pair, one column a frame of view 1 or a sharing's view 2.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pretrain.good_views.moving_mnist.factors import SHARINGS
from pretrain.good_views.moving_mnist.pairs import PairMaker

CELL = 112  # pixels of a cell, whatever the canvas
GAP = 6
BREAK = 26  # between the frames of view 1 and the second views
LINE = 18
CAPTION_LINES = 4  # a heading, and up to three factors
MAX_FRAMES = 5
PAPER_COLOUR, INK, QUIET = (250, 250, 250), (40, 40, 40), (110, 110, 110)


def draw_samples(maker: PairMaker, *, split: str = "held_out", num_pairs: int = 6) -> np.ndarray:
    """The first `num_pairs` pairs of a split. Of a long sequence MAX_FRAMES frames are shown, the first and last among them."""
    batches = [maker(sharing, split=split, start=0, count=num_pairs) for sharing in SHARINGS]
    num_frames = batches[0].view_1.shape[1]
    shown = np.unique(np.linspace(0, num_frames - 1, min(num_frames, MAX_FRAMES)).round().astype(int))
    columns = [(f"frame {frame + 1}", batches[0].view_1[:, frame].numpy()) for frame in shown]
    columns += [
        (sharing.name.replace("+", " +\n"), batch.view_2.numpy())
        for sharing, batch in zip(SHARINGS, batches, strict=True)
    ]
    lefts = [GAP + column * (CELL + GAP) + (BREAK if column >= len(shown) else 0) for column in range(len(columns))]
    top = GAP + CAPTION_LINES * LINE
    sheet = Image.new("RGB", (lefts[-1] + CELL + GAP, top + num_pairs * (CELL + GAP)), PAPER_COLOUR)
    pen = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(size=14), ImageFont.load_default(size=13)
    last = maker.scene.future_steps
    pen.text((lefts[0], GAP), f"view 1: {num_frames} frames", fill=INK, font=bold)
    pen.text(
        (lefts[len(shown)], GAP), f"view 2: one image, {last} frames later, shares with view 1 ...", fill=INK, font=bold
    )
    for left, (caption, views) in zip(lefts, columns, strict=True):
        pen.multiline_text(
            (left + CELL / 2, top - GAP), caption, fill=QUIET, font=plain, anchor="md", align="center", spacing=1
        )
        for row, view in enumerate(views):
            picture = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.NEAREST), (left, top + row * (CELL + GAP)))
    return np.asarray(sheet)
