"""What a sweep is: a family of views, its settings, seeds, a pre-training, how it is measured.

`SweepConfig` is what a YAML file and the command line say; `Sweep` is that, checked before anything runs (settings, labels,
sizes and numbers of images), with what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pretrain.base.config_files import find_config
from pretrain.base.errors import ConfigError, DataError
from pretrain.base.image_files import read_size
from pretrain.base.same_run import flat
from pretrain.base.strict import Origin, from_mapping, load_yaml, merge, overridden_keys, parse_overrides
from pretrain.config import load_run_config
from pretrain.data.source import list_images, scan_images
from pretrain.good_views.view_learning.evaluation import load_evaluation_config
from pretrain.views.families import Family, Setting, family_named, show_setting
from pretrain.views.operations import RandomResizedCrop
from pretrain.views.recipe_file import recipe_of
from pretrain.views.recipes import Recipe
from transfer.compare.checks import check_detection, check_readout

# Explicit values of a pre-training's views; a setting's recipe file holds all of them.
FOLDED = ("crop_scale", "blur_kernel", "blur_sigma", "jitter_strength")
PAIR_ENCODER_FAMILIES = frozenset({"colour"})
Downstream = Literal["readout", "detection", "none"]


@dataclass(frozen=True)
class PretrainPart:
    """config_file and overrides: for tools/pretrain.py; of family colour, for tools/evaluate_views.py."""

    config_file: Path | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadoutPart:
    """The linear readout as the measure.

    data: class folders train/ and val/; those of the sweep unless given.
    config_file: for tools/linear_eval.py; None: the paper's protocol.
    """

    data: Path | None = None
    config_file: Path | None = None


@dataclass(frozen=True)
class DetectionPart:
    """Fine-tuning as the measure: a Detectron2 configuration, and SPECs of labelled images (tools/train_net.py)."""

    config_file: Path
    train_data: str
    test_data: str


@dataclass(frozen=True)
class SweepConfig:
    """What is asked for.

    family: crop, jitter, blur, frequency, distance, colour or stacking.
    data: a folder with train/ (pre-training) and val/ (held-out pairs).
    settings: of the family; None: its own.
    downstream: what tells how good a setting is; none: only the information is measured.
    measure_batch: held-out pairs a batch, whose log is I_NCE's ceiling.
    """

    family: str
    data: Path
    settings: tuple[float | str, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    pretrain: PretrainPart = field(default_factory=PretrainPart)
    downstream: Downstream = "readout"
    readout: ReadoutPart = field(default_factory=ReadoutPart)
    detection: DetectionPart | None = None
    measure_batch: int = 256


PARTS = {"pretrain", "readout", "detection"}


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    data: a folder with train/ (pre-training) and val/ (held-out pairs).
    pretrain_config, overrides: for tools/pretrain.py, or tools/evaluate_views.py where `pair_encoders` is true.
    readout_data: class folders train/ and val/.
    linear_config: for tools/linear_eval.py.
    measure_batch: pairs a batch.
    base: the recipe that settings change.
    queue_size: None without a queue.
    unset: views.KEYs that are folded into the recipe.
    arch: of the encoder; None of a pair of small ones.
    skip_unreadable: whether pre-training leaves out what it cannot read.
    """

    family: Family
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    data: Path
    pretrain_config: Path | None
    overrides: tuple[str, ...]
    downstream: Downstream
    readout_data: Path
    linear_config: Path | None
    detection: DetectionPart | None
    measure_batch: int
    base: Recipe
    image_size: int
    batch_size: int
    queue_size: int | None = None
    unset: tuple[str, ...] = ()
    arch: str | None = None
    skip_unreadable: bool = False

    @property
    def pair_encoders(self) -> bool:
        """Two small encoders, one a view, as in the paper, by one command that measures information and accuracy."""
        return self.family.name in PAIR_ENCODER_FAMILIES

    def recipe(self, setting: Setting) -> Recipe:
        """The views at a setting."""
        return self.family.recipe(self.base, setting, image_size=self.image_size)

    @property
    def unit_of_accuracy(self) -> str:
        """What the downstream figure is."""
        if self.pair_encoders and self.downstream == "readout":
            return "top-1 of a probe on both encoders (%)"
        return {"readout": "readout top-1 (%)", "detection": "box AP (%)", "none": "none"}[self.downstream]


