"""Published reference figures: what the authors report for the shipped configurations, read from published.yaml.

Every figure carries its source and whether it was seen there (`verified`) or only recalled from the paper; a page that
prints an unverified figure says so.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.strict import from_mapping, load_yaml
from transfer.compare.statistics import family_of

FILE = Path(__file__).with_name("published.yaml")
IMAGENET_CLASSES = 1000


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
class PublishedTable:
    """Figures of one published experiment.

    config: folder/stem of a file in transfer/configs without its initialisation (detection only).
    iterations: of 16 images (detection only).
    data: Detectron2's names of what it trained and tested on (detection only).
    figures: a name that stands twice has figures from two sources.
    """

    title: str
    figures: tuple[PublishedFigures, ...]
    config: str = ""
    iterations: int | None = None
    data: tuple[str, str] = ("", "")
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
    """The whole file. sources: only there to be named by the figures."""

    sources: tuple[str, ...]
    detection: tuple[PublishedTable, ...]
    imagenet_readout: PublishedTable


@functools.cache
def load_published() -> Published:
    """published.yaml."""
    return from_mapping(Published, load_yaml(FILE), where=str(FILE))


def published_detection(config_file: str) -> PublishedTable | None:
    """The published figures of a detection configuration, None if it is not a published one."""
    family = family_of(config_file)
    return next((table for table in load_published().detection if table.config == family), None)


def published_readout(*, arch: str, num_classes: int) -> PublishedTable | None:
    """ImageNet's readout figures for a ResNet-50 on 1000 classes, else None."""
    return load_published().imagenet_readout if arch == "resnet50" and num_classes == IMAGENET_CLASSES else None
