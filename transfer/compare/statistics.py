"""Which finished runs are one experiment, and how they are compared: one row an initialisation, one figure a seed.

Only runs of the same experiment (configuration, data, iterations, protocol) come into one group, so nothing unlike is ever
averaged; differences are paired by seed.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Generic, Literal, TypeVar

from pretrain.base.figures import CONFIDENCE, t_half_width
from transfer.compare.results import DetectionRun, LinearRun

# Orders of columns as the literature prints them.
VOC_ORDER = ("AP50", "AP", "AP75")
COCO_ORDER = ("AP", "AP50", "AP75")
TASKS = {"bbox": "box", "segm": "mask"}
BASELINE = "random"
ROW_ORDER = (BASELINE, "supervised", "infomin")
INITIALISATION_SUFFIX = re.compile(r"_(random|supervised|infomin)$")
SAME = 1e-9  # differences are equal up to this: the rounding of figures is not a spread
Run = TypeVar("Run", bound=DetectionRun | LinearRun)


@dataclass(frozen=True)
class Group(Generic[Run]):
    """Finished runs of one experiment.

    metrics: names of the figures to show, in the literature's order.
    runs: row name -> seed -> run, rows in display order.
    repeated: runs with the same initialisation, seed and weights as another one; they enter nothing.
    """

    title: str
    metrics: tuple[str, ...]
    runs: Mapping[str, Mapping[int, Run]]
    repeated: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """Any of the runs: what makes the experiment is equal in all of them."""
        return next(iter(next(iter(self.runs.values())).values()))

    @property
    def leading_metric(self) -> str:
        """The figure of headlines and plots, "" where there is none."""
        return "bbox/AP50" if "bbox/AP50" in self.metrics else (self.metrics or ("",))[0]

    def figures(self, row: str, metric: str) -> dict[int, float]:
        """Seed -> figure of one row."""
        return {seed: run.metrics[metric] for seed, run in self.runs[row].items() if metric in run.metrics}


def group_detection(runs: Sequence[DetectionRun]) -> tuple[Group[DetectionRun], ...]:
    """Runs by experiment: configuration family, data, iterations and number of labelled images."""

    def key(run: DetectionRun) -> Hashable:
        return family_of(run.config_file), run.train_data, run.test_data, run.iterations, run.num_train_images

    groups = []
    for members in _by(key, runs):
        first = members[0]
        sizes = f"{first.iterations:,} iterations, {first.num_train_images:,} training images"
        order = VOC_ORDER if first.test_data.startswith("voc") else COCO_ORDER
        have = {name for run in members for name in run.metrics}
        metrics = tuple(f"{task}/{name}" for task in TASKS for name in order if f"{task}/{name}" in have)
        groups.append(Group(f"{family_of(first.config_file)}, {sizes}", metrics, *_by_row(members)))
    return tuple(groups)


def group_readouts(runs: Sequence[LinearRun]) -> tuple[Group[LinearRun], ...]:
    """Runs by data (classes, sizes), architecture and protocol."""

    def key(run: LinearRun) -> Hashable:
        return repr((run.arch, run.num_train, run.num_val, run.classes, sorted(run.protocol.items(), key=str)))

    groups = []
    for members in _by(key, runs):
        first = members[0]
        sizes = f"{first.num_train:,} training and {first.num_val:,} validation images"
        title = f"{first.arch}, {len(first.classes)} classes, {sizes}"
        groups.append(Group(title, ("top1", "top5"), *_by_row(members)))
    return tuple(groups)


def _by(key: Callable[[Run], Hashable], runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


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
    return {name: dict(sorted(rows[name].items())) for name in sorted(rows, key=_place)}, tuple(repeated)


def _place(row: str) -> tuple[int, str]:
    return (ROW_ORDER.index(row) if row in ROW_ORDER else len(ROW_ORDER), row)


def family_of(config_file: str) -> str:
    """ ".../configs/voc/R_50_C4_24k_random.yaml" -> "voc/R_50_C4_24k": the file without its initialisation."""
    path = PurePath(config_file)
    stem = INITIALISATION_SUFFIX.sub("", path.stem)
    return f"{path.parent.name}/{stem}" if path.parent.name else stem


def metric_label(metric: str) -> str:
    """ "bbox/AP50" -> "box AP50"; "top1" -> "top-1"."""
    task, _, name = metric.rpartition("/")
    return f"{TASKS[task]} {name}" if task else metric.replace("top", "top-")


# --- the rule ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedDifference:
    """Ours minus baseline over the seeds that both have, and whether it may be called a difference.

    mean: of the differences.
    wins: seeds in which ours is strictly higher.
    n: number of seeds.
    half_width: of the two-sided t interval of the mean; None where none can be given: one seed, or several that all differ
        by the same (figures that coarse, or seeds that change nothing, show no spread, which is not a spread of 0).
    level: of the interval, 0.95 for a comparison that stands alone.
    """

    mean: float
    wins: int
    n: int
    half_width: float | None
    level: float = CONFIDENCE

    @property
    def verdict(self) -> Literal["higher", "lower", "not told apart", "one seed"]:
        """What may be said of ours: the interval lies above 0, below 0, or neither."""
        if self.n == 1:
            return "one seed"
        side = self.side_of(0.0)
        return "higher" if side == "above" else "lower" if side == "below" else "not told apart"

    def side_of(self, margin: float) -> Literal["above", "below", "undecided"]:
        """Where the interval lies: all of it above or below `margin`, else undecided, as without an interval."""
        if self.half_width is None or abs(self.mean - margin) <= self.half_width:
            return "undecided"
        return "above" if self.mean > margin else "below"

    def interval(self) -> str:
        """ "+1.2 to +9.4", or why there is none."""
        if self.half_width is not None:
            return f"{self.mean - self.half_width:+.1f} to {self.mean + self.half_width:+.1f}"
        return "none (one seed)" if self.n == 1 else "none (all seeds differ by the same)"


def plain_difference(difference: PairedDifference | None) -> dict[str, Any] | None:
    """Ready for JSON: the fields, the ends of the interval and the verdict."""
    if difference is None:
        return None
    mean, half_width = difference.mean, difference.half_width
    interval = None if half_width is None else [mean - half_width, mean + half_width]
    return {**asdict(difference), "interval": interval, "verdict": difference.verdict}


def paired_difference(
    ours: Mapping[int, float], baseline: Mapping[int, float], *, comparisons: int = 1
) -> PairedDifference | None:
    """The one rule of studies, sweeps and reports: seed -> figure of both, paired over the common seeds with finite figures.

    Student's two-sided interval for paired samples, of 95 % for all `comparisons` of one question together (Bonferroni: each
    at 1 - 0.05 / comparisons), so that where nothing differs, any of them says otherwise in at most 5 % of experiments
    (tests/benchmarks/false_alarms.py). It assumes about normal differences; with few seeds it is wide, and rightly so.
    None without a common seed.
    """
    seeds = [seed for seed in ours if seed in baseline and math.isfinite(ours[seed]) and math.isfinite(baseline[seed])]
    differences = [ours[seed] - baseline[seed] for seed in seeds]
    n = len(differences)
    if n == 0:
        return None
    level = 1 - (1 - CONFIDENCE) / comparisons
    spreads = max(differences) - min(differences) > SAME * max(1.0, *map(abs, differences))
    half_width = t_half_width(differences, level=level) if spreads else None
    return PairedDifference(statistics.fmean(differences), sum(d > 0 for d in differences), n, half_width, level)
