"""The report: run directories in, one self-contained page, a Markdown file and a CSV out. Read `write_report` first.

Every figure was read from a run directory or, marked as such, from published.yaml. The page has everything inside it and is
readable without scripts, on paper too; whatever comes from a run (names, paths, commands, classes) is escaped.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pretrain.base.atomic import write_text
from pretrain.base.errors import ConfigError, DataError
from pretrain.base.figures import spread
from pretrain.config import method_label
from transfer.compare.plots import (
    SAMPLES_NOTE,
    Picture,
    detection_curves,
    pretraining_curves,
    readout_curves,
    sample_rows,
    seed_dots,
    sheet,
)
from transfer.compare.results import DetectionRun, LinearRun, PretrainRun, Runs, read_runs, shared_root
from transfer.compare.statistics import Group, group_detection, group_readouts
from transfer.compare.tables import (
    Table,
    detection_headline,
    detection_tables,
    published_detection_table,
    published_readout_table,
    readout_headline,
    readout_tables,
)

TEMPLATES = Path(__file__).with_name("templates")
CSV_COLUMNS = ("table", "experiment", "initialisation", "metric", "level", "seed", "value", "std", "n", "run")
NUMERIC = re.compile(r"(n/a.*|[-+]?\d.*|)$")  # cells of a column that is set flush right
Detections = Sequence[Group[DetectionRun]]
Readouts = Sequence[Group[LinearRun]]


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    html: Path
    markdown: Path
    csv: Path
    num_runs: int
    num_unfinished: int


def write_report(paths: Sequence[Path], output_dir: Path) -> ReportFiles:
    """Read every run at or below `paths` and write index.html, report.md and report.csv (replacing an older report's).

    Raises DataError for a path without runs or with a damaged result, ConfigError for an output that cannot be written.
    """
    runs = read_runs(paths)
    detections, readouts = group_detection(runs.detection), group_readouts(runs.linear)
    contents = {
        "index.html": render_html(runs, detections, readouts),
        "report.md": render_markdown(runs, detections, readouts),
        "report.csv": render_csv(detections, readouts),
    }
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            write_text(output_dir / name, text)
    except OSError as error:
        raise ConfigError(f"cannot write the report to {output_dir}: {error.strerror or error}") from None
    html, markdown, table = (output_dir / name for name in contents)
    return ReportFiles(html, markdown, table, num_runs=len(runs), num_unfinished=len(runs.unfinished))


# --- the page ---------------------------------------------------------------------------------------------------------


def render_html(runs: Runs, detections: Detections, readouts: Readouts) -> str:
    """The whole page."""
    root = shared_root(runs)

    def short(path: Path) -> str:
        return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else str(path)

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"short": short, "text_columns": _text_columns}
    finished = [run for run in runs.pretraining if run.steps is not None]
    counts = {"pre-training run": finished, "linear readout": runs.linear, "detection run": runs.detection}
    headlines = [*map(detection_headline, detections), *map(readout_headline, readouts)]
    commands = [
        *(("pre-training", run.path, run.commands) for run in finished),
        *(("readout", run.path, (run.command,)) for run in runs.linear),
        *(("detection", run.path, (run.command,)) for run in runs.detection),
    ]
    return environment.get_template("report.html.j2").render(
        root=root,
        counts=", ".join(f"{len(n)} {name}{_plural(n)}" for name, n in counts.items() if n),
        headlines=[sentence for sentence in headlines if sentence],
        detections=list(map(_detection, detections)),
        readouts=list(map(_readout, readouts)),
        pretraining=[_pretraining(run, short(run.path)) for run in runs.pretraining],
        proofs=_proofs(detections),
        commands=commands,
        unfinished=runs.unfinished,
        environments=_environments(runs.pretraining, short),
        samples_note=SAMPLES_NOTE,
    )


def _plural(values: Sequence[Any]) -> str:
    return "" if len(values) == 1 else "s"


def _text_columns(table: Table) -> list[bool]:
    """For every column whether it holds text rather than figures."""
    columns: Iterable[tuple[str, ...]] = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [not all(map(NUMERIC.match, column)) for column in columns]


def _detection(group: Group[DetectionRun]) -> dict[str, Any]:
    return {
        "title": group.title,
        "facts": f"Trained on {group.first.train_data}, tested on {group.first.test_data}.",
        "tables": detection_tables(group),
        "pictures": _present(seed_dots(group), detection_curves(group)),
        "published": published_detection_table(group),
        "samples": sample_rows(group),
    }


def _readout(group: Group[LinearRun]) -> dict[str, Any]:
    tables = [*readout_tables(group), published_readout_table(group)]
    return {
        "title": group.title,
        "tables": [table for table in tables if table],
        "pictures": _present(readout_curves(group)),
    }


def _present(*pictures: Picture | None) -> list[Picture]:
    return [picture for picture in pictures if picture]


def _pretraining(run: PretrainRun, name: str) -> dict[str, Any]:
    method = method_label(run.config) if run.setting("method", "name") else None
    arch = run.setting("encoder", "arch")
    size, state = run.setting("views", "image_size"), "unfinished" if run.steps is None else f"{run.steps:,} steps"
    last = [(key, f"{value:.4g}") for key, value in (run.log or ({},))[-1].items() if isinstance(value, (int, float))]
    views, note = None, ""
    if run.views is not None:
        try:
            views = sheet(run.views)
        except DataError as error:
            note = f"no views sheet: {error}"
    return {
        "title": f"{name}: {method or '?'}, {arch or '?'}, {size or '?'} px, {state}",
        "images": run.setting("data", "root") or "?",
        "last": Table("Last logged step", tuple(key for key, _ in last), (tuple(value for _, value in last),)),
        "logged": bool(run.log),
        "pictures": _present(pretraining_curves(run)),
        "views": views,
        "note": note,
        "config": json.dumps(run.config, indent=2, default=str) if run.config else "",
    }


def _proofs(detections: Detections) -> list[tuple[str, Table]]:
    """Each converted weight file once, with what its sidecar says."""
    sidecars: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for run in (run for group in detections for row in group.runs.values() for run in row.values()):
        if run.sidecar:
            sidecars.setdefault(str(run.sidecar.get("weights_sha256", run.weights)), (run.weights, run.sidecar))
    return [
        (Path(weights).name, _items("Sidecar and proof", {k: v for k, v in sidecar.items() if not _is_header(k)}))
        for weights, sidecar in sidecars.values()
    ]


def _is_header(key: str) -> bool:
    return key.startswith(("format", "version"))


def _environments(pretraining: Sequence[PretrainRun], short: Any) -> list[Table]:
    """Each environment once, under the first run that had it."""
    shown: list[Mapping[str, Any]] = []
    tables = []
    for run in pretraining:
        if run.environment and run.environment not in shown:
            shown.append(run.environment)
            tables.append(_items(short(run.path), run.environment))
    return tables


def _items(title: str, values: Mapping[str, Any]) -> Table:
    """A nested mapping as a table of two columns."""
    return Table(title, ("item", "value"), tuple((name, _as_text(value)) for name, value in _flat(values)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key} / ") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


def _as_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_as_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


# --- the text files ---------------------------------------------------------------------------------------------------


def render_csv(detections: Detections, readouts: Readouts) -> str:
    """Long form: a line (level "run") for every figure of every finished run, then one (level "mean") a row and metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    groups: list[tuple[str, Group[Any]]] = [
        *(("detection", group) for group in detections),
        *(("readout", group) for group in readouts),
    ]
    for table, group in groups:
        for row, members in group.runs.items():
            for metric in group.metrics:
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


def render_markdown(runs: Runs, detections: Detections, readouts: Readouts) -> str:
    """Tables, unfinished runs and commands as GitHub-flavoured Markdown."""
    parts = ["# InfoMin Transfer: report", ""]
    for group in detections:
        parts += [f"## Detection: {_plain(group.title)}", ""]
        sentence = detection_headline(group)
        parts += [_plain(sentence), ""] if sentence else []
        parts += _markdown_tables(*detection_tables(group), published_detection_table(group))
    for readout in readouts:
        parts += [f"## Linear readout: {_plain(readout.title)}", ""]
        parts += _markdown_tables(*readout_tables(readout), published_readout_table(readout))
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


def _markdown_tables(*tables: Table | None) -> list[str]:
    lines = []
    for table in tables:
        if table is not None:
            lines += [f"### {_plain(table.title)}", "", "| " + " | ".join(map(_plain, table.columns)) + " |"]
            lines.append("|" + "|".join("---" if i == 0 else "---:" for i in range(len(table.columns))) + "|")
            lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in table.rows]
            lines += ["", *(line for note in table.notes for line in (_plain(note), ""))]
    return lines
