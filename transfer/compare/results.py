"""The one reader of results: finding run folders, and reading what a run left in one.

What decides a figure must be there and of its type, or DataError names the file; curves and pictures are taken as far as
they can be read. A run without its result file is unfinished: it is listed and its curves may be drawn, but its figures
enter no table.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from pretrain.base.errors import DataError
from pretrain.base.record import RECORD, Record, read_record
from pretrain.base.strict import load_yaml

SEARCH_DEPTH = 3
LINEAR_RESULT = "linear_result.json"
KINDS = {
    "infomin-transfer/detection-result": "detection",
    "infomin-transfer/linear-result": "linear",
    "infomin-transfer/pretrain-result": "pre-training",
}
EXPECTED = (
    "a pre-training run (result.json, or config.yaml with environment.json or log.jsonl), "
    "a detection run (result.json, or metrics.json) or a linear readout (linear_result.json)"
)
Metrics = Mapping[str, float]  # "bbox/AP50" -> AP points
Keys = Mapping[str, type | tuple[type, ...]]
MISSING = object()  # is of no type that is asked for


@dataclass(frozen=True)
class DetectionRun:
    """A finished fine-tuning.

    metrics: "bbox/AP50" -> AP points; what could not be computed is left out.
    history: (iteration, metrics).
    curve: rows of Detectron2's metrics.json.
    """

    path: Path
    init: str
    weights: str
    sidecar: Mapping[str, Any] | None
    seed: int
    iterations: int
    config_file: str
    command: str
    train_data: str
    test_data: str
    num_train_images: int
    class_names: tuple[str, ...]
    metrics: Metrics
    history: tuple[tuple[int, Metrics], ...]
    curve: tuple[Mapping[str, Any], ...]
    samples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class LinearRun:
    """A finished readout. top1, top5: percent."""

    path: Path
    init: str
    weights: str
    arch: str
    seed: int
    num_train: int
    num_val: int
    classes: tuple[str, ...]
    protocol: Mapping[str, Any]
    command: str
    top1: float
    top5: float
    history: tuple[Mapping[str, Any], ...]

    @property
    def metrics(self) -> Metrics:
        """ "top1" and "top5" -> percent."""
        return {"top1": self.top1, "top5": self.top5}


@dataclass(frozen=True)
class PretrainRun:
    """A pre-training run, finished or not. log: the logged steps. steps: None while unfinished."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    commands: tuple[str, ...]
    log: tuple[Mapping[str, Any], ...]
    steps: int | None
    views: Path | None

    def setting(self, group: str, key: str) -> Any:
        """`group.key` of the configuration, None where there is none."""
        values = self.config.get(group)
        return values.get(key) if isinstance(values, Mapping) else None


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


@dataclass(frozen=True)
class UnfinishedRun:
    """A run directory without its result."""

    path: Path
    kind: str
    missing: str


@dataclass(frozen=True)
class Runs:
    """Everything found, each kind in the order of its paths."""

    pretraining: tuple[PretrainRun, ...]
    linear: tuple[LinearRun, ...]
    detection: tuple[DetectionRun, ...]
    unfinished: tuple[UnfinishedRun, ...]

    def __len__(self) -> int:
        """Number of runs, finished or not."""
        finished = sum(run.steps is not None for run in self.pretraining)
        return finished + len(self.linear) + len(self.detection) + len(self.unfinished)


def _load_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises DataError if it is absent, damaged or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not readable JSON ({error}); remove this run from the list, or run it again"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _load_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Objects of a JSON-lines file; a line cut short by a kill is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return tuple(rows)


def _require(path: Path, result: Mapping[str, Any], format_name: str, keys: Keys) -> None:
    """Raises DataError unless the file is of this format, version 1, with these keys of these types."""
    if result.get("format") != f"infomin-transfer/{format_name}" or result.get("version") != 1:
        found = f"{result.get('format')!r} version {result.get('version')!r}"
        raise DataError(f"{path}: expected infomin-transfer/{format_name} version 1, found {found}")
    _with_keys(path, result, keys)


def _with_keys(path: Path, values: Any, keys: Keys) -> Mapping[str, Any]:
    """`values`, which has these keys of these types. Raises DataError otherwise."""
    values = values if isinstance(values, dict) else {}
    wrong = [key for key, kind in keys.items() if not isinstance(values.get(key, MISSING), kind)]
    if wrong:
        raise DataError(
            f"{path}: expected the keys {', '.join(keys)}; missing or of another type: {', '.join(wrong)}; "
            "remove this run from the list, or run it again"
        )
    return values


