"""The images that the monitor looks at: a labelled folder's, or the run's own where none is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from pretrain.config import MonitorConfig
from pretrain.data.source import ClassFolders, scan_images, some_of_each_class
from pretrain.run.monitor import HELD_OUT, MonitorImages, held_out

SWITCH = "monitor.labelled"


def images_to_monitor(config: MonitorConfig, *, own: Callable[[int], np.ndarray], num_own: int) -> MonitorImages:
    """At most `config.max_images`: as many of each class of `config.labelled`, else of the run's, evenly over its order.

    own: position among the run's `num_own` images -> pixels. Raises DataError for a labelled folder that cannot serve as a
    probe: no class folders, fewer than two classes, no class of five images, files that cannot be read.
    """
    if config.labelled is None:
        chosen = torch.linspace(0, num_own - 1, min(num_own, config.max_images)).round().long().tolist()
        return MonitorImages(len(chosen), partial(_read_at, own, chosen))
    folders = labelled_folders(config)
    if len(folders.classes) < 2:
        raise DataError(
            f"{SWITCH} {config.labelled}: a probe needs two classes or more, found only {folders.classes[0]!r}"
        )
    each = max(HELD_OUT, config.max_images // len(folders.classes))
    chosen = some_of_each_class(folders.labels, each, seed=0)
    labels = torch.tensor([folders.labels[index] for index in chosen])
    if not held_out(labels).any():
        raise DataError(
            f"{SWITCH} {config.labelled}: expected at least one class of {HELD_OUT} images, since every fifth is asked about; "
            f"the largest of {len(folders.classes)} classes has {int(labels.bincount().max())}"
        )
    paths = [folders.paths[index] for index in chosen]
    report = scan_images(paths)
    if report.bad:
        raise DataError(f"{SWITCH} {config.labelled}: {report.describe(advice='repair or remove them')}")
    return MonitorImages(len(paths), partial(_read_file, paths), labels)


def labelled_folders(config: MonitorConfig) -> ClassFolders:
    """The listing of `config.labelled`, which is given. Raises DataError that names the key."""
    assert config.labelled is not None
    try:
        return ClassFolders.load(config.labelled.expanduser())
    except DataError as error:
        raise DataError(f"{SWITCH}: {error}") from None


def _read_at(own: Callable[[int], np.ndarray], chosen: list[int], position: int) -> np.ndarray:
    return own(chosen[position])


def _read_file(paths: list[Path], position: int) -> np.ndarray:
    return read_image(paths[position])
