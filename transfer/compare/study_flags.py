"""The flags of tools/compare.py as keys of a study, and where it runs.

In: the parsed command line. Out: `StudyConfig`, an `Executor` (None: this machine), or a ConfigError that names the flag.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pretrain.base.command_line import user_path
from pretrain.base.errors import ConfigError, did_you_mean
from pretrain.run.slurm import SlurmOptions, minutes_of
from transfer.compare.executor import Executor, slurm_executor
from transfer.compare.runner import Say
from transfer.compare.study_config import NO_WEIGHTS, PRETRAINED, StudyConfig, load_study

PRETRAIN, RANDOM = "pretrain", "random"  # as they are typed
MOST_SEEDS = 1000
NO_BUDGET = (
    "{} is divided by what this machine is measured to take, and Slurm's jobs run on others; give pretrain.epochs=N and "
    "detect.iterations=N in its place (--dry-run without --executor, on one of its machines, says what they take)"
)


def study_of(arguments: argparse.Namespace) -> StudyConfig:
    """The study that a command line asks for: the file, the flags over it, `key=value` over both. Raises ConfigError."""
    if arguments.config_file is None:
        _require_flags(arguments)
    config = load_study(arguments.config_file, arguments.overrides, flags=flag_values(arguments))
    if arguments.executor == "slurm" and config.budget is not None:
        raise ConfigError(NO_BUDGET.format("budget"))
    return config


def flag_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Nested keys of a study. Raises ConfigError for a flag that belongs to a part which is not there."""
    values: dict[str, Any] = {}

    def put(value: Any, *keys: str) -> None:
        *groups, name = keys
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value

    alone = arguments.config_file is None
    if arguments.init:
        put([init_value(text) for text in arguments.init], "inits")
    for name, *keys in (
        ("pool", "pool"),
        ("train", "detect", "train_data"),
        ("test", "detect", "test_data"),
        ("readout", "readout", "data"),
        ("budget", "budget"),
        ("baseline", "baseline"),
    ):
        value = getattr(arguments, name)
        if value is not None:
            put(str(user_path(value)) if name in ("pool", "readout") and "://" not in value else value, *keys)
    parts = [part for part in ("detect", "readout") if not alone or part in values]
    if not alone:
        parts = [part for part in parts if part in values or part in _file_parts(arguments)]
    if arguments.seeds is not None:
        for part in parts:
            put(_seeds("--seeds", arguments.seeds), part, "seeds")
    if arguments.fractions is not None:
        for part in parts:
            put(_fractions(arguments.fractions), part, "fractions")
    if arguments.pretrain_seeds is not None:
        put(_seeds("--pretrain-seeds", arguments.pretrain_seeds), "pretrain", "seeds")
    return values


def _file_parts(arguments: argparse.Namespace) -> set[str]:
    from pretrain.base.strict import read_config

    values, _ = read_config(arguments.config_file, arguments.overrides, "study")
    return {key for key, value in values.items() if value is not None}


def init_value(text: str) -> dict[str, str]:
    """ "mine=pretrain" -> a value of `inits`; "random", "scratch=random", "theirs=FILE", "msra_r50" too. Raises ConfigError."""
    name, equals, what = text.partition("=")
    if not equals:
        if text == PRETRAIN:
            raise ConfigError(f"--init {text}: it needs a name for its row, for example --init mine={PRETRAIN}")
        if text == RANDOM:
            return {"name": text, "weights": NO_WEIGHTS}
        if Path(text).expanduser().exists() or "/" in text:
            raise ConfigError(f"--init {text}: it needs a name for its row, for example --init theirs={text}")
        from transfer.detect.inits import CATALOG
        from transfer.detect.inits import RANDOM as RANDOMS

        if text not in CATALOG and text not in RANDOMS:
            hint = did_you_mean(text, [PRETRAIN, RANDOM, *CATALOG])
            raise ConfigError(
                f"--init {text}: expected NAME={PRETRAIN}, {RANDOM}, NAME=FILE or a name of the catalog "
                f"({', '.join(CATALOG)}){hint}"
            )
        return {"name": text, "weights": text}
    if not what:
        raise ConfigError(
            f"--init {text}: nothing after the =; expected {name}={PRETRAIN}, {name}={RANDOM} or {name}=FILE"
        )
    weights = {PRETRAIN: PRETRAINED, PRETRAINED: PRETRAINED, RANDOM: NO_WEIGHTS}.get(what, what)
    hint = did_you_mean(what, [PRETRAIN, PRETRAINED, RANDOM]) if weights == what != PRETRAINED else ""
    if hint and not Path(what).expanduser().exists():
        raise ConfigError(f"--init {text}: no weight file at {what}{hint}")
    return {"name": name, "weights": weights}


