"""The record of a detection run as it begins, and what a run that goes on must have in common with its beginning.

In: `RunOptions`, the resolved configuration, data and weights; for --resume the record in OUTPUT_DIR. Out: a `Record`, or a
ConfigError that names every difference. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.base.errors import ConfigError, DataError, did_you_mean
from pretrain.base.record import RECORD, DataRecord, Initialisation, Record, read_record, to_plain, without
from pretrain.base.same_run import differences
from transfer.conversion.initialisation import RANDOM, initialisation_of
from transfer.data.fingerprint import fingerprint, joined_fingerprint
from transfer.data.spec import PreparedData
from transfer.detect.config import plain_values
from transfer.detect.experiment import DECIDES_NOTHING, experiment_config
from transfer.detect.inits import Init
from transfer.detect.loading import WeightsPlan
from transfer.detect.options import RunOptions
from transfer.detect.trainer import DetectionTrainer

ACCUMULATE = "accumulate"  # of a record's details and experiment: in how many parts a batch is run
GROUND_TRUTH = "test_file"  # of a record's details: the COCO file of a built-in data set
INIT = "init"  # of a record's details: what --init asked for and applied


def begin_record(
    options: RunOptions,
    config: CfgNode,
    own: PreparedData | None,
    weights: WeightsPlan,
    earlier: Record | None,
    init: Init | None = None,
) -> Record:
    """The record of a run as it begins. own: the user's own data. init: what --init asked for."""
    train = () if options.eval_only else tuple(config.DATASETS.TRAIN)
    test = tuple(config.DATASETS.TEST)
    builtin = {role: _builtin_record(sets) for role, sets in (("train", train), ("test", test)) if sets and own is None}
    data = builtin if own is None else own.data_records
    names = tuple(MetadataCatalog.get((*train, *test)[0]).thing_classes)
    metric = DetectionTrainer.metric(test[0]) if test else None
    experiment: dict[str, Any] = {
        "config": experiment_config(config),
        "data": {role: split.fingerprint for role, split in data.items()},
        "metric": metric,
        "class_names": names,
    }
    details: dict[str, Any] = {
        "config_file": options.config_file,
        "eval_only": options.eval_only,
        "iterations": 0,
        "num_processes": options.num_processes,
    }
    if options.eval_only:
        experiment["evaluation_of"] = details["evaluation_of"] = weights.trained.hash if weights.trained else None
        seed = weights.trained.seeds.get("run") if weights.trained else None
    else:
        if options.accumulate > 1:  # BatchNorm sees one part: another experiment
            experiment[ACCUMULATE] = details[ACCUMULATE] = options.accumulate
        details["num_train_images"] = sum(map(_num_labelled, train))
        seed = config.SEED
    if own is not None and own.notes:
        details["data_notes"] = list(own.notes)  # what was repaired or left out, with counts
    if own is None and len(test) == 1 and (truth := MetadataCatalog.get(test[0]).get("json_file")):
        details[GROUND_TRUTH] = str(
            Path(truth).absolute()
        )  # DETECTRON2_DATASETS may be another one when it is looked for
    if weights.sidecar:
        details["sidecar"] = weights.sidecar
    if init is not None:
        details[INIT] = asdict(init)
    start = _initialisation(options, config, weights, earlier, init)
    return Record(
        kind="detection",
        experiment=experiment,
        config=plain_values(config),
        seeds={"run": seed, "pretraining": (start.pretraining or {}).get("seed")},
        commands=(options.command,) if options.command else (),
        data=data,
        class_names=names,
        metric=metric,
        initialisation=start,
        details=details,
    )


def _initialisation(
    options: RunOptions, config: CfgNode, weights: WeightsPlan, earlier: Record | None, init: Init | None
) -> Initialisation:
    """What the detector was trained from: for an evaluated or continued one, what its own record says."""
    own = weights.trained if options.eval_only else earlier if weights.kind == "checkpoint" else None
    if own is not None and own.initialisation is not None:
        return own.initialisation
    start = weights.weights if options.eval_only else config.MODEL.WEIGHTS
    asked = init.name if init is not None and (init.weights or init.name != RANDOM) else None
    return initialisation_of(start, asked=asked, sidecar=weights.sidecar, random_seed=None if start else config.SEED)


