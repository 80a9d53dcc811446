"""Which runs belong together: one group an experiment, one row an initialisation, one figure a seed.

In: finished runs. Out: `Comparison` (detection) and `ReadoutGroup` values. Only runs of the same experiment
(configuration, data, iterations, protocol) come into one group, so nothing unlike is ever averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transfer.compare.published import family_of
from transfer.compare.runs import DetectionRun, LinearRun

# Orders of columns as the literature prints them.
VOC_ORDER = ("AP50", "AP", "AP75")
COCO_ORDER = ("AP", "AP50", "AP75")
TASKS = {"bbox": "box", "segm": "mask"}
ROW_ORDER = ("random", "supervised", "infomin")


@dataclass(frozen=True)
class Comparison:
    """Finished detection runs of one experiment. runs: row name -> seed -> run, rows in display order."""

    title: str
    config_file: str
    train_data: str
    test_data: str
    iterations: int
    num_train_images: int
    runs: Mapping[str, Mapping[int, DetectionRun]]
    repeated: tuple[DetectionRun, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """ "bbox/AP50", ... in the literature's order, as far as any run has them."""
        order = VOC_ORDER if self.test_data.startswith("voc") else COCO_ORDER
        have = {name for row in self.runs.values() for run in row.values() for name in run.metrics}
        return tuple(f"{task}/{name}" for task in TASKS for name in order if f"{task}/{name}" in have)

    def figures(self, row: str, metric: str) -> dict[int, float]:
        """Seed -> figure of one row."""
        return {seed: run.metrics[metric] for seed, run in self.runs[row].items() if metric in run.metrics}


@dataclass(frozen=True)
class ReadoutGroup:
    """Finished readouts of one data set under one protocol. runs: row name -> seed -> run."""

    title: str
    runs: Mapping[str, Mapping[int, LinearRun]]
    repeated: tuple[LinearRun, ...]

    def figures(self, row: str, metric: str) -> dict[int, float]:
        """Seed -> "top1" or "top5" of one row."""
        return {seed: getattr(run, metric) for seed, run in self.runs[row].items()}


def metric_label(metric: str) -> str:
    """ "bbox/AP50" -> "box AP50"; "top1" -> "top-1"."""
    task, _, name = metric.rpartition("/")
    return f"{TASKS[task]} {name}" if task else metric.replace("top", "top-")


def _row_key(name: str) -> tuple[int, str]:
    return (ROW_ORDER.index(name) if name in ROW_ORDER else len(ROW_ORDER), name)


Run = DetectionRun | LinearRun


def _by_row(runs: Sequence[Run]) -> tuple[dict[str, dict[int, Run]], tuple[Run, ...]]:
    """Rows by initialisation; one that has a seed twice with different weights is split by the weights.

    The second of two runs with equal initialisation, seed and weights enters nothing; it is returned apart.
    """
    taken: dict[tuple[str, int], set[str]] = {}
    for run in runs:
        taken.setdefault((run.init, run.seed), set()).add(run.weights)
    split = {init for (init, _), weights in taken.items() if len(weights) > 1}
    rows: dict[str, dict[int, Run]] = {}
    repeated = []
    for run in runs:
        row = rows.setdefault(f"{run.init} ({run.weights})" if run.init in split else run.init, {})
        if run.seed in row:
            repeated.append(run)
        else:
            row[run.seed] = run
    return {name: dict(sorted(rows[name].items())) for name in sorted(rows, key=_row_key)}, tuple(repeated)


def group_detection(runs: Sequence[DetectionRun]) -> tuple[Comparison, ...]:
    """Runs by experiment: configuration family, data, iterations and number of labelled images."""
    groups: dict[tuple[str, str, str, int, int], list[DetectionRun]] = {}
    for run in runs:
        family = family_of(run.config_file)
        key = (family, run.train_data, run.test_data, run.iterations, run.num_train_images)
        groups.setdefault(key, []).append(run)
    comparisons = []
    for (family, train_data, test_data, iterations, images), members in groups.items():
        rows, repeated = _by_row(members)
        title = f"{family}, {iterations:,} iterations, {images:,} training images"
        first = members[0].config_file
        values = (title, first, train_data, test_data, iterations, images, rows, repeated)
        comparisons.append(Comparison(*values))  # type: ignore[arg-type]
    return tuple(comparisons)


def group_readouts(runs: Sequence[LinearRun]) -> tuple[ReadoutGroup, ...]:
    """Runs by data (classes, sizes), architecture and protocol."""
    groups: dict[str, list[LinearRun]] = {}
    for run in runs:
        key = repr((run.arch, run.num_train, run.num_val, run.classes, sorted(run.protocol.items(), key=str)))
        groups.setdefault(key, []).append(run)
    result = []
    for members in groups.values():
        rows, repeated = _by_row(members)
        first = members[0]
        sizes = f"{first.num_train:,} training and {first.num_val:,} validation images"
        title = f"{first.arch}, {len(first.classes)} classes, {sizes}"
        result.append(ReadoutGroup(title, rows, repeated))  # type: ignore[arg-type]
    return tuple(result)
