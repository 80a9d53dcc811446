"""One detection run: from a command's options to record.json. Read `prepare_run` and `run_detection` first.

In: `RunOptions`. Out: Detectron2's files, record.json and samples.json in OUTPUT_DIR, or a UserError before anything is
written there. `--eval-only --resume` evaluates OUTPUT_DIR's own newest checkpoint and writes into OUTPUT_DIR/evaluation, so
that the run keeps its own record.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn

from pretrain.base.atomic import is_temporary, lock_folder, remove_temporaries
from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.base.record import RECORD, OpenRecord, Record
from pretrain.base.signals import StopFlag
from transfer.data.problems import ReadOptions
from transfer.data.spec import DataSpec, PreparedData, parse_spec, prepare_data
from transfer.detect.checkpointer import SafeCheckpointer, settle
from transfer.detect.coco_evaluation import EVALUATED_BY, engines_of
from transfer.detect.config import load_detector_config, resolve_config, sets_weights
from transfer.detect.config_files import resolve_config_path
from transfer.detect.doctor import diagnose_config, refuse_errors, sentence
from transfer.detect.figures import METRICS, figures_of
from transfer.detect.inits import (
    CATALOG,
    WEIGHTS_KEY,
    Init,
    apply_detectors_input,
    apply_init,
    parse_init,
    parses_to,
)
from transfer.detect.loading import WeightsPlan, plan_weights, verify_fits, verify_loaded
from transfer.detect.log import LOGGER, shorten_console
from transfer.detect.options import RunOptions
from transfer.detect.result import collect_samples, joined_history, read_history, write_samples
from transfer.detect.run_record import begin_record, continue_record, earlier_record, going_on, recorded_init
from transfer.detect.scaling import scale_config
from transfer.detect.trainer import DetectionTrainer

HEADLINE = ("AP", "AP50", "AP75")
TASK_NAMES = {"bbox": "boxes", "segm": "masks"}
LOCK = "run.lock"


@dataclass(frozen=True)
class DetectionRun:
    """A run that passed every check. It can be sent to another process, which reads no data again.

    options: as asked for.
    config: complete and frozen.
    data: the user's own; None where the configuration names built-in data sets.
    registered: what Detectron2's catalogs know about `data`: name -> records, metadata.
    weights: what it starts from.
    record: as it begins.
    notes, warnings: for the log, one sentence each.
    finished: figures of this very run, which OUTPUT_DIR holds: there is nothing to do. None for any other run.
    """

    options: RunOptions
    config: CfgNode
    data: PreparedData | None
    registered: Mapping[str, tuple[list[dict[str, Any]], dict[str, Any]]]
    weights: WeightsPlan
    record: Record
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    finished: Mapping[str, float | None] | None = None


def prepare_run(options: RunOptions) -> DetectionRun:
    """Load the configuration, the data and the weights' sidecar and check them against each other. Writes nothing.

    A training that OUTPUT_DIR holds unfinished goes on, without --resume too. Raises ConfigError, DataError or CheckpointError.
    """
    import_modules(options.modules)
    path = resolve_config_path(options.config_file)
    options, finished = going_on(options, Path(load_detector_config(path, options.overrides).OUTPUT_DIR))
    train, test = (parse_spec(text) if text else None for text in (options.train_data, options.test_data))
    check_options(options, train, test)
    asked, init, applied = ask_config(options)
    weights = plan_weights(asked, eval_only=options.eval_only, resume=options.resume, trust=options.trust)
    earlier = earlier_record(Path(asked.OUTPUT_DIR)) if options.resume and not options.eval_only else None
    data, warnings = own_data(options, train, test, weights)
    asked, scaled = scaled_config(options, asked, data)
    config, notes = resolve_config(
        asked,
        given=given_keys(options),
        data=data,
        num_processes=options.num_processes,
        num_machines=options.num_machines,
        seed=earlier.seeds.get("run") if earlier else None,
        output_dir=str(Path(asked.OUTPUT_DIR) / "evaluation") if options.eval_only and options.resume else None,
    )
    if data is None:
        check_builtin(config, eval_only=options.eval_only)
    if options.eval_only and not config.DATASETS.TEST:
        raise ConfigError("--eval-only needs data: give --test-data SPEC")
    if not options.eval_only and not config.DATASETS.TRAIN:
        raise ConfigError(
            "no training data: give --train-data SPEC and --test-data SPEC, or DATASETS.TRAIN for built-in data sets"
        )
    advice = (
        [] if options.eval_only else diagnose_config(config, data=data, init=init, num_processes=options.num_processes)
    )
    refuse_errors(advice)
    warnings += [sentence(finding) for finding in advice if finding.severity == "warning"]
    warnings += weights.newest.warnings if weights.newest else ()
    verify_fits(weights, config)
    record = begin_record(options, config, data, weights, earlier, init)
    said = {
        "scaled": list(scaled),
        "findings": [finding.to_dict() for finding in advice if finding.severity == "warning"],
    }
    record = replace(record, details={**record.details, **{key: value for key, value in said.items() if value}})
    if data is None and options.eval_only:
        warnings += _builtin_order(record, weights)
    if earlier is not None:
        record, more = continue_record(record, earlier, options)
        notes += more
    elif weights.kind == "checkpoint" and not options.eval_only:
        warnings.append(f"{asked.OUTPUT_DIR} has no record: nothing says whether this run began with the same values")
        record = replace(record, history=tuple(read_history(Path(asked.OUTPUT_DIR) / METRICS, config.SOLVER.MAX_ITER)))
    registered = {
        name: (list(DatasetCatalog.get(name)), MetadataCatalog.get(name).as_dict())
        for name in (data.train_name if data else None, data.test_name if data else None)
        if name is not None
    }
    found = [sentence(finding) for finding in advice if finding.severity == "note"]
    notes = (*applied, *scaled, *(data.notes if data else ()), *notes, *found, weights.note)
    figures = earlier.figures if finished and earlier is not None else None
    return DetectionRun(options, config, data, registered, weights, record, notes, tuple(warnings), figures)


def given_keys(options: RunOptions) -> frozenset[str]:
    """The keys of the command line, which always win or are refused."""
    return frozenset(options.overrides[::2])


def ask_config(options: RunOptions) -> tuple[CfgNode, Init | None, tuple[str, ...]]:
    """File and command line with the initialisation written in: the configuration that is asked for, the initialisation, and
    sentences on what was applied.

    Raises ConfigError where nothing says what a training starts from: it is never random for want of a word.
    """
    path = resolve_config_path(options.config_file)
    asked, given = load_detector_config(path, options.overrides), given_keys(options)
    output_dir = Path(asked.OUTPUT_DIR)
    known = recorded_init(output_dir) if options.resume else None
    if known is not None and (options.init is None or parses_to(options.init, known)):
        return asked, known, apply_init(asked, known, given)  # its weights need not be there any more
    if options.init is not None:
        init = parse_init(options.init, trust=options.trust)
        return asked, init, apply_init(asked, init, given)
    if options.eval_only:
        return asked, None, apply_detectors_input(asked, given)
    goes_on = options.resume and (output_dir / RECORD).exists()
    if not (goes_on or WEIGHTS_KEY in given or sets_weights(path)):
        raise ConfigError(
            f"nothing says what this detector starts from: pass --init mine=FILE (weights of tools/convert_weights.py), "
            f"--init random, or one of --init {', '.join(CATALOG)}"
        )
    return asked, None, ()


def scaled_config(options: RunOptions, asked: CfgNode, data: PreparedData | None) -> tuple[CfgNode, tuple[str, ...]]:
    """What `--scale auto` and `--accumulate` make of the configuration, and sentences on what was set. Raises ConfigError."""
    notes: tuple[str, ...] = ()
    if options.scale == "auto":
        published = load_detector_config(resolve_config_path(options.config_file))
        train = data.train if data is not None else None
        asked, notes = scale_config(
            asked, published, given=given_keys(options), num_processes=options.num_processes, train=train
        )
    parts = options.num_processes * options.accumulate
    if options.accumulate < 1 or asked.SOLVER.IMS_PER_BATCH % parts:
        raise ConfigError(
            f"--accumulate {options.accumulate}: expected a number of 1 or more by which the {asked.SOLVER.IMS_PER_BATCH} images of "
            f"SOLVER.IMS_PER_BATCH over {options.num_processes} processes can be divided"
        )
    return asked, notes


def check_options(options: RunOptions, train: DataSpec | None, test: DataSpec | None) -> None:
    """Flags that contradict each other. Raises ConfigError."""
    if test and not train and not options.eval_only:
        raise ConfigError(
            "--test-data is given without --train-data; training needs both (or neither, for built-in data sets)"
        )
    if train and not test and options.eval_only:
        raise ConfigError("--eval-only needs --test-data; --train-data is not evaluated on")
    if options.init is not None and options.eval_only and not options.resume:
        raise ConfigError(
            "--init says what a training starts from; an evaluation takes MODEL.WEIGHTS RUN/model_final.pth, or --resume for "
            "OUTPUT_DIR's own, and its input from the config.yaml beside it: leave --init out"
        )
    if options.eval_only and (options.scale != "none" or options.accumulate != 1):
        raise ConfigError("--scale and --accumulate are for a training: leave them out of --eval-only")
    if options.scale != "none" and options.accumulate != 1:
        raise ConfigError(
            "--scale auto changes the batch to what fits into memory, --accumulate keeps it in parts that do: leave one out"
        )
    if options.allow_change and (options.eval_only or not options.resume):
        raise ConfigError("--allow-change is for a training that goes on: it needs --resume, and no --eval-only")
    if options.read != ReadOptions() and not (train or test):
        raise ConfigError(
            "--classes, --crowd-as-objects, --keep-crowds, --skip-unreadable and --large-images are for your own data: give --train-data and "
            "--test-data (built-in data sets are read by Detectron2)"
        )


def own_data(
    options: RunOptions, train: DataSpec | None, test: DataSpec | None, weights: WeightsPlan
) -> tuple[PreparedData | None, list[str]]:
    """The user's own data, read and registered, in the class order of the detector; and what to warn of.

    Raises ConfigError where --classes contradicts an evaluated detector, CheckpointError where nothing says its class order.
    """
    if not options.eval_only:
        return (prepare_data(train, test, options=options.read) if train or test else None), []
    if test is None:
        return None, []
    warnings = ["--train-data is not read: --eval-only"] if train else []
    known, given = weights.class_names, options.read.class_names
    if known and given and known != given:
        raise ConfigError(
            f"--classes {','.join(given)}, but the classes of {weights.weights} are {','.join(known)}; leave --classes out"
        )
    data = prepare_data(None, test, class_names=known, options=options.read)
    if known is None and given is not None:
        warnings.append(
            f"{weights.weights} does not say what its outputs are: ASSUMED, from --classes, in this order: {', '.join(given)}"
        )
    elif known is None and len(data.class_names) > 1:
        raise CheckpointError(
            f"{weights.weights} holds no class names, and no record.json lies beside it: nothing says which of its outputs is "
            "which class, and in another order than its own every figure is wrong. Pass --classes with the names in the order "
            f"that it was trained on; that of the test data, if it is the same, is --classes {','.join(data.class_names)}"
        )
    return data, warnings


# --- before the first process -----------------------------------------------------------------------------------------


def import_modules(names: Sequence[str]) -> None:
    """Import the user's modules (also from the current folder), whose code registers data sets or parts of a detector.

    Raises ConfigError for a module that is not there; an error inside it keeps its traceback.
    """
    for name in names:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise  # something that the module itself imports
            raise ConfigError(
                f"--import {name}: no module of that name here ({Path.cwd()}) or installed; pass the name that Python "
                "imports, for example my_data for my_data.py"
            ) from None


def check_builtin(config: CfgNode, *, eval_only: bool) -> None:
    """The data sets that the configuration names must be known to Detectron2, lie where it looks, and hold keypoints where the
    detector has them. Raises DataError or ConfigError."""
    for name in (*(() if eval_only else config.DATASETS.TRAIN), *config.DATASETS.TEST):
        if name not in DatasetCatalog:
            raise DataError(
                f"no data set {name!r} in Detectron2's catalog; give --train-data and --test-data for your own"
            )
        metadata = MetadataCatalog.get(name)
        for place in ("json_file", "image_root", "dirname"):
            path = metadata.get(place)
            if path is not None and not Path(path).exists():
                raise DataError(
                    f"the data set {name} expects {path}, which does not exist. Set DETECTRON2_DATASETS to the folder that holds "
                    f"coco/ and VOC2007/, or give your own data with --train-data and --test-data"
                )
    for name in (*config.DATASETS.TRAIN, *config.DATASETS.TEST) if config.MODEL.KEYPOINT_ON else ():
        if MetadataCatalog.get(name).get("keypoint_names") is None:
            raise ConfigError(
                f"MODEL.KEYPOINT_ON True, but the data set {name} has no keypoints; pass MODEL.KEYPOINT_ON False, or "
                "DATASETS.TRAIN \"('keypoints_coco_2017_train',)\" DATASETS.TEST \"('keypoints_coco_2017_val',)\""
            )


def _builtin_order(record: Record, weights: WeightsPlan) -> list[str]:
    """The classes of a built-in data set must be those of the detector. Returns warnings; raises ConfigError."""
    theirs, known = record.class_names, weights.class_names
    name = record.data["test"].spec
    if known is None:
        return [
            f"{weights.weights} does not say what its outputs are: ASSUMED to be the {len(theirs)} classes of {name}, in its order"
        ]
    if known != theirs:
        raise ConfigError(
            f"the detector's classes are {', '.join(known)}; those of the data set {name} are {', '.join(theirs)}. Give the data "
            "as --test-data SPEC, which brings them to the detector's order"
        )
    return []


@contextmanager
def open_output_dir(options: RunOptions, config: CfgNode) -> Iterator[Path]:
    """OUTPUT_DIR, for this process alone while the block lasts: new or empty, or that of a run that goes on.

    Raises ConfigError for a folder that is in use, holds something else, or cannot be written.
    """
    output_dir = Path(config.OUTPUT_DIR)
    try:
        there = list(output_dir.iterdir()) if output_dir.exists() else []
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {output_dir} cannot be written: {error.strerror or error}") from None
    taken = sorted(path.name for path in there if path.name != LOCK and not is_temporary(path))
    if taken and not options.resume:
        raise ConfigError(
            f"OUTPUT_DIR {output_dir} is in use (it holds {', '.join(taken[:4])}{', ...' if len(taken) > 4 else ''}); pass "
            "OUTPUT_DIR and another folder, or --resume to go on with this run"
        )
    with lock_folder(output_dir, LOCK):
        remove_temporaries(output_dir)
        yield output_dir


def enter_process(run: DetectionRun) -> None:
    """Make a run that was prepared in another process known to this one: the user's modules, and the data as they were read
    there."""
    import_modules(run.options.modules)
    for name, (records, metadata) in run.registered.items():
        if name not in DatasetCatalog:
            DatasetCatalog.register(name, lambda records=records: records)
            MetadataCatalog.get(name).set(**{key: value for key, value in metadata.items() if key != "name"})


# --- the run ----------------------------------------------------------------------------------------------------------


def run_detection(run: DetectionRun) -> Mapping[str, float | None]:
    """Train (or only evaluate), complete record.json, then draw samples.json. Returns the figures. Runs in every process.

    After a stop signal a training saves and raises Terminated, whether it starts, steps, evaluates or saves.
    """
    config, options = run.config, run.options
    output_dir = Path(config.OUTPUT_DIR)
    goes_on = options.resume and not options.eval_only  # each evaluation is a run of its own
    record = OpenRecord(output_dir / RECORD, run.record, goes_on=goes_on) if comm.is_main_process() else None
    if record is not None:
        record.spend(images=0, devices=options.num_processes)  # also of a run that ends before its first step
    stop = StopFlag()
    with nullcontext() if options.eval_only else stop, record or nullcontext():
        # 1. The log, the seed, config.yaml. OUTPUT_DIR was checked before.
        shorten_console(setup_logger(config.OUTPUT_DIR, distributed_rank=comm.get_rank()))
        default_setup(
            config,
            SimpleNamespace(config_file=str(resolve_config_path(options.config_file)), eval_only=options.eval_only),
        )
        for note in run.notes:
            LOGGER.info(note)
        for warning in run.warnings:
            LOGGER.warning(warning)
        # 2. The weights and the proof that they arrived, training, evaluation.
        model, results = _evaluate(run) if options.eval_only else _train(run, record, stop)
        # 3. The record first: nothing that follows can lose a figure.
        figures = figures_of(results)
        if record is not None:
            engines = engines_of(output_dir / "inference") if figures else {}
            record.finish(figures, details={**record.record.details, **({EVALUATED_BY: engines} if engines else {})})
    if record is not None:
        if config.DATASETS.TEST:
            _draw(config, model, output_dir)
        LOGGER.info("\n".join([*figures_table(figures), f"record: {output_dir / RECORD}"]))
    return figures


def _evaluate(run: DetectionRun) -> tuple[nn.Module, Mapping[str, Any]]:
    model = DetectionTrainer.build_model(run.config)
    with _explained_download(run.weights.weights):
        SafeCheckpointer(model, save_dir=run.config.OUTPUT_DIR).load(run.weights.weights, checkpointables=[])
    LOGGER.info(verify_loaded(run.weights, model))
    return model, DetectionTrainer.test(run.config, model)


def _train(run: DetectionRun, record: OpenRecord | None, stop: StopFlag) -> tuple[nn.Module, Mapping[str, Any]]:
    """The loop, with an evaluation every TEST.EVAL_PERIOD iterations and one at the end: the model, and the last evaluation's
    results."""
    config, newest = run.config, run.weights.newest
    if newest is not None and comm.is_main_process():
        settle(newest)
    trainer = DetectionTrainer(config, accumulate=run.options.accumulate, stop=stop)
    comm.synchronize()
    with _explained_download(run.weights.weights):
        trainer.resume_or_load(resume=newest is not None)
    model = _unwrapped(trainer.model)
    LOGGER.info(verify_loaded(run.weights, model))
    before = [row for row in run.record.history if row["iteration"] <= trainer.start_iter]

    def keep(iterations: int) -> None:
        """What the record holds of a run so far, also of one that is killed after this."""
        if record is not None:
            best = {"best": trainer.progress.best} if trainer.progress.best else {}
            images = (iterations - trainer.start_iter) * config.SOLVER.IMS_PER_BATCH
            record.update(
                history=joined_history(before, trainer.progress.history),
                details={**record.record.details, "iterations": iterations, **best},
                cost=record.spend(images=images, devices=run.options.num_processes),
            )

    trainer.on_progress = keep
    try:
        trainer.train()
    finally:
        keep(trainer.iterations_done)
    return model, getattr(trainer, "_last_eval_results", None) or {}


def _draw(config: CfgNode, model: nn.Module, output_dir: Path) -> None:
    """Pictures are best effort: the figures stand whatever happens here."""
    try:
        write_samples(output_dir, collect_samples(config, model, config.DATASETS.TEST[0]))
    except Exception as error:  # whatever it is, the run is done
        LOGGER.warning(
            "no samples.json for the report (%s: %s); the figures are not touched by this", type(error).__name__, error
        )


def fetch_weights(weights: str) -> None:
    """Download weights that are an address into the cache of Detectron2's path manager, before anything is written.

    Raises CheckpointError where that fails.
    """
    if "://" in weights:
        with _explained_download(weights):
            PathManager.get_local_path(weights)


@contextmanager
def _explained_download(weights: str) -> Iterator[None]:
    """A download that fails is a CheckpointError that says how to do without it."""
    try:
        yield
    except (OSError, HTTPException) as error:  # URLError and HTTPError are OSErrors
        if "://" not in weights:
            raise
        raise CheckpointError(
            f"cannot download {weights}: {error}. Download the file on a machine that can, then pass MODEL.WEIGHTS FILE "
            "--trust (or MODEL.WEIGHTS '' to start from random weights)"
        ) from None


def figures_table(figures: Mapping[str, float | None]) -> list[str]:
    """The figures people quote, one line a task: AP, AP50, AP75 in percent; empty where nothing was evaluated."""
    if not figures:
        return []
    lines = [f"{'':10}{''.join(f'{name:>8}' for name in HEADLINE)}"]
    for task in dict.fromkeys(key.partition("/")[0] for key in figures):
        cells = (figures.get(f"{task}/{name}") for name in HEADLINE)
        lines.append(
            f"{TASK_NAMES.get(task, task):10}" + "".join(f"{'-':>8}" if v is None else f"{v:8.2f}" for v in cells)
        )
    return lines


def _unwrapped(model: nn.Module) -> nn.Module:
    inner = getattr(model, "module", model)  # DistributedDataParallel keeps the model there
    assert isinstance(inner, nn.Module)
    return inner
