"""What a report's figures cost, and how much was tried for them.

In: runs and experiments. Out: tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transfer.compare.experiments import Experiment, row_names
from transfer.compare.results import Run, Runs
from transfer.compare.tables import Table

NO_ROW = "of no row here"
KINDS = {"pretraining": "pre-training", "detection": "fine-tuning", "readout": "readout"}


def cost_table(runs: Runs) -> Table | None:
    """Hours of devices by initialisation and kind of run, of finished runs; None where no run recorded any."""
    finished = runs.done(*KINDS)
    names = row_names(finished)
    rows: dict[str, dict[str, list[Run]]] = {}
    named = {hash_: names[run.path] for run in finished if run.kind != "pretraining" and (hash_ := _pretraining(run))}
    for run in finished:
        row = names[run.path] if run.kind != "pretraining" else named.get(run.record.hash, NO_ROW)
        rows.setdefault(row, {}).setdefault(run.kind, []).append(run)
    if not any(run.record.cost.device_seconds for run in finished):
        return None
    cells = []
    for row, by_kind in sorted(rows.items(), key=lambda entry: entry[0] == NO_ROW):
        texts = [_hours(by_kind.get(kind, ())) for kind in KINDS]
        every = [run for found in by_kind.values() for run in found]
        cells.append((row, *texts, _hours(every, count=False), "; ".join(dict.fromkeys(map(device_of, every)))))
    total = [_hours(runs.done(kind), count=False) for kind in KINDS]
    cells.append(("together", *total, _hours(finished, count=False), ""))
    columns = ("initialisation", *KINDS.values(), "together", "on")
    note = (
        "Hours of one device (wall clock times devices, all starts of a run together), with the number of runs. A pre-training "
        "counts once, for the row that starts from it; weights from elsewhere cost what is not known here."
    )
    return Table("Cost in device hours", columns, tuple(cells), (note,))


def _pretraining(run: Run) -> str:
    start = run.record.initialisation
    return str((start.pretraining or {}).get("hash") or "") if start else ""


def _hours(runs: Iterable[Run], *, count: bool = True) -> str:
    runs = list(runs)
    if not runs:
        return ""
    hours = sum(run.record.cost.device_seconds for run in runs) / 3600
    text = f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"
    return f"{text} ({len(runs)})" if count else text


def device_of(run: Run) -> str:
    """ "NVIDIA H100", "CPU (name)", "not recorded"."""
    latest: Any = run.record.environment.get("latest") or {}
    asked = str(run.setting("MODEL.DEVICE") or run.setting("runtime.device") or run.setting("device") or "auto")
    devices = (latest.get("cuda") or {}).get("devices") if isinstance(latest.get("cuda"), dict) else None
    if devices and not asked.startswith("cpu"):
        return str(devices[0])
    cpu = latest.get("cpu")
    if not isinstance(cpu, dict):
        return "not recorded"
    return f"CPU ({cpu['name']})" if cpu.get("name") else "CPU"


def tried_table(runs: Runs, experiments: Sequence[Experiment]) -> Table:
    """How many comparisons a reader of the page is shown, and what keeps chance from being read as a finding."""
    cells, total, questions = [], 0, 0
    for one in experiments:
        count = len(one.others) * len(one.metrics)
        total, questions = total + count, questions + (len(one.metrics) if one.others else 0)
        counts = (str(len(one.rows)), str(sum(map(len, one.rows.values()))), str(len(one.metrics)), str(count))
        cells.append((f"{one.name} [{one.short}]", *counts))
    unfinished = len(runs.unfinished)
    notes = [
        f"{len(runs)} runs were read, {unfinished} of them unfinished, which count nowhere. What was run and not given to this "
        "report is not known here."
    ]
    if total:
        notes.append(
            f"{total} difference{'' if total == 1 else 's'} to a baseline in {questions} question{'' if questions == 1 else 's'} "
            "(a metric of an experiment). The intervals of a question hold together at 95 %; questions are not adjusted for one "
            f"another: where nothing differs at all, {0.05 * questions:.2g} of these {questions} would be expected to show a "
            "difference by chance. The headline is the leading metric's, chosen before the figures."
        )
    columns = ("experiment", "rows", "runs", "metrics", "differences")
    return Table("What was tried", columns, tuple(cells), tuple(notes))
