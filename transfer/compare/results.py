"""The one reader of results: run folders in, `Run`s out.

A run is a folder with record.json, or the record beside an output that is a single file; folders from before the record are
read by old_results.py into the same `Run`s. What decides a figure is read strictly (DataError names the file); curves and
pictures are taken as far as they can be read. A run that is not done is listed, and its figures enter no table.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import FORMAT, RECORD, Record, read_record
from pretrain.base.same_run import flat
from pretrain.base.strict import from_mapping
from transfer.compare.old_results import old_kind, read_old
from transfer.compare.run_files import (
    config_family,
    figures_of,
    is_number,
    load_json,
    load_lines,
    objects,
    require_keys,
)
from transfer.readout.config import LinearConfig

GATHERING = "sweep-point"  # the kind of run whose folder holds the runs that it is made of
SHORT_HASH = 8
LISTED_CLASSES = 3  # in a title
LISTED_KEYS = 3  # in a title, of those that tell it from another
LONGEST_VALUE = 24  # characters of a value in a title
EXPECTED = (
    "a run's record.json, or a run from before it: of pre-training (result.json, or config.yaml with environment.json or "
    "log.jsonl), of a detector (result.json, or metrics.json) or of a linear readout (linear_result.json)"
)


@dataclass(frozen=True)
class Run:
    """One run of any kind.

    path: its folder; of a run whose output is a single file, its record.
    curve: rows that training logged (detection: Detectron2's metrics.json; pre-training: log.jsonl; readout: an epoch each).
    samples: test images with ground truth and predictions. views: the sheet of augmented views.
    copies: other places where the very same run was found; it counts once.
    """

    path: Path
    record: Record
    curve: tuple[Mapping[str, Any], ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()
    views: Path | None = None
    copies: tuple[Path, ...] = ()

    @property
    def kind(self) -> str:
        """As the record says."""
        return self.record.kind

    @property
    def done(self) -> bool:
        """Whether its figures count."""
        return self.record.status == "done"

    @property
    def label(self) -> str:
        """Name of the initialisation, "" of a run that has none."""
        start = self.record.initialisation
        return start.name or "unknown" if start else ""

    @property
    def seed(self) -> int | None:
        """Of the run itself."""
        return self.record.seeds.get("run")

    @property
    def pretrain_seed(self) -> int | None:
        """Of the pre-training that its weights come from, None where unknown."""
        return self.record.seeds.get("pretraining")

    @property
    def fraction(self) -> float:
        """Share of the training images that it was trained on; 1 where nothing else is recorded."""
        data = self.record.data.get("train") or self.record.data.get("images")
        return data.num_images / data.num_available if data and data.num_available else 1.0

    @property
    def metrics(self) -> Mapping[str, float]:
        """ "bbox/AP50" -> AP points, "top1" -> percent; a figure that could not be computed is left out."""
        return {
            name: float(value) for name, value in self.record.figures.items() if value is not None and is_number(value)
        }

    @property
    def history(self) -> list[tuple[int, Mapping[str, float]]]:
        """(iteration, figures) of the evaluations during a detector's training, in order."""
        rows = objects(self.record.history, numbered_by="iteration")
        return sorted(((int(row["iteration"]), figures_of(row)) for row in rows), key=lambda row: row[0])

    def setting(self, key: str) -> Any:
        """The value of "GROUP.KEY" in the resolved configuration, None where there is none."""
        return flat(self.record.config).get(key)

    def state(self) -> str:
        """Why its figures do not count: "running since 2026-11-27T03:00:00+00:00, held by HOST, pid 12"."""
        record = self.record
        holder = ", ".join(
            f"{name}{record.holder[key]}" for key, name in (("host", ""), ("pid", "pid ")) if key in record.holder
        )
        if not holder and not record.started:  # from before the record
            return record.error or record.status
        since = f"running since {record.started}" if record.status == "running" else f"{record.status} {record.ended}"
        return f"{since}{f', held by {holder}' if holder else ''}{f': {record.error}' if record.error else ''}"


@dataclass(frozen=True)
class Runs:
    """Everything found, in the order of the paths."""

    all: tuple[Run, ...]

    def __len__(self) -> int:
        """Number of runs, done or not."""
        return len(self.all)

    def done(self, *kinds: str) -> list[Run]:
        """The finished runs of these kinds (none: of every kind)."""
        return [run for run in self.all if run.done and (not kinds or run.kind in kinds)]

    @property
    def unfinished(self) -> list[Run]:
        """Those whose figures count nowhere."""
        return [run for run in self.all if not run.done]


# --- reading one run --------------------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    """The run in the folder `path`, or of the record that `path` is. Raises DataError for one that is damaged or absent."""
    file = path / RECORD if path.is_dir() else path
    folder = file.parent
    kind = None if file.exists() else old_kind(folder)
    record = read_old(folder, kind) if kind else read_record(file)
    if record.kind == "detection":
        # A resumed run repeats rows: the last one of an iteration counts.
        rows = {int(row["iteration"]): row for row in load_lines(folder / "metrics.json", numbered_by="iteration")}
        curve = tuple(rows[iteration] for iteration in sorted(rows))
        return Run(folder, record, curve, samples=_read_samples(folder / "samples.json"))
    if record.kind == "pretraining":
        views = folder / "views.png"
        curve = load_lines(folder / "log.jsonl", numbered_by="step")
        return Run(folder, record, curve, views=views if views.exists() else None)
    return Run(folder if file.name == RECORD else file, record, curve=record.history)


def read_result(path: Path) -> Run:
    """The measurement whose record or old result file is `path`. Raises DataError for a damaged or incomplete one."""
    return read_run(path if _is_record(path) else path.parent)


def _read_samples(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Pictures decide no figure: a file that cannot be read means no pictures."""
    try:
        return tuple(objects(load_json(path).get("images"))) if path.exists() else ()
    except DataError:
        return ()


@dataclass(frozen=True)
class Information:
    """An estimate of the information that two views share, in nats, with its 95 % interval.

    ceiling: the largest value that the estimate can take, None where there is none.
    saturated: the estimate is close to its ceiling.
    """

    nats: float
    low: float
    high: float
    ceiling: float | None
    saturated: bool


def read_information(path: Path) -> Information:
    """I_NCE out of what tools/measure_views.py or tools/evaluate_views.py wrote. Raises DataError for another file."""
    figures = dict.fromkeys(("nats", "low", "high"), (int, float))
    kinds: Mapping[str, Any] = {"bound": str, **figures, "ceiling": (int, float, NoneType), "saturated": bool}
    values = require_keys(path, _measured(path).get("information"), kinds)
    if values["bound"] != "info_nce":
        raise DataError(f"{path}: expected an estimate of info_nce, found {values['bound']!r}")
    ceiling = values["ceiling"]
    return Information(
        **{name: float(values[name]) for name in figures},
        ceiling=None if ceiling is None else float(ceiling),
        saturated=values["saturated"],
    )


def _measured(path: Path) -> Mapping[str, Any]:
    """What was measured in full: a record's details, or a file from before the record."""
    return read_record(path).details if _is_record(path) else load_json(path)


# --- finding runs -----------------------------------------------------------------------------------------------------


def read_runs(paths: Sequence[Path]) -> Runs:
    """Read every run at or below `paths`. Raises DataError for a path without any run and for a damaged record or result."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            here = list(_search(path))
            if not here:
                raise DataError(f"no run in {path} nor below; found {_listing(path)}; expected {EXPECTED}")
            found |= {run.resolve() for run in here}
        elif _is_record(path):
            found.add(path.resolve())
        else:
            there = f"{path} is a file, but no record of this project" if path.exists() else f"nothing at {path}"
            raise DataError(f"{there}; expected {EXPECTED}, or a folder that holds such runs")
    return Runs(tuple(_without_copies(map(read_run, sorted(found)))))


def _without_copies(runs: Iterable[Run]) -> list[Run]:
    """Each run once. A copied folder holds the same record to the second: it is no repetition of a measurement."""
    kept: list[Run] = []
    alike: dict[tuple[str, str, tuple[str, ...]], list[int]] = {}
    for run in runs:
        record = run.record
        same = alike.setdefault((record.hash, record.started, record.commands), [])
        first = next((i for i in same if kept[i].record == record), None)
        if first is not None and (record.started or record.commands):  # else nothing tells one run from another
            kept[first] = replace(kept[first], copies=(*kept[first].copies, run.path))
        else:
            same.append(len(kept))
            kept.append(run)
    return kept


def _search(top: Path) -> Iterator[Path]:
    """Folders of runs, and records of single files. What lies below a run belongs to it, except below one that gathers others."""
    waiting, seen = [top], set()
    while waiting:
        path = waiting.pop()
        entries = _entries(path)
        here = path.resolve()
        if here in seen:  # a link to a folder above
            continue
        seen.add(here)
        names = {entry.name for entry in entries}
        recorded = _recorded_kind(path / RECORD) if RECORD in names else None
        if recorded is not None or old_kind(path, names) is not None:
            yield path
            if recorded != GATHERING:
                continue
        yield from (Path(entry) for entry in entries if entry.name != RECORD and _is_record(Path(entry)))
        waiting += [Path(entry) for entry in reversed(entries) if not entry.name.startswith(".") and entry.is_dir()]


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot look into the folder {path}: {error.strerror or error}") from None


def _is_record(path: Path) -> bool:
    """Whether a single file is a record of ours: its beginning says so, as the writer puts the format first; or its name, and
    any part of it, as another program may have sorted its keys."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return FORMAT.encode() in file.read(-1 if path.name.endswith(RECORD) else 100)
    except OSError:
        return False


def _recorded_kind(path: Path) -> str | None:
    """The kind that a record.json of ours gives, "" for a damaged one; None for another program's, which says something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""  # reading it says what is wrong
    return str(values.get("kind")) if isinstance(values, dict) and values.get("format") == FORMAT else None


def _listing(path: Path) -> str:
    names = [entry.name for entry in _entries(path)]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "an empty folder"


def shared_root(runs: Runs) -> Path | None:
    """The folder that all runs lie in, for short names; None for no runs."""
    return Path(os.path.commonpath([run.path.parent for run in runs.all])) if runs.all else None


# --- experiments in words ---------------------------------------------------------------------------------------------


def short_hash(record: Record) -> str:
    """Enough of the experiment's hash to tell experiments apart by eye."""
    return record.hash[:SHORT_HASH]


def family_of(run: Run) -> str:
    """ "voc/R_50_C4_24k": the configuration file without its initialisation, "detector" where it is not recorded."""
    named = run.record.details.get("config_file") or _word_after("--config-file", run.record.commands)
    return config_family(str(named)) if named else "detector"


def _word_after(option: str, commands: Iterable[str]) -> str:
    found = re.search(rf"{option}[ =](\S+)", next(iter(commands), ""))
    return found[1].strip("'\"") if found else ""


def iterations_of(run: Run) -> int | None:
    """How long a detector was trained, None where it is not recorded."""
    value = run.record.details.get("iterations", run.setting("SOLVER.MAX_ITER"))
    return value if isinstance(value, int) else None


def num_images(run: Run, role: str) -> int:
    """Images of a split, 0 where it is not recorded."""
    data = run.record.data.get(role)
    return data.num_images if data else 0


def protocol_of(run: Run) -> Mapping[str, Any]:
    """A readout's protocol: "name" in words, "is_paper" whether it is the paper's; empty where it is not recorded."""
    recorded = run.record.details.get("protocol")
    if isinstance(recorded, Mapping):
        return recorded
    try:
        config = from_mapping(LinearConfig, run.record.config, where=str(run.path))
    except ConfigError:
        return {}
    return {"name": config.protocol_name(), "is_paper": not config.differences_from_paper()}


def name_of(run: Run) -> str:
    """What was done, in few words."""
    if run.kind == "detection":
        return family_of(run)
    if run.kind == "pretraining":
        settings = (run.setting("method.name"), run.setting("encoder.arch"))
        return " ".join(["pre-training", *(str(value) for value in settings if value)])
    return f"linear readout of {run.record.experiment.get('arch', 'an encoder')}" if run.kind == "readout" else run.kind


def describe(run: Run) -> str:
    """One experiment in words: what is trained how long on how much, and what its figures are."""
    sizes = ""
    if run.kind == "detection":
        iterations, batch = iterations_of(run), run.setting("SOLVER.IMS_PER_BATCH")
        length = "" if iterations is None else f"{iterations:,} iterations" + (f" of {batch} images" if batch else "")
        trained = [length, f"{num_images(run, 'train'):,} training images"]
        sizes = ", ".join(filter(None, trained)) if "train" in run.record.data else "evaluated only"
    elif run.kind == "readout":
        sizes = f"{num_images(run, 'train'):,} training and {num_images(run, 'test'):,} test images"
    parts = (name_of(run), sizes, class_text(run.record.class_names), run.record.metric)
    return ", ".join(part for part in parts if part)


def class_text(names: Sequence[str]) -> str:
    """ "3 classes (cup, leaf, bolt)"; of more, the first ones."""
    if not names:
        return ""
    shown = ", ".join(names[:LISTED_CLASSES]) + (", ..." if len(names) > LISTED_CLASSES else "")
    return f"{len(names)} class{'' if len(names) == 1 else 'es'} ({shown})"


def titles(runs: Iterable[Run], words: Callable[[Run], str] = describe) -> dict[str, str]:
    """Hash of each experiment -> its `words`; those that read alike are told apart by the keys that differ."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.record.hash, run)
    alike: dict[str, list[Run]] = {}
    for run in first.values():
        alike.setdefault(words(run), []).append(run)
    found = {}
    for title, members in alike.items():
        values = {run.record.hash: flat(run.record.experiment) for run in members}
        keys = sorted({key for one in values.values() for key in one})
        differing = [key for key in keys if len({repr(one.get(key)) for one in values.values()}) > 1]
        listed = _telling(differing, list(values.values()))
        for own, one in values.items():
            shown = [f"{key_name(key)} {_short_value(one.get(key))}" for key in listed]
            more = [f"{len(differing) - len(listed)} more keys"] if len(differing) > len(listed) else []
            found[own] = ", ".join([title, *shown, *more])
    return found


def _telling(keys: Sequence[str], experiments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the keys in which experiments differ, those that tell every two of them apart; filled up to LISTED_KEYS."""
    chosen: list[str] = []
    groups = 1
    for key in keys:
        parted = len({tuple(repr(one.get(name)) for name in (*chosen, key)) for one in experiments})
        if parted > groups:
            chosen, groups = [*chosen, key], parted
    spare = [key for key in keys if key not in chosen][: max(0, LISTED_KEYS - len(chosen))]
    return sorted([*chosen, *spare])


def key_name(key: str) -> str:
    """A key of an experiment as people know it."""
    return key.removeprefix("config.")


def _short_value(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
