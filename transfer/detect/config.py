"""Detectron2 configuration files, read without running what is in them, and made complete for one run.

In: the path of a YAML file (also relative to transfer/configs), KEY VALUE pairs of the command line; then the data and the
number of processes. Out: a Detectron2 CfgNode, complete and frozen (`resolve_config`), or a ConfigError that names the file,
the tag or key, and for an unknown key the nearest valid one.

Detectron2 falls back to `yaml.unsafe_load`, which runs python tags. So every file of the `_BASE_` chain is read by a safe
loader first, and Detectron2 is asked not to fall back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.config.compat import guess_version
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

import transfer.detect.heads  # noqa: F401  the configurations name its head
from pretrain.base.errors import ConfigError, DataError, did_you_mean
from pretrain.base.same_run import flat
from pretrain.base.strict import load_yaml, merge_all
from transfer.data.spec import PreparedData
from transfer.detect.config_files import CONFIG_ROOT

BASE_KEY = "_BASE_"
CLASS_KEYS = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")


def load_detector_config(path: Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, then the file with its bases, then KEY VALUE pairs: a mutable CfgNode. `~` at the beginning of a
    path is the home folder: a KEY VALUE word reaches us without the shell's help.

    Raises ConfigError for a missing file, a python tag, a circle of bases, an unknown key, an ill-typed value, an odd number
    of KEY VALUE words.
    """
    config = get_cfg()
    files = list(_chain(path, ()))
    _check_keys(files, config)
    try:
        _merge_files(config, path, files)
    except (KeyError, ValueError, TypeError, AssertionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_text(error)}") from None
    _apply_overrides(config, overrides)
    config.OUTPUT_DIR, config.MODEL.WEIGHTS = map(_expanded, (config.OUTPUT_DIR, config.MODEL.WEIGHTS))
    return config


