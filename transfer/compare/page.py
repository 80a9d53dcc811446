"""The report: run directories in, one self-contained page, a Markdown file and a CSV out. Read `write_report` first.

Every figure was read from a run directory or, marked as such, from published.yaml. The page has everything inside it and is
readable without scripts, on paper too; whatever comes from a run (names, paths, commands, classes) is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pretrain.base.atomic import write_text
from pretrain.base.errors import ConfigError, DataError, did_you_mean
from pretrain.config import method_label
from transfer.compare.accounts import cost_table, tried_table
from transfer.compare.breakdown import breakdown_table, draw_breakdown, parts_of
from transfer.compare.experiments import Experiment, group_runs
from transfer.compare.headline import headline, subject_of
from transfer.compare.label_curves import draw_label_curve, label_curves
from transfer.compare.long_table import long_table, to_csv
from transfer.compare.plots import Picture, detection_curves, pretraining_curves, readout_curves, seed_dots, sheet
from transfer.compare.results import LISTED_CLASSES, Run, Runs, read_runs, shared_root
from transfer.compare.run_files import is_number
from transfer.compare.side_by_side import RULE, side_by_side
from transfer.compare.study_account import doctor_tables, time_table
from transfer.compare.tables import Table, own_tables, published_note, published_table

TEMPLATES = Path(__file__).with_name("templates")
NUMERIC = re.compile(r"(n/a.*|[-+]?\d.*|)$")  # cells of a column that is set flush right
Experiments = Sequence[Experiment]


@dataclass(frozen=True)
class ReportFiles:
    """What was written."""

    html: Path
    markdown: Path
    csv: Path
    num_runs: int
    num_unfinished: int
    num_copies: int


def write_report(
    paths: Sequence[Path],
    output_dir: Path,
    *,
    baseline: str | None = None,
    subject: str | None = None,
    study: Path | None = None,
) -> ReportFiles:
    """Read every run at or below `paths` and write index.html, report.md and report.csv (replacing an older report's).

    baseline: row that the others are compared with; None: "random" where there is one.
    subject: row that the headline speaks of; None: the one of our own pre-training (`subject_of`).
    study: folder of a study, whose labelled images and times are shown too.
    Raises DataError for a path without runs or with a damaged record, ConfigError for a baseline or a subject that no row has
    and for an output that cannot be written.
    """
    if study is not None and not study.is_dir():
        raise ConfigError(f"--study {study}: no such folder; expected the --output-dir of a study of tools/compare.py")
    runs = read_runs(paths)
    experiments = group_runs(runs.all, baseline=baseline)
    rows = list(dict.fromkeys(row for one in experiments for row in one.rows))
    if subject is not None and subject not in rows:
        raise ConfigError(
            f"--subject {subject}: no row has this name{did_you_mean(subject, rows)}; rows: {', '.join(rows) or 'none'}"
        )
    if subject is None:  # one row throughout the page
        subject = next((row for one in experiments if (row := subject_of(one))), None)
    contents = {
        "index.html": render_html(runs, experiments, subject=subject, study=study),
        "report.md": render_markdown(runs, experiments, subject=subject, study=study),
        "report.csv": to_csv(long_table(runs.all)),
    }
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            write_text(output_dir / name, text)
    except OSError as error:
        raise ConfigError(f"cannot write the report to {output_dir}: {error.strerror or error}") from None
    html, markdown, table = (output_dir / name for name in contents)
    copies = sum(len(run.copies) for run in runs.all)
    return ReportFiles(
        html, markdown, table, num_runs=len(runs), num_unfinished=len(runs.unfinished), num_copies=copies
    )


# --- the page ---------------------------------------------------------------------------------------------------------


def render_html(runs: Runs, experiments: Experiments, *, subject: str | None = None, study: Path | None = None) -> str:
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
    counts = {name: len(runs.done(kind)) for kind, name in COUNTED.items()}
    return environment.get_template("report.html.j2").render(
        root=root,
        counts=", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items() if n),
        headlines=[sentence for one in experiments if (sentence := headline(one, subject=subject))],
        curves=[picture for curve in label_curves(experiments) if (picture := draw_label_curve(curve))],
        detections=[_section(one, subject) for one in experiments if one.kind == "detection"],
        readouts=[_section(one, subject) for one in experiments if one.kind == "readout"],
        measurements=[_section(one, subject) for one in experiments if one.kind not in ("detection", "readout")],
        labelled=doctor_tables(study) if study is not None else [],
        accounts=_accounts(runs, experiments, study),
        pretrainings=_pretraining_table(runs, short),
        pretraining=[_pretraining(run, short(run.path)) for run in runs.all if run.kind == "pretraining"],
        proofs=_proofs(runs),
        commands=[(run.kind, run.path, run.copies, run.record.commands) for run in runs.all],
        unfinished=runs.unfinished,
        environments=_environments(runs.done(), short),
        drawing_rule=RULE,
    )


COUNTED = {
    "pretraining": "pre-training run",
    "conversion": "conversion",
    "readout": "linear readout",
    "detection": "detection run",
    "measurement": "measurement",
    "view-learning": "view-learning run",
    "view-evaluation": "evaluation of views",
    "sweep-point": "sweep point",
    "prediction": "prediction on images",
}


def _text_columns(table: Table) -> list[bool]:
    """For every column whether it holds text rather than figures."""
    columns: Iterable[tuple[str, ...]] = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [not all(map(NUMERIC.match, column)) for column in columns]


def _accounts(runs: Runs, experiments: Experiments, study: Path | None) -> list[Table]:
    """What it cost, how long that was estimated to take, and what was tried; empty where nothing was compared."""
    times = time_table(study) if study is not None else None
    tables = (cost_table(runs), times, tried_table(runs, experiments) if experiments else None)
    return [table for table in tables if table is not None]


def _section(experiment: Experiment, subject: str | None) -> dict[str, Any]:
    """One experiment on the page."""
    row = subject_of(experiment, asked=subject)
    pair = (row, experiment.baseline) if row and experiment.baseline and row != experiment.baseline else None
    parts = parts_of(experiment, *pair) if pair and experiment.kind == "detection" else ()
    pictures: dict[str, list[Picture | None]] = {
        "detection": [seed_dots(experiment), detection_curves(experiment)] if experiment.kind == "detection" else [],
        "readout": [readout_curves(experiment)] if experiment.kind == "readout" else [],
    }
    return {
        "title": f"{experiment.title} [{experiment.short}]",
        "facts": facts(experiment),
        "tables": own_tables(experiment),
        "pictures": [picture for picture in pictures.get(experiment.kind, []) if picture],
        "published": published_table(experiment),
        "breakdown": breakdown_table(parts, *pair) if pair else None,
        "breakdown_picture": draw_breakdown(parts, *pair) if pair else None,
        "side_by_side": side_by_side(experiment) if experiment.kind == "detection" else None,
    }


def facts(experiment: Experiment) -> list[str]:
    """What stands under a title: the data, the classes, what differs from near experiments, why no published figures."""
    record = experiment.first.record
    words = {"train": "trained on", "test": "tested on"}
    data = [
        f"{words[role]} {record.data[role].spec}" for role in words if role in record.data and record.data[role].spec
    ]
    many = experiment.kind == "detection" and len(record.class_names) > LISTED_CLASSES  # the title names fewer
    classes = f"Classes: {', '.join(record.class_names)}." if many else ""
    sentence = ", ".join(data)
    lines = [f"{sentence[:1].upper()}{sentence[1:]}." if sentence else "", classes, *experiment.notes]
    return [line for line in (*lines, published_note(experiment)) if line]


def _pretraining_table(runs: Runs, short: Callable[[Path], str]) -> Table | None:
    """The finished pre-trainings side by side, as their records say; None where there are none."""
    rows = [(short(run.path), *_pretraining_cells(run)) for run in runs.done("pretraining")]
    if not rows:
        return None
    notes = ("loss: of the last steps, which falls with fewer negatives too; kNN: top-1 of the monitor's probe.",)
    columns = ("run", "method", "images", "epochs", "loss", "kNN, %", "hours", "device hours")
    return Table("Pre-trainings", columns, tuple(rows), notes)


def _pretraining_cells(run: Run) -> tuple[str, ...]:
    record, figures, cost = run.record, run.metrics, run.record.cost
    images = record.data.get("images")
    epochs = record.details.get("epochs", run.setting("optimizer.epochs"))
    return (
        method_label(record.config) if run.setting("method.name") else "?",
        f"{images.num_images:,}" if images else "n/a",
        "n/a" if epochs is None else str(epochs),
        *(
            "n/a" if name not in figures else f"{figures[name]:.{digits}f}"
            for name, digits in (("loss", 3), ("knn", 1))
        ),
        *(f"{seconds / 3600:.2f}" if seconds else "n/a" for seconds in (cost.seconds, cost.device_seconds)),
    )


def _pretraining(run: Run, name: str) -> dict[str, Any]:
    method = method_label(run.record.config) if run.setting("method.name") else None
    arch, size = run.setting("encoder.arch"), run.setting("views.image_size")
    last = [(key, f"{value:.4g}") for key, value in (run.curve or ({},))[-1].items() if is_number(value)]
    views, note = None, ""
    if run.views is not None:
        try:
            views = sheet(run.views)
        except DataError as error:
            note = f"no views sheet: {error}"
    curves = pretraining_curves(run)
    return {
        "title": f"{name}: {method or '?'}, {arch or '?'}, {size or '?'} px, {_length(run)}",
        "images": run.setting("data.root") or "?",
        "last": Table("Last logged step", tuple(key for key, _ in last), (tuple(value for _, value in last),)),
        "logged": bool(run.curve),
        "pictures": [curves] if curves else [],
        "views": views,
        "note": note,
        "config": json.dumps(run.record.config, indent=2, default=str) if run.record.config else "",
    }


def _length(run: Run) -> str:
    if not run.done:
        return "unfinished"
    steps = run.record.details.get("steps", run.curve[-1]["step"] if run.curve else None)
    return f"{steps:,} steps" if isinstance(steps, int) else "finished"


def _proofs(runs: Runs) -> list[tuple[str, Table]]:
    """Each converted weight file once, with what its sidecar says."""
    sidecars: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for run in runs.done():
        sidecar, start = run.record.details.get("sidecar"), run.record.initialisation
        if isinstance(sidecar, Mapping) and sidecar:
            weights = start.weights if start else str(run.path)
            sidecars.setdefault(str(sidecar.get("weights_sha256", weights)), (weights, sidecar))
    return [
        (Path(weights).name, _items("Sidecar and proof", {k: v for k, v in sidecar.items() if not _is_header(k)}))
        for weights, sidecar in sidecars.values()
    ]


def _is_header(key: str) -> bool:
    return key.startswith(("format", "version"))


def _environments(runs: Sequence[Run], short: Any) -> list[Table]:
    """Each environment once, under the first run that had it."""
    shown: list[Mapping[str, Any]] = []
    tables = []
    for run in runs:
        latest = run.record.environment.get("latest")
        if isinstance(latest, Mapping) and latest and latest not in shown:
            shown.append(latest)
            tables.append(_items(short(run.path), latest))
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


def render_markdown(
    runs: Runs, experiments: Experiments, *, subject: str | None = None, study: Path | None = None
) -> str:
    """Tables, unfinished runs and commands as GitHub-flavoured Markdown."""
    parts = ["# InfoMin Transfer: report", ""]
    for one in experiments:
        title = f"Detection: {one.title}" if one.kind == "detection" else one.title[:1].upper() + one.title[1:]
        parts += [f"## {_plain(title)} \\[{one.short}\\]", ""]
        parts += [line for text in (headline(one, subject=subject), *facts(one)) if text for line in (_plain(text), "")]
        parts += _markdown_tables(*own_tables(one), published_table(one))
    if study is not None and (labelled := doctor_tables(study)):
        parts += ["## Labelled images", "", *_markdown_tables(*labelled)]
    if accounts := _accounts(runs, experiments, study):
        parts += ["## Cost and what was tried", "", *_markdown_tables(*accounts)]
    pretrainings = _pretraining_table(runs, str)
    parts += ["## Pre-training", "", *_markdown_tables(pretrainings)] if pretrainings else []
    if runs.unfinished:
        parts += ["## Unfinished runs (in no average)", ""]
        parts += [f"- {run.kind}: {_plain(str(run.path))} ({_plain(run.state())})" for run in runs.unfinished] + [""]
    commands = all_commands(runs)
    if commands:
        text = "\n".join(line for _, line in commands)
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))  # longer than any inside
        parts += ["## Commands", "", fence, text, fence, ""]
    return "\n".join(parts)


def all_commands(runs: Runs) -> list[tuple[Path, str]]:
    """(run, command as typed) of every run, without repetition."""
    return list(dict.fromkeys((run.path, command) for run in runs.all for command in run.record.commands if command))


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
