"""A study's figures: one row an initialisation, mean and standard deviation over seeds, and whether expectations held.

In: the result files of finished measurements. Out: `Scores`, a table as text, `Verdict` values.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.base.errors import DataError
from transfer.compare.stages import Stage
from transfer.compare.statistics import spread
from transfer.compare.study_config import METRICS, Expectation

COLUMNS = {
    "bbox/AP50": "box AP50",
    "bbox/AP": "box AP",
    "bbox/AP75": "box AP75",
    "segm/AP50": "mask AP50",
    "segm/AP": "mask AP",
    "segm/AP75": "mask AP75",
    "readout/top1": "readout top-1",
}

# metric -> initialisation -> seed -> percent
Scores = dict[str, dict[str, dict[int, float]]]


@dataclass(frozen=True)
class Verdict:
    """One expectation held against the figures. details: the figures it was decided on."""

    expectation: Expectation
    held: bool
    details: str

    def line(self) -> str:
        """For people: `held: ...` or `FAILED: ...`."""
        wanted = self.expectation
        margin = f" by more than {wanted.margin:g}" if wanted.margin else ""
        scope = "in every seed" if wanted.every_seed else "on average"
        claim = f"{COLUMNS[wanted.metric]}: {wanted.higher} above {wanted.lower}{margin} {scope}"
        return f"{'held' if self.held else 'FAILED'}: {claim} ({self.details})"


def collect_scores(stages: Sequence[Stage], output_dir: Path) -> Scores:
    """Read the result file of every measurement. Raises DataError for one that is not what its tool writes."""
    scores: Scores = {}
    for stage in stages:
        if stage.init is None or stage.seed is None:
            continue
        path = output_dir / stage.result
        for metric, value in _figures(path).items():
            scores.setdefault(metric, {}).setdefault(stage.init, {})[stage.seed] = value
    return scores


def _figures(path: Path) -> dict[str, float]:
    """Metric -> percent of one result file; figures that the evaluation could not compute (null) are left out."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if result["format"] == "infomin-transfer/linear-result":
            found: dict[str, Any] = {"readout/top1": result["top1"]}
        elif result["format"] == "infomin-transfer/detection-result":
            found = {
                f"{task}/{name}": value for task, values in result["metrics"].items() for name, value in values.items()
            }
        else:
            raise DataError(f"{path}: expected a detection or a linear result, found format {result['format']!r}")
        return {metric: float(found[metric]) for metric in METRICS if found.get(metric) is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a result file of this project: {error!r}") from None


def format_table(scores: Scores, inits: Sequence[str]) -> str:
    """Rows: initialisations. Columns: what was measured. Cells: mean ± sample standard deviation (number of seeds)."""
    metrics = [metric for metric in COLUMNS if metric in scores]
    rows = [["initialisation", *(COLUMNS[metric] for metric in metrics)]]
    rows += [
        [init, *(format_cell(list(scores[metric].get(init, {}).values())) for metric in metrics)] for init in inits
    ]
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
    deviation = "" if figures.std is None else f" ± {figures.std:.1f}"
    return f"{figures.mean:.1f}{deviation} ({figures.n})"


def judge(expectation: Expectation, scores: Scores) -> Verdict:
    """Hold one expectation against the figures; a missing figure means that it did not hold."""
    measured: Mapping[str, Mapping[int, float]] = scores.get(expectation.metric, {})
    higher, lower = measured.get(expectation.higher, {}), measured.get(expectation.lower, {})
    seeds = sorted(set(higher) & set(lower))
    if not seeds or set(higher) != set(lower):
        return Verdict(expectation, False, "figures are missing")
    if expectation.every_seed:
        details = "; ".join(f"seed {seed}: {higher[seed]:.1f} against {lower[seed]:.1f}" for seed in seeds)
        return Verdict(expectation, all(higher[seed] - lower[seed] > expectation.margin for seed in seeds), details)
    means = statistics.fmean(higher.values()), statistics.fmean(lower.values())
    details = f"{means[0]:.1f} against {means[1]:.1f}, {len(seeds)} seeds"
    return Verdict(expectation, means[0] - means[1] > expectation.margin, details)