def _merge_files(config: CfgNode, path: Path, files: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """As Detectron2's `merge_from_file`, which would read every file again, by a slow parser; it still reads an older file."""
    values = CfgNode(merge_all(values for _, values in files))
    version = values.get("VERSION") or guess_version(values, str(path))
    if version == config.VERSION:
        config.merge_from_other_cfg(values)
    else:
        config.merge_from_file(str(path), allow_unsafe=False)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def resolve_config(
    asked: CfgNode,
    *,
    given: frozenset[str] = frozenset(),
    data: PreparedData | None = None,
    num_processes: int = 1,
    num_machines: int = 1,
    seed: int | None = None,
    output_dir: str | None = None,
) -> tuple[CfgNode, tuple[str, ...]]:
    """The configuration of one run, complete and frozen, and one sentence for each value that a user may not expect.

    asked: file and command line; it stays as it is. given: keys of the command line, which always win or are refused.
    data: the user's own; None where the configuration names built-in data sets. seed: of the run that is continued.
    output_dir: in place of OUTPUT_DIR.
    This is the only place that writes into a configuration: what it returns is what runs and what the record holds.
    Raises ConfigError or DataError on a contradiction.
    """
    config = asked.clone()
    config.defrost()
    config.OUTPUT_DIR = output_dir or config.OUTPUT_DIR
    notes = [
        *_set_machine(config, given),
        *_set_seed(config, seed, num_machines),
        *(_set_data(config, data, given) if data else ()),
    ]
    config, scaled = _scaled(config, num_processes)
    check_supported(config, num_processes)
    notes += [*scaled, *_set_steps(config)]
    config.freeze()
    return config, tuple(notes)


def _set_machine(config: CfgNode, given: frozenset[str]) -> list[str]:
    """The device where the wanted one is missing, and the number of loader processes on a CPU.

    Raises ConfigError for a device that was asked for on the command line and is not there.
    """
    notes = []
    if config.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        if "MODEL.DEVICE" in given:
            raise ConfigError(
                f"MODEL.DEVICE {config.MODEL.DEVICE}, but this machine has no CUDA device; pass MODEL.DEVICE cpu"
            )
        config.MODEL.DEVICE = "cpu"
        notes.append("MODEL.DEVICE is cuda but this machine has no CUDA device: running on the CPU")
    elif config.MODEL.DEVICE == "cpu" and "MODEL.DEVICE" not in given and torch.cuda.is_available():
        notes.append(
            "MODEL.DEVICE is cpu, as the configuration file says: pass MODEL.DEVICE cuda to use the CUDA device"
        )
    spare = max(1, torch.get_num_threads() // 2)  # on a CPU the loaders take their cores from the model
    if config.MODEL.DEVICE == "cpu" and "DATALOADER.NUM_WORKERS" not in given and spare < config.DATALOADER.NUM_WORKERS:
        config.DATALOADER.NUM_WORKERS = spare
        notes.append(f"DATALOADER.NUM_WORKERS {spare} on this CPU")
    return notes


def _set_seed(config: CfgNode, seed: int | None, num_machines: int) -> list[str]:
    """A seed where none is given, so that it is recorded: that of the run that is continued, else a new one."""
    if config.SEED >= 0:
        return []
    if seed is not None:
        config.SEED = seed
        return [f"no SEED given: SEED {seed}, as this run began"]
    if num_machines > 1:
        raise ConfigError(f"no SEED given, and each of the {num_machines} machines would draw another; pass SEED 0")
    config.SEED = comm.shared_random_seed()
    return [f"no SEED given: drew SEED {config.SEED}"]


def _set_data(config: CfgNode, data: PreparedData, given: frozenset[str]) -> list[str]:
    """What the data decide: names, number of classes, masks."""
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
    if config.MODEL.KEYPOINT_ON:
        raise ConfigError(
            "MODEL.KEYPOINT_ON True, but of --train-data and --test-data boxes and masks are read, no keypoints; pass "
            "MODEL.KEYPOINT_ON False, or name built-in keypoint data: DATASETS.TRAIN \"('keypoints_coco_2017_train',)\" "
            "DATASETS.TEST \"('keypoints_coco_2017_val',)\""
        )
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


def _scaled(config: CfgNode, num_processes: int) -> tuple[CfgNode, list[str]]:
    """The schedule for this number of processes, where SOLVER.REFERENCE_WORLD_SIZE asks for that.

    DefaultTrainer would scale a copy of its own: the record would keep the other numbers. After this it finds nothing to do.
    """
    reference = config.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, num_processes):
        return config, []
    if reference < 0 or config.SOLVER.IMS_PER_BATCH % reference:
        raise ConfigError(
            f"SOLVER.REFERENCE_WORLD_SIZE {reference}: expected a divisor of SOLVER.IMS_PER_BATCH "
            f"{config.SOLVER.IMS_PER_BATCH}, or 0 for a schedule that is not scaled"
        )
    scaled = DefaultTrainer.auto_scale_workers(config, num_processes)
    solver = scaled.SOLVER
    # Detectron2 rounds; 0 would mean never.
    scaled.TEST.EVAL_PERIOD = max(scaled.TEST.EVAL_PERIOD, min(config.TEST.EVAL_PERIOD, 1))
    solver.CHECKPOINT_PERIOD = max(solver.CHECKPOINT_PERIOD, min(config.SOLVER.CHECKPOINT_PERIOD, 1))
    return scaled, [
        f"SOLVER.REFERENCE_WORLD_SIZE {reference}, now {num_processes} processes: IMS_PER_BATCH {solver.IMS_PER_BATCH}, "
        f"BASE_LR {solver.BASE_LR:g}, MAX_ITER {solver.MAX_ITER}, STEPS {solver.STEPS}, WARMUP_ITERS {solver.WARMUP_ITERS}"
    ]


def _set_steps(config: CfgNode) -> list[str]:
    """Drop learning-rate steps that the run does not reach. Detectron2 says that it ignores those and stops at one of them
    all the same: at the one that equals MAX_ITER."""
    solver = config.SOLVER
    if solver.MAX_ITER < 1:
        raise ConfigError(f"SOLVER.MAX_ITER {solver.MAX_ITER}: expected 1 or more")
    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return []
    steps = tuple(solver.STEPS)
    if list(steps) != sorted(set(steps)) or any(step < 1 for step in steps):
        raise ConfigError(
            f"SOLVER.STEPS {steps}: expected iterations in ascending order, each once and from 1 on, for example "
            f'SOLVER.STEPS "({max(1, solver.MAX_ITER * 2 // 3)},)"'
        )
    solver.STEPS = tuple(step for step in steps if step < solver.MAX_ITER)
    dropped = ", ".join(str(step) for step in steps if step >= solver.MAX_ITER)
    if not dropped:
        return []
    return [
        f"SOLVER.STEPS {dropped} not reached in SOLVER.MAX_ITER {solver.MAX_ITER} iterations: the learning rate falls at "
        f"{', '.join(map(str, solver.STEPS)) or 'no iteration'}"
    ]


def portable_config(
    asked: CfgNode, *, given: frozenset[str], data: PreparedData | None
) -> tuple[CfgNode, tuple[str, ...]]:
    """As `resolve_config`, for another program on another machine: nothing that this machine decides (device, loader processes,
    seed, number of processes)."""
    config = asked.clone()
    config.defrost()
    notes = [*(_set_data(config, data, given) if data else ()), *_set_steps(config)]
    config.freeze()
    return config, tuple(notes)


def sets_weights(path: Path) -> bool:
    """Whether a file or one of its bases says what to start from, if only MODEL.WEIGHTS ''."""
    return any("MODEL.WEIGHTS" in flat(values) for _, values in _chain(path, ()))


def plain_values(config: CfgNode) -> dict[str, Any]:
    """The values in plain dictionaries."""
    return {key: plain_values(value) if isinstance(value, CfgNode) else value for key, value in config.items()}


def check_supported(config: CfgNode, num_processes: int) -> None:
    """Compare the configuration with what this project can run. Raises ConfigError with what to pass instead.

    What runs but is not what an expert would run, transfer/detect/doctor.py says.
    """
    if config.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT {config.INPUT.FORMAT!r}: expected RGB or BGR")
    if config.MODEL.LOAD_PROPOSALS:
        raise ConfigError(
            "MODEL.LOAD_PROPOSALS True: proposals from files are not read; pass MODEL.LOAD_PROPOSALS False"
        )
    if config.SOLVER.AMP.ENABLED and config.MODEL.DEVICE == "cpu":
        raise ConfigError("SOLVER.AMP.ENABLED True needs a CUDA device; on the CPU pass SOLVER.AMP.ENABLED False")
    images = config.SOLVER.IMS_PER_BATCH
    if images < 1 or images % num_processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {images}: expected a positive multiple of the number of processes, {num_processes}"
        )


