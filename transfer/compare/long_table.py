"""The long table: every figure of every finished run, a row each, also as CSV. Rows of one average have one initialisation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transfer.compare.experiments import row_names
from transfer.compare.results import Run, short_hash, titles


@dataclass(frozen=True)
class TableRow:
    """One figure of one finished run.

    experiment: short hash. title: the experiment in words.
    initialisation: name of the row that averages it, which tells other weights of the same name apart; "" without one.
    fraction: of the training images. run: where it was read.
    """

    experiment: str
    title: str
    kind: str
    initialisation: str
    pretrain_seed: int | None
    seed: int | None
    fraction: float
    metric: str
    value: float
    run: Path


COLUMNS = tuple(TableRow.__dataclass_fields__)


def long_table(runs: Iterable[Run]) -> tuple[TableRow, ...]:
    """Every figure of every finished run, a row each, in the order of the runs."""
    finished = [run for run in runs if run.done]
    names, rows = titles(finished), row_names(finished)
    return tuple(
        TableRow(
            short_hash(run.record),
            names[run.record.hash],
            run.kind,
            rows[run.path],
            run.pretrain_seed,
            run.seed,
            run.fraction,
            metric,
            value,
            run.path,
        )
        for run in finished
        for metric, value in run.metrics.items()
    )


def to_csv(table: Iterable[TableRow]) -> str:
    """The long table as CSV; what is not known is an empty cell, and floats come back exactly."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in table:
        cells = [getattr(row, name) for name in COLUMNS]
        writer.writerow(["" if cell is None else repr(cell) if isinstance(cell, float) else cell for cell in cells])
    return buffer.getvalue()
