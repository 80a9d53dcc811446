"""The report: run directories in, one self-contained page, a Markdown file and a CSV out. Read `write_report` first.

In: folders of pre-training, readout and detection runs. Out: DIR/index.html, DIR/report.md, DIR/report.csv. Every figure
on the page was read from a run directory or, marked as such, from transfer/compare/published.py.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.atomic import write_text
from pretrain.base.errors import ConfigError
from transfer.compare.groups import Comparison, ReadoutGroup, group_detection, group_readouts
from transfer.compare.page import render_html
from transfer.compare.runs import Runs
from transfer.compare.search import read_runs
from transfer.compare.statistics import spread
from transfer.compare.tables import (
    Table,
    detection_tables,
    headline,
    published_comparison,
    published_readout_comparison,
    readout_tables,
)

CSV_COLUMNS = ("table", "experiment", "initialisation", "metric", "level", "seed", "value", "std", "n", "run")


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    html: Path
    markdown: Path
    csv: Path
    num_runs: int
    num_unfinished: int


def write_report(paths: Sequence[Path], output_dir: Path) -> ReportFiles:
    """Read every run at or below `paths` and write the three files (replacing an older report's).

    Raises DataError for a path without runs or with a damaged result, ConfigError for an output that cannot be written.
    """
    runs = read_runs(paths)
    comparisons, readouts = group_detection(runs.detection), group_readouts(runs.linear)
    contents = {
        "index.html": render_html(runs, comparisons, readouts),
        "report.md": render_markdown(runs, comparisons, readouts),
        "report.csv": render_csv(comparisons, readouts),
    }
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            write_text(output_dir / name, text)
    except OSError as error:
        raise ConfigError(f"cannot write the report to {output_dir}: {error.strerror or error}") from None
    html, markdown, table = (output_dir / name for name in contents)
    return ReportFiles(html, markdown, table, num_runs=len(runs), num_unfinished=len(runs.unfinished))


def render_csv(comparisons: Sequence[Comparison], readouts: Sequence[ReadoutGroup]) -> str:
    """Long form: a line (level "run") for every figure of every finished run, then one (level "mean") a row and metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    groups: list[tuple[str, Comparison | ReadoutGroup, Sequence[str]]] = [
        *(("detection", comparison, comparison.metrics) for comparison in comparisons),
        *(("readout", readout, ("top1", "top5")) for readout in readouts),
    ]
    for table, group, metrics in groups:
        for row, members in group.runs.items():
            for metric in metrics:
                key = (table, group.title, row, metric)
                figures = group.figures(row, metric)
                for seed, value in figures.items():
                    writer.writerow(
                        (*key, "run", seed, repr(value) if math.isfinite(value) else "", "", "", members[seed].path)
                    )
                summary = spread(list(figures.values()))
                if summary is not None:
                    std = "" if summary.std is None else repr(summary.std)
                    writer.writerow((*key, "mean", "", repr(summary.mean), std, summary.n, ""))
    return buffer.getvalue()


def render_markdown(runs: Runs, comparisons: Sequence[Comparison], readouts: Sequence[ReadoutGroup]) -> str:
    """Tables, unfinished runs and commands as GitHub-flavoured Markdown."""
    parts = ["# InfoMin Transfer: report", ""]
    for comparison in comparisons:
        parts += [f"## Detection: {_plain(comparison.title)}", ""]
        sentence = headline(comparison)
        parts += [_plain(sentence), ""] if sentence else []
        tables = [*detection_tables(comparison), published_comparison(comparison)]
        parts += [line for table in tables if table is not None for line in _markdown_table(table)]
    for readout in readouts:
        parts += [f"## Linear readout: {_plain(readout.title)}", ""]
        more = published_readout_comparison(readout)
        parts += [
            line for table in (*readout_tables(readout), *([more] if more else [])) for line in _markdown_table(table)
        ]
    if runs.unfinished:
        parts += ["## Unfinished runs (in no average)", ""]
        parts += [f"- {run.kind}: {_plain(str(run.path))} (no {run.missing})" for run in runs.unfinished] + [""]
    commands = all_commands(runs)
    if commands:
        text = "\n".join(line for _, line in commands)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))  # longer than any inside
        parts += ["## Commands", "", fence, text, fence, ""]
    return "\n".join(parts)


def all_commands(runs: Runs) -> list[tuple[Path, str]]:
    """(run directory, command as typed) of every run, without repetition."""
    pairs = [(run.path, command) for run in runs.pretraining for command in run.commands]
    pairs += [(run.path, run.command) for run in runs.linear if run.command]
    pairs += [(run.path, run.command) for run in runs.detection if run.command]
    return list(dict.fromkeys(pairs))


def _plain(text: str) -> str:
    """Text that Markdown and the HTML in it leave alone."""
    for mark in "\\`*_|[]<>":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return text.replace("\n", " ")


def _markdown_table(table: Table) -> list[str]:
    lines = [f"### {_plain(table.title)}", ""]
    lines.append("| " + " | ".join(map(_plain, table.columns)) + " |")
    lines.append("|" + "|".join("---" if i == 0 else "---:" for i in range(len(table.columns))) + "|")
    lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in table.rows]
    return [*lines, "", *(line for note in table.notes for line in (_plain(note), ""))]
