"""Detectron2 configuration files, read without running what is in them.

In: the path of a YAML file (also relative to transfer/configs), KEY VALUE pairs of the command line. Out: a Detectron2
CfgNode, or a ConfigError that names the file, the tag or key, and for an unknown key the nearest valid one.

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
from detectron2.utils import comm

import transfer.detect.heads  # noqa: F401  the configurations name its head
from pretrain.base.errors import ConfigError, did_you_mean
from pretrain.base.same_run import flat
from pretrain.base.strict import load_yaml

CONFIG_ROOT = Path(__file__).resolve().parents[1] / "configs"
BASE_KEY = "_BASE_"


def resolve_config_path(name: str) -> Path:
    """`name` as given if it exists, else below transfer/configs. Raises ConfigError naming the nearest shipped file."""
    if not name:
        raise ConfigError(
            "no configuration: give --config-file, for example --config-file voc/R_50_C4_24k_infomin.yaml"
        )
    for candidate in (Path(name), CONFIG_ROOT / name):
        if candidate.is_file():
            return candidate
    shipped = [path.relative_to(CONFIG_ROOT).as_posix() for path in shipped_runs()]
    raise ConfigError(f"no configuration file {name} here or in {CONFIG_ROOT}{did_you_mean(name, shipped, cutoff=0.3)}")


def shipped_runs() -> list[Path]:
    """Every run file of transfer/configs, sorted; the parts in base/ and init/ are not runs."""
    return sorted(path for path in CONFIG_ROOT.rglob("*.yaml") if path.parent.name not in ("base", "init"))


def load_detector_config(path: Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, then the file with its bases, then KEY VALUE pairs: a mutable CfgNode.

    Raises ConfigError for a missing file, a python tag, a circle of bases, an unknown key, an ill-typed value, an odd number
    of KEY VALUE words.
    """
    config = get_cfg()
    _check_keys(list(_chain(path, ())), config)
    try:
        config.merge_from_file(str(path), allow_unsafe=False)
    except (KeyError, ValueError, TypeError, AssertionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_text(error)}") from None
    _apply_overrides(config, overrides)
    return config


def runtime_values(config: CfgNode, given: frozenset[str] = frozenset()) -> list[str]:
    """Fill in place what the machine decides, before the configuration is frozen: the device where the wanted one is
    missing, the number of loader processes on a CPU, and a seed where none is given (so that it is recorded).

    given: keys of the command line, which always win. Returns one sentence for each change. Raises ConfigError for a device
    that was asked for on the command line and is not there.
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
    if config.SEED < 0:
        config.SEED = comm.shared_random_seed()  # one number for all processes
        notes.append(f"no SEED given: drew SEED {config.SEED}")
    return notes


def check_supported(config: CfgNode, num_processes: int) -> list[str]:
    """Compare the configuration with what this project can run. Raises ConfigError with what to pass instead.

    Returns one sentence for each setting that means something else in this run than in the one it was published for.
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
    notes = []
    if num_processes == 1 and any(value == "SyncBN" for value in _norms(config)):
        notes.append(f"SyncBN has one process to agree with: it is plain BN over the {images} images of a batch")
    extra = config.TEST.PRECISE_BN
    if extra.ENABLED and extra.NUM_ITER > config.SOLVER.MAX_ITER:
        notes.append(
            f"TEST.PRECISE_BN runs {extra.NUM_ITER} batches after the {config.SOLVER.MAX_ITER} iterations; for a short trial pass "
            f"TEST.PRECISE_BN.NUM_ITER {config.SOLVER.MAX_ITER}"
        )
    return notes


def _norms(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _norms(value)
        elif key == "NORM":
            yield value


def _chain(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The file's bases (deepest first), then the file itself, each with its own values."""
    resolved = path.resolve()
    if resolved in above:
        raise ConfigError(f"{path}: {BASE_KEY} entries form a circle")
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
