"""Where a difference comes from: by class and by size of the objects, out of the figures that an evaluation leaves.

In: an `Experiment` and two of its rows. Out: a table, and a picture of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from matplotlib.figure import Figure

from pretrain.base.figures import spread
from pretrain.base.plot_style import QUIET, plot_style
from transfer.compare.experiments import TASKS, Experiment
from transfer.compare.plots import Picture, as_svg, colour_of, plain_label
from transfer.compare.statistics import PairedDifference, compare_cells
from transfer.compare.tables import Table, format_difference, format_spread

SIZES = {"APs": "small (under 32 x 32 px)", "APm": "medium", "APl": "large (over 96 x 96 px)"}
MOST_SHOWN = 24  # classes in the picture
FIGURE = re.compile(r"(?P<task>\w+)/(?P<name>APs|APm|APl|AP-.+)$", re.DOTALL)
NOTE = (
    "AP (IoU .50:.95). Intervals here are at 95 % each and not adjusted for their number: of twenty classes that do not differ, "
    "one is expected to lie outside 0. They show where to look, and prove no class."
)


@dataclass(frozen=True)
class Part:
    """One class or size. figures of both rows as text; difference: subject minus baseline."""

    group: str
    name: str
    texts: tuple[str, str]
    difference: PairedDifference | None


def parts_of(experiment: Experiment, subject: str, baseline: str) -> tuple[Part, ...]:
    """Sizes, then classes, of boxes where the runs have both tasks."""
    have = dict.fromkeys(
        name for row in (subject, baseline) for run in experiment.rows[row] for name in run.record.figures
    )
    found = [match for match in map(FIGURE.match, have) if match]
    task = next((task for task in TASKS if any(match["task"] == task for match in found)), None)
    parts = []
    for match in found:
        if match["task"] != task:
            continue
        ours, theirs = (experiment.cells(row, match[0]) for row in (subject, baseline))
        if ours and theirs:
            texts = tuple(format_spread(spread(experiment.units(row, match[0]))) for row in (baseline, subject))
            size = match["name"] in SIZES
            name = SIZES[match["name"]] if size else match["name"].removeprefix("AP-")
            difference = compare_cells(ours, theirs)
            parts.append(Part("size" if size else "class", name, (texts[0], texts[1]), difference))
    order = list(SIZES.values())
    sizes = sorted((part for part in parts if part.group == "size"), key=lambda part: order.index(part.name))
    return (*sizes, *(part for part in parts if part.group == "class"))


def breakdown_table(parts: tuple[Part, ...], subject: str, baseline: str) -> Table | None:
    """A line a size and class."""
    if not parts:
        return None
    cells = tuple((part.name, part.group, *part.texts, *format_difference(part.difference)[:3]) for part in parts)
    columns = ("objects", "by", baseline, subject, "mean difference", "n", "95 % interval")
    return Table(f"By size and class: {subject} against {baseline}", columns, cells, (NOTE,))


def draw_breakdown(parts: tuple[Part, ...], subject: str, baseline: str) -> Picture | None:
    """Differences with intervals, largest first within sizes and classes; of very many classes those that differ most."""
    shown = [part for part in parts if part.difference is not None]
    if not shown:
        return None
    sizes = [part for part in shown if part.group == "size"]
    classes = sorted((part for part in shown if part.group == "class"), key=_mean, reverse=True)
    left_out = len(classes) - MOST_SHOWN
    if left_out > 0:
        largest = sorted(classes, key=lambda part: -abs(_mean(part)))[:MOST_SHOWN]
        classes = [part for part in classes if part in largest]
    lines = [*sizes, *classes]
    with plot_style():
        figure = Figure(figsize=(7.2, 0.9 + 0.24 * len(lines)), layout="constrained")
        axis = figure.add_subplot()
        axis.axvline(0, color=QUIET, linewidth=1)
        colour = colour_of(subject, [subject, baseline])
        for place, part in enumerate(reversed(lines)):
            assert part.difference is not None
            half = part.difference.half_width
            axis.errorbar(
                [part.difference.mean], [place], xerr=None if half is None else [[half], [half]], fmt="o", markersize=5,
                color=colour, capsize=2.5, linewidth=1.3, markerfacecolor="white" if half is None else colour,
            )  # fmt: skip
        if sizes and classes:
            axis.axhline(len(classes) - 0.5, color="#d1d5db", linewidth=0.8)
        axis.set_yticks(range(len(lines)), [plain_label(part.name) for part in reversed(lines)])
        axis.set(ylim=(-0.7, len(lines) - 0.3), xlabel="box AP points")
        axis.set_title(f"{plain_label(subject)} minus {plain_label(baseline)}")
        more = f" Of {len(classes) + left_out} classes the {MOST_SHOWN} that differ most." if left_out > 0 else ""
        caption = f"Dot: mean difference; bar: 95 % interval, not adjusted; an open dot has none (one seed).{more}"
        return as_svg(figure, alt=f"Differences by size and class, {subject} against {baseline}", caption=caption)


def _mean(part: Part) -> float:
    return part.difference.mean if part.difference else 0.0