def load_sweep(config_file: Path | None, *, flags: Mapping[str, Any], overrides: Sequence[str]) -> Sweep:
    """Read a file (None: flags alone), the nested values of flags over it, then key=value, and check all of it.

    An override whose key is the sweep's own changes the sweep; every other one goes to the pre-training, where it replaces
    the file's for the same key. Raises ConfigError or DataError that says what to pass instead.
    """
    own = [text for text in overrides if _is_own(text)]
    others = [text for text in overrides if not _is_own(text)]
    parse_overrides(others)  # refuses one without `=`, and a key that is given twice
    values = merge(load_yaml(find_config(config_file, "sweep"), "sweep") if config_file else {}, flags)
    origin = Origin(str(config_file or "command line"), (*flat(flags), *overridden_keys(own)))
    config = from_mapping(SweepConfig, merge(values, parse_overrides(own)), where=origin)
    keys = {text.partition("=")[0] for text in others}
    kept = [text for text in config.pretrain.overrides if text.partition("=")[0] not in keys]
    return check_sweep(replace(config, pretrain=replace(config.pretrain, overrides=(*kept, *others))))


def _is_own(override: str) -> bool:
    """Whether the key is one of SweepConfig's: `data=...` is, `data.num_workers=...` is the pre-training's."""
    first, dot, _ = override.partition("=")[0].partition(".")
    return first in PARTS or (not dot and first in {entry.name for entry in fields(SweepConfig)})


def check_sweep(config: SweepConfig) -> Sweep:
    """Check everything that can be checked before the first run. Raises ConfigError or DataError that says what to pass instead."""
    family = family_named(config.family)
    seeds, data = config.seeds, config.data
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**31 for seed in seeds):
        raise ConfigError(f"--seeds: expected one or more different numbers in [0, 2^31), found {list(seeds)}")
    if config.downstream == "detection" and config.detection is None:
        raise ConfigError("--downstream detection needs --detect-config, --train-data and --test-data")
    for split in ("train", "val"):
        if not (data / split).is_dir():
            raise DataError(
                f"no folder {data / split}; --data expects a folder with train/ (to pre-train on) and val/ (held-out images to "
                "measure on), and in both of them one folder a class where the readout is the measure"
            )
    detection = _located(config.detection) if config.detection else None
    pretrain_config = config.pretrain.config_file and find_config(config.pretrain.config_file, "views", "pretrain")
    linear_config = config.readout.config_file and find_config(config.readout.config_file, "linear", "views")
    plan = _pair_encoder_plan if family.name in PAIR_ENCODER_FAMILIES else _pretraining_plan
    sweep = Sweep(
        family=family,
        settings=_settings(family, config.settings),
        seeds=seeds,
        data=data,
        pretrain_config=pretrain_config,
        overrides=config.pretrain.overrides,
        downstream=config.downstream,
        readout_data=config.readout.data or data,
        linear_config=linear_config,
        detection=detection if config.downstream == "detection" else None,
        **{"measure_batch": config.measure_batch, **plan(pretrain_config, config.pretrain.overrides, data)},
    )
    if sweep.pair_encoders and (sweep.downstream == "detection" or sweep.readout_data != data or linear_config):
        raise ConfigError(
            f"family {family.name} trains two small encoders and probes them on --data; leave --downstream detection, "
            "--readout-data and --linear-config out"
        )
    if detection is not None:  # also where it is not the measure: what is given must be sound
        check_detection(
            detection.config_file,
            train_data=detection.train_data,
            test_data=detection.test_data,
            arch=sweep.arch if sweep.downstream == "detection" else None,
        )
    _check_images(sweep)
    _check_labels(sweep)
    return sweep


def _located(part: DetectionPart) -> DetectionPart:
    """With the configuration's path found as tools/train_net.py finds it."""
    from transfer.detect.config_files import resolve_config_path

    return replace(part, config_file=resolve_config_path(str(part.config_file)))


def _settings(family: Family, given: Sequence[float | str] | None) -> tuple[Setting, ...]:
    values = family.settings if given is None else tuple(family.parse(_as_typed(value)) for value in given)
    if len(values) < 2 or len(set(values)) != len(values):
        raise ConfigError(
            f"--settings: expected two or more different ones, found {' '.join(map(show_setting, values))}"
        )
    return tuple(sorted(values, key=family.place))


def _as_typed(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.12g}"


