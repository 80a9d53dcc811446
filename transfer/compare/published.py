"""Published reference figures, as data: what the authors report for the shipped configurations.

In: a configuration file's name. Out: `PublishedTable` or None. Every figure carries its source and whether it was seen
there (`verified`) or only recalled from the paper; a page that prints an unverified figure says so, no test gates on one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

MOCO = "facebookresearch/moco, detection/README.md"
PYCONTRAST = "HobbitLong/PyContrast, detection/README.md"
PYCONTRAST_README = "HobbitLong/PyContrast, README.md"
COCO_DATA = ("coco_2017_train", "coco_2017_val")
VOC_DATA = ("voc_2007_trainval, voc_2012_trainval", "voc_2007_test")
RECALLED = "the InfoMin paper's tables, recalled"

INITIALISATION_SUFFIX = re.compile(r"_(random|supervised|infomin)$")


@dataclass(frozen=True)
class PublishedFigure:
    """One figure. value: percent, or AP points. verified False: not seen at its source; print it with a mark."""

    value: float
    source: str
    verified: bool = True


@dataclass(frozen=True)
class PublishedRow:
    """One initialisation (or method) of a published table. figures: "bbox/AP50", "segm/AP", "top1", ... -> figure."""

    name: str
    figures: Mapping[str, PublishedFigure]


@dataclass(frozen=True)
class PublishedTable:
    """Figures of one published experiment.

    iterations: of 16 images (detection), None for readouts. data: Detectron2's names of what it trained and tested on.
    """

    title: str
    rows: tuple[PublishedRow, ...]
    iterations: int | None = None
    note: str = ""
    data: tuple[str, str] = ("", "")


def _row(name: str, source: str, *, verified: bool = True, **figures: float) -> PublishedRow:
    """`box_AP50=81.3` -> "bbox/AP50"; `mask_AP` -> "segm/AP"; `top1` stays."""
    return PublishedRow(name, {_metric(key): PublishedFigure(v, source, verified) for key, v in figures.items()})


def _metric(key: str) -> str:
    task, _, name = key.rpartition("_")
    return {"box": "bbox/", "mask": "segm/", "": ""}[task] + name


def _coco(name: str, box: float, mask: float, **recalled: float) -> PublishedRow:
    """Box AP and mask AP as the author's README lists them; further figures recalled from the paper."""
    seen = _row(name, PYCONTRAST, box_AP=box, mask_AP=mask)
    return PublishedRow(name, {**seen.figures, **_row(name, RECALLED, verified=False, **recalled).figures})


VOC_C4 = PublishedTable(
    "VOC07+12 trainval, R-50-C4, 24k iterations",
    (
        _row("random", RECALLED, verified=False, box_AP50=60.2, box_AP=33.8, box_AP75=33.1),
        _row("supervised", MOCO, box_AP50=81.3, box_AP=53.5, box_AP75=58.8),
        _row("InstDis", RECALLED, verified=False, box_AP50=80.9, box_AP=55.2, box_AP75=61.2),
        _row("PIRL", RECALLED, verified=False, box_AP50=81.0, box_AP=55.5, box_AP75=61.3),
        _row("MoCo v1, 200 epochs", MOCO, box_AP50=81.5, box_AP=55.9, box_AP75=62.6),
        _row("MoCo v2, 200 epochs", MOCO, box_AP50=82.4, box_AP=57.0, box_AP75=63.6),
        _row("MoCo v2, 800 epochs", MOCO, box_AP50=82.5, box_AP=57.4, box_AP75=64.0),
        _row("infomin", RECALLED, verified=False, box_AP50=82.7, box_AP=57.6, box_AP75=64.6),
    ),
    iterations=24_000,
    data=VOC_DATA,
    note="MoCo's figures are means of 5 trials, standard deviation about 0.2 / 0.2 / 0.4 (AP50 / AP / AP75).",
)
COCO_FPN_1X = PublishedTable(
    "COCO train2017 -> val2017, R-50-FPN 1x",
    (
        _coco("random", 32.8, 29.9, box_AP50=50.9, box_AP75=35.3, mask_AP50=47.9, mask_AP75=32.0),
        _coco("supervised", 39.7, 35.9, box_AP50=59.5, box_AP75=43.3, mask_AP50=56.6, mask_AP75=38.6),
        _coco("InstDis", 38.8, 35.2),
        _coco("PIRL", 38.6, 35.1),
        _coco("MoCo v1", 39.4, 35.6),
        _row("MoCo v2", RECALLED, verified=False, box_AP=40.1, box_AP50=59.8, box_AP75=44.1, mask_AP=36.3),
        _coco("infomin", 40.6, 36.7, box_AP50=60.6, box_AP75=44.6, mask_AP50=57.7, mask_AP75=39.4),
    ),
    iterations=90_000,
    data=COCO_DATA,
    note="One run each; no spread published. Self-supervised rows: 200 epochs of pre-training.",
)
COCO_FPN_2X = PublishedTable(
    "COCO train2017 -> val2017, R-50-FPN 2x",
    (
        _coco("random", 38.4, 34.7),
        _coco("supervised", 41.6, 37.6, box_AP50=61.7, box_AP75=45.3, mask_AP50=58.7, mask_AP75=40.4),
        _coco("InstDis", 41.3, 37.3),
        _coco("PIRL", 41.2, 37.4),
        _coco("MoCo v1", 41.7, 37.5),
        _coco("MoCo v2", 41.7, 37.6),
        _coco("infomin", 42.5, 38.4, box_AP50=62.7, box_AP75=46.8, mask_AP50=59.7, mask_AP75=41.4),
    ),
    iterations=180_000,
    data=COCO_DATA,
    note=COCO_FPN_1X.note,
)
COCO_FPN_6X = PublishedTable(
    "COCO train2017 -> val2017, R-50-FPN 6x",
    (_coco("random", 42.7, 38.6), _coco("supervised", 42.6, 38.5), _coco("infomin", 43.6, 39.2)),
    iterations=540_000,
    data=COCO_DATA,
    note=COCO_FPN_1X.note,
)
# The recalled random row (26.4 / 29.3) is left out: which of the two is the box AP is not certain.
COCO_C4_1X = PublishedTable(
    "COCO train2017 -> val2017, R-50-C4 1x",
    (
        _coco("supervised", 38.2, 33.3),
        _row("InstDis", RECALLED, verified=False, box_AP=37.7, mask_AP=33.0),
        _row("PIRL", RECALLED, verified=False, box_AP=37.4, mask_AP=32.7),
        _coco("MoCo", 38.5, 33.6),
        _coco("infomin", 39.0, 34.1, box_AP50=58.5, box_AP75=42.0, mask_AP50=55.2, mask_AP75=36.3),
    ),
    iterations=90_000,
    data=COCO_DATA,
    note=COCO_FPN_1X.note,
)
COCO_C4_2X = PublishedTable(
    "COCO train2017 -> val2017, R-50-C4 2x",
    (_coco("supervised", 40.0, 34.7), _coco("MoCo", 40.7, 35.6), _coco("infomin", 41.3, 36.0)),
    iterations=180_000,
    data=COCO_DATA,
    note=COCO_FPN_1X.note,
)
COCO_FPN_MOCO_1X = PublishedTable(
    "COCO train2017 -> val2017, R-50-FPN 1x with Detectron2's stock heads (MoCo's variant)",
    (_row("supervised", "MoCo paper, recalled", verified=False, box_AP=38.9),),
    iterations=90_000,
    data=COCO_DATA,
)