def recorded_init(output_dir: Path) -> Init | None:
    """What the run in a folder was started from by --init; None where no record there says so."""
    try:
        values = read_record(output_dir / RECORD).details.get(INIT)
        return Init(**values) if isinstance(values, dict) else None
    except (DataError, TypeError):
        return None  # whether a record must be there is the run's question


def _builtin_record(sets: Sequence[str]) -> DataRecord:
    """Data sets that the configuration names, which Detectron2 joins."""
    records = [list(DatasetCatalog.get(name)) for name in sets]
    names = [MetadataCatalog.get(name).thing_classes for name in sets]  # of some known once they are read
    prints = [fingerprint(part, classes) for part, classes in zip(records, names, strict=True)]
    return DataRecord(", ".join(sets), joined_fingerprint(prints), sum(map(len, records)))


def _num_labelled(name: str) -> int:
    """Images with at least one object that counts: training skips the others."""
    return sum(
        any(not thing.get("iscrowd", 0) for thing in record.get("annotations", ()))
        for record in DatasetCatalog.get(name)
    )


def earlier_record(output_dir: Path) -> Record | None:
    """The record of the run that is to go on; None where there is none. Raises ConfigError, DataError."""
    path = output_dir / RECORD
    if not path.exists():
        return None
    record = read_record(path)
    if record.kind != "detection" or record.details.get("eval_only"):
        raise ConfigError(
            f"{path} is the record of {'an evaluation' if record.kind == 'detection' else record.kind}: no training to go on with; "
            "name another OUTPUT_DIR"
        )
    return record


def going_on(options: RunOptions, output_dir: Path) -> tuple[RunOptions, bool]:
    """`options` with `resume` where a training in OUTPUT_DIR goes on with the same command; and whether that is finished.

    A run that is stopped or killed goes on when its command is given again; a finished one is evaluated again with --resume alone.
    """
    if options.eval_only or options.resume:
        return options, False
    try:
        found = read_record(output_dir / RECORD)
    except DataError:
        return options, False  # the folder is in use, or empty
    if found.kind != "detection" or found.details.get("eval_only"):
        return options, False
    return replace(options, resume=True), found.status == "done" and not options.allow_change


def continue_record(record: Record, earlier: Record, options: RunOptions) -> tuple[Record, tuple[str, ...]]:
    """`record` of a run that goes on from `earlier`, with what was allowed to change; and notes on that.

    Raises ConfigError for every difference that was not allowed.
    """
    there, now = _decisive(earlier), _decisive(record)
    unknown = [key for key in options.allow_change if key not in there | now]
    if unknown:
        raise ConfigError(f"--allow-change {unknown[0]}: no such key{did_you_mean(unknown[0], there | now)}")
    found = {line.partition(":")[0]: line for line in differences(there, now)}
    refused = [line for key, line in found.items() if key not in options.allow_change or key == "class_names"]
    if refused:
        raise ConfigError(
            f"the run in OUTPUT_DIR began with other values: {'; '.join(refused)}. Give it the same values, pass "
            "--allow-change KEY for each that you mean to change (class names cannot), or name another OUTPUT_DIR"
        )
    changes = [*earlier.details.get("changes", ()), *found.values()]
    details = {**record.details, "iterations": earlier.details.get("iterations", 0)}
    details |= {"changes": changes} if changes else {}
    notes = [f"changed, as --allow-change says: {line}" for line in found.values()]
    notes += [f"--allow-change {key}: nothing changed in it" for key in options.allow_change if key not in found]
    return replace(record, details=details, history=earlier.history), tuple(notes)


def _decisive(record: Record) -> dict[str, Any]:
    """What a run that goes on must have in common with its beginning, {key: JSON value}."""
    values = to_plain(record)
    data = {f"data.{role}": split["fingerprint"] for role, split in values["data"].items()}
    accumulate = {ACCUMULATE: values["details"].get(ACCUMULATE, 1)}
    return {**without(values["config"], DECIDES_NOTHING), **data, **accumulate, "class_names": values["class_names"]}
