"""Run folders from before record.json, read into records: result.json, linear_result.json, and a pre-training's files.

Such a run has no hash: its experiment is built from what it left. What was not recorded then (fingerprints of a detector's
data, most often) is stood for by the names that were given, so that an old run is one experiment with other old runs of the
same names and never with a new one.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Set
from pathlib import Path, PurePath
from typing import Any, Literal

from pretrain.base.errors import DataError
from pretrain.base.record import DataRecord, Initialisation, Record, experiment_hash, without
from pretrain.base.strict import load_yaml
from pretrain.config import experiment_of
from transfer.compare.run_files import Keys, config_family, figures_of, load_json, objects, require_keys
from transfer.detect.experiment import experiment_config

OldKind = Literal["pretraining", "readout", "detection"]
LINEAR_RESULT = "linear_result.json"
KINDS: Mapping[str, OldKind] = {
    "infomin-transfer/detection-result": "detection",
    "infomin-transfer/linear-result": "readout",
    "infomin-transfer/pretrain-result": "pretraining",
}
NOT_RECORDED = "not recorded"


def old_kind(folder: Path, names: Set[str] | None = None) -> OldKind | None:
    """What a folder from before the record holds, finished or not; None for any other folder. names: of what lies in it."""
    if names is None:
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if names & {LINEAR_RESULT, "linear_started.json"}:
        return "readout"
    if "result.json" in names:
        # Many programs write a result.json: one that is not ours, or damaged, makes no run of its folder by itself.
        try:
            kind = KINDS.get(str(load_json(folder / "result.json").get("format")))
        except DataError:
            kind = None
        if kind is not None:
            return kind
    if "config.yaml" in names and names & {"log.jsonl", "environment.json", "command.txt"}:
        return "pretraining"
    return "detection" if "metrics.json" in names or {"config.yaml", "log.txt"} <= names else None


def read_old(folder: Path, kind: OldKind) -> Record:
    """The record that such a run would have left. Raises DataError for a damaged result, ConfigError for a config.yaml."""
    return {"pretraining": _pretraining, "readout": _readout, "detection": _detection}[kind](folder)


def _unfinished(kind: OldKind, missing: str) -> Record:
    return _record(kind=kind, experiment={}, config={}, seeds={}, status="stopped", error=f"no {missing}")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _record(**values: Any) -> Record:
    return Record(**values, hash=experiment_hash(values["experiment"]))


# --- detection --------------------------------------------------------------------------------------------------------


def _detection(folder: Path) -> Record:
    file = folder / "result.json"
    if not file.exists():
        return _unfinished("detection", file.name)
    result = load_json(file)
    text = dict.fromkeys(("init", "weights", "config_file", "command", "train_data", "test_data"), str)
    numbers = dict.fromkeys(("seed", "iterations", "num_train_images"), int)
    _require(file, result, "detection-result", {**text, **numbers, "class_names": list, "metrics": dict})
    config = load_yaml(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    sidecar = _mapping(result.get("sidecar"))
    data = {
        "train": _unseen(result["train_data"], result["num_train_images"]),
        "test": _unseen(result["test_data"], 0),
    }
    classes = tuple(map(str, result["class_names"]))
    metric = _detection_metric(result["test_data"])
    experiment = {
        "config": experiment_config(config) if config else {"family": config_family(result["config_file"])},
        "data": {role: entry.fingerprint for role, entry in data.items()},
        "num_train_images": result["num_train_images"],
        "iterations": result["iterations"],
        "class_names": classes,
        "metric": metric,
    }
    return _record(
        kind="detection",
        experiment=experiment,
        config=config,
        seeds={"run": result["seed"], "pretraining": None},
        status="done",
        commands=(result["command"],) if result["command"] else (),
        data=data,
        class_names=classes,
        metric=metric,
        initialisation=_initialisation(result["init"], result["weights"], sidecar),
        figures=figures_of(result),
        history=tuple(
            {"iteration": row["iteration"], **figures_of(row)}
            for row in objects(result.get("history"), numbered_by="iteration")
        ),
        details={
            "config_file": result["config_file"],
            "iterations": result["iterations"],
            **({"sidecar": sidecar} if sidecar else {}),
        },
    )


def _unseen(spec: str, num_images: int) -> DataRecord:
    return DataRecord(spec, f"{NOT_RECORDED}: {spec}", num_images)


def _detection_metric(test_data: str) -> str:
    """By the rule of that time: the 11-point metric where the folder was called VOC2007, or for Detectron2's own VOC 2007."""
    kind, _, rest = test_data.partition(":")
    if kind == "voc":
        eleven = PurePath(rest.rpartition(":")[0]).name == "VOC2007"
    elif test_data.startswith("voc_"):
        eleven = "2007" in test_data
    else:
        return "COCO AP, IoU .50:.95"
    return "VOC AP, 11 points (2007)" if eleven else "VOC AP, area under the curve"


