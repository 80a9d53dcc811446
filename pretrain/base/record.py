"""The record of a run: one file that says what was asked, on what, from which weights, where, at what cost, and what came out.

It is written when a run starts and completed when it ends, always whole. A process that was killed leaves `running` and the
name of its holder. Two runs are one experiment if and only if their `hash` is the same: the hash covers `experiment`, which
holds everything that decides a figure except the subject of the comparison (weights, label, seeds) and what decides nothing
(output folder, device, workers).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from pretrain.base.atomic import write_json
from pretrain.base.environment import environment
from pretrain.base.errors import ConfigError, DataError, Terminated, UserError
from pretrain.base.same_run import differences, flat, require_same

FORMAT, VERSION = "infomin-transfer/record", 1
RECORD = "record.json"
Kind = Literal[
    "pretraining",
    "conversion",
    "readout",
    "detection",
    "measurement",
    "view-learning",
    "view-evaluation",
    "sweep-point",
    "prediction",
]
Status = Literal["running", "done", "stopped", "failed"]
NameSource = Literal["asked", "sidecar", "checkpoint", "catalog", "random", "unknown"]


@dataclass(frozen=True)
class Initialisation:
    """What a measurement started from.

    name: of the row in tables. source: who says so.
    weights: as given, "" for random ones.
    sha256: of the weight file. layout, method: where they are known.
    random_seed: that drew random weights.
    pretraining: {"seed", "hash"} of the pre-training run that the weights come from (its `hash` below), where it is ours.
    """

    name: str
    source: NameSource
    weights: str = ""
    sha256: str | None = None
    layout: str | None = None
    method: str | None = None
    random_seed: int | None = None
    pretraining: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DataRecord:
    """One split. spec: as given. fingerprint: of its content, wherever it lies. num_available: before a part was drawn."""

    spec: str
    fingerprint: str
    num_images: int
    num_available: int | None = None


@dataclass(frozen=True)
class Cost:
    """seconds: wall clock of all starts. images: that went through the network in training. device_seconds: seconds times devices."""

    seconds: float = 0.0
    images: int = 0
    device_seconds: float = 0.0


@dataclass(frozen=True)
class Record:
    """A run, as far as it is known.

    seeds: {"run": of this command, "pretraining": of the weights' own, None where unknown}; "run 2", ...: of more than one.
    config: all resolved values. experiment: what the hash covers; see the module.
    data: role ("train", "test", "images") -> split.
    class_names: in the order of their numbers; empty without labels.
    metric: what the figures are, for example "COCO AP, IoU .50:.95".
    environment: {"first": of the first start, "latest": of the latest}.
    holder: {"host", "pid"} of the latest start.
    started, ended: UTC, ISO 8601.
    error: what ended a run that failed or was stopped.
    figures: name -> value; None where a figure could not be computed.
    history: rows of figures over time; those of a pre-training are its log.jsonl. details: what only this kind of run has.
    """

    kind: Kind
    experiment: Mapping[str, Any]
    config: Mapping[str, Any]
    seeds: Mapping[str, int | None]
    hash: str = ""
    status: Status = "running"
    commands: tuple[str, ...] = ()
    data: Mapping[str, DataRecord] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    metric: str | None = None
    initialisation: Initialisation | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    holder: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    ended: str | None = None
    error: str | None = None
    cost: Cost = field(default_factory=Cost)
    figures: Mapping[str, float | None] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def record_beside(output: Path) -> Path:
    """Where the record of an output that is a single file lies: beside it, as STEM.record.json. A folder holds its own, RECORD."""
    return output.with_name(f"{output.stem}.{RECORD}")


def experiment_hash(experiment: Mapping[str, Any]) -> str:
    """sha256 of the content, whatever the order of its keys; 1 and 1.0, lists and tuples are the same."""
    text = json.dumps(_plain(experiment), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def without(config: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """`config` as {"group.key": value}, less the keys that equal an entry of `left_out` or lie below it."""
    return {
        key: value
        for key, value in flat(config).items()
        if not any(key == entry or key.startswith(f"{entry}.") for entry in left_out)
    }


def seeds_of_runs(seeds: Sequence[int]) -> dict[str, int]:
    """`seeds` of a record that holds several runs: {"run": the first, "run 2": the second, ...}."""
    return {"run" if number == 1 else f"run {number}": seed for number, seed in enumerate(seeds, 1)}


def this_command() -> str:
    """The command line of this process, as one types it."""
    return shlex.join(["python", *sys.argv])


def what_differs(first: Record, second: Record) -> list[str]:
    """ "key: 1 there, 2 now" for every key in which two experiments differ."""
    return differences(_plain(first.experiment), _plain(second.experiment))


def find_finished(path: Path, record: Record) -> Record | None:
    """The finished record at `path`, if it is of the run that `record` begins; None where there is none that is finished.

    Raises ConfigError, naming every difference, for the finished record of another run; DataError as `read_record` does.
    """
    there = _read_same_kind(path, record.kind)
    if there is None or there.status != "done":
        return None
    require_same(_identity(there), _identity(record), place=path, what=f"finished {record.kind.replace('-', ' ')}")
    return there


def _read_same_kind(path: Path, kind: Kind) -> Record | None:
    """The record at `path`, None where there is none. Raises ConfigError for that of another command, which stays."""
    if not path.exists():
        return None
    there = read_record(path)
    if there.kind != kind:
        raise ConfigError(f"{path} is the record of a {there.kind}, not of a {kind}; name another output")
    return there


def _identity(record: Record) -> dict[str, Any]:
    """What makes two runs the same one: experiment, seeds, and the weights with their name and branch."""
    start = record.initialisation
    return {
        **_plain(record.experiment),
        "seeds": dict(record.seeds),
        "initialisation": start and start.name,
        "weights": start and (start.sha256 or start.weights),
        "branch": record.details.get("branch"),
    }


def _plain(value: Any) -> Any:
    """JSON-ready; a whole float becomes an int, so that 1 and 1.0 have one hash."""
    value = _number(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _number(value: Any) -> Any:
    """A number of numpy or torch as Python's; anything else as it is."""
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value


def _json_value(value: Any) -> Any:
    """What json does not know: a number of numpy or torch, else (a path) its text."""
    number = _number(value)
    return str(value) if number is value else number


class OpenRecord:
    """The record of a run that is going on, held in the process that writes it (the main rank).

    As a context it ends the record: `stopped` after Ctrl-C or SIGTERM, `failed` after any other exception; without `finish`
    the run counts as stopped.
    """

    def __init__(self, path: Path | None, record: Record, *, goes_on: bool = False) -> None:
        """Write `record` to `path` as running; None: to no file.

        A record of the same run that is there already is continued: its commands, first environment, start and cost are
        kept. One of another run is replaced (`find_finished` tells whether that was finished), one of another command refused
        (ConfigError). goes_on: it is the same run, whatever it changed on the way.
        """
        self._path = path
        self._clock = time.monotonic()
        self._images, self._devices = 0, 1  # of this start, as last told to `spend`
        earlier = None if path is None else _read_same_kind(path, record.kind)
        if earlier is not None and not goes_on and _identity(earlier) != _identity(record):
            earlier = None
        here = environment()
        first = (earlier or record).environment.get("first", here)
        self.record = replace(
            record,
            experiment=_plain(record.experiment),
            hash=experiment_hash(record.experiment),
            status="running",
            commands=(*(earlier.commands if earlier else ()), *record.commands),
            environment={"first": first, "latest": here},
            holder={"host": socket.gethostname(), "pid": os.getpid()},
            started=earlier.started if earlier else _now(),
            ended=None,
            error=None,
            cost=earlier.cost if earlier else record.cost,
        )
        self._cost = self.record.cost
        self._write(self.record)

    def update(self, **changes: Any) -> None:
        """Replace fields and write the record: what is known later (class names, history, cost so far)."""
        self.record = self._write(replace(self.record, **changes))

    def spend(self, *, images: int, devices: int = 1) -> Cost:
        """The cost so far: earlier starts, and this one's clock. images: trained on in this start."""
        self._images, self._devices = images, devices
        seconds = time.monotonic() - self._clock
        before = self._cost
        return Cost(
            round(before.seconds + seconds, 3),
            before.images + images,
            round(before.device_seconds + seconds * devices, 3),
        )

    def finish(self, figures: Mapping[str, float | None], **changes: Any) -> Record:
        """Complete the record: status done. `changes`: other fields (history, cost, details)."""
        changes.setdefault("cost", self.spend(images=self._images, devices=self._devices))
        figures = {name: _number(value) for name, value in figures.items()}
        self.record = self._write(replace(self.record, status="done", ended=_now(), figures=figures, **changes))
        return self.record

    def __enter__(self) -> OpenRecord:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.record.status != "running":
            return
        stopped = error is None or isinstance(error, (KeyboardInterrupt, Terminated))
        text = (
            None
            if error is None
            else str(error)
            if isinstance(error, (UserError, Terminated))
            else f"{kind and kind.__name__}: {error}"
        )
        cost = self.spend(images=self._images, devices=self._devices)
        self.record = replace(
            self.record, status="stopped" if stopped else "failed", ended=_now(), error=text, cost=cost
        )
        with contextlib.suppress(DataError):  # a full disk, which may be what ended the run: that error counts
            self._write(self.record)

    def _write(self, record: Record) -> Record:
        if self._path is not None:
            _publish(self._path, record)
        return record


def _publish(path: Path, record: Record) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, to_plain(record))
    except OSError as error:
        kept = "; what it said before is untouched" if path.exists() else ""
        raise DataError(f"could not write {path}: {error}{kept}") from error


