"""Every comparison of an experiment by the one rule, with the spread of seeds and of test images side by side.

In: an `Experiment`. Out: `Comparison`s. All rows against one other row in one metric are one question, whose intervals hold
together; other metrics and other experiments are other questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transfer.compare.bootstrap import ImageBootstrap
from transfer.compare.experiments import Experiment
from transfer.compare.image_results import bootstrap_of
from transfer.compare.results import Run
from transfer.compare.statistics import PairedDifference, compare_cells, holm


@dataclass(frozen=True)
class Comparison:
    """row minus other in one metric.

    difference: over seeds and pre-trainings; None where they share no seed.
    images: over the test images; None where the runs left nothing of each image.
    holm: the exact p, adjusted for all rows of the question; None without one.
    """

    row: str
    other: str
    metric: str
    difference: PairedDifference | None
    images: ImageBootstrap | None = None
    holm: float | None = None


def compared_with(
    experiment: Experiment,
    other: str,
    metric: str,
    *,
    rows: Sequence[str] = (),
    comparisons: int | None = None,
    images: bool = True,
) -> tuple[Comparison, ...]:
    """All rows (or these) minus `other` in `metric`: one question, of as many comparisons as rows where nothing else is said.

    images: also over the test images, which reads files.
    """
    rows = rows or tuple(row for row in experiment.rows if row != other)
    count = len(rows) if comparisons is None else comparisons
    found = [_compare(experiment, row, other, metric, comparisons=count, images=images) for row in rows]
    tests = [(number, one.difference.test) for number, one in enumerate(found) if one.difference]
    p_values = [(number, test.p) for number, test in tests if test is not None]
    for (number, _), adjusted in zip(p_values, holm([p for _, p in p_values]), strict=True):
        found[number] = replace(found[number], holm=adjusted)
    return tuple(found)


def _compare(
    experiment: Experiment, row: str, other: str, metric: str, *, comparisons: int, images: bool
) -> Comparison:
    difference = compare_cells(experiment.cells(row, metric), experiment.cells(other, metric), comparisons=comparisons)
    over_images = None
    if difference is not None and images:
        pair = _common(experiment.rows[row], experiment.rows[other], metric)
        over_images = bootstrap_of(*pair, metric, comparisons=comparisons)
    return Comparison(row, other, metric, difference, over_images)


def _common(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> tuple[list[Run], list[Run]]:
    """The runs of both whose seed the other has too."""
    measured = [[run for run in runs if metric in run.metrics] for runs in (ours, theirs)]
    seeds = set.intersection(*({run.seed for run in runs} for runs in measured))
    first, second = ([run for run in runs if run.seed in seeds] for runs in measured)
    return first, second