# Keys: folder/stem of a file in transfer/configs, without the initialisation at its end.
DETECTION: Mapping[str, PublishedTable] = {
    "voc/R_50_C4_24k": VOC_C4,
    "coco/R_50_FPN_1x": COCO_FPN_1X,
    "coco/R_50_FPN_2x": COCO_FPN_2X,
    "coco/R_50_FPN_6x": COCO_FPN_6X,
    "coco/R_50_C4_1x": COCO_C4_1X,
    "coco/R_50_C4_2x": COCO_C4_2X,
    "coco/R_50_FPN_moco_1x": COCO_FPN_MOCO_1X,
}

IMAGENET_READOUT = PublishedTable(
    "ImageNet-1k linear readout, ResNet-50",
    (
        _row("InstDis, 200 epochs", PYCONTRAST_README, top1=59.5),
        _row("CMC, 200 epochs (two half-width encoders)", PYCONTRAST_README, top1=58.6),
        _row("MoCo, 200 epochs", PYCONTRAST_README, top1=60.8),
        _row("PIRL, 200 epochs", PYCONTRAST_README, top1=61.7),
        _row("MoCo v2, 200 epochs", PYCONTRAST_README, top1=67.5),
        _row("InfoMin, 100 epochs", PYCONTRAST_README, top1=67.4),
        _row("InfoMin, 200 epochs", PYCONTRAST_README, top1=70.1),
        PublishedRow(
            "InfoMin, 800 epochs",
            {
                "top1": PublishedFigure(73.0, PYCONTRAST_README),
                "top5": PublishedFigure(91.1, "tables of the BYOL, VICReg and RELIC papers"),
            },
        ),
    ),
    note="MoCo's own five trials: 60.8 ± 0.2 (v1), 67.5 ± 0.1 (v2), 200 epochs.",
)
IMAGENET_CLASSES = 1000


def family_of(config_file: str) -> str:
    """ ".../configs/voc/R_50_C4_24k_random.yaml" -> "voc/R_50_C4_24k": the file without its initialisation."""
    path = PurePath(config_file)
    stem = INITIALISATION_SUFFIX.sub("", path.stem)
    return f"{path.parent.name}/{stem}" if path.parent.name else stem


def published_detection(config_file: str) -> PublishedTable | None:
    """The published figures of a detection configuration, None if it is not a published one."""
    return DETECTION.get(family_of(config_file))


def published_readout(*, arch: str, num_classes: int) -> PublishedTable | None:
    """ImageNet's readout figures for a ResNet-50 on 1000 classes, else None."""
    return IMAGENET_READOUT if arch == "resnet50" and num_classes == IMAGENET_CLASSES else None