def _pretraining_plan(config_file: Path | None, overrides: Sequence[str], data: Path) -> dict[str, Any]:
    """Sizes and base recipe of tools/pretrain.py's run."""
    if config_file is None:
        raise ConfigError("expected --pretrain-config FILE, for example configs/views/small_cifar.yaml")
    run = load_run_config(config_file, (*overrides, f"data.root={data / 'train'}"))
    return {
        "base": recipe_of(run.views.recipe, run.views.overrides),
        "image_size": run.views.image_size,
        "batch_size": run.optimizer.batch_size,
        "queue_size": run.method.queue_size if run.method.memory == "queue" else None,
        "unset": tuple(key for key in FOLDED if getattr(run.views, key) is not None),
        "arch": run.encoder.arch,
        "skip_unreadable": run.data.skip_unreadable,
    }


def _pair_encoder_plan(config_file: Path | None, overrides: Sequence[str], data: Path) -> dict[str, Any]:
    """Sizes of tools/evaluate_views.py's run; its crops without a flip are the base recipe."""
    run = load_evaluation_config(config_file, overrides)
    crop = RandomResizedCrop(scale=run.crop_scale, shared=run.same_crop)
    return {
        "base": Recipe("evaluate_views", (crop,)),
        "image_size": run.image_size,
        "batch_size": run.batch_size,
        "measure_batch": run.batch_size,
    }


def _check_labels(sweep: Sweep) -> None:
    """The readout needs class folders, and so does a probe on two small encoders, asked for or not."""
    if sweep.downstream != "readout" and not sweep.pair_encoders:
        return
    try:
        check_readout(sweep.readout_data, sweep.linear_config)
    except DataError as error:
        raise DataError(f"{error}; {_without_labels(sweep)}") from None


def _without_labels(sweep: Sweep) -> str:
    if sweep.pair_encoders:
        return f"family {sweep.family.name} probes what it has learned and needs labelled images"
    return (
        "the accuracy of a setting is read off labelled images (--readout-data FOLDER names others than --data); to measure "
        "the information alone, pass --downstream none"
    )


def _check_images(sweep: Sweep) -> None:
    """Enough images for the batch, the queue and the measurement, and large enough for every setting."""
    train, held_out = list_images(sweep.data / "train"), list_images(sweep.data / "val")
    batch, queue = sweep.batch_size, sweep.queue_size
    if len(train) < batch:
        raise DataError(
            f"{sweep.data / 'train'}: {len(train)} images do not fill one batch of {batch}; pass "
            f"{'' if sweep.pair_encoders else 'optimizer.'}batch_size={max(2, len(train))} or less, or add images"
        )
    if queue is not None and len(train) < queue:
        raise DataError(
            f"{sweep.data / 'train'}: {len(train)} images for a queue of K = {queue} keys, which would hold an image's own "
            f"older views as negatives; pass method.queue_size={max(batch, len(train) // 2)} or less, or add images"
        )
    if len(held_out) < sweep.measure_batch or sweep.measure_batch < 2:
        raise DataError(
            f"{sweep.data / 'val'}: {len(held_out)} held-out images do not fill one batch of {sweep.measure_batch} pairs; pass "
            f"--measure-batch {max(2, len(held_out))} or less, or add images"
        )
    _check_readable(train if not sweep.skip_unreadable else [], "or pass data.skip_unreadable=true to leave them out")
    _check_readable(held_out, "since every one of them is measured on")
    needed = {setting: sweep.recipe(setting).smallest_side for setting in sweep.settings}
    if max(needed.values()) > 1:
        _check_sides([*train, *held_out], needed)


def _check_readable(paths: Sequence[Path], advice: str) -> None:
    report = scan_images(paths)
    if report.bad:
        raise DataError(report.describe(advice=f"repair or remove them, {advice}"))


def _check_sides(paths: Sequence[Path], needed: dict[Setting, int]) -> None:
    """Every image's shorter side against what each setting needs."""
    shortest, path = min((min(read_size(path)), path) for path in paths)
    fitting = [setting for setting, side in needed.items() if side <= shortest]
    if len(fitting) < len(needed):
        listed = ", ".join(f"{show_setting(setting)} ({side} px)" for setting, side in needed.items())
        possible = " ".join(map(show_setting, fitting)) or "none of them"
        raise DataError(
            f"{path}: its shorter side has {shortest} px; the settings need at least {listed}. Use larger images, or pass "
            f"--settings with what fits ({possible})"
        )
