"""What a sweep is: a family of views, its settings, seeds, a pre-training, how it is measured.

In: the command line's values. Out: `SweepConfig`, checked before anything runs: settings, labels, sizes and numbers of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.image_files import read_size
from pretrain.config import load_run_config
from pretrain.data.source import ClassFolders, list_images
from pretrain.good_views.view_learning.evaluation import load_evaluation_config
from pretrain.views.families import Family, Setting, family_named, show_setting
from pretrain.views.operations import RandomResizedCrop
from pretrain.views.recipe_file import recipe_of
from pretrain.views.recipes import Recipe

# Explicit values of a pre-training's views; a setting's recipe file holds all of them.
FOLDED = ("crop_scale", "blur_kernel", "blur_sigma", "jitter_strength")
PAIR_ENCODER_FAMILIES = frozenset({"colour"})
Downstream = Literal["readout", "detection", "none"]


@dataclass(frozen=True)
class DetectionPart:
    """Fine-tuning as the measure: a Detectron2 configuration, and SPECs of labelled images (tools/train_net.py)."""

    config_file: Path
    train_data: str
    test_data: str


@dataclass(frozen=True)
class SweepConfig:
    """A whole sweep. data: a folder with train/ (pre-training) and val/ (held-out pairs).

    pretrain_config, overrides: for tools/pretrain.py, or tools/evaluate_views.py where `pair_encoders` is true. readout_data:
    class folders train/ and val/, `data` unless given; linear_config: for tools/linear_eval.py. measure_batch: pairs a batch,
    whose log is I_NCE's ceiling. base: the recipe that settings change. unset: views.KEYs that are folded into it.
    queue_size: None without a queue.
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


def build_sweep(
    *,
    family: str,
    settings: Sequence[str] | None,
    seeds: Sequence[int],
    data: Path,
    pretrain_config: Path | None,
    overrides: Sequence[str] = (),
    downstream: Downstream = "readout",
    readout_data: Path | None = None,
    linear_config: Path | None = None,
    detection: DetectionPart | None = None,
    measure_batch: int = 256,
) -> SweepConfig:
    """Check everything that can be checked before the first run. settings None: the family's own.

    Raises ConfigError or DataError saying what to type instead.
    """
    chosen = family_named(family)
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= seed < 2**31 for seed in seeds):
        raise ConfigError(f"--seeds: expected one or more different numbers in [0, 2^31), found {list(seeds)}")
    if downstream == "detection" and detection is None:
        raise ConfigError("--downstream detection needs --detect-config, --train-data and --test-data")
    for split in ("train", "val"):
        if not (data / split).is_dir():
            raise DataError(
                f"no folder {data / split}; --data expects a folder with train/ (to pre-train on) and val/ (held-out images to "
                "measure on), and in both of them one folder a class where the readout is the measure"
            )
    if detection is not None:
        detection = _checked(detection)
    for path in (pretrain_config, linear_config):
        if path is not None and not path.is_file():
            raise ConfigError(f"no configuration file at {path}")
    plan = _pair_encoder_plan if family in PAIR_ENCODER_FAMILIES else _pretraining_plan
    config = SweepConfig(
        family=chosen,
        settings=_settings(chosen, settings),
        seeds=tuple(seeds),
        data=data,
        pretrain_config=pretrain_config,
        overrides=tuple(overrides),
        downstream=downstream,
        readout_data=readout_data or data,
        linear_config=linear_config,
        detection=detection if downstream == "detection" else None,
        **{"measure_batch": measure_batch, **plan(pretrain_config, overrides, data)},
    )
    if config.pair_encoders and (downstream == "detection" or config.readout_data != data or linear_config):
        raise ConfigError(
            f"family {chosen.name} trains two small encoders and probes them on --data; leave --downstream detection, "
            "--readout-data and --linear-config out"
        )
    _check_labels(config)
    _check_images(config)
    return config


def _checked(part: DetectionPart) -> DetectionPart:
    """With the configuration's path found as tools/train_net.py finds it. Raises what that command would, hours earlier."""
    from transfer.data.spec import parse_spec, read_data
    from transfer.detect.config import load_detector_config, resolve_config_path

    path = resolve_config_path(str(part.config_file))
    load_detector_config(path, ())
    for spec in (part.train_data, part.test_data):
        read_data(parse_spec(spec))
    return replace(part, config_file=path)


