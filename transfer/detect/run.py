"""One detection run: from a command's options to record.json. Read `prepare_run` and `run_detection` first.

In: `RunOptions`. Out: Detectron2's files, record.json and samples.json in OUTPUT_DIR, or a UserError before anything is
written there. `--eval-only --resume` evaluates OUTPUT_DIR's own newest checkpoint and writes into OUTPUT_DIR/evaluation, so
that the run keeps its own record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from pretrain.base.atomic import LOCK, is_temporary, lock_folder, remove_temporaries
from pretrain.base.errors import ConfigError
from pretrain.base.record import RECORD, OpenRecord, Record
from pretrain.base.signals import StopFlag
from transfer.data.spec import PreparedData, parse_spec
from transfer.detect.checkpointer import SafeCheckpointer, settle
from transfer.detect.coco_evaluation import EVALUATED_BY, engines_of
from transfer.detect.config import load_detector_config, resolve_config
from transfer.detect.config_files import resolve_config_path
from transfer.detect.doctor import diagnose_config, refuse_errors, sentence
from transfer.detect.figures import METRICS, figures_of, figures_table
from transfer.detect.loading import WeightsPlan, explained_download, plan_weights, verify_fits, verify_loaded
from transfer.detect.log import LOGGER, shorten_console
from transfer.detect.options import RunOptions
from transfer.detect.request import (
    ask_config,
    check_builtin,
    check_options,
    given_keys,
    import_modules,
    own_data,
    require_data,
    scaled_config,
)
from transfer.detect.result import collect_samples, joined_history, read_history, write_samples
from transfer.detect.run_record import begin_record, continue_record, earlier_record, going_on
from transfer.detect.trainer import DetectionTrainer


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
    require_data(config, eval_only=options.eval_only)
    advice = (
        [] if options.eval_only else diagnose_config(config, data=data, init=init, num_processes=options.num_processes)
    )
    refuse_errors(advice)
    doubts = [finding for finding in advice if finding.severity == "warning"]
    warnings += [*map(sentence, doubts), *(weights.newest.warnings if weights.newest else ())]
    verify_fits(weights, config)
    record = begin_record(options, config, data, weights, earlier, init)
    details = {"scaled": list(scaled), "findings": [finding.to_dict() for finding in doubts]}
    record = replace(record, details={**record.details, **{key: value for key, value in details.items() if value}})
    if data is None and options.eval_only:
        warnings += _builtin_order(record, weights)
    if earlier is not None:
        record, more = continue_record(record, earlier, options)
        notes += more
    elif weights.kind == "checkpoint" and not options.eval_only:
        warnings.append(f"{asked.OUTPUT_DIR} has no record: nothing says whether this run began with the same values")
        record = replace(record, history=tuple(read_history(Path(asked.OUTPUT_DIR) / METRICS, config.SOLVER.MAX_ITER)))
    found = [sentence(finding) for finding in advice if finding.severity == "note"]
    notes = (*applied, *scaled, *(data.notes if data else ()), *notes, *found, weights.note)
    figures = earlier.figures if finished and earlier is not None else None
    return DetectionRun(options, config, data, _registered(data), weights, record, notes, tuple(warnings), figures)


def _registered(data: PreparedData | None) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any]]]:
    """What Detectron2's catalogs know about the user's own data."""
    names = (data.train_name, data.test_name) if data is not None else ()
    return {
        name: (list(DatasetCatalog.get(name)), MetadataCatalog.get(name).as_dict())
        for name in names
        if name is not None
    }


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
    with explained_download(run.weights.weights):
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
    with explained_download(run.weights.weights):
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


def _unwrapped(model: nn.Module) -> nn.Module:
    inner = getattr(model, "module", model)  # DistributedDataParallel keeps the model there
    assert isinstance(inner, nn.Module)
    return inner
