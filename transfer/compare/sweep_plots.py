"""A sweep's pictures: information against accuracy, both against the setting, and the views themselves along the sweep."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain.base.image_files import read_image
from pretrain.base.plot_style import BLUE, GREEN, QUIET, RED, plot_style, save_figure
from pretrain.views.families import Family, Setting, show_setting
from pretrain.views.pipeline import ViewMaker
from pretrain.views.sheet import draw_strips, save_png
from transfer.compare.sweep_config import Sweep
from transfer.compare.sweep_figures import Row, is_ordered

INFORMATION, ACCURACY, BEST, CEILING = GREEN, BLUE, RED, QUIET
SHEET_IMAGES = 4
DPI = 140
LABEL_WIDTH = 60  # characters of an axis label before it breaks into a second line


def draw_curve(path: Path, rows: Sequence[Row], family: Family, *, accuracy_name: str, best: Setting | None) -> None:
    """Left: I_NCE against accuracy, a point a setting. Right: both against the setting. Bars: standard deviation over n seeds.

    Hollow points are saturated estimates. Without accuracy there is only the right panel, with the information.
    """
    with plot_style():
        panels = 1 if best is None else 2
        figure = Figure(figsize=(5.4 * panels, 3.8), layout="constrained")
        axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
        if best is not None:
            _information_against_accuracy(axes[0], rows, family, accuracy_name, best)
        _against_setting(axes[-1], rows, family, accuracy_name, best)
        save_figure(path, figure, dpi=DPI)


def _seeds(rows: Sequence[Row]) -> str:
    """ "n = 3", or "n = 2 to 3" where settings differ in it."""
    counts = sorted({row.nats.n for row in rows})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _error(values: Sequence[Any]) -> list[float] | None:
    deviations = [value.std for value in values]
    return None if any(deviation is None for deviation in deviations) else deviations


def _information_against_accuracy(
    axis: Axes, rows: Sequence[Row], family: Family, accuracy_name: str, best: Setting
) -> None:
    known = [(row, row.accuracy) for row in rows if row.accuracy is not None]
    x, y = [row.nats.mean for row, _ in known], [value.mean for _, value in known if value is not None]
    axis.errorbar(
        x,
        y,
        xerr=_error([row.nats for row, _ in known]),
        yerr=_error([value for _, value in known]),
        fmt="-" if is_ordered(family) else "none",
        color=ACCURACY,
        ecolor=CEILING,
        linewidth=1.0,
        capsize=2,
        zorder=2,
    )
    for (row, _), information, accuracy in zip(known, x, y, strict=True):
        face = "white" if row.saturated else ACCURACY
        axis.plot(information, accuracy, "o", color=ACCURACY, markerfacecolor=face, markersize=5, zorder=3)
        axis.annotate(
            show_setting(row.setting), (information, accuracy), xytext=(5, 5), textcoords="offset points", fontsize=8
        )
        if row.setting == best:
            axis.plot(
                information, accuracy, "o", color=BEST, fillstyle="none", markersize=12, markeredgewidth=1.6, zorder=4,
                label=f"best mean: {show_setting(best)}",
            )  # fmt: skip
    if any(row.saturated for row in rows):
        axis.plot([], [], "o", color=ACCURACY, markerfacecolor="white", label="saturated estimate")
    axis.margins(0.12, 0.15)
    axis.set(
        title=f"Information against accuracy: {family.name}, {_seeds(rows)}",
        xlabel="I_NCE (nats)",
        ylabel=accuracy_name,
    )
    axis.legend(loc="best", fontsize=8)


def _against_setting(axis: Axes, rows: Sequence[Row], family: Family, accuracy_name: str, best: Setting | None) -> None:
    numbers = [row.setting for row in rows if isinstance(row.setting, float)]
    is_log = family.geometric and len(numbers) == len(rows) and min(numbers) > 0
    x: list[float] = numbers if is_log else [float(position) for position in range(len(rows))]
    line = "-" if is_ordered(family) else "none"
    nats = [row.nats for row in rows]
    axis.errorbar(x, [value.mean for value in nats], yerr=_error(nats), color=INFORMATION, linestyle=line, capsize=2)
    for position, row in zip(x, rows, strict=True):
        face = "white" if row.saturated else INFORMATION
        axis.plot(position, row.nats.mean, "o", color=INFORMATION, markerfacecolor=face, markersize=5)
    ceilings = {ceiling for row in rows for ceiling in row.ceilings}
    if any(row.saturated for row in rows) and ceilings:
        axis.axhline(max(ceilings), color=CEILING, linestyle="--", linewidth=1)
        axis.annotate(
            "ceiling log(K + 1)", (x[0], max(ceilings)), xytext=(0, -9), textcoords="offset points", fontsize=8
        )
    axis.set(
        title=f"Along the sweep, {_seeds(rows)}",
        xlabel=textwrap.fill(f"{family.name}: {family.parameter}", LABEL_WIDTH),
    )
    axis.set_ylabel("I_NCE (nats)", color=INFORMATION)
    if is_log:
        axis.set_xscale("log")
    axis.set_xticks(x, [show_setting(row.setting) for row in rows])
    axis.minorticks_off()
    if best is None:
        return
    known = [(position, row.accuracy) for position, row in zip(x, rows, strict=True) if row.accuracy is not None]
    other = axis.twinx()
    other.spines["right"].set_visible(True)
    other.grid(False)
    other.errorbar(
        [position for position, _ in known],
        [value.mean for _, value in known],
        yerr=_error([value for _, value in known]),
        color=ACCURACY,
        marker="s",
        markersize=4,
        linestyle=line,
        capsize=2,
    )
    other.set_ylabel(accuracy_name, color=ACCURACY)
    place = next(position for position, row in zip(x, rows, strict=True) if row.setting == best)
    axis.axvline(place, color=BEST, linewidth=1, linestyle=":")


def draw_views(path: Path, sweep: Sweep, images: Sequence[Path]) -> None:
    """The same images at every setting, one row a setting: both views of each, beside one another."""
    pixels = [read_image(image) for image in images[:SHEET_IMAGES]]
    strips = []
    for setting in sweep.settings:
        make = ViewMaker(sweep.recipe(setting), image_size=sweep.image_size)
        samples = [make(image, seed=sweep.seeds[0], epoch=0, index=index) for index, image in enumerate(pixels)]
        strips.append((show_setting(setting), samples))
    save_png(path, draw_strips(pixels, strips, title=sweep.family.name))
