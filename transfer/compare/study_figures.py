"""The figures of a study out of its runs: tables, differences to the baseline, and whether expectations are held.

In: `StudyConfig`, the stages of a plan, the output folder. Out: `Results` of each fraction of the labels; a `Verdict` on each
expectation, which was written down before the figures were known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pretrain.base.figures import spread
from pretrain.base.record import what_differs
from transfer.compare.experiments import Experiment, group_runs, units_of
from transfer.compare.results import key_name, read_result
from transfer.compare.stages import Stage
from transfer.compare.statistics import Cells, PairedDifference, compare_cells, plain_difference
from transfer.compare.study_config import METRICS, Expectation, StudyConfig

COLUMNS = {
    "bbox/AP50": "box AP50",
    "bbox/AP": "box AP",
    "bbox/AP75": "box AP75",
    "segm/AP50": "mask AP50",
    "segm/AP": "mask AP",
    "segm/AP75": "mask AP75",
    "readout/top1": "readout top-1",
}
# metric -> initialisation -> (seed of the pre-training, of the run) -> percent
Scores = dict[str, dict[str, Cells]]


@dataclass(frozen=True)
class Results:
    """The figures of one fraction of the labels. differences: metric -> initialisation -> to the baseline."""

    fraction: float
    experiments: tuple[Experiment, ...]
    parts: tuple[Scores, ...]
    scores: Scores
    differences: dict[str, dict[str, PairedDifference]]

    def plain(self) -> dict[str, Any]:
        """For study.json."""
        return {
            "fraction": self.fraction,
            "scores": {
                metric: {row: _by_run(cells) for row, cells in rows.items()} for metric, rows in self.scores.items()
            },
            "differences": {
                metric: {init: plain_difference(found) for init, found in row.items()}
                for metric, row in self.differences.items()
            },
        }


def results_of(config: StudyConfig, stages: Sequence[Stage], output_dir: Path) -> tuple[Results, ...]:
    """Of every fraction, the largest first."""
    fractions = sorted({stage.fraction for stage in stages if stage.fraction is not None}, reverse=True)
    found = []
    for fraction in fractions:
        experiments = measured([stage for stage in stages if stage.fraction == fraction], output_dir)
        parts = [(_mark(one, experiments), collect_scores(one)) for one in experiments]
        scores: Scores = {}
        differences: dict[str, dict[str, PairedDifference]] = {}
        baseline = config.baseline_name
        for mark, part in parts:
            for metric, rows in part.items():
                scores.setdefault(metric, {}).update({name + mark: figures for name, figures in rows.items()})
            for metric, row in differences_to(baseline, part).items() if baseline else ():
                differences.setdefault(metric, {}).update({name + mark: one for name, one in row.items()})
        found.append(Results(fraction, experiments, tuple(part for _, part in parts), scores, differences))
    return tuple(found)


def _by_run(cells: Cells) -> dict[str, float]:
    """For JSON: "SEED" -> figure; "pretrain PSEED, SEED" where several pre-trainings stand behind a row."""
    several = len({pretraining for pretraining, _ in cells}) > 1
    return {f"pretrain {p}, {seed}" if several else str(seed): value for (p, seed), value in cells.items()}


@dataclass(frozen=True)
class Verdict:
    """One expectation compared with the figures.

    outcome: held where the interval lies above the margin, FAILED where it lies below, else undecided.
    difference: higher minus lower; None where figures are missing.
    details: what it was decided on.
    """

    expectation: Expectation
    outcome: Literal["held", "FAILED", "undecided"]
    difference: PairedDifference | None
    details: str

    @property
    def held(self) -> bool:
        """Whether the figures bear the expectation out."""
        return self.outcome == "held"

    def line(self) -> str:
        """For people: `held: ...`, `FAILED: ...` or `undecided: ...`."""
        wanted = self.expectation
        margin = f" by more than {wanted.margin:g}" if wanted.margin else ""
        claim = f"{COLUMNS[wanted.metric]}: {wanted.higher} above {wanted.lower}{margin}"
        return f"{self.outcome}: {claim} ({self.details})"


def measured(stages: Sequence[Stage], output_dir: Path) -> tuple[Experiment, ...]:
    """The experiments that a study's measurements are: one of each kind, unless data or code changed between two of its runs,
    or its initialisations have data or configurations of their own. Raises DataError for a damaged result."""
    return group_runs(read_result(output_dir / stage.result) for stage in stages if stage.init is not None)


def _mark(experiment: Experiment, experiments: Sequence[Experiment]) -> str:
    """What is put behind the names of its rows: its hash where there is another experiment of its kind."""
    several = sum(one.kind == experiment.kind for one in experiments) > 1
    return f" [{experiment.short}]" if several else ""


def unlike(experiments: Sequence[Experiment]) -> list[str]:
    """What differs between measurements of one kind that are several experiments."""
    first: dict[str, Experiment] = {}
    lines = []
    for one in experiments:
        other = first.setdefault(one.kind, one)
        if other is not one:
            keys = [key_name(text) for text in what_differs(other.first.record, one.first.record)]
            lines.append(
                f"NOT AVERAGED: the {one.kind} runs are several experiments, [{other.short}] and [{one.short}], which differ in "
                f"{'; '.join(keys).replace(' there', f' in [{other.short}]').replace(' now', f' in [{one.short}]')}"
            )
    return lines


def collect_scores(experiment: Experiment) -> Scores:
    """The figures of one experiment."""
    scores: Scores = {}
    for metric in METRICS:
        if metric.startswith("readout/") == (experiment.kind == "readout"):
            rows = {row: experiment.cells(row, metric.removeprefix("readout/")) for row in experiment.rows}
            if any(rows.values()):
                scores[metric] = {row: figures for row, figures in rows.items() if figures}
    return scores


def format_table(scores: Scores, inits: Sequence[str]) -> str:
    """Rows: initialisations. Columns: what was measured. Cells: mean ± sample standard deviation (number of seeds)."""
    metrics = [metric for metric in COLUMNS if metric in scores]
    rows = [["initialisation", *(COLUMNS[metric] for metric in metrics)]]
    rows += [[init, *(format_cell(units_of(scores[metric].get(init, {}))) for metric in metrics)] for init in inits]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def format_cell(values: Sequence[float]) -> str:
    """[20, 22] -> `21.0 ± 1.4 (2)`; one value has no deviation, none is a dash."""
    figures = spread(values)
    if figures is None:
        return "-"
    return f"{figures.cell()} ({figures.n})"


def _rows(part: Scores) -> list[str]:
    """Of all metrics of an experiment."""
    return list(dict.fromkeys(row for rows in part.values() for row in rows))


def judge(expectation: Expectation, parts: Sequence[Scores]) -> Verdict:
    """Compare one expectation, which was written down before the figures were known, with the figures of each experiment.

    By the table's interval: what is not told apart there is not held here.
    """
    name, pair = expectation.metric, {expectation.higher, expectation.lower}
    found = [part for part in parts if pair & set(part.get(name, {}))]
    if len(found) > 1:
        return Verdict(expectation, "undecided", None, "its runs are several experiments, which are not compared")
    part = found[0] if found else {}
    measured = part.get(name, {})
    higher, lower = measured.get(expectation.higher, {}), measured.get(expectation.lower, {})
    difference = compare_cells(higher, lower, comparisons=max(1, len(_rows(part)) - 1))
    if difference is None or {seed for _, seed in higher} != {seed for _, seed in lower}:
        return Verdict(expectation, "undecided", None, "figures are missing")
    side = difference.side_of(expectation.margin)
    outcomes: dict[str, Literal["held", "FAILED", "undecided"]] = {"above": "held", "below": "FAILED"}
    return Verdict(expectation, outcomes.get(side, "undecided"), difference, describe(difference))


def describe(difference: PairedDifference) -> str:
    """ "difference +5.3, 95 % interval +1.2 to +9.4, n = 3"."""
    if difference.n == 1:
        return f"difference {difference.mean:+.1f}, n = 1, which gives no interval"
    level = f"{100 * difference.level:.4g} % interval"
    n = f"n = {difference.n}" if difference.unit == "seed" else difference.units()
    return f"difference {difference.mean:+.1f}, {level} {difference.interval()}, {n}"


def differences_to(baseline: str, scores: Scores) -> dict[str, dict[str, PairedDifference]]:
    """metric -> initialisation -> its difference to `baseline`. Of each metric all initialisations are one question, so
    that their intervals hold together."""
    others = [row for row in _rows(scores) if row != baseline]
    found: dict[str, dict[str, PairedDifference]] = {}
    for metric in (name for name in COLUMNS if name in scores):
        for init in others:
            ours, theirs = scores[metric].get(init, {}), scores[metric].get(baseline, {})
            difference = compare_cells(ours, theirs, comparisons=len(others))
            if difference is not None:
                found.setdefault(metric, {})[init] = difference
    return found
