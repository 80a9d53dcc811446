"""Published reference figures: what the authors report for the shipped configurations, read from published.yaml.

Every figure carries its source and whether it was seen there (`verified`) or only recalled from the paper; a page that
prints an unverified figure says so. They stand beside ours only where schedule, batch and data are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.base.record import DataRecord
from pretrain.base.strict import from_mapping, load_yaml
from transfer.compare.experiments import Experiment
from transfer.compare.results import Run, family_of, iterations_of, num_images, protocol_of

# How the backbone is trained in all published experiments: with figures of another way they do not stand together.
FINE_TUNING = {"MODEL.RESNETS.NORM": "SyncBN", "MODEL.BACKBONE.FREEZE_AT": 0, "TEST.PRECISE_BN.ENABLED": True}
FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedFigure:
    """One figure. value: percent, or AP points. verified: seen at its source; print it with a mark otherwise."""

    value: float
    source: str
    verified: bool


@dataclass(frozen=True)
class PublishedFigures:
    """Figures of one initialisation or method out of one source, in percent or AP points."""

    name: str
    source: str
    verified: bool = True
    box_AP50: float | None = None
    box_AP: float | None = None
    box_AP75: float | None = None
    mask_AP50: float | None = None
    mask_AP: float | None = None
    mask_AP75: float | None = None
    top1: float | None = None
    top5: float | None = None

    def by_metric(self) -> dict[str, PublishedFigure]:
        """ "bbox/AP50", "segm/AP", "top1", ... -> figure."""
        values = {
            **{f"bbox/{name}": getattr(self, f"box_{name}") for name in ("AP50", "AP", "AP75")},
            **{f"segm/{name}": getattr(self, f"mask_{name}") for name in ("AP50", "AP", "AP75")},
            **{"top1": self.top1, "top5": self.top5},
        }
        found = {metric: value for metric, value in values.items() if value is not None}
        return {metric: PublishedFigure(value, self.source, self.verified) for metric, value in found.items()}


@dataclass(frozen=True)
class Data:
    """What the published runs trained and tested on.

    train, test: their names (Detectron2's, for detection).
    num_train, num_test: numbers of images that a loader may count (COCO's differ by the images without an object).
    num_classes: of the labels. metric: words that the metric's name must have, where a data set has several.
    """

    train: str
    test: str
    num_train: tuple[int, ...]
    num_test: tuple[int, ...]
    num_classes: int
    metric: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """Figures of one published experiment.

    config: folder/stem of a family in transfer/configs (detection only).
    iterations, batch, learning_rate: the schedule (detection only; a readout's is the paper's protocol).
    figures: a name that stands twice has figures from two sources.
    """

    title: str
    data: Data
    figures: tuple[PublishedFigures, ...]
    config: str = ""
    iterations: int | None = None
    batch: int = 16
    learning_rate: float = 0.02
    note: str = ""

    @property
    def rows(self) -> Mapping[str, Mapping[str, PublishedFigure]]:
        """Name -> metric -> figure."""
        rows: dict[str, dict[str, PublishedFigure]] = {}
        for figures in self.figures:
            rows[figures.name] = rows.get(figures.name, {}) | figures.by_metric()
        return rows


@dataclass(frozen=True)
class Published:
    """The whole file. sources, data_sets: only there to be named by the tables."""

    sources: tuple[str, ...]
    data_sets: tuple[Data, ...]
    detection: tuple[PublishedTable, ...]
    imagenet_readout: PublishedTable


@functools.cache
def load_published() -> Published:
    """published.yaml."""
    return from_mapping(Published, load_yaml(FILE), where=str(FILE))


def published_for(experiment: Experiment) -> PublishedTable | None:
    """The published experiment that this one is a run of, by its configuration or encoder; None where there is none."""
    published = load_published()
    if experiment.kind == "detection":
        return next((table for table in published.detection if table.config == family_of(experiment.first)), None)
    if experiment.kind != "readout" or experiment.first.record.experiment.get("arch") != "resnet50":
        return None
    same_classes = len(experiment.first.record.class_names) == published.imagenet_readout.data.num_classes
    return published.imagenet_readout if same_classes else None


def why_not_beside(published: PublishedTable, experiment: Experiment) -> tuple[str, ...]:
    """What differs from the published experiment in schedule, batch, fine-tuning and data; empty: the figures may stand side by
    side."""
    run = experiment.first
    schedule = _protocol(run) if experiment.kind == "readout" else _schedule(published, run)
    return (*schedule, *_data(published.data, run))


def _schedule(published: PublishedTable, run: Run) -> list[str]:
    found = (iterations_of(run), run.setting("SOLVER.IMS_PER_BATCH"), run.setting("SOLVER.BASE_LR"))
    theirs = (published.iterations, published.batch, published.learning_rate)
    names = ("{} iterations", "batches of {} images", "a learning rate of {}")
    reasons = [
        f"{name.format(_shown(there))} there, {'not recorded' if here is None else _shown(here)} here"
        for name, there, here in zip(names, theirs, found, strict=True)
        if here != there
    ]
    fine_tuning = (
        (key, there, run.setting(key)) for key, there in FINE_TUNING.items()
    )  # of old runs it is not recorded
    return reasons + [
        f"{key} {there} there, {here} here" for key, there, here in fine_tuning if here not in (None, there)
    ]


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _protocol(run: Run) -> list[str]:
    protocol = protocol_of(run)
    return [] if protocol.get("is_paper") else [f"the readout is {protocol.get('name', 'of an unknown protocol')}"]


def _data(data: Data, run: Run) -> list[str]:
    """By number of images and classes, which no other data set shares, wherever the images lie and however they are named."""
    reasons = []
    for words, role, name, counts in (
        ("trained", "train", data.train, data.num_train),
        ("tested", "test", data.test, data.num_test),
    ):
        split, here = run.record.data.get(role), num_images(run, role)
        unknown = here == 0 and split is not None and split.spec == name  # an old run: only the name was recorded
        if here not in counts and not unknown:
            reasons.append(f"{words} on {name} ({counts[0]:,} images) there, on {_what(split)} here")
    classes = len(run.record.class_names)
    if classes != data.num_classes:
        reasons.append(f"{data.num_classes} classes there, {classes} here")
    if data.metric not in (run.record.metric or ""):
        reasons.append(f"{data.metric} there, {run.record.metric or 'a metric that is not recorded'} here")
    return reasons


def _what(split: DataRecord | None) -> str:
    if split is None:
        return "data that is not recorded"
    return f"{split.spec} ({split.num_images:,} images)" if split.num_images else split.spec