def _settings(family: Family, texts: Sequence[str] | None) -> tuple[Setting, ...]:
    values = family.settings if texts is None else tuple(family.parse(text) for text in texts)
    if len(values) < 2 or len(set(values)) != len(values):
        raise ConfigError(
            f"--settings: expected two or more different ones, found {' '.join(map(show_setting, values))}"
        )
    return tuple(sorted(values, key=family.place))


def _pretraining_plan(config_file: Path | None, overrides: Sequence[str], data: Path) -> dict[str, Any]:
    """Sizes and base recipe of tools/pretrain.py's run."""
    if config_file is None:
        raise ConfigError("expected --pretrain-config FILE, for example configs/views/small_cifar.yaml")
    run = load_run_config(config_file, (*overrides, f"data.root={data / 'train'}"))
    return {
        "base": recipe_of(run.views.recipe, run.views.overrides),
        "image_size": run.views.image_size,
        "batch_size": run.optimizer.batch_size,
        "queue_size": run.method.queue_size,
        "unset": tuple(key for key in FOLDED if getattr(run.views, key) is not None),
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


def _check_labels(config: SweepConfig) -> None:
    """The readout needs class folders, and so does a probe on two small encoders, asked for or not."""
    if config.downstream != "readout" and not config.pair_encoders:
        return
    for split in ("train", "val"):
        try:
            classes = ClassFolders.load(config.readout_data / split).classes
        except DataError as error:
            raise DataError(f"{error}; {_without_labels(config)}") from None
        if len(classes) < 2:
            raise DataError(
                f"{config.readout_data / split}: a readout needs two classes or more, found only {classes[0]!r}; "
                f"{_without_labels(config)}"
            )


def _without_labels(config: SweepConfig) -> str:
    if config.pair_encoders:
        return f"family {config.family.name} probes what it has learned and needs labelled images"
    return (
        "the accuracy of a setting is read off labelled images (--readout-data FOLDER names others than --data); to measure "
        "the information alone, type --downstream none"
    )


def _check_images(config: SweepConfig) -> None:
    """Enough images for the batch, the queue and the measurement, and large enough for every setting."""
    train, held_out = list_images(config.data / "train"), list_images(config.data / "val")
    batch, queue = config.batch_size, config.queue_size
    if len(train) < batch:
        raise DataError(
            f"{config.data / 'train'}: {len(train)} images do not fill one batch of {batch}; type "
            f"{'' if config.pair_encoders else 'optimizer.'}batch_size={max(2, len(train))} or less, or add images"
        )
    if queue is not None and len(train) < queue:
        raise DataError(
            f"{config.data / 'train'}: {len(train)} images for a queue of K = {queue} keys, which would hold an image's own "
            f"older views as negatives; type method.queue_size={max(batch, len(train) // 2)} or less, or add images"
        )
    if len(held_out) < config.measure_batch or config.measure_batch < 2:
        raise DataError(
            f"{config.data / 'val'}: {len(held_out)} held-out images do not fill one batch of {config.measure_batch} pairs; type "
            f"--measure-batch {max(2, len(held_out))} or less, or add images"
        )
    needed = {setting: config.recipe(setting).smallest_side for setting in config.settings}
    if max(needed.values()) > 1:
        _check_sides([*train, *held_out], needed)


def _check_sides(paths: Sequence[Path], needed: dict[Setting, int]) -> None:
    """Every image's shorter side against what each setting needs."""
    shortest, path = min((min(read_size(path)), path) for path in paths)
    fitting = [setting for setting, side in needed.items() if side <= shortest]
    if len(fitting) < len(needed):
        listed = ", ".join(f"{show_setting(setting)} ({side} px)" for setting, side in needed.items())
        possible = " ".join(map(show_setting, fitting)) or "none of them"
        raise DataError(
            f"{path}: its shorter side has {shortest} px; the settings need at least {listed}. Use larger images, or type "
            f"--settings with what fits ({possible})"
        )
