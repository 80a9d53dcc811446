"""One detection run: from a command's options to result.json. Read `run_detection` first.

In: `RunOptions`. Out: Detectron2's files, result.json and samples.json in OUTPUT_DIR, or a UserError before anything is
written there. `--eval-only --resume` evaluates OUTPUT_DIR's own newest checkpoint and writes into OUTPUT_DIR/evaluation, so
that the run keeps its own record.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

from pretrain.base.errors import CheckpointError, ConfigError, DataError
from transfer.conversion.initialisation import initialisation_name
from transfer.data.spec import PreparedData, parse_spec, prepare_data
from transfer.detect.checkpointer import SafeCheckpointer
from transfer.detect.config import check_supported, load_detector_config, resolve_config_path, runtime_values
from transfer.detect.loading import WeightsPlan, plan_weights, verify_fits, verify_loaded
from transfer.detect.result import clean_metrics, collect_samples, read_history, write_result, write_samples
from transfer.detect.trainer import DetectionTrainer

LOGGER = logging.getLogger("detectron2.infomin_transfer")  # below Detectron2's logger: same screen, same log.txt
LONG_MESSAGE = 40  # lines
HEADLINE = ("AP", "AP50", "AP75")
TASK_NAMES = {"bbox": "boxes", "segm": "masks"}
CLASS_KEYS = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for.

    config_file: as given; found beside the caller or among the shipped ones.
    overrides: KEY VALUE words.
    train_data, test_data: SPEC text of the user's own data; None = what the configuration names.
    eval_only: evaluate, do not train.
    resume: go on with OUTPUT_DIR's own newest checkpoint.
    trust: accept weights without a sidecar.
    init: name of the initialisation in results; None = from the weights.
    command: the exact command, for the result.
    num_processes: how many train together.
    modules: imported first, for data sets and parts that a user registers.
    """

    config_file: str
    overrides: tuple[str, ...] = ()
    train_data: str | None = None
    test_data: str | None = None
    eval_only: bool = False
    resume: bool = False
    trust: bool = False
    init: str | None = None
    command: str = ""
    num_processes: int = 1
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class DetectionRun:
    """A run that passed every check.

    options: as asked for.
    config: complete and frozen.
    data: the user's own; None where the configuration names built-in data sets.
    weights: what it starts from.
    notes: for the log, one sentence each.
    """

    options: RunOptions
    config: CfgNode
    data: PreparedData | None
    weights: WeightsPlan
    notes: tuple[str, ...]


def prepare_run(options: RunOptions) -> DetectionRun:
    """Load the configuration, the data and the weights' sidecar and check them against each other. Writes nothing.

    Raises ConfigError, DataError or CheckpointError.
    """
    import_modules(options.modules)
    config = load_detector_config(resolve_config_path(options.config_file), options.overrides)
    config.OUTPUT_DIR, config.MODEL.WEIGHTS = map(expanded, (config.OUTPUT_DIR, config.MODEL.WEIGHTS))
    given = frozenset(options.overrides[::2])
    notes = [*runtime_values(config, given), *check_supported(config, options.num_processes)]
    train, test = (parse_spec(text) if text else None for text in (options.train_data, options.test_data))
    if test and not train and not options.eval_only:
        raise ConfigError(
            "--test-data is given without --train-data; training needs both (or neither, for built-in data sets)"
        )
    weights = plan_weights(config, eval_only=options.eval_only, resume=options.resume, trust=options.trust)
    data = None
    if train or test:
        data = prepare_data(train, test, (weights.trained or {}).get("class_names"))
        notes += [*data.notes, *apply_data(config, data, given)]
    else:
        check_builtin(config, eval_only=options.eval_only)
    if options.eval_only and not config.DATASETS.TEST:
        raise ConfigError("--eval-only needs data: give --test-data SPEC")
    if not options.eval_only and not config.DATASETS.TRAIN:
        raise ConfigError(
            "no training data: give --train-data SPEC and --test-data SPEC, or DATASETS.TRAIN for built-in data sets"
        )
    verify_fits(weights, config)
    if options.eval_only and options.resume:
        config.OUTPUT_DIR = str(Path(config.OUTPUT_DIR) / "evaluation")
    config.freeze()
    return DetectionRun(options, config, data, weights, (*notes, weights.note))


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


