"""AP or accuracy against the number of labels: experiments that differ in their training images alone, drawn together.

In: experiments. Out: `LabelCurve`s, and the picture of one: each row's mean with its deviation, and its paired difference to the
baseline with the interval of the rule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from pretrain.base.figures import spread
from pretrain.base.plot_style import QUIET, plot_style
from pretrain.base.same_run import flat
from transfer.compare.comparisons import compared_with
from transfer.compare.experiments import FINE_TUNED, Experiment, metric_label
from transfer.compare.plots import Picture, as_svg, line_of, plain_label
from transfer.compare.results import Run, key_name, num_images

# What may differ along a curve: which labels, and how long training on them takes.
LABELS = ("data.train", "config.images_per_class", "config.fraction")
SCHEDULE = ("config.SOLVER.MAX_ITER", "config.SOLVER.STEPS", "config.SOLVER.WARMUP_ITERS", "config.SOLVER.BASE_LR")


@dataclass(frozen=True)
class LabelCurve:
    """experiments: by number of training images, fewest first. schedules: keys of training in which they differ too."""

    experiments: tuple[Experiment, ...]
    schedules: tuple[str, ...]


def label_curves(experiments: Sequence[Experiment]) -> tuple[LabelCurve, ...]:
    """Every set of two experiments or more that differ in their labels alone, in the order of `experiments`."""
    sets: dict[str, list[Experiment]] = {}
    for one in experiments:
        if one.kind in FINE_TUNED and _labels(one.first):
            sets.setdefault(_apart_from_labels(one.first), []).append(one)
    found = []
    for members in sets.values():
        members.sort(key=lambda one: _labels(one.first))
        if len({_labels(one.first) for one in members}) == len(members) > 1:
            values = [flat(one.first.record.experiment) for one in members]
            differ = [key for key in SCHEDULE if len({json.dumps(one.get(key), default=str) for one in values}) > 1]
            found.append(LabelCurve(tuple(members), tuple(map(key_name, differ))))
    return tuple(found)


def _labels(run: Run) -> int:
    return num_images(run, "train")


def _apart_from_labels(run: Run) -> str:
    values = flat(run.record.experiment)
    kept = {key: value for key, value in values.items() if key not in (*LABELS, *SCHEDULE)}
    return json.dumps([run.kind, kept], sort_keys=True, default=str)


def draw_label_curve(curve: LabelCurve) -> Picture | None:
    """Two panels over the number of labelled images. None where the leading metric has no figure."""
    last = curve.experiments[-1]
    metric = last.leading_metric
    rows = list(dict.fromkeys(row for one in curve.experiments for row in one.rows))
    counts = [_labels(one.first) for one in curve.experiments]
    label = metric_label(metric)
    baseline = last.baseline
    with plot_style():
        figure = Figure(figsize=(9.2 if baseline else 4.8, 3.5), layout="constrained")
        axes = [figure.add_subplot(1, 2 if baseline else 1, i + 1) for i in range(2 if baseline else 1)]
        drawn = False
        width = math.log(counts[-1] / counts[0]) / 60  # rows are set apart, so that their bars show
        for place, row in enumerate(rows):
            shift = math.exp((place - (len(rows) - 1) / 2) * width)
            line = {**line_of(row, rows), "marker": "o", "markersize": 4.5, "capsize": 3}
            points = []
            for count, one in zip(counts, curve.experiments, strict=True):
                value = spread(one.units(row, metric)) if row in one.rows else None
                if value is not None:
                    points.append((count * shift, value.mean, value.std or 0.0))
            if points:
                x, y, bars = zip(*points, strict=True)
                axes[0].errorbar(x, y, yerr=bars, label=plain_label(row), **line)
                drawn = True
            if baseline and row != baseline:
                _draw_differences(curve, row, axes[1], counts, shift, line)
        if not drawn:
            return None
        shares = [one.first.fraction for one in curve.experiments]
        for axis in axes:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(FixedLocator(counts))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_minor_formatter(NullFormatter())
            texts = {
                count: f"{count:,}" + (f"\n{100 * share:.3g} %" if any(s < 1 for s in shares) else "")
                for count, share in zip(counts, shares, strict=True)
            }
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _, texts=texts: texts.get(round(value), "")))
            axis.set_xlabel("labelled training images")
        axes[0].set(title=f"{label} against labels", ylabel=label, ylim=(0, None))
        axes[0].legend(loc="best")
        if baseline:
            axes[1].axhline(0, color=QUIET, linewidth=1)
            axes[1].set(title=f"Difference to {plain_label(baseline)}", ylabel=f"{label}, points")
        unlike = f" The schedule differs too ({', '.join(curve.schedules)})." if curve.schedules else ""
        caption = (
            "Left: mean and sample standard deviation over pre-trainings, of a row with one or none over seeds. Right: paired "
            f"difference with the interval of the tables; an open dot has none (one seed).{unlike}"
        )
        return as_svg(figure, alt=f"{label} against the number of labelled images", caption=caption)


def _draw_differences(
    curve: LabelCurve, row: str, axis: Axes, counts: Sequence[int], shift: float, line: Mapping[str, Any]
) -> None:
    metric = curve.experiments[-1].leading_metric
    for count, one in zip(counts, curve.experiments, strict=True):
        if row not in one.rows or one.baseline is None:
            continue
        found = next(c for c in compared_with(one, one.baseline, metric, images=False) if c.row == row).difference
        if found is not None:
            half = found.half_width
            style = {**line, "linestyle": "none", "markerfacecolor": "white" if half is None else line["color"]}
            axis.errorbar([count * shift], [found.mean], yerr=None if half is None else [half], **style)
