"""What the folder of a study says beside its runs: what the doctor found in the labelled images, and how long each stage took.

In: OUT/doctor.json, OUT/choices.json, OUT/.stages/. Out: tables for the report and for study.json. What is not there or cannot be
read is left out: no figure depends on it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.run.duration import in_words
from transfer.compare.choices import CHOICES
from transfer.compare.tables import Table

DOCTOR = "doctor.json"  # transfer/compare/study_doctor.py, which needs Detectron2, writes it
STAGES = ".stages"
KINDS = {
    "data": "making the images",
    "pretrain": "pre-training",
    "convert": "conversion",
    "detect": "fine-tuning",
    "readout": "readout",
}
SHOWN = 20  # findings of one id


@dataclass(frozen=True)
class StageTimes:
    """Of one kind of stage, seconds. estimated: of one stage, by what was measured before the start; None where nothing was.
    taken: of every stage that is done, from the start that ended it."""

    kind: str
    estimated: float | None
    taken: tuple[float, ...]

    def plain(self) -> dict[str, Any]:
        """For study.json."""
        return {"stages": len(self.taken), "estimated_seconds_each": self.estimated, "seconds": list(self.taken)}


def stage_times(folder: Path) -> tuple[StageTimes, ...]:
    """Of every kind of stage that is done in the folder of a study."""
    choices = _json(folder / CHOICES)
    estimates = choices.get("estimate", {}) if isinstance(choices, dict) else {}
    taken: dict[str, list[float]] = {}
    for path in sorted((folder / STAGES).glob("*.json")):
        record = _json(path)
        kind = path.stem.partition("-")[0]
        if isinstance(record, dict) and record.get("token") and kind in KINDS:
            taken.setdefault(kind, []).append(float(record.get("seconds", 0.0)))
    return tuple(StageTimes(kind, estimates.get(kind), tuple(taken[kind])) for kind in KINDS if kind in taken)


def time_table(folder: Path) -> Table | None:
    """Estimated and actual time by kind of stage; None where no stage is done."""
    times = stage_times(folder)
    if not times:
        return None
    rows = [
        (
            KINDS[one.kind],
            str(len(one.taken)),
            "not measured" if one.estimated is None else in_words(one.estimated * len(one.taken)),
            in_words(sum(one.taken)),
            "" if one.estimated is None else f"{sum(one.taken) / max(1e-9, one.estimated * len(one.taken)):.2f}",
            f"{statistics.median(one.taken):.0f} ({min(one.taken):.0f} to {max(one.taken):.0f})",
        )
        for one in times
    ]
    note = (
        "Estimated: from a few steps of each kind of stage, measured before the start (--budget or --dry-run); actual: of the "
        "start that ended a stage, so a stage that was stopped and went on took longer."
    )
    columns = ("stage", "stages", "estimated", "actual", "actual / estimated", "seconds each")
    return Table("Time by kind of stage, estimated and actual", columns, tuple(rows), (note,))


def doctor_tables(folder: Path) -> list[Table]:
    """What the doctor counted and found in the labelled images; empty where nothing was looked at."""
    document = _json(folder / DOCTOR)
    try:
        return list(_doctor_tables(document)) if isinstance(document, dict) else []
    except (KeyError, TypeError, AttributeError, ValueError):
        return []  # of another version


def _doctor_tables(document: Mapping[str, Any]) -> Iterable[Table]:
    size = document.get("working_size")
    scaled = f"where the shorter side is {size[0]} px" if size else "where images are scaled to 800 px"
    whole = "test" not in document["data"]  # the study holds a part out
    titles = {"train": "Labelled images, before a part is held out" if whole else "Training data", "test": "Test data"}
    for role, split in document["data"].items():
        note = (
            f"{split['spec']}: {split['images']:,} images, {split['empty']:,} without an object, {split['crowds']:,} crowd regions. "
            f"Sizes {scaled}: tiny below 8 px (root of the area), small below 32, medium below 96; median in px."
        )
        rows = tuple(
            (
                str(one["name"]),
                *(f"{one[key]:,}" for key in ("images", "objects", "tiny", "small", "medium", "large")),
                "n/a" if one["median_size"] is None else f"{one['median_size']:.0f}",
            )
            for one in split["classes"]
        )
        columns = ("class", "images", "objects", "tiny", "small", "medium", "large", "median")
        yield Table(titles.get(role, role), columns, rows, (note,))
    counts: dict[str, int] = {}
    found: list[tuple[str, ...]] = []
    for one in document["findings"]:
        counts[one["id"]] = counts.get(one["id"], 0) + 1
        if counts[one["id"]] <= SHOWN:
            found.append((one["severity"], one["id"], one["where"], one["message"]))
    more = [f"{name}: {count - SHOWN} more." for name, count in counts.items() if count > SHOWN]
    if found:
        notes = ("Found before the study began, by the code of tools/doctor.py; doctor.json has all.", *more)
        yield Table("Findings in the labelled images", ("severity", "id", "where", "what"), tuple(found), notes)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