def expanded(path: str) -> str:
    """`~` at the beginning as the home folder: a KEY VALUE word reaches us without the shell's help."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def apply_data(config: CfgNode, data: PreparedData, given: frozenset[str]) -> list[str]:
    """Write what the data decide into the configuration: names, number of classes, masks. `given`: keys of the command line.

    Returns one sentence for each change that a user may not expect. Raises ConfigError or DataError on a contradiction.
    """
    notes = []
    count = len(data.class_names)
    for key in CLASS_KEYS:
        section = config.MODEL[key.split(".")[1]]
        if key in given and count != section.NUM_CLASSES:
            raise ConfigError(
                f"{key} is {section.NUM_CLASSES}, but the data have {count} classes: {', '.join(data.class_names)}"
            )
        section.NUM_CLASSES = count
    config.DATASETS.TRAIN = (data.train_name,) if data.train_name else ()
    config.DATASETS.TEST = (data.test_name,) if data.test_name else ()
    if not data.test_name:
        notes.append("no --test-data: AP is not measured")
    reference = data.train or data.test
    assert reference is not None
    if config.MODEL.MASK_ON and reference.masks == "none":
        if "MODEL.MASK_ON" in given:
            raise ConfigError("MODEL.MASK_ON True, but the data have no masks")
        config.MODEL.MASK_ON = False
        notes.append("the data have boxes only: MODEL.MASK_ON False")
    if config.MODEL.MASK_ON and data.train is not None and data.train.masks == "some":
        raise DataError(
            "some objects of the training data have a mask and some have none; complete them, or pass MODEL.MASK_ON False"
        )
    if config.MODEL.MASK_ON and data.test is not None and not data.test.can_evaluate_masks:
        notes.append("some objects of the test data have no mask: mask AP is not measured")
    if config.MODEL.MASK_ON and reference.bitmask and config.INPUT.MASK_FORMAT == "polygon":
        config.INPUT.MASK_FORMAT = "bitmask"
        notes.append("some masks are run-length coded: INPUT.MASK_FORMAT bitmask")
    return notes


def check_builtin(config: CfgNode, *, eval_only: bool) -> None:
    """The data sets that the configuration names must be known to Detectron2 and lie where it looks. Raises DataError."""
    for name in (*(() if eval_only else config.DATASETS.TRAIN), *config.DATASETS.TEST):
        if name not in DatasetCatalog:
            raise DataError(
                f"no data set {name!r} in Detectron2's catalog; give --train-data and --test-data for your own"
            )
        metadata = MetadataCatalog.get(name)
        for field in ("json_file", "image_root", "dirname"):
            path = metadata.get(field)
            if path is not None and not Path(path).exists():
                raise DataError(
                    f"the data set {name} expects {path}, which does not exist. Set DETECTRON2_DATASETS to the folder that holds "
                    f"coco/ and VOC2007/, or give your own data with --train-data and --test-data"
                )


def check_output_dir(options: RunOptions, config: CfgNode) -> Path:
    """OUTPUT_DIR must be new or empty, or continued with --resume, and writable; it exists afterwards. Raises ConfigError."""
    output_dir = Path(config.OUTPUT_DIR)
    try:
        taken = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
        if taken and not options.resume:
            raise ConfigError(
                f"OUTPUT_DIR {output_dir} is in use (it holds {', '.join(taken[:4])}{', ...' if len(taken) > 4 else ''}); pass "
                "OUTPUT_DIR and another folder, or --resume to go on with this run"
            )
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {output_dir} cannot be written: {error.strerror or error}") from None
    return output_dir


def run_detection(run: DetectionRun) -> Mapping[str, Any]:
    """Train (or only evaluate) and write result.json and samples.json. Returns the metrics. Runs in every process."""
    config, options = run.config, run.options
    # 1. The log, the seed, config.yaml. OUTPUT_DIR was checked before.
    _shorten_console(setup_logger(config.OUTPUT_DIR, distributed_rank=comm.get_rank()))
    default_setup(
        config, SimpleNamespace(config_file=str(resolve_config_path(options.config_file)), eval_only=options.eval_only)
    )
    for note in run.notes:
        LOGGER.info(note)
    # 2. Weights, and the proof that they arrived.
    if options.eval_only:
        model = DetectionTrainer.build_model(config)
        with _explained_download(run.weights.weights):
            SafeCheckpointer(model, save_dir=config.OUTPUT_DIR).load(run.weights.weights, checkpointables=[])
        LOGGER.info(verify_loaded(run.weights, model))
        results = DetectionTrainer.test(config, model)
        iterations = 0
    else:
        trainer = DetectionTrainer(config)
        with _explained_download(run.weights.weights):
            trainer.resume_or_load(resume=options.resume)
        model = _unwrapped(trainer.model)
        LOGGER.info(verify_loaded(run.weights, model))
        # 3. The loop, with an evaluation every TEST.EVAL_PERIOD iterations and one at the end.
        trainer.train()
        results = getattr(trainer, "_last_eval_results", None) or {}
        iterations = config.SOLVER.MAX_ITER
    # 4. What the report reads.
    metrics = clean_metrics(results)
    if comm.is_main_process():
        _write(run, model, metrics, iterations)
    return metrics


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


def _shorten_console(logger: logging.Logger) -> None:
    """Keep Detectron2's dumps (environment, configuration, model: hundreds of lines) and its
    `copypaste:` lines off the screen; log.txt has them."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler) and getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(_is_short)