def _chain(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The file's bases (deepest first), then the file itself, each with its own values."""
    resolved = path.resolve()
    if resolved in above:
        raise ConfigError(f"{path}: {BASE_KEY} entries form a circle")
    if not path.is_file() and path.parent.name == "init" and path.parent.parent.resolve() == CONFIG_ROOT:
        raise ConfigError(
            f"{above[-1] if above else path}: its base init/{path.name} is gone: leave it out of {BASE_KEY} and pass --init on the "
            "command line"
        )
    values = load_yaml(path)
    bases = values.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: {BASE_KEY} expected a path or a list of paths, found {bases!r}")
    for base in bases:
        if "://" in base:
            raise ConfigError(f"{path}: {BASE_KEY} {base!r} is an address; expected a file beside this one")
        yield from _chain(path.parent / Path(base).expanduser(), (*above, resolved))
    yield path, values


def _check_keys(files: Sequence[tuple[Path, Mapping[str, Any]]], config: CfgNode) -> None:
    valid = set(flat(config))
    versions = [values["VERSION"] for _, values in files if "VERSION" in values]
    if versions and versions[-1] != config.VERSION:
        return  # an older Detectron2 file: its keys are renamed by Detectron2 itself
    for source, values in files:
        for key in flat(values):
            if key not in valid:
                raise ConfigError(f"{source}: unknown key {key}{_nearest(key, valid)}")


def _nearest(key: str, valid: set[str]) -> str:
    return did_you_mean(key, valid, cutoff=0.5) or "; Detectron2's config/defaults.py lists the valid ones"


def _apply_overrides(config: CfgNode, overrides: Sequence[str]) -> None:
    flags = [word for word in overrides if word.startswith("--")]
    if flags:
        raise ConfigError(f"{flags[0]} is among the KEY VALUE pairs: flags go before the first KEY")
    assigned = [word for word in overrides[::2] if "=" in word]
    if assigned:
        raise ConfigError(
            f"{assigned[0]!r}: expected KEY VALUE with a space, for example {assigned[0].replace('=', ' ', 1)}"
        )
    if len(overrides) % 2:
        raise ConfigError(
            f"expected pairs KEY VALUE, found {len(overrides)} words; the last one, {overrides[-1]!r}, has no partner"
        )
    valid = set(flat(config))
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in valid:
            raise ConfigError(f"unknown key {key}{_nearest(key, valid)}")
        try:
            config.merge_from_list([key, value])
        except (KeyError, ValueError, TypeError, AssertionError, SyntaxError) as error:
            raise ConfigError(f"{key} {value}: {_text(error)}") from None


def _text(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
