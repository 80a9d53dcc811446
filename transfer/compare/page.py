"""The report's page: one HTML file with everything inside it, readable without scripts, on paper too.

In: runs and groups. Out: the page as text. Whatever comes from a run (names, paths, commands, classes) is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pretrain.base.errors import DataError
from transfer.compare.groups import Comparison, ReadoutGroup, metric_label
from transfer.compare.plots import Picture, detection_curves, pretraining_curves, readout_curves, seed_dots, sheet
from transfer.compare.runs import PretrainRun, Runs, shared_root
from transfer.compare.samples import SAMPLES_NOTE, SampleRow, sample_rows
from transfer.compare.style import STYLE_SHEET
from transfer.compare.tables import (
    BASELINE,
    Table,
    detection_tables,
    headline,
    published_comparison,
    published_readout_comparison,
    readout_tables,
)

NUMERIC = re.compile(r"(n/a.*|[-+]?\d.*|)$")  # cells of a column that is set flush right
# (anchor, heading, body) of a section
Section = tuple[str, str, str]


def render_html(runs: Runs, comparisons: Sequence[Comparison], readouts: Sequence[ReadoutGroup]) -> str:
    """The whole page."""
    root = shared_root(runs)
    sections: list[Section] = [
        ("detection", "Detection", "".join(map(_detection, comparisons))),
        ("readout", "Linear readout", "".join(map(_readout, readouts))),
        ("pretraining", "Pre-training", "".join(_pretraining(run, root) for run in runs.pretraining)),
        ("conversion", "Proof of conversion", _proofs(comparisons)),
        ("runs", "Runs and commands", _run_list(runs, root)),
        ("environment", "Environment", _environments(runs, root)),
    ]
    sections = [section for section in sections if section[2]]
    contents = "".join(f'<li><a href="#{anchor}">{escape(heading)}</a></li>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section id="{anchor}"><h2>{escape(heading)}</h2>{html}</section>' for anchor, heading, html in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>InfoMin Transfer: report</title>\n<style>{STYLE_SHEET}</style>\n</head>\n<body>\n"
        f"<header><h1>InfoMin Transfer: report</h1>{_summary(runs, comparisons, readouts)}"
        f"<nav><ul>{contents}</ul></nav></header>\n<main>{body}</main>\n</body>\n</html>\n"
    )


def _summary(runs: Runs, comparisons: Sequence[Comparison], readouts: Sequence[ReadoutGroup]) -> str:
    pretraining = sum(run.steps is not None for run in runs.pretraining)
    counts = (
        (pretraining, "pre-training run"),
        (len(runs.linear), "linear readout"),
        (len(runs.detection), "detection run"),
    )
    text = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for n, name in counts if n)
    html = f"<p class=lede>{escape(text) or 'No finished run'}.</p>"
    if runs.unfinished:
        n = len(runs.unfinished)
        html += f'<p class=warning>{n} unfinished run{"" if n == 1 else "s"}: listed under <a href="#runs">runs</a>, in no average.</p>'
    found = [sentence for group in comparisons if (sentence := headline(group))]
    found += [sentence for readout in readouts if (sentence := _readout_headline(readout))]
    return html + "".join(f"<p class=finding>{escape(sentence)}</p>" for sentence in found)


def _readout_headline(group: ReadoutGroup) -> str | None:
    cells = {row[0]: (row[1], row[2]) for row in readout_tables(group)[0].rows}
    if BASELINE not in cells or len(cells) < 2:
        return None
    return "Readout top-1: " + "; ".join(f"{row} {value} % (n = {n})" for row, (n, value) in cells.items()) + "."


def _table(table: Table) -> str:
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    kinds = ["" if all(map(NUMERIC.match, column)) else " class=text" for column in columns]
    head = "".join(f"<th scope=col{kind}>{escape(c)}</th>" for c, kind in zip(table.columns, kinds, strict=True))
    rows = ""
    for row in table.rows:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        rows += f"<tr><th scope=row>{escape(row[0])}</th>{cells}</tr>"
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in table.notes if note)
    return (
        f"<figure class=table><h4>{escape(table.title)}</h4><div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{notes}</figure>"
    )


def _picture(picture: Picture | None) -> str:
    if picture is None:
        return ""
    return (
        f'<figure class=picture><img src="{escape(picture.data_uri)}" alt="{escape(picture.alt)}" width="{picture.width}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _detection(group: Comparison) -> str:
    tables = [*detection_tables(group), published_comparison(group)]
    facts = f"Trained on {group.train_data}, tested on {group.test_data}."
    metric = "bbox/AP50" if "bbox/AP50" in group.metrics else (group.metrics or ("",))[0]
    dots = None
    if len(group.runs) > 1 and metric:
        label = metric_label(metric)
        dots = seed_dots(list(group.runs), lambda row: group.figures(row, metric), label=label, baseline=BASELINE)
    html = f"<h3>{escape(group.title)}</h3><p class=facts>{escape(facts)}</p>"
    html += (
        "".join(_table(table) for table in tables[:-1] if table) + _picture(dots) + _picture(detection_curves(group))
    )
    html += _table(tables[-1]) if tables[-1] else ""
    return html + _samples(sample_rows(group))


def _samples(rows: Sequence[SampleRow]) -> str:
    if not rows:
        return ""
    html = f"<h4>Detections beside ground truth</h4><p class=note>{escape(SAMPLES_NOTE)}</p>"
    for row in rows:
        cells = "".join(
            f'<figure><img src="{escape(uri)}" alt="{escape(row.name)}: {escape(title)}" width="320">'
            f"<figcaption><b>{escape(title)}</b>, {count} box{'' if count == 1 else 'es'}</figcaption></figure>"
            for title, uri, count in row.cells
        )
        note = f"<p class=note>{escape(row.note)}</p>" if row.note else ""
        strip = f'<div class=strip style="--columns: {len(row.cells)}">{cells}</div>' if cells else ""
        html += f"<div class=sample><p class=facts>{escape(row.name)}</p>{note}{strip}</div>"
    return html


def _readout(group: ReadoutGroup) -> str:
    published = published_readout_comparison(group)
    tables = (*readout_tables(group), *([published] if published else []))
    return f"<h3>{escape(group.title)}</h3>" + "".join(map(_table, tables)) + _picture(readout_curves(group))


def _pretraining(run: PretrainRun, root: Path | None) -> str:
    method, arch, size = (
        run.setting("method", "name"),
        run.setting("encoder", "arch"),
        run.setting("views", "image_size"),
    )
    state = "unfinished" if run.steps is None else f"{run.steps:,} steps"
    title = f"{_short(run.path, root)}: {method or '?'}, {arch or '?'}, {size or '?'} px, {state}"
    html = f"<h3>{escape(title)}</h3><p class=facts>Images: {escape(str(run.setting('data', 'root') or '?'))}</p>"
    html += _last_figures(run) + _picture(pretraining_curves(run))
    if run.views is not None:
        try:
            html += "<h4>Views</h4>" + _picture(sheet(run.views))
        except DataError as error:
            html += f"<p class=note>no views sheet: {escape(str(error))}</p>"
    settings = escape(json.dumps(run.config, indent=2, default=str))
    return html + (
        f"<details><summary>Resolved configuration</summary><pre>{settings}</pre></details>" if run.config else ""
    )


def _last_figures(run: PretrainRun) -> str:
    if not run.log:
        return ""
    cells = [(key, f"{value:.4g}") for key, value in run.log[-1].items() if isinstance(value, (int, float))]
    return _table(Table("Last logged step", tuple(key for key, _ in cells), (tuple(value for _, value in cells),)))


def _proofs(comparisons: Sequence[Comparison]) -> str:
    """Each converted weight file once, with what its sidecar says."""
    sidecars: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for group in comparisons:
        for row in group.runs.values():
            for run in row.values():
                if run.sidecar:
                    key = str(run.sidecar.get("weights_sha256", run.weights))
                    sidecars.setdefault(key, (run.weights, run.sidecar))
    html = ""
    for weights, sidecar in sidecars.values():
        rows = [(name, _value(value)) for name, value in _flat(sidecar) if not name.startswith(("format", "version"))]
        html += f"<h3>{escape(Path(weights).name)}</h3>" + _table(
            Table("Sidecar and proof", ("item", "value"), tuple(rows))
        )
    return html


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key} / ") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _run_list(runs: Runs, root: Path | None) -> str:
    html = f"<p class=facts>Paths below {escape(str(root))}</p>" if root else ""
    entries = [("pre-training", run.path, run.commands) for run in runs.pretraining if run.steps is not None]
    entries += [("readout", run.path, (run.command,)) for run in runs.linear]
    entries += [("detection", run.path, (run.command,)) for run in runs.detection]
    for kind, path, commands in entries:
        html += f"<p class=run><b>{escape(_short(path, root))}</b> ({kind})</p>"
        html += "".join(f"<pre class=command>{escape(line)}</pre>" for line in commands if line)
    if runs.unfinished:
        html += "<h3>Unfinished runs</h3><ul>"
        for run in runs.unfinished:
            html += f"<li>{escape(_short(run.path, root))} ({escape(run.kind)}): no {escape(run.missing)}; in no average</li>"
        html += "</ul>"
    return html


def _environments(runs: Runs, root: Path | None) -> str:
    html = ""
    shown: list[Mapping[str, Any]] = []
    for run in runs.pretraining:
        if run.environment and run.environment not in shown:
            shown.append(run.environment)
            rows = tuple((name, _value(value)) for name, value in _flat(run.environment))
            html += _table(Table(_short(run.path, root), ("item", "value"), rows))
    return html


def _short(path: Path, root: Path | None) -> str:
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else str(path)
