"""Finding runs: which folders are runs, what is finished, what is not, what is none.

In: folders (runs, or folders that hold runs up to three levels down). Out: `Runs`. A run without its result file counts
as unfinished: it is listed and its curves may be drawn, but its figures enter no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pretrain.base.errors import DataError
from transfer.compare.runs import Runs, UnfinishedRun, load_json, read_detection, read_linear, read_pretraining

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
            if (path / "linear_result.json").exists():
                linear.append(read_linear(path))
            else:
                unfinished.append(UnfinishedRun(path, kind, "linear_result.json"))
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
        kind = FORMATS.get(_format_of(path / "result.json"))
        if kind is not None:
            return kind
    if "config.yaml" in names and names & {"log.jsonl", "environment.json", "command.txt"}:
        return "pre-training"
    return "detection" if "metrics.json" in names or {"config.yaml", "log.txt"} <= names else None


def _format_of(path: Path) -> str:
    """Many programs write a result.json: one that is not ours, or damaged, makes no run of its folder by itself."""
    try:
        return str(load_json(path).get("format"))
    except DataError:
        return ""


def _listing(path: Path) -> str:
    names = [entry.name for entry in _entries(path)]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "an empty folder"
