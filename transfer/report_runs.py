"""Reading run directories for the report: what is finished, what is not, what is none.

In: folders (runs, or folders that hold runs up to three levels down). Out: `Runs`. A run without its result file counts
as unfinished: it is listed and its curves may be drawn, but its figures enter no table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.errors import DataError
from pretrain.strict import load_yaml

SEARCH_DEPTH = 3
FORMATS = {
    "infomin-transfer/detection-result": "detection",
    "infomin-transfer/linear-result": "linear",
    "infomin-transfer/pretrain-result": "pre-training",
}
EXPECTED = (
    "a pre-training run (result.json, or config.yaml with environment.json or log.jsonl), "
    "a detection run (result.json, or metrics.json) or a linear readout (linear_result.json)"
)
Metrics = Mapping[str, float]  # "bbox/AP50" -> AP points


@dataclass(frozen=True)
class DetectionRun:
    """A finished fine-tuning. metrics: "bbox/AP50" -> points. history: (iteration, metrics). curve: metrics.json's rows."""

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
            run = _read_pretraining(path)
            pretraining.append(run)
            if run.steps is None:
                unfinished.append(UnfinishedRun(path, kind, "result.json"))
        elif kind == "linear":
            if (path / "linear_result.json").exists():
                linear.append(_read_linear(path))
            else:
                unfinished.append(UnfinishedRun(path, kind, "linear_result.json"))
        elif (path / "result.json").exists():
            detection.append(_read_detection(path))
        else:
            unfinished.append(UnfinishedRun(path, kind, "result.json"))
    return Runs(tuple(pretraining), tuple(linear), tuple(detection), tuple(unfinished))


def _search(path: Path, depth: int) -> Iterator[tuple[Path, str]]:
    kind = kind_of(path)
    if kind is not None:
        yield path, kind
    elif depth > 0:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _search(child, depth - 1)


def kind_of(path: Path) -> str | None:
    """ "pre-training", "linear" or "detection" for a run directory, finished or not; None for any other folder."""
    names = {entry.name for entry in path.iterdir()}
    if names & {"linear_result.json", "linear_started.json"}:
        return "linear"
    if "result.json" in names:
        kind = FORMATS.get(str(_load_json(path / "result.json").get("format")))
        if kind is not None:
            return kind
    if "config.yaml" in names and names & {"log.jsonl", "environment.json", "command.txt"}:
        return "pre-training"
    return "detection" if "metrics.json" in names or {"config.yaml", "log.txt"} <= names else None


def _listing(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "an empty folder"


def _load_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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


def _require(
    path: Path, result: Mapping[str, Any], format_name: str, keys: Mapping[str, type | tuple[type, ...]]
) -> None:
    """Raises DataError unless the file is of this format, version 1, with these keys of these types."""
    if result.get("format") != f"infomin-transfer/{format_name}" or result.get("version") != 1:
        found = f"{result.get('format')!r} version {result.get('version')!r}"
        raise DataError(f"{path}: expected infomin-transfer/{format_name} version 1, found {found}")
    wrong = [key for key, kind in keys.items() if not isinstance(result.get(key), kind)]
    if wrong:
        raise DataError(
            f"{path}: expected the keys {', '.join(keys)}; missing or of another type: {', '.join(wrong)}; "
            "remove this run from the list, or run it again"
        )


def _flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """{"bbox": {"AP": 1.0}} -> {"bbox/AP": 1.0}; what is no number is left out."""
    return {
        f"{task}/{name}": float(value)
        for task, figures in metrics.items()
        if isinstance(figures, dict)
        for name, value in figures.items()
        if isinstance(value, (int, float))
    }


def _read_detection(path: Path) -> DetectionRun:
    file = path / "result.json"
    result = _load_json(file)
    text = dict.fromkeys(("init", "weights", "config_file", "command", "train_data", "test_data"), str)
    kinds = {**text, "seed": int, "iterations": int, "num_train_images": int, "class_names": list, "metrics": dict}
    _require(file, result, "detection-result", kinds)
    samples = _load_json(path / "samples.json").get("images", []) if (path / "samples.json").exists() else []
    history = [
        (int(entry["iteration"]), _flatten(entry.get("metrics", {})))
        for entry in result.get("history", [])
        if isinstance(entry, dict) and "iteration" in entry
    ]
    curve = {int(row["iteration"]): row for row in _load_lines(path / "metrics.json") if "iteration" in row}
    return DetectionRun(
        path=path,
        sidecar=result.get("sidecar"),
        class_names=tuple(map(str, result["class_names"])),
        metrics=_flatten(result["metrics"]),
        history=tuple(sorted(history, key=lambda entry: entry[0])),
        curve=tuple(curve[iteration] for iteration in sorted(curve)),  # a resumed run repeats rows: the last one holds
        samples=tuple(samples),
        **{key: result[key] for key in (*text, "seed", "iterations", "num_train_images")},
    )


def _read_linear(path: Path) -> LinearRun:
    file = path / "linear_result.json"
    result = _load_json(file)
    plain: dict[str, type | tuple[type, ...]] = dict.fromkeys(("init", "weights", "arch", "command"), str)
    plain |= {**dict.fromkeys(("seed", "num_train", "num_val"), int), **dict.fromkeys(("top1", "top5"), (int, float))}
    _require(file, result, "linear-result", {**plain, "classes": list, "protocol": dict, "history": list})
    return LinearRun(
        path=path,
        classes=tuple(map(str, result["classes"])),
        protocol=result["protocol"],
        history=tuple(result["history"]),
        **{key: result[key] for key in plain},
    )


def _read_pretraining(path: Path) -> PretrainRun:
    result = _load_json(path / "result.json") if (path / "result.json").exists() else None
    if result is not None:
        _require(path / "result.json", result, "pretrain-result", {"steps": int})
    commands = (
        (path / "command.txt").read_text(encoding="utf-8").splitlines() if (path / "command.txt").exists() else []
    )
    return PretrainRun(
        path=path,
        config=load_yaml(path / "config.yaml") if (path / "config.yaml").exists() else {},
        environment=_load_json(path / "environment.json") if (path / "environment.json").exists() else {},
        commands=tuple(line for line in commands if line.strip()),
        log=tuple(row for row in _load_lines(path / "log.jsonl") if "step" in row),
        steps=result["steps"] if result is not None else None,
        views=path / "views.png" if (path / "views.png").exists() else None,
    )


def shared_root(runs: Runs) -> Path | None:
    """The folder that all runs lie in, for short names; None for no runs."""
    everything = [run.path for kind in (runs.pretraining, runs.linear, runs.detection, runs.unfinished) for run in kind]
    if not everything:
        return None
    return Path(os.path.commonpath([path.parent for path in everything]))
