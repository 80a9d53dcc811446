"""A study checked before its first stage: its configurations, what lies outside it, and whether the parts fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pretrain.base.errors import UserError
from pretrain.config import load_run_config
from pretrain.data.source import open_source
from pretrain.model.encoder import ResNetEncoder
from transfer.compare.checks import check_detection, check_readout
from transfer.compare.stages import init_text
from transfer.compare.study_config import (
    NO_WEIGHTS,
    PRETRAINED,
    StudyConfig,
    detection_files,
    pretrain_file,
    readout_file,
    weight_file,
)
from transfer.conversion.towers import load_encoders

DATA = "{data}"  # stands for a folder that the study makes


def check_study(config: StudyConfig) -> None:
    """Raise ConfigError, DataError or CheckpointError, naming the part, for what a later stage would refuse."""
    with _part("pretrain"):
        arch = _check_pretraining(config)
    with _part("readout"):
        _check_readout(config)
    with _part("detect"):
        _check_detection(config, arch)


@contextmanager
def _part(name: str) -> Iterator[None]:
    """What is refused inside says which part of the study it is in."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{name}: {error}") from None


def _check_pretraining(config: StudyConfig) -> str | None:
    """The encoder that it makes; None where there is no pre-training."""
    part = config.pretrain
    if part is None:
        return None
    run = load_run_config(pretrain_file(part), [text.replace(DATA, "DATA") for text in part.overrides])
    if not any(DATA in text for text in part.overrides):
        open_source(run.data.root)
    return run.encoder.arch


def _check_readout(config: StudyConfig) -> None:
    part = config.readout
    if part is None:
        return
    overrides = (f"seed={part.seeds[0]}", *part.overrides)
    check_readout(None if DATA in part.data else Path(part.data).expanduser(), readout_file(part), overrides)
    for init in config.inits:
        path = weight_file(init)
        if path is not None:
            load_encoders(path)
        elif init.weights == NO_WEIGHTS:
            with torch.device("meta"):
                ResNetEncoder(part.arch)


def _check_detection(config: StudyConfig, arch: str | None) -> None:
    part = config.detect
    if part is None:
        return
    for init, config_file in zip(config.inits, detection_files(config), strict=True):
        specs = [text.replace("{init}", init.name) for text in (part.train_data, part.test_data)]
        later = any(DATA in text for text in specs)  # made by the study's first stage
        check_detection(
            config_file,
            [word.replace("{init}", init.name).replace(DATA, "DATA") for word in part.overrides],
            train_data=None if later else specs[0],
            test_data=None if later else specs[1],
            init=init_text(init.name, str(weight_file(init) or "")),
            arch=arch if init.weights == PRETRAINED else None,
        )
