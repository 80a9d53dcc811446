"""What a detection command asks for, read and checked: flags, the configuration with its initialisation, the user's data.

In: `RunOptions`. Out: values that the run (run.py), the doctor (examination.py) and the dump (dump.py) share, or a ConfigError,
DataError or CheckpointError with what to pass. Nothing is written.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.base.record import RECORD
from transfer.data.problems import ReadOptions
from transfer.data.spec import DataSpec, PreparedData, prepare_data
from transfer.detect.config import load_detector_config, sets_weights
from transfer.detect.config_files import resolve_config_path
from transfer.detect.inits import (
    CATALOG,
    WEIGHTS_KEY,
    Init,
    apply_detectors_input,
    apply_init,
    parse_init,
    parses_to,
)
from transfer.detect.loading import WeightsPlan
from transfer.detect.options import RunOptions
from transfer.detect.run_record import recorded_init
from transfer.detect.scaling import scale_config


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


def require_data(config: CfgNode, *, eval_only: bool) -> None:
    """There must be something to train on, or to evaluate on. Raises ConfigError."""
    if eval_only and not config.DATASETS.TEST:
        raise ConfigError("--eval-only needs data: give --test-data SPEC")
    if not eval_only and not config.DATASETS.TRAIN:
        raise ConfigError(
            "no training data: give --train-data SPEC and --test-data SPEC, or DATASETS.TRAIN for built-in data sets"
        )


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
