"""What a sweep is: a family of views, its settings, seeds, a pre-training, how it is measured.

In: the command line's values. Out: `SweepConfig`, checked before anything runs: settings, labels, sizes and numbers of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pretrain.config import RunConfig, load_run_config
from pretrain.data import ClassFolders, list_images
from pretrain.errors import ConfigError, DataError
from pretrain.reader import read_size
from pretrain.stream import recipe_of
from pretrain.views.families import Family, Setting, family_named, show_setting
from pretrain.views.recipes import Recipe

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

    overrides: key=value for tools/pretrain.py. readout_data: class folders train/ and val/, `data` unless given;
    linear_config and linear_overrides: for tools/linear_eval.py. measure_batch: pairs a batch, whose log is I_NCE's ceiling.
    """

    family: Family
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    data: Path
    pretrain_config: Path
    overrides: tuple[str, ...]
    downstream: Downstream
    readout_data: Path
    linear_config: Path | None
    linear_overrides: tuple[str, ...]
    detection: DetectionPart | None
    measure_batch: int
    run: RunConfig
    base: Recipe

    def recipe(self, setting: Setting) -> Recipe:
        """The views at a setting."""
        return self.family.recipe(self.base, setting, image_size=self.run.views.image_size)

    @property
    def unit_of_accuracy(self) -> str:
        """What the downstream figure is."""
        return {"readout": "readout top-1 (%)", "detection": "box AP (%)", "none": "none"}[self.downstream]


def build_sweep(
    *,
    family: str,
    settings: Sequence[str] | None,
    seeds: Sequence[int],
    data: Path,
    pretrain_config: Path,
    overrides: Sequence[str] = (),
    downstream: Downstream = "readout",
    readout_data: Path | None = None,
    linear_config: Path | None = None,
    linear_overrides: Sequence[str] = (),
    detection: DetectionPart | None = None,
    measure_batch: int = 256,
) -> SweepConfig:
    """Check everything that can be checked before the first run. settings None: the family's own.

    Raises ConfigError or DataError saying what to type instead.
    """
    chosen = family_named(family)
    values = chosen.settings if settings is None else tuple(chosen.parse(text) for text in settings)
    if len(values) < 2 or len(set(values)) != len(values):
        raise ConfigError(
            f"--settings: expected two or more different ones, found {' '.join(map(show_setting, values))}"
        )
    if chosen.limits is not None:
        values = tuple(sorted(values, key=float))
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"--seeds: expected one or more different numbers of 0 or more, found {list(seeds)}")
    if downstream == "detection" and detection is None:
        raise ConfigError("--downstream detection needs --detect-config, --train-data and --test-data")
    for split in ("train", "val"):
        if not (data / split).is_dir():
            raise DataError(
                f"no folder {data / split}; --data expects a folder with train/ (to pre-train on) and val/ (held-out images to "
                "measure on), and in both of them one folder a class where the readout is the measure"
            )
    run = load_run_config(pretrain_config, (*overrides, f"data.root={data / 'train'}"))
    config = SweepConfig(
        family=chosen,
        settings=values,
        seeds=tuple(seeds),
        data=data,
        pretrain_config=pretrain_config,
        overrides=tuple(overrides),
        downstream=downstream,
        readout_data=readout_data or data,
        linear_config=linear_config,
        linear_overrides=tuple(linear_overrides),
        detection=detection if downstream == "detection" else None,
        measure_batch=measure_batch,
        run=run,
        base=recipe_of(run.views),
    )
    _check_labels(config)
    _check_images(config)
    return config


def _check_labels(config: SweepConfig) -> None:
    """The readout needs class folders."""
    if config.downstream != "readout":
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
    return (
        "the accuracy of a setting is read off labelled images (--readout-data FOLDER names others than --data); to measure "
        "the information alone, type --downstream none"
    )


def _check_images(config: SweepConfig) -> None:
    """Enough images for the batch, the queue and the measurement, and large enough for every setting."""
    train, held_out = list_images(config.data / "train"), list_images(config.data / "val")
    batch, queue = config.run.optimizer.batch_size, config.run.method.queue_size
    if len(train) < batch:
        raise DataError(
            f"{config.data / 'train'}: {len(train)} images do not fill one batch of {batch}; type "
            f"optimizer.batch_size={max(2, len(train))} or less, or add images"
        )
    if len(train) < queue:
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
