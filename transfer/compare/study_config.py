"""What a study is: images, pre-trainings, initialisations to compare, seeds, fractions of the labels, and what is expected to
come out.

One YAML file with `base:`, of which the flags of tools/compare.py are shorthands (configs/study/own_data.yaml has every key).
What is left out of pretrain and detect is chosen by the images (transfer/compare/choices.py) before anything is planned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pretrain.base.config_files import find_config
from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping, merge, read_config, require
from transfer.compare.stages import ROOT
from transfer.detect.config_files import resolve_config_path

NO_WEIGHTS, PRETRAINED = "none", "pretrained"
METRICS = ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75", "readout/top1")
PLACEHOLDERS = ("data",)
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
MAX_SEED = 2**31


@dataclass(frozen=True)
class DataConfig:
    """The embedded data set. arguments: further ones for tools/make_demo_data.py."""

    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training of the study's own.

    config_file: for tools/pretrain.py; None: chosen by device and detector.
    overrides: its key=value; {data} stands for the folder of the embedded data set.
    branch: of its two encoders, the one that is transferred.
    seeds: one pre-training each.
    epochs: None: those of the file, or what the budget allows.
    """

    config_file: Path | None = None
    overrides: tuple[str, ...] = ()
    branch: Literal["query", "key"] = "query"
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None

    def __post_init__(self) -> None:
        _require_seeds("pretrain.seeds", self.seeds)
        require(self.epochs is None or self.epochs > 0, f"pretrain.epochs expected positive, found {self.epochs}")


@dataclass(frozen=True)
class InitConfig:
    """One initialisation.

    weights: `none` (random), `pretrained` (by this study), a converted weight file, a checkpoint of any known layout (converted
        and proven first), or a catalog name of tools/train_net.py --init.
    pretrain: of `pretrained`: a pre-training of its own instead of the study's.
    input_of: of random weights: the initialisation whose input (channel order, mean, std, place of the stride) they take; None:
        that of the others (transfer/compare/choices.py).
    """

    name: str
    weights: str
    pretrain: PretrainConfig | None = None
    input_of: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a name that cannot name a folder."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise ValueError(f"expected a name of letters, digits, `-` and `_`, found {self.name!r}")
        require(
            self.pretrain is None or self.weights == PRETRAINED,
            f"{self.name}: a `pretrain` of its own needs weights `{PRETRAINED}`, found {self.weights!r}",
        )
        require(
            self.input_of is None or self.weights == NO_WEIGHTS,
            f"{self.name}: `input_of` is for random weights (`{NO_WEIGHTS}`), found {self.weights!r}, which have an input of their own",
        )


@dataclass(frozen=True)
class DetectConfig:
    """Fine-tuning.

    train_data: SPEC. test_data: SPEC; None: a stratified split of train_data by image, `test_fraction` of it by `split_seed`.
    fractions: of the training images, nested and stratified, drawn by the fine-tuning's seed.
    config_file: a family of transfer/configs; None: chosen by device and boxes.
    iterations: None: those of the file, or what the budget allows. The same for all initialisations, seeds and fractions.
    overrides: KEY VALUE pairs.
    """

    train_data: str
    test_data: str | None = None
    seeds: tuple[int, ...] = (0,)
    fractions: tuple[float, ...] = (1.0,)
    config_file: str | None = None
    iterations: int | None = None
    overrides: tuple[str, ...] = ()
    test_fraction: float = 0.25
    split_seed: int = 0

    def __post_init__(self) -> None:
        _require_seeds("detect.seeds", self.seeds)
        _require_fractions("detect.fractions", self.fractions)
        require(0 < self.test_fraction < 1, f"detect.test_fraction expected in (0, 1), found {self.test_fraction}")
        require(
            self.iterations is None or self.iterations > 0, f"iterations expected positive, found {self.iterations}"
        )