def is_number(value: Any) -> bool:
    """A finite int or float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _flatten(metrics: Any) -> dict[str, float]:
    """{"bbox": {"AP": 1.0}} -> {"bbox/AP": 1.0}; what is no finite number (a class without objects) is left out."""
    return {
        f"{task}/{name}": float(value)
        for task, figures in (metrics.items() if isinstance(metrics, dict) else ())
        if isinstance(figures, dict)
        for name, value in figures.items()
        if is_number(value)
    }


def _objects(values: Any, *, numbered_by: str = "") -> list[Mapping[str, Any]]:
    """The objects of a list; with `numbered_by`, those that have a number under that key."""
    if not isinstance(values, Iterable):
        return []
    rows: list[Mapping[str, Any]] = [value for value in values if isinstance(value, dict)]
    return [row for row in rows if is_number(row.get(numbered_by))] if numbered_by else rows


def read_detection(path: Path) -> DetectionRun:
    """A finished detection run. Raises DataError for a damaged or incomplete result.json."""
    file = path / "result.json"
    result = _load_json(file)
    text = dict.fromkeys(("init", "weights", "config_file", "command", "train_data", "test_data"), str)
    numbers = dict.fromkeys(("seed", "iterations", "num_train_images"), int)
    _require(file, result, "detection-result", {**text, **numbers, "class_names": list, "metrics": dict})
    history = _objects(result.get("history"), numbered_by="iteration")
    curve = {
        int(row["iteration"]): row for row in _objects(_load_lines(path / "metrics.json"), numbered_by="iteration")
    }
    sidecar = result.get("sidecar")
    return DetectionRun(
        path=path,
        sidecar=sidecar if isinstance(sidecar, dict) else None,
        class_names=tuple(map(str, result["class_names"])),
        metrics=_flatten(result["metrics"]),
        history=tuple(
            sorted(
                ((int(entry["iteration"]), _flatten(entry.get("metrics"))) for entry in history), key=lambda at: at[0]
            )
        ),
        curve=tuple(curve[iteration] for iteration in sorted(curve)),  # a resumed run repeats rows: the last one holds
        samples=_read_samples(path / "samples.json"),
        **{key: result[key] for key in (*text, *numbers)},
    )


def _read_samples(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Pictures decide no figure: a file that cannot be read means no pictures."""
    try:
        return tuple(_objects(_load_json(path).get("images"))) if path.exists() else ()
    except DataError:
        return ()


def read_linear(path: Path) -> LinearRun:
    """A finished readout. Raises DataError for a damaged or incomplete linear_result.json."""
    file = path / LINEAR_RESULT
    result = _load_json(file)
    plain: dict[str, type | tuple[type, ...]] = dict.fromkeys(("init", "weights", "arch", "command"), str)
    plain |= {**dict.fromkeys(("seed", "num_train", "num_val"), int), **dict.fromkeys(("top1", "top5"), (int, float))}
    _require(file, result, "linear-result", {**plain, "classes": list, "protocol": dict, "history": list})
    return LinearRun(
        path=path,
        classes=tuple(map(str, result["classes"])),
        protocol=result["protocol"],
        history=tuple(_objects(result["history"])),
        **{key: result[key] for key in plain},
    )


def read_pretraining(path: Path) -> PretrainRun:
    """A pre-training run, finished or not. Raises DataError for a damaged result.json, ConfigError for such a config.yaml."""
    result = _load_json(path / "result.json") if (path / "result.json").exists() else None
    if result is not None:
        _require(path / "result.json", result, "pretrain-result", {"steps": int})
    environment = path / "environment.json"
    return PretrainRun(
        path=path,
        config=load_yaml(path / "config.yaml") if (path / "config.yaml").exists() else {},
        environment=_load_json(environment) if environment.exists() else {},
        commands=tuple(_read_commands(path / "command.txt")),
        log=tuple(_objects(_load_lines(path / "log.jsonl"), numbered_by="step")),
        steps=result["steps"] if result is not None else None,
        views=path / "views.png" if (path / "views.png").exists() else None,
    )


def _read_commands(path: Path) -> list[str]:
    """Commands as one types them: the file holds the script and its arguments, without the interpreter."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return [f"python {line}" if _is_script(line) else line for line in lines]


def _is_script(line: str) -> bool:
    try:
        return shlex.split(line)[0].endswith(".py")
    except (ValueError, IndexError):  # a line cut short by a kill
        return False


@dataclass(frozen=True)
class RecordedRun:
    """A run that left a record."""

    record: Record

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its figures, less those that could not be computed."""
        return {name: float(value) for name, value in self.record.figures.items() if value is not None}