def _is_short(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return message.count("\n") < LONG_MESSAGE and not message.startswith(("Environment info", "copypaste:"))


def _write(run: DetectionRun, model: nn.Module, metrics: Mapping[str, Any], iterations: int) -> None:
    config, options, data = run.config, run.options, run.data
    output_dir = Path(config.OUTPUT_DIR)
    samples = collect_samples(config, model, config.DATASETS.TEST[0]) if config.DATASETS.TEST else []
    write_samples(output_dir, samples)
    named = (*config.DATASETS.TRAIN, *config.DATASETS.TEST)
    path = write_result(
        output_dir,
        {
            "init": options.init or init_name(run),
            "weights": config.MODEL.WEIGHTS,
            "sidecar": run.weights.sidecar,
            "seed": config.SEED,
            "iterations": iterations,
            "config_file": options.config_file,
            "command": options.command,
            "train_data": options.train_data or ", ".join(config.DATASETS.TRAIN),
            "test_data": options.test_data or ", ".join(config.DATASETS.TEST),
            "num_train_images": _num_train_images(config, data),
            "class_names": list(data.class_names if data else MetadataCatalog.get(named[0]).thing_classes),
            "metrics": metrics,
            "history": read_history(output_dir / "metrics.json", config.SOLVER.MAX_ITER),
        },
    )
    LOGGER.info("\n".join([*figures_table(metrics), f"result: {path}"]))


def figures_table(metrics: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """The figures people quote, one line a task: AP, AP50, AP75 in percent; empty where nothing was evaluated."""
    if not metrics:
        return []
    lines = [f"{'':10}{''.join(f'{name:>8}' for name in HEADLINE)}"]
    for task, values in metrics.items():
        cells = (values.get(name) for name in HEADLINE)
        lines.append(
            f"{TASK_NAMES.get(task, task):10}" + "".join(f"{'-':>8}" if v is None else f"{v:8.2f}" for v in cells)
        )
    return lines


def init_name(run: DetectionRun) -> str:
    """How the report labels this initialisation, unless --init says otherwise: as the evaluated detector's own run says, else
    by its weights."""
    trained = (run.weights.trained or {}).get("init")
    if run.options.eval_only and isinstance(trained, str):
        return trained
    return initialisation_name(run.config.MODEL.WEIGHTS, sidecar=run.weights.sidecar or {})


def _num_train_images(config: CfgNode, data: PreparedData | None) -> int:
    if data is not None:
        return data.train.num_labelled_images if data.train else 0
    return sum(len(DatasetCatalog.get(name)) for name in config.DATASETS.TRAIN) if config.DATASETS.TRAIN else 0


def _unwrapped(model: nn.Module) -> nn.Module:
    inner = getattr(model, "module", model)  # DistributedDataParallel keeps the model there
    assert isinstance(inner, nn.Module)
    return inner