@dataclass(frozen=True)
class ReadoutConfig:
    """Linear readout.

    data: a folder with train/ and val/ class folders, or class folders alone, which are split as the detector's images are.
    arch: of an initialisation without weights; None: that of the others.
    config_file: for tools/linear_eval.py; None: small_64px on the CPU, small on a GPU.
    fractions: of each class, nested, drawn by the seed.
    """

    data: str
    arch: str | None = None
    config_file: Path | None = None
    seeds: tuple[int, ...] = (0,)
    fractions: tuple[float, ...] = (1.0,)
    overrides: tuple[str, ...] = ()
    test_fraction: float = 0.25
    split_seed: int = 0

    def __post_init__(self) -> None:
        _require_seeds("readout.seeds", self.seeds)
        _require_fractions("readout.fractions", self.fractions)
        require(0 < self.test_fraction < 1, f"readout.test_fraction expected in (0, 1), found {self.test_fraction}")


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

    pool: unlabelled images, as tools/pretrain.py takes them (data.root); test images among them are left out.
    baseline: the initialisation that the others are compared with; None: `random`, where there is one.
    budget: time for all of it, "2h" or "90m"; decides epochs and iterations that are not given.

    Configuration files of pretrain and readout are looked up as given, then among the shipped ones; the detector's and weight
    files as given, then from the project's root (the detector's also in transfer/configs).
    """

    inits: tuple[InitConfig, ...]
    data: DataConfig | None = None
    pool: str | None = None
    pretrain: PretrainConfig | None = None
    detect: DetectConfig | None = None
    readout: ReadoutConfig | None = None
    expect: tuple[Expectation, ...] = ()
    baseline: str | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for parts that contradict each other."""
        names = [init.name for init in self.inits]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"inits: expected one or more different names, found {names}")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline: expected one of the inits {names}, found {self.baseline!r}")
        own_input = [init.name for init in self.inits if init.weights != NO_WEIGHTS]
        for init in self.inits:
            if init.input_of is not None and init.input_of not in own_input:
                raise ValueError(
                    f"{init.name}: input_of: expected one of the inits that are not random {own_input}, found {init.input_of!r}"
                )
        if self.detect is None and self.readout is None:
            raise ValueError("expected `detect`, `readout` or both: there is nothing to measure")
        if self.pretrain is None and any(init.weights == PRETRAINED and not init.pretrain for init in self.inits):
            raise ValueError(f"inits: weights `{PRETRAINED}` need a `pretrain` part, or a `pool` of images")
        if self.pool is not None and not self.pretrainings:
            raise ValueError(
                f"pool: {self.pool} is given, but nothing is pre-trained on it; add an initialisation with weights `{PRETRAINED}`"
            )
        if self.budget is not None:
            budget_seconds(self.budget)
        for expectation in self.expect:
            for name in (expectation.higher, expectation.lower):
                if name not in names:
                    raise ValueError(f"expect: expected one of the inits {names}, found {name!r}")
            if expectation.higher == expectation.lower:
                raise ValueError(f"expect: {expectation.higher!r} is compared with itself")
            if (self.readout if expectation.metric.startswith("readout/") else self.detect) is None:
                raise ValueError(f"expect: {expectation.metric} is not measured by this study")

    @property
    def pretrainings(self) -> dict[str, PretrainConfig]:
        """Folder below pretrain/ and weights/ -> the pre-training: "" is the study's, else the initialisation's own."""
        found = {init.name: init.pretrain for init in self.inits if init.pretrain is not None}
        shared = any(init.weights == PRETRAINED and init.pretrain is None for init in self.inits)
        return ({"": self.pretrain} if shared and self.pretrain is not None else {}) | found

    @property
    def baseline_name(self) -> str | None:
        """What the others are compared with; None where `baseline` is not given and nothing is called random."""
        names = [init.name for init in self.inits]
        return self.baseline or ("random" if "random" in names else None)


def _require_seeds(key: str, seeds: Sequence[int]) -> None:
    require(
        bool(seeds) and len(set(seeds)) == len(seeds) and all(0 <= seed < MAX_SEED for seed in seeds),
        f"{key}: expected one or more different numbers in [0, 2^31), found {list(seeds)}",
    )


def _require_fractions(key: str, fractions: Sequence[float]) -> None:
    require(
        bool(fractions) and len(set(fractions)) == len(fractions) and all(0 < part <= 1 for part in fractions),
        f"{key}: expected different numbers in (0, 1], found {list(fractions)}",
    )


def budget_seconds(text: str) -> float:
    """ "2h" -> 7200; "1h30m", "90m", "2d" and plain seconds too. Raises ValueError."""
    compact = text.replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd]?)", compact)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != compact or total <= 0:
        raise ValueError(f"budget: expected a time such as 2h, 1h30m or 90m, found {text!r}")
    return total