def _initialisation(name: str, weights: str, sidecar: Mapping[str, Any]) -> Initialisation:
    sha, layout = sidecar.get("weights_sha256"), _mapping(sidecar.get("source")).get("layout")
    return Initialisation(
        name,
        "unknown",  # who said so was not recorded
        weights,
        sha256=sha if isinstance(sha, str) else None,
        layout=layout if isinstance(layout, str) else None,
    )


# --- readout ----------------------------------------------------------------------------------------------------------


def _readout(folder: Path) -> Record:
    file = folder / LINEAR_RESULT
    if not file.exists():
        return _unfinished("readout", LINEAR_RESULT)
    result = load_json(file)
    plain: dict[str, type | tuple[type, ...]] = dict.fromkeys(("init", "weights", "arch", "command"), str)
    plain |= {**dict.fromkeys(("seed", "num_train", "num_val"), int), **dict.fromkeys(("top1", "top5"), (int, float))}
    _require(file, result, "linear-result", {**plain, "classes": list, "protocol": dict, "history": list})
    identity = _mapping(result.get("identity"))
    prints, config = _mapping(identity.get("data")), _mapping(identity.get("config"))
    data = {
        role: DataRecord("", str(prints.get(old, NOT_RECORDED)), result[count])
        for role, old, count in (("train", "train", "num_train"), ("test", "val", "num_val"))
    }
    classes = tuple(map(str, result["classes"]))
    sha = identity.get("weights")
    experiment = {
        "config": without(config, ("seed",)) if config else {"protocol": result["protocol"]},
        "data": {role: entry.fingerprint for role, entry in data.items()},
        "num_images": {role: entry.num_images for role, entry in data.items()},
        "arch": result["arch"],
        "class_names": classes,
    }
    return _record(
        kind="readout",
        experiment=experiment,
        config=config,
        seeds={"run": result["seed"], "pretraining": None},
        status="done",
        commands=(result["command"],) if result["command"] else (),
        data=data,
        class_names=classes,
        metric="accuracy of a linear classifier, %",
        initialisation=Initialisation(
            result["init"],
            "unknown",
            result["weights"],
            sha256=sha if isinstance(sha, str) and sha != result["weights"] else None,
        ),
        figures={"top1": result["top1"], "top5": result["top5"]},
        history=tuple(objects(result["history"])),
        details={"protocol": result["protocol"]},
    )


# --- pre-training -----------------------------------------------------------------------------------------------------


def _pretraining(folder: Path) -> Record:
    file, environment = folder / "result.json", folder / "environment.json"
    result = load_json(file) if file.exists() else None
    if result is not None:
        _require(file, result, "pretrain-result", {"steps": int})
    config = load_yaml(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    here = load_json(environment) if environment.exists() else {}
    return _record(
        kind="pretraining",
        experiment={"config": experiment_of(config)},
        config=config,
        seeds={"run": config["seed"] if isinstance(config.get("seed"), int) else None},
        status="done" if result is not None else "stopped",
        error=None if result is not None else f"no {file.name}",
        commands=tuple(_read_commands(folder / "command.txt")),
        environment={"first": here, "latest": here} if here else {},
        details={"steps": result["steps"]} if result is not None else {},
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


def _require(path: Path, result: Mapping[str, Any], format_name: str, keys: Keys) -> None:
    """Raises DataError unless the file is of this format, version 1, with these keys of these types."""
    if result.get("format") != f"infomin-transfer/{format_name}" or result.get("version") != 1:
        found = f"{result.get('format')!r} version {result.get('version')!r}"
        raise DataError(f"{path}: expected infomin-transfer/{format_name} version 1, found {found}")
    require_keys(path, result, keys)
