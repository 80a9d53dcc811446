"""Pictures of games: figures against steps, and what a generator makes of images.

Out: history.png and channels.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pretrain.base.plot_style import COLOURS, plot_style, save_figure
from pretrain.good_views.view_learning.loop import Outcome, Row
from pretrain.views.generator import Generator

PANEL_INCHES = (4.2, 2.6)
PICTURE_INCHES = 1.15
CONTRAST_PERCENTILES = (1, 99)
GREY_SPREAD_FLOOR = 1e-6
LEGEND_ROOM = 0.18  # of the values' range, above them


def draw_history(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One panel a figure, one line a seed; a cross where a diverged game's generator was taken from."""
    rows = [row for outcome in outcomes for row in outcome.history]
    # What stays 0 throughout (the volume of additive couplings) needs no panel.
    panels = [panel for panel in _panels() if any(row.get(name) for row in rows for name in panel[1])]
    if not any("cross_entropy_1" in row for row in rows):  # the objective is then the information
        panels = [panel for panel in panels if "objective" not in panel[1]]
    with plot_style():
        columns = min(2, max(1, len(panels)))
        height = -(-max(1, len(panels)) // columns)
        figure = Figure(figsize=(columns * PANEL_INCHES[0], height * PANEL_INCHES[1] + 0.3), layout="constrained")
        for position, (title, names) in enumerate(panels, 1):
            axes = figure.add_subplot(height, columns, position)
            for number, outcome in enumerate(outcomes):
                for style, (name, label) in zip(("-", "--", ":"), names.items(), strict=False):
                    _line(axes, outcome, name, style, label, COLOURS[number % len(COLOURS)], number == 0)
            axes.set_title(title)
            axes.set_xlabel("step")
            if len(names) > 1:
                low, high = axes.get_ylim()
                axes.set_ylim(low, high + LEGEND_ROOM * (high - low))
                axes.legend(loc="upper left", ncols=len(names), fontsize=8, columnspacing=1.0)
        handles = [
            Line2D([], [], color=COLOURS[number % len(COLOURS)], label=_seed_label(outcome))
            for number, outcome in enumerate(outcomes)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), fontsize=8)
        save_figure(path, figure)


def _panels() -> list[tuple[str, dict[str, str]]]:
    both = {1: "view 1 (channel 1)", 2: "view 2 (channels 2:3)"}
    return [
        ("information between the views, nats", {"information": ""}),
        ("generator's objective", {"objective": ""}),
        ("cross-entropy, nats", {f"cross_entropy_{view}": label for view, label in both.items()}),
        ("accuracy on labelled batches, %", {f"accuracy_{view}": label for view, label in both.items()}),
        ("deviation of the learned channels", {f"std_{channel}": f"channel {channel}" for channel in (1, 2, 3)}),
        ("log |det| per value", {"log_determinant": ""}),
    ]


def _line(axes: Any, outcome: Outcome, name: str, style: str, label: str, colour: str, first: bool) -> None:
    points: list[Row] = [row for row in outcome.history if name in row]
    if not points:
        return
    steps, values = [row["step"] for row in points], [row[name] for row in points]
    axes.plot(steps, values, style, color=colour, linewidth=1.3, label=label if first and label else None)
    if outcome.diverged is not None:
        at = min(range(len(steps)), key=lambda index: abs(steps[index] - outcome.kept_step))
        axes.plot(steps[at], values[at], "x", color=colour, markersize=7)


def _seed_label(outcome: Outcome) -> str:
    return f"seed {outcome.seed}" + (f" (diverged, kept step {outcome.kept_step})" if outcome.diverged else "")


@torch.no_grad()
def draw_channels(path: Path, generator: Generator, images: Tensor, *, mean: Sequence[float]) -> None:
    """images uint8 (B, 3, H, W), one row each: the image, the colour space's channels, the learned ones, both views as RGB.

    A view is mapped back with the other view's channels at their `mean`. Channels are stretched, each by its own percentiles
    over all rows.
    """
    rgb = images.to(torch.float32) / 255
    plain = generator.prepare(rgb)
    learned = generator(plain)
    views = [_alone(generator, learned, kept, mean) for kept in ((0,), (1, 2))]
    space = generator.space
    titles = [
        "image",
        *(f"{space.name} {name}" for name in space.channels),
        *(f"learned {channel}" for channel in (1, 2, 3)),
        "view 1 (RGB)",
        "view 2 (RGB)",
    ]
    columns = [_colour(rgb), *_grey(plain), *_grey(learned), *(_colour(view) for view in views)]
    with plot_style():
        figure = Figure(
            figsize=(len(columns) * PICTURE_INCHES, len(images) * PICTURE_INCHES + 0.3), layout="constrained"
        )
        for number, (title, column) in enumerate(zip(titles, columns, strict=True)):
            for row, picture in enumerate(column):
                axes = figure.add_subplot(len(images), len(columns), row * len(columns) + number + 1)
                axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(title)
        save_figure(path, figure)


def _alone(generator: Generator, learned: Tensor, kept: tuple[int, ...], mean: Sequence[float]) -> Tensor:
    alone = torch.tensor(mean, dtype=learned.dtype).view(3, 1, 1).expand_as(learned).clone()
    alone[:, list(kept)] = learned[:, list(kept)]
    return generator.to_rgb(alone)


def _colour(rgb: Tensor) -> list[np.ndarray]:
    return list(rgb.clamp(0, 1).permute(0, 2, 3, 1).numpy())


def _grey(channels: Tensor) -> list[list[np.ndarray]]:
    """Per channel a list of (H, W) in [0, 1]."""
    columns = []
    for channel in channels.numpy().swapaxes(0, 1):
        low, high = np.percentile(channel, CONTRAST_PERCENTILES)
        columns.append(list(np.clip((channel - low) / max(high - low, GREY_SPREAD_FLOOR), 0, 1)))
    return columns