def load_study(
    config_file: Path | None, overrides: Sequence[str] = (), *, flags: Mapping[str, Any] | None = None
) -> StudyConfig:
    """Read a file (None: nothing), put the flags' values over it, then `key=value`; check the study.

    Raises ConfigError, also for a configuration file or weight file that is absent.
    """
    where = str(config_file) if config_file is not None else "command line"
    values, origin = read_config(config_file, (), "study")
    given, over = read_config(None, overrides, "study")
    values = merge(merge(values, flags or {}), given)
    if values.get("pool") is not None and values.get("pretrain") is None and _wants_pretraining(values):
        values["pretrain"] = {}
    origin = type(origin)(where, over.overridden if config_file is not None else ())  # else all is the command line's
    config = from_mapping(StudyConfig, values, where=origin)
    for key, text in _templates(config).items():
        for name in re.findall(r"\{(\w*)\}", text):
            if name not in PLACEHOLDERS:
                raise ConfigError(f"{where}: {key}: expected {{data}}, found {{{name}}} in {text!r}")
            if name == "data" and config.data is None:
                raise ConfigError(
                    f"{where}: {key}: {{data}} stands for the embedded data set, but there is no `data` part"
                )
    for part in (*config.pretrainings.values(), *([config.pretrain] if config.pretrain else [])):
        pretrain_file(part)
    if config.readout:
        readout_file(config.readout)
    detection_file(config)
    for init in config.inits:
        weight_file(init)
    return config


def _wants_pretraining(values: Mapping[str, Any]) -> bool:
    inits = values.get("inits")
    return isinstance(inits, (list, tuple)) and any(
        isinstance(init, Mapping) and init.get("weights") == PRETRAINED and not init.get("pretrain") for init in inits
    )


def _templates(config: StudyConfig) -> dict[str, str]:
    """Every text in which {data} may stand."""
    groups: dict[str, tuple[str, ...]] = {"pool": (config.pool,)} if config.pool else {}
    for name, part in config.pretrainings.items():
        groups[f"{name and f'inits.{name}.'}pretrain.overrides"] = part.overrides
    if config.detect:
        detect = config.detect
        groups["detect"] = (detect.train_data, detect.test_data or "", *detect.overrides)
    if config.readout:
        groups["readout"] = (config.readout.data,)
    return {f"{key}[{index}]": text for key, texts in groups.items() for index, text in enumerate(texts)}


def detection_file(config: StudyConfig) -> Path | None:
    """The detector's family file, None where none is named. Raises ConfigError for one that is not there."""
    if config.detect is None or config.detect.config_file is None:
        return None
    try:
        return resolve_config_path(config.detect.config_file).absolute()
    except ConfigError as error:
        raise ConfigError(
            f"detect.config_file: {error} (a study names the family alone; its inits become --init)"
        ) from None


def pretrain_file(part: PretrainConfig) -> Path | None:
    """The pre-training's configuration file, None where none is named. Raises ConfigError for one that is not there."""
    return find_config(part.config_file, "pretrain", "views").absolute() if part.config_file else None


def readout_file(part: ReadoutConfig) -> Path | None:
    """The readout's configuration file, None where none is named. Raises ConfigError for one that is not there."""
    return find_config(part.config_file, "linear", "views").absolute() if part.config_file else None


def weight_file(init: InitConfig) -> Path | None:
    """The file that an initialisation takes from outside the study, None where it takes none (or a catalog name).

    Raises ConfigError for what looks like a file and is not there.
    """
    if init.weights in (NO_WEIGHTS, PRETRAINED):
        return None
    given = Path(init.weights).expanduser()
    if given.is_file() or given.is_dir():  # a run of ours, or what Hugging Face saves, is a folder
        return given.absolute()
    if (ROOT / given).is_file():
        return ROOT / given
    if _in_catalog(init.weights):
        return None
    raise ConfigError(
        f"inits: {init.name}: no file at {init.weights}; expected `{PRETRAINED}`, `{NO_WEIGHTS}` (random weights), a checkpoint or "
        "a catalog name of tools/train_net.py --init"
    )


def _in_catalog(text: str) -> bool:
    from transfer.conversion.published import catalog_entry
    from transfer.detect.inits import CATALOG, RANDOM

    return text in CATALOG or text in RANDOM or catalog_entry(text) is not None
