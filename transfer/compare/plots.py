"""The report's pictures, all as data URIs: curves as SVG, sheets as PNG. A picture is None where there is nothing
to draw. Detections beside ground truth are side_by_side.py's.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pretrain.base.image_files import read_image
from pretrain.base.plot_style import BLUE, BROWN, GREEN, GREY, PURPLE, QUIET, RED, TEAL, plot_style
from transfer.compare.experiments import Experiment, metric_label
from transfer.compare.results import Run
from transfer.compare.run_files import is_number

COLOURS = {"random": GREY, "supervised": BROWN, "infomin": BLUE}
OTHER_COLOURS = (GREEN, PURPLE, RED, TEAL)
BROKEN_LINES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
PANEL_INCHES = (4.0, 2.9)
SMOOTHING = 0.04  # share of a curve that the running mean spans
MAX_SHEET_PIXELS = 1600
LABEL_LENGTH = 27


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    data_uri: for an <img>.
    alt: what it shows, for readers who cannot see it.
    caption: what to read off it.
    width: in pixels.
    """

    data_uri: str
    alt: str
    caption: str
    width: int


def colour_of(name: str, names: Sequence[str]) -> str:
    """The line colour of an initialisation, the same in every plot of a page."""
    others = [other for other in names if other not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHER_COLOURS[others.index(name) % len(OTHER_COLOURS)]


def line_of(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Style of an initialisation's lines: broken ones lie on top of the last row's solid one, so that equal curves show."""
    place, last = names.index(name), len(names) - 1
    style = "-" if place == last else BROKEN_LINES[place % len(BROKEN_LINES)]
    return {"color": colour_of(name, names), "linestyle": style, "linewidth": 1.5, "zorder": 3 + last - place}


def plain_label(name: str) -> str:
    """Text that matplotlib takes as it is: a dollar would start a formula, a leading underscore hides the label.

    What is longer than LABEL_LENGTH loses its middle.
    """
    if len(name) > LABEL_LENGTH:
        half = (LABEL_LENGTH - 1) // 2
        name = f"{name[:half]}\u2026{name[-half:]}"
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def as_svg(figure: Figure, *, alt: str, caption: str) -> Picture:
    """A figure as a data URI, without a date, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    uri = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(uri, alt, caption, round(figure.get_figwidth() * 96))


def _panels(titles: Sequence[str], labels: Sequence[tuple[str, str]]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PANEL_INCHES[0] * len(titles), PANEL_INCHES[1]), layout="constrained")
    axes = [figure.add_subplot(1, len(titles), i + 1) for i in range(len(titles))]
    for axis, title, (x, y) in zip(axes, titles, labels, strict=True):
        axis.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def running_mean(values: Sequence[float], span: int) -> np.ndarray:
    """Centred mean over at most `span` neighbours (odd), over fewer at the ends: same length as `values`."""
    padded = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    half, n = span // 2, len(values)
    low, high = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    return np.asarray((padded[high] - padded[low]) / (high - low))


def _draw_noisy(axis: Axes, x: Sequence[float], y: Sequence[float], *, line: Mapping[str, Any]) -> None:
    """The raw curve faintly, its running mean on top in the style of `line`."""
    span = max(1, round(len(y) * SMOOTHING)) | 1
    if span > 1:
        axis.plot(x, y, color=line["color"], alpha=0.22, linewidth=0.8)
    axis.plot(x, running_mean(y, span), **line)


def _series(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """Finite points of two keys."""
    points = [(float(row[x]), float(row[y])) for row in rows if is_number(row.get(x)) and is_number(row.get(y))]
    return [point[0] for point in points], [point[1] for point in points]


def pretraining_curves(run: Run) -> Picture | None:
    """Loss (with ln(K + 1), a loss that knows nothing), contrastive accuracy and learning rate over steps."""
    if not run.curve:
        return None
    with plot_style():
        figure, axes = _panels(
            ("Loss", "Contrastive accuracy", "Learning rate"),
            (("step", "nats"), ("step", "share of queries"), ("step", "")),
        )
        for axis, key in zip(axes, ("loss", "accuracy", "learning_rate"), strict=True):
            x, y = _series(run.curve, "step", key)
            if y and key != "learning_rate":
                _draw_noisy(axis, x, y, line={"color": COLOURS["infomin"], "linewidth": 1.5})
            elif y:
                axis.plot(x, y, color=COLOURS["infomin"])
        negatives = _negatives(run)
        if isinstance(negatives, int) and negatives > 0:
            chance = math.log(negatives + 1)
            axes[0].axhline(chance, color=QUIET, linestyle="--", linewidth=1, label=f"ln(K + 1) = {chance:.2f}")
            axes[0].legend(loc="best")
        axes[2].set_ylim(bottom=0)
        axes[1].set_ylim(0, max(1.0, axes[1].get_ylim()[1]) if axes[1].get_ylim()[1] > 0.5 else None)
        caption = "Faint: as logged. Solid: running mean. Accuracy: how often the positive key scores highest of K + 1."
        return as_svg(
            figure, alt="Pre-training loss, contrastive accuracy and learning rate over steps", caption=caption
        )


def _negatives(run: Run) -> Any:
    """K of a pre-training run's memory. Runs of the time before there were other memories have a queue."""
    memory = run.setting("method.memory") or "queue"
    if memory == "batch":
        batch, accumulate = run.setting("optimizer.batch_size"), run.setting("optimizer.accumulate") or 1
        return 2 * (batch // accumulate) - 2 if isinstance(batch, int) else None
    return run.setting({"queue": "method.queue_size", "bank": "method.bank_negatives"}.get(memory, ""))


def detection_curves(experiment: Experiment) -> Picture | None:
    """Training loss, AP over iterations and learning rate: one thin line a seed, one colour an initialisation."""
    metric = experiment.leading_metric
    rows = list(experiment.rows)
    with plot_style():
        titles = ("Training loss", metric_label(metric) if metric else "AP", "Learning rate")
        figure, axes = _panels(titles, (("iteration", "total loss"), ("iteration", "AP points"), ("iteration", "")))
        drawn = False
        for row in rows:
            for number, run in enumerate(experiment.rows[row]):
                line = {**line_of(row, rows), "label": plain_label(row) if number == 0 else None}
                x, y = _series(run.curve, "iteration", "total_loss")
                if y:
                    _draw_noisy(axes[0], x, y, line=line)
                points = ap_over_iterations(run, metric)
                if points:
                    axes[1].plot(*zip(*points, strict=True), marker="o", markersize=3.5, **line)
                x, rate = _series(run.curve, "iteration", "lr")
                if rate:
                    axes[2].plot(x, rate, **line)
                drawn = drawn or bool(y or points or rate)
        if not drawn:
            return None
        axes[1].set_ylim(bottom=0)
        axes[2].set_ylim(bottom=0)
        for axis in axes:
            if axis.get_legend_handles_labels()[1]:
                axis.legend(loc="best")
        return as_svg(
            figure, alt=f"Detection: loss, {metric} and learning rate over iterations", caption="One line a seed."
        )


def ap_over_iterations(run: Run, metric: str) -> list[tuple[int, float]]:
    """(iteration, AP) from the run's history; from Detectron2's metrics.json where the history is empty."""
    points = [(at, figures[metric]) for at, figures in run.history if is_number(figures.get(metric))]
    if not points:
        points = [(int(row["iteration"]), float(row[metric])) for row in run.curve if is_number(row.get(metric))]
    return points


def seed_dots(experiment: Experiment) -> Picture | None:
    """The leading metric of every run as a dot, by initialisation; runs of one seed are joined, the mean is a bar.

    A row with several pre-trainings has a column of dots for each, and what joins seeds is left out.
    """
    rows, metric = list(experiment.rows), experiment.leading_metric
    cells = {row: {k: v for k, v in experiment.cells(row, metric).items() if math.isfinite(v)} for row in rows}
    if len(rows) < 2 or not any(cells.values()):
        return None
    several = any(len({pretraining for pretraining, _ in found}) > 1 for found in cells.values())
    label = metric_label(metric)
    with plot_style():
        figure = Figure(figsize=(1.6 + 1.3 * len(rows), 2.9), layout="constrained")
        axis = figure.add_subplot()
        for seed in [] if several else sorted({seed for found in cells.values() for _, seed in found}):
            line = [(i, v) for i, row in enumerate(rows) for (_, own), v in cells[row].items() if own == seed]
            axis.plot(*zip(*line, strict=True), color="#d1d5db", linewidth=1, zorder=1)
        for i, row in enumerate(rows):
            colour, units = colour_of(row, rows), experiment.units(row, metric)
            pretrainings = sorted({p for p, _ in cells[row]}, key=str)
            step = 0.32 / max(1, len(pretrainings) - 1)
            for place, pretraining in enumerate(pretrainings):
                points = [v for (p, _), v in cells[row].items() if p == pretraining]
                x = i + (place * step - 0.16 if len(pretrainings) > 1 else 0.0)
                axis.scatter([x] * len(points), points, color=colour, s=22, zorder=3, clip_on=False)
            if cells[row]:
                mean = float(np.mean([value for value in units if math.isfinite(value)]))
                axis.hlines(mean, i - 0.26, i + 0.26, color=colour, linewidth=2.5, zorder=2)
        axis.set_xticks(range(len(rows)), list(map(plain_label, rows)))
        axis.set(xlim=(-0.5, len(rows) - 0.5), ylabel=label, title=label)
        axis.grid(visible=False, axis="x")
        dots = "A dot a run, a column a pre-training" if several else "A dot a seed, seeds joined"
        caption = f"{dots}; bar: mean. The axis does not start at zero."
        return as_svg(figure, alt=f"{label} of every seed by initialisation", caption=caption)


def readout_curves(experiment: Experiment) -> Picture | None:
    """Top-1, training loss and learning rate of the classifier over epochs."""
    rows = list(experiment.rows)
    with plot_style():
        titles = ("Readout top-1", "Readout training loss", "Learning rate")
        figure, axes = _panels(titles, (("epoch", "%"), ("epoch", "nats"), ("epoch", "")))
        drawn = False
        for row in rows:
            for number, run in enumerate(experiment.rows[row]):
                line = {**line_of(row, rows), "label": plain_label(row) if number == 0 else None}
                for axis, key in zip(axes, ("top1", "train_loss", "learning_rate"), strict=True):
                    x, y = _series(run.curve, "epoch", key)
                    axis.plot(x, y, **line)
                    drawn = drawn or bool(y)
        if not drawn:
            return None
        axes[0].legend(loc="best")
        axes[2].set_ylim(bottom=0)
        caption = "One line a seed. The figure of the table is the last epoch's."
        return as_svg(figure, alt="Linear readout accuracy, loss and learning rate over epochs", caption=caption)


def sheet(path: Path) -> Picture:
    """A PNG (the views sheet) embedded as it is, made smaller where it is very large. Raises DataError if unreadable."""
    image = Image.fromarray(read_image(path))
    if max(image.size) > MAX_SHEET_PIXELS:
        image.thumbnail((MAX_SHEET_PIXELS, MAX_SHEET_PIXELS))
    uri = encode_image(image, "PNG")
    caption = "Each line: the original, its two views and, where the method has them, the nine patches."
    return Picture(uri, "Originals with their augmented views and jigsaw patches", caption, image.width)


def encode_image(image: Image.Image, kind: str) -> str:
    """data: URI of an RGB image as PNG or JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