def _seeds(flag: str, count: int) -> list[int]:
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(f"{flag} {count}: expected how many, from 1 to {MOST_SEEDS}")
    return list(range(count))


def _fractions(words: list[Any]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ConfigError(
            f"--fractions {' '.join(map(str, words))}: expected numbers in (0, 1], for example .1 1"
        ) from None


def _require_flags(arguments: argparse.Namespace) -> None:
    given = {word.partition("=")[0].partition(".")[0] for word in arguments.overrides}
    if arguments.init is None and "inits" not in given:
        raise ConfigError(
            "nothing to compare: pass --init NAME=pretrain, --init random, --init NAME=FILE (one each), or --config-file STUDY.yaml"
        )
    if arguments.train is None and arguments.readout is None and not given & {"detect", "readout"}:
        raise ConfigError(
            "nothing to measure: pass --train SPEC (boxes, for example coco:LABELS.json:IMAGES), --readout FOLDER (class folders) or both"
        )
    if arguments.test is not None and arguments.train is None:
        raise ConfigError("--test without --train: pass the images to train on too")
    pretrains = any(text.endswith((f"={PRETRAIN}", f"={PRETRAINED}")) for text in arguments.init or ())
    if pretrains and arguments.pool is None and not given & {"pool", "pretrain"}:
        raise ConfigError(f"--init NAME={PRETRAIN} needs images to pre-train on: pass --pool IMAGES")
    if arguments.pretrain_seeds is not None and not pretrains:
        raise ConfigError(f"--pretrain-seeds without a pre-training: add --init NAME={PRETRAIN}")


def executor_of(arguments: argparse.Namespace, *, say: Say) -> Executor | None:
    """Slurm, or None for this machine. Raises ConfigError for flags that do not belong together."""
    idle = [
        flag
        for flag, value in (
            ("--partition", arguments.partition),
            ("--gpus-per-job", arguments.gpus_per_job),
            ("--time", arguments.time),
            ("--sbatch", arguments.sbatch),
        )
        if value is not None
    ]
    if arguments.executor != "slurm":
        if idle:
            raise ConfigError(f"{', '.join(idle)} without --executor slurm; add it, or leave them out")
        return None
    if arguments.partition is None:
        raise ConfigError("--executor slurm needs --partition NAME")
    if arguments.budget is not None:
        raise ConfigError(NO_BUDGET.format("--budget"))
    if arguments.dry_run:
        raise ConfigError("--dry-run measures this machine; leave out --executor slurm, or --dry-run")
    others = [entry.partition("=") for entry in arguments.sbatch or ()]
    wrong = ["".join(entry) for entry in others if not entry[0] or not entry[2]]
    if wrong:
        raise ConfigError(f"--sbatch {wrong[0]}: expected KEY=VALUE, for example --sbatch account=vision")
    options = SlurmOptions(
        partition=arguments.partition,
        nodes=1,
        gpus_per_node=1 if arguments.gpus_per_job is None else arguments.gpus_per_job,
        minutes=minutes_of(arguments.time or "24:00:00"),
        others={key: value for key, _, value in others},
    )
    return slurm_executor(options, say=say)