def read_result(path: Path) -> DetectionRun | LinearRun | RecordedRun:
    """The measurement whose result file is `path`. Raises DataError for a damaged or incomplete one."""
    if path.name == RECORD and path.exists():
        return RecordedRun(read_record(path))
    linear = path.name == LINEAR_RESULT or (path.parent / LINEAR_RESULT).exists()
    return read_linear(path.parent) if linear else read_detection(path.parent)


def read_information(path: Path) -> Information:
    """I_NCE out of what tools/measure_views.py or tools/evaluate_views.py wrote. Raises DataError for another file."""
    values = (read_record(path).details if path.name == RECORD else _load_json(path)).get("information")
    figures = dict.fromkeys(("nats", "low", "high"), (int, float))
    kinds: Keys = {"bound": str, **figures, "ceiling": (int, float, NoneType), "saturated": bool}
    values = _with_keys(path, values, kinds)
    if values["bound"] != "info_nce":
        raise DataError(f"{path}: expected an estimate of info_nce, found {values['bound']!r}")
    ceiling = values["ceiling"]
    return Information(
        **{name: float(values[name]) for name in figures},
        ceiling=None if ceiling is None else float(ceiling),
        saturated=values["saturated"],
    )


def read_probe(path: Path) -> float:
    """Top-1 (%) of the probe on both encoders out of view_result.json. Raises DataError for another file."""
    return float(_with_keys(path, _load_json(path).get("probe"), {"top1": (int, float)})["top1"])


def read_runs(paths: Sequence[Path]) -> Runs:
    """Read every run at or below `paths`. Raises DataError for a path without any run and for a damaged result file."""
    found: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(f"no folder at {path}; expected {EXPECTED}, or a folder that holds such runs")
        here = dict(_search(path, SEARCH_DEPTH))
        if not here:
            raise DataError(
                f"no run in {path} nor {SEARCH_DEPTH} levels below; found {_listing(path)}; expected {EXPECTED}"
            )
        found |= {run.resolve(): kind for run, kind in here.items()}
    pretraining, linear, detection, unfinished = [], [], [], []
    for path, kind in sorted(found.items()):
        if kind == "pre-training":
            run = read_pretraining(path)
            pretraining.append(run)
            if run.steps is None:
                unfinished.append(UnfinishedRun(path, kind, "result.json"))
        elif kind == "linear":
            if (path / LINEAR_RESULT).exists():
                linear.append(read_linear(path))
            else:
                unfinished.append(UnfinishedRun(path, kind, LINEAR_RESULT))
        elif (path / "result.json").exists():
            detection.append(read_detection(path))
        else:
            unfinished.append(UnfinishedRun(path, kind, "result.json"))
    return Runs(tuple(pretraining), tuple(linear), tuple(detection), tuple(unfinished))


def _search(path: Path, depth: int) -> Iterator[tuple[Path, str]]:
    kind = kind_of(path)
    if kind is not None:
        yield path, kind
    elif depth > 0:
        for child in _entries(path):
            if child.is_dir() and not child.name.startswith("."):
                yield from _search(child, depth - 1)


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise DataError(f"cannot look into the folder {path}: {error.strerror or error}") from None


def kind_of(path: Path) -> str | None:
    """ "pre-training", "linear" or "detection" for a run directory, finished or not; None for any other folder."""
    names = {entry.name for entry in _entries(path)}
    if names & {"linear_result.json", "linear_started.json"}:
        return "linear"
    if "result.json" in names:
        kind = KINDS.get(_format_of(path / "result.json"))
        if kind is not None:
            return kind
    if "config.yaml" in names and names & {"log.jsonl", "environment.json", "command.txt"}:
        return "pre-training"
    return "detection" if "metrics.json" in names or {"config.yaml", "log.txt"} <= names else None


def _format_of(path: Path) -> str:
    """Many programs write a result.json: one that is not ours, or damaged, makes no run of its folder by itself."""
    try:
        return str(_load_json(path).get("format"))
    except DataError:
        return ""


def _listing(path: Path) -> str:
    names = [entry.name for entry in _entries(path)]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "an empty folder"


def shared_root(runs: Runs) -> Path | None:
    """The folder that all runs lie in, for short names; None for no runs."""
    everything = [run.path for kind in (runs.pretraining, runs.linear, runs.detection, runs.unfinished) for run in kind]
    if not everything:
        return None
    return Path(os.path.commonpath([path.parent for path in everything]))