def end_record(path: Path, status: Status, error: str) -> None:
    """Complete the record of a run whose process ended without doing so; one that says how it ended, or none, stays."""
    if not path.exists():
        return
    record = read_record(path)
    if record.status == "running":
        _publish(path, replace(record, status=status, ended=_now(), error=error))


def to_plain(record: Record) -> dict[str, Any]:
    """The content of the file. A figure that is not finite is null."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(record), default=_json_value), parse_constant=lambda _: None)
    return {"format": FORMAT, "version": VERSION, **values}


def read_record(path: Path) -> Record:
    """Read a record. Raises DataError for a file that is absent, damaged, of another version, or whose fields are others."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise DataError(f"no record at {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not readable JSON ({error}); remove this run from the list, or run it again"
        ) from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise DataError(f"{path} is not a record of this project (no format {FORMAT!r})")
    version = values.pop("version", None)
    if version != VERSION:
        raise DataError(f"{path}: expected version {VERSION} of a record, found {version!r}")
    record = _build(path, values)
    if record.hash != experiment_hash(record.experiment):
        raise DataError(f"{path}: its hash is not that of its experiment; it was edited by hand. Run it again")
    return record


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _build(path: Path, values: dict[str, Any]) -> Record:
    known = {entry.name for entry in fields(Record)}
    wrong = sorted(set(values) ^ known)
    if wrong:
        raise DataError(
            f"{path}: expected the fields {', '.join(sorted(known))}; missing or unknown: {', '.join(wrong)}"
        )
    kinds: dict[str, Any] = dict.fromkeys(("kind", "status", "hash", "started"), str)
    kinds |= dict.fromkeys(
        ("experiment", "config", "seeds", "data", "environment", "holder", "cost", "figures", "details"), dict
    )
    kinds |= dict.fromkeys(("commands", "class_names", "history"), list)
    kinds |= dict.fromkeys(("metric", "ended", "error"), (str, type(None)))
    kinds |= {"initialisation": (dict, type(None))}
    bad = [key for key, kind in kinds.items() if not isinstance(values[key], kind)]
    bad += [key for key, choices in (("kind", Kind), ("status", Status)) if values[key] not in get_args(choices)]
    bad += [
        f"figures.{name}"
        for name, value in (values["figures"].items() if isinstance(values["figures"], dict) else ())
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)))
    ]
    bad += [
        f"seeds.{name}"
        for name, value in (values["seeds"].items() if isinstance(values["seeds"], dict) else ())
        if value is not None and type(value) is not int
    ]
    bad += [
        key
        for key, kind in (("commands", str), ("class_names", str), ("history", dict))
        if isinstance(values[key], list) and not all(isinstance(entry, kind) for entry in values[key])
    ]
    if bad:
        raise DataError(f"{path}: of another type than expected: {', '.join(bad)}")
    start = values["initialisation"]
    return Record(
        **{
            **values,
            **{key: tuple(values[key]) for key in ("commands", "class_names", "history")},
            "cost": _part(path, Cost, values["cost"], "cost"),
            "data": {role: _part(path, DataRecord, entry, f"data.{role}") for role, entry in values["data"].items()},
            "initialisation": None if start is None else _part(path, Initialisation, start, "initialisation"),
        }
    )


def _part(path: Path, cls: Any, values: Any, name: str) -> Any:
    known = {entry.name: entry.default is MISSING for entry in fields(cls)}
    if (
        not isinstance(values, dict)
        or not set(values) <= set(known)
        or not {k for k, v in known.items() if v} <= set(values)
    ):
        raise DataError(f"{path}: {name}: expected the fields {', '.join(known)}")
    bad = [
        f"{name}.{key}"
        for key, value in values.items()
        if isinstance(value, bool) or not isinstance(value, PART_TYPES[key])
    ]
    if bad:
        raise DataError(f"{path}: of another type than expected: {', '.join(bad)}")
    return cls(**values)


# Of the fields of Initialisation, DataRecord and Cost.
PART_TYPES: dict[str, Any] = {
    **dict.fromkeys(("name", "source", "weights", "spec", "fingerprint"), str),
    **dict.fromkeys(("sha256", "layout", "method"), (str, type(None))),
    **dict.fromkeys(("num_images", "images"), int),
    **dict.fromkeys(("num_available", "random_seed"), (int, type(None))),
    **dict.fromkeys(("seconds", "device_seconds"), (int, float)),
    "pretraining": (dict, type(None)),
}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
