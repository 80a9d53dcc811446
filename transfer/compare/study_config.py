"""What a study is: data, one pre-training, initialisations to compare, seeds, and what is expected to come out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pretrain.base.config_files import find_config
from pretrain.base.errors import ConfigError
from pretrain.base.strict import load_config
from transfer.compare.stages import ROOT
from transfer.detect.config_files import resolve_config_path

NO_WEIGHTS, PRETRAINED = "none", "pretrained"
METRICS = ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75", "readout/top1")
PLACEHOLDERS = ("data", "init")


@dataclass(frozen=True)
class DataConfig:
    """The embedded data set. arguments: further ones for tools/make_demo_data.py."""

    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class PretrainConfig:
    """config_file: for tools/pretrain.py. overrides: its key=value; {data} stands for the data folder."""

    config_file: Path
    overrides: tuple[str, ...] = ()
    branch: Literal["query", "key"] = "query"


@dataclass(frozen=True)
class InitConfig:
    """One initialisation. weights: `none`, `pretrained` (by this study), or a converted weight file."""

    name: str
    weights: str

    def __post_init__(self) -> None:
        """Raise ValueError for a name that cannot name a folder."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise ValueError(f"expected a name of letters, digits, `-` and `_`, found {self.name!r}")


@dataclass(frozen=True)
class DetectConfig:
    """Fine-tuning. config_file may hold {init}; train_data and test_data are SPECs; overrides are KEY VALUE pairs."""

    config_file: str
    train_data: str
    test_data: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadoutConfig:
    """Linear readout. data: a folder with train/ and val/ class folders. config_file, overrides: for tools/linear_eval.py.

    arch: of an initialisation without weights.
    """

    data: str
    arch: str
    config_file: Path | None = None
    seeds: tuple[int, ...] = (0,)
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expectation:
    """`higher` is expected above `lower` in `metric` by more than `margin` points, with all of the paired interval."""

    metric: str
    higher: str
    lower: str
    margin: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown metric."""
        if self.metric not in METRICS:
            raise ValueError(f"expected one of {', '.join(METRICS)}, found {self.metric!r}")


@dataclass(frozen=True)
class StudyConfig:
    """A whole study; parts that are left out are not run.

    baseline: the initialisation that the others are compared with; None: `random`, where there is one.

    Configuration files of pretrain and readout are looked up as given, then among the shipped ones; the detector's and weight
    files as given, then from the project's root.
    """

    inits: tuple[InitConfig, ...]
    data: DataConfig | None = None
    pretrain: PretrainConfig | None = None
    detect: DetectConfig | None = None
    readout: ReadoutConfig | None = None
    expect: tuple[Expectation, ...] = ()
    baseline: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for parts that contradict each other."""
        names = [init.name for init in self.inits]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"inits: expected one or more different names, found {names}")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline: expected one of the inits {names}, found {self.baseline!r}")
        if self.detect is None and self.readout is None:
            raise ValueError("expected `detect`, `readout` or both: there is nothing to measure")
        if self.pretrain is None and any(init.weights == PRETRAINED for init in self.inits):
            raise ValueError(f"inits: weights `{PRETRAINED}` need a `pretrain` part")
        for part in (self.detect, self.readout):
            if part is not None and (not part.seeds or len(set(part.seeds)) != len(part.seeds)):
                raise ValueError(f"seeds: expected one or more different numbers, found {list(part.seeds)}")
        for expectation in self.expect:
            for name in (expectation.higher, expectation.lower):
                if name not in names:
                    raise ValueError(f"expect: expected one of the inits {names}, found {name!r}")
            if expectation.higher == expectation.lower:
                raise ValueError(f"expect: {expectation.higher!r} is compared with itself")
            if (self.readout if expectation.metric.startswith("readout/") else self.detect) is None:
                raise ValueError(f"expect: {expectation.metric} is not measured by this study")

    @property
    def baseline_name(self) -> str | None:
        """What the others are compared with; None where `baseline` is not given and nothing is called random."""
        names = [init.name for init in self.inits]
        return self.baseline or ("random" if "random" in names else None)


def load_study(config_file: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read, override and check a study. Raises ConfigError, also for a configuration file or weight file that is absent."""
    config = load_config(StudyConfig, config_file, overrides, "study")
    for key, text in _templates(config).items():
        for name in re.findall(r"\{(\w*)\}", text):
            if name not in PLACEHOLDERS:
                raise ConfigError(f"{config_file}: {key}: expected {{data}} or {{init}}, found {{{name}}} in {text!r}")
            if name == "data" and config.data is None:
                raise ConfigError(
                    f"{config_file}: {key}: {{data}} stands for the embedded data set, but there is no `data` part"
                )
    if config.pretrain:
        pretrain_file(config.pretrain)
    if config.readout:
        readout_file(config.readout)
    try:
        detection_files(config)
    except ConfigError as error:
        raise ConfigError(
            f"{config_file}: detect.config_file: {error} (a study names the family alone; its inits become --init)"
        ) from None
    for path in map(weight_file, config.inits):
        if path is not None and not path.is_file():
            raise ConfigError(f"{config_file}: no file at {path}, nor from the present folder")
    return config


def _templates(config: StudyConfig) -> dict[str, str]:
    """Every text in which {data} or {init} may stand."""
    groups: dict[str, tuple[str, ...]] = {}
    if config.pretrain:
        groups["pretrain.overrides"] = config.pretrain.overrides
    if config.detect:
        detect = config.detect
        groups["detect"] = (detect.config_file, detect.train_data, detect.test_data, *detect.overrides)
    if config.readout:
        groups["readout"] = (config.readout.data,)
    return {f"{key}[{index}]": text for key, texts in groups.items() for index, text in enumerate(texts)}


def detection_files(config: StudyConfig) -> tuple[Path, ...]:
    """The detector's configuration file of each initialisation, in their order: one family for all, unless the study's own files
    are named with {init}. Raises ConfigError for one that is not there."""
    if config.detect is None:
        return ()
    names = (config.detect.config_file.replace("{init}", init.name) for init in config.inits)
    return tuple(resolve_config_path(name).absolute() for name in names)


def pretrain_file(part: PretrainConfig) -> Path:
    """The pre-training's configuration file. Raises ConfigError where there is none."""
    return find_config(part.config_file, "pretrain", "views").absolute()


def readout_file(part: ReadoutConfig) -> Path | None:
    """The readout's configuration file, None where none is named. Raises ConfigError for one that is not there."""
    return find_config(part.config_file, "linear", "views").absolute() if part.config_file else None


def weight_file(init: InitConfig) -> Path | None:
    """The weight file that an initialisation takes from outside the study, None where it takes none."""
    return None if init.weights in (NO_WEIGHTS, PRETRAINED) else _placed(init.weights)


def _placed(text: str) -> Path:
    """A file as given, else from the project's root."""
    given = Path(text).expanduser()
    return given.absolute() if given.is_file() else ROOT / given
