"""A study checked before its first stage: its configurations, what lies outside it, and whether the parts fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.base.errors import ConfigError, UserError
from pretrain.base.shapes_only import shapes_only
from pretrain.config import load_run_config
from pretrain.data.source import open_source
from pretrain.model.encoder import ResNetEncoder
from transfer.compare.checks import check_detection, check_readout
from transfer.compare.study_config import (
    NO_WEIGHTS,
    PRETRAINED,
    InitConfig,
    PretrainConfig,
    StudyConfig,
    detection_file,
    pretrain_file,
    readout_file,
    weight_file,
)
from transfer.compare.study_plan import LIKE, StudyData, needs_conversion, schedule_overrides
from transfer.conversion.towers import load_encoders

if TYPE_CHECKING:
    from transfer.data.spec import PreparedData

DATA = "{data}"  # stands for a folder that the study makes
WRITTEN = "{output}"  # for the study's own


def check_study(config: StudyConfig, data: StudyData | None = None, place: Path | None = None) -> tuple[str, ...]:
    """What the detector's doctor warns of, one sentence each. Raises ConfigError, DataError or CheckpointError, naming the part, for what a later stage would refuse.

    data: None before the embedded data set is there. place: where its splits were written.
    """
    archs: dict[str, str] = {}
    for name, part in config.pretrainings.items():
        with _part(f"inits.{name}.pretrain" if name else "pretrain"):
            archs[name] = _check_pretraining(part, data, place)
    with _part("readout"):
        _check_readout(config, data, place)
    with _part("detect"):
        return _check_detection(config, archs, data, place)


@contextmanager
def _part(name: str) -> Iterator[None]:
    """What is refused inside says which part of the study it is in."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{name}: {error}") from None


def _located(text: str, place: Path | None) -> str | None:
    """A SPEC or folder that is there; None for one of the embedded data set."""
    if DATA in text or f"{WRITTEN}/data/" in text or (WRITTEN in text and place is None):
        return None
    return text.replace(WRITTEN, str(place))


def _check_pretraining(part: PretrainConfig, data: StudyData | None, place: Path | None) -> str:
    """The encoder that it makes."""
    file = pretrain_file(part)
    assert file is not None, "chosen before"
    words = [text.replace(DATA, "DATA") for text in part.overrides]
    pool = data.pool if data is not None else None
    epochs = [f"optimizer.epochs={part.epochs}"] if part.epochs else []
    located = pool and (_located(pool, place) or "DATA")
    run = load_run_config(
        file, [*([f"data.root={located}"] if located else []), f"seed={part.seeds[0]}", *epochs, *words]
    )
    root = _located(pool or next((text for text in part.overrides if DATA in text), run.data.root), place)
    if root is not None:
        images, batch = len(open_source(root)), run.optimizer.batch_size
        if images < batch:
            raise ConfigError(
                f"{images} images in {root}, fewer than the {batch} of a batch; give more, or "
                "pretrain.overrides=[optimizer.batch_size=N] with N below that number"
            )
    return run.encoder.arch


def _check_readout(config: StudyConfig, data: StudyData | None, place: Path | None) -> None:
    part = config.readout
    if part is None:
        return
    drawn = () if part.fractions == (1.0,) else (f"fraction={min(part.fractions):g}", "images_per_class=null")
    folder = _located((data.readout if data is not None else None) or part.data, place)
    check_readout(
        Path(folder).expanduser() if folder else None,
        readout_file(part),
        (f"seed={part.seeds[0]}", *drawn, *part.overrides),
    )
    for init in config.inits:
        path = weight_file(init)
        if path is not None:
            load_encoders(path)
        elif init.weights == NO_WEIGHTS and part.arch is not None:
            with shapes_only():
                ResNetEncoder(part.arch)


def _check_detection(
    config: StudyConfig, archs: dict[str, str], data: StudyData | None, place: Path | None
) -> tuple[str, ...]:
    part, file = config.detect, detection_file(config)
    if part is None:
        return ()
    assert file is not None, "chosen before"
    largest = (max(part.fractions), part.seeds[0])
    train = _located(data.train[largest] if data is not None else part.train_data, place)
    test = _located((data.test if data is not None else part.test_data) or "", place)
    schedule = schedule_overrides(part.iterations) if part.iterations else []
    read: PreparedData | None = None
    warned: dict[str, list[str]] = {}  # sentence -> the initialisations that it is said of
    for number, init in enumerate(config.inits):
        text, arch = _start(init, config.inits, archs)
        found = check_detection(
            file,
            [*schedule, *(word.replace(DATA, "DATA") for word in part.overrides)],
            train_data=train if number == 0 else None,  # read once
            test_data=test if number == 0 else None,
            init=text,
            arch=arch,
            keep_crowds=data is not None and data.written,
            data=read,
        )
        read = read or found.data
        for sentence in found.warnings:
            warned.setdefault(sentence, []).append(init.name)
    return tuple(
        sentence if len(names) == len(config.inits) else f"{', '.join(names)}: {sentence}"
        for sentence, names in warned.items()
    )


def _random_start(init: InitConfig, inits: Sequence[InitConfig]) -> str:
    """Text of --init of random weights; with the input of weights that are not there yet, that of our own is checked."""
    other = next((one for one in inits if one.name == init.input_of), None)
    if other is None or other.weights == PRETRAINED:
        return "random"
    path = weight_file(other)
    if path is not None and needs_conversion(path):
        return "random"
    return f"{init.name}={LIKE}{path or other.weights}"


def _start(init: InitConfig, inits: Sequence[InitConfig], archs: dict[str, str]) -> tuple[str, str | None]:
    """Text of --init, and the encoder of weights that are not there yet, in whose place random ones are checked."""
    if init.weights == PRETRAINED:
        return "random", archs[init.name if init.pretrain else ""]
    if init.weights == NO_WEIGHTS:
        return _random_start(init, inits), None
    path = weight_file(init)
    if path is None:
        return f"{init.name}={init.weights}" if init.name != init.weights else init.weights, None
    if needs_conversion(path):
        return "random", load_encoders(path).arch
    return f"{init.name}={path}", None
