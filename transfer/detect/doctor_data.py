"""Checks of the configuration against the data: classes, anchors, sizes, masks, test images. See doctor.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer.data.findings import Finding
from transfer.detect.anchors import (
    level_sizes,
    level_strides,
    resize_factor,
    resized_boxes,
    show_sizes,
)
from transfer.detect.checks import config_value
from transfer.detect.doctor_case import FEW_ITERATIONS, Case, finding

TINY = 8  # pixels: a side of two cells of the finest feature map (stride 4)
MANY_TINY = 0.25
UPSCALED = 2.5  # times: 640 px photos of COCO become 800 to 1333, at most 2.1
FEW_TEST_IMAGES = 30
MANY_UNLABELLED = 0.2
LOW_SCORE = 0.1
SIDES = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


def classes(case: Case) -> Iterator[Finding]:
    """The number of outputs against the number of classes."""
    retina = case.config.MODEL.META_ARCHITECTURE == "RetinaNet"
    key = "MODEL.RETINANET.NUM_CLASSES" if retina else "MODEL.ROI_HEADS.NUM_CLASSES"
    found = config_value(case.config, key)
    if case.data is not None:
        names: Sequence[str] | None = case.data.class_names
        where = "the data"
    else:
        sets = [name for name in (*case.config.DATASETS.TRAIN, *case.config.DATASETS.TEST) if name in DatasetCatalog]
        names = MetadataCatalog.get(sets[0]).get("thing_classes") if sets else None
        where = sets[0] if sets else ""
    if names and len(names) != found:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        too_few = found < len(
            names
        )  # an object of class 80 in a detector of 20; outputs that no object uses are only a waste
        yield finding(
            "classes",
            "error" if too_few or case.data is not None else "warning",
            key,
            f"{found}, but {where} {'have' if case.data is not None else 'has'} {len(names)} class{'es' * (len(names) > 1)}: {shown}",
            f"{key} {len(names)}",
        )


def anchors(case: Case) -> Iterator[Finding]:
    """Anchors that no box is near to, at the resolution of the detector."""
    sizes, strides = level_sizes(case.config), level_strides(case.config)
    key = "MODEL.ANCHOR_GENERATOR.SIZES"
    if not case.anchor_levels:
        yield finding(
            "anchor-levels",
            "error",
            key,
            f"{len(sizes)} lists of sizes for {len(strides)} feature levels",
            "one list a level",
        )
        return
    if case.advice is None:
        return
    now, then = case.advice.now, case.advice.proposed
    outside = (
        f"{now.larger:.0%} of {now.num_boxes} boxes are larger than the largest anchor ({now.anchors[1]:g} px)"
        if now.larger >= now.smaller
        else f"{now.smaller:.0%} of {now.num_boxes} boxes are smaller than the smallest anchor ({now.anchors[0]:g} px)"
    )
    yield finding(
        "anchors",
        "warning",
        key,
        f"{outside}; the median box has {now.size:.0f} px where the short side is {_side(case.config)} px; {now.below_foreground:.0%} overlap their "
        f"best anchor by less than the foreground threshold {now.threshold:g} (with those below {then.below_foreground:.0%}), {now.poor:.0%} by "
        f"less than 0.5 ({then.poor:.0%})",
        f"{key} {show_sizes(case.advice.sizes)}, or --scale auto",
    )


def _side(config: CfgNode) -> str:
    return str(config.INPUT.MIN_SIZE_TEST or "as in the file")


def image_size(case: Case) -> Iterator[Finding]:
    """Objects too small to be seen, images enlarged without need, training and test at different sizes."""
    inputs = case.config.INPUT
    train_sizes, test_size = [size for size in inputs.MIN_SIZE_TRAIN if size > 0], inputs.MIN_SIZE_TEST
    if train_sizes and test_size > 0 and not min(train_sizes) / 2 <= test_size <= max(train_sizes) * 2:
        yield finding(
            "resolution-mismatch",
            "warning",
            "INPUT.MIN_SIZE_TEST",
            f"{test_size} px, trained at {min(train_sizes)} to {max(train_sizes)} px: objects have another size than they were learnt at",
            f"INPUT.MIN_SIZE_TEST {max(train_sizes)}",
        )
    for short, limit, kind in (
        (max(train_sizes, default=0), inputs.MAX_SIZE_TRAIN, "TRAIN"),
        (test_size, inputs.MAX_SIZE_TEST, "TEST"),
    ):
        if 0 < limit < short:
            yield finding(
                "max-size",
                "warning",
                f"INPUT.MAX_SIZE_{kind}",
                f"{limit} is below INPUT.MIN_SIZE_{kind} {short}, which no image reaches",
                f"INPUT.MAX_SIZE_{kind} {short * 5 // 3}",
            )
    if case.train is None:
        return
    records = case.train.records
    boxes = resized_boxes(records, case.config)
    tiny = float((boxes.min(axis=1) < TINY).mean()) if len(boxes) else 0.0
    if tiny >= MANY_TINY:
        needed = (
            int(np.ceil(test_size * TINY / np.quantile(boxes.min(axis=1), MANY_TINY / 2) / 32) * 32)
            if test_size
            else 800
        )
        yield finding(
            "small-boxes",
            "warning",
            "INPUT.MIN_SIZE_TEST",
            f"{tiny:.0%} of the boxes are narrower than {TINY} px where the short side is {_side(case.config)} px; the finest feature map has a cell "
            "every 4 px",
            f'INPUT.MIN_SIZE_TEST {needed} INPUT.MIN_SIZE_TRAIN "({needed},)" with INPUT.MAX_SIZE_TEST and MAX_SIZE_TRAIN {needed * 5 // 3}',
        )
    factors = [resize_factor(r["height"], r["width"], short=test_size, limit=inputs.MAX_SIZE_TEST) for r in records]
    factor = float(np.median(factors)) if factors else 1.0
    if factor > UPSCALED:
        side = int(np.median([min(r["height"], r["width"]) for r in records]))
        yield finding(
            "enlarged-images",
            "note",
            "INPUT.MIN_SIZE_TEST",
            f"{test_size}: half of the images are enlarged {factor:.1f} times or more (median short side {side} px), which takes {factor**2:.0f} "
            "times the time and memory and adds no detail",
            f'INPUT.MIN_SIZE_TEST {2 * side} INPUT.MIN_SIZE_TRAIN "({2 * side},)", with the anchors that this tool then proposes',
        )


def masks(case: Case) -> Iterator[Finding]:
    """Masks asked for where there are none, and masks left unused."""
    data = case.train or case.test
    if data is None:
        return
    if case.config.MODEL.MASK_ON and data.masks == "none":
        yield finding(
            "masks-missing", "error", "MODEL.MASK_ON", "True, but the data have boxes only", "MODEL.MASK_ON False"
        )
    elif case.config.MODEL.MASK_ON and data.masks == "some":
        yield finding(
            "masks-missing", "error", "MODEL.MASK_ON", "True, but some objects have no mask", "MODEL.MASK_ON False"
        )
    elif (
        not case.config.MODEL.MASK_ON
        and data.masks == "all"
        and case.config.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    ):
        yield finding(
            "masks-unused",
            "note",
            "MODEL.MASK_ON",
            "False: the data have masks, which are not trained on",
            "MODEL.MASK_ON True",
        )
    if case.config.MODEL.MASK_ON and data.bitmask and case.config.INPUT.MASK_FORMAT == "polygon":
        yield finding(
            "mask-format",
            "error",
            "INPUT.MASK_FORMAT",
            "polygon, but some masks are run-length coded",
            "INPUT.MASK_FORMAT bitmask",
        )


def test_data(case: Case) -> Iterator[Finding]:
    """Whether there is anything to measure on, and enough of it."""
    key = "--test-data"
    if case.data is None:
        if case.config.DATASETS.TRAIN and not case.config.DATASETS.TEST:
            yield finding(
                "no-test-data", "warning", "DATASETS.TEST", "empty: AP is not measured", "DATASETS.TEST \"('NAME',)\""
            )
        elif set(case.config.DATASETS.TEST) & set(case.config.DATASETS.TRAIN):
            yield finding(
                "train-is-test",
                "warning",
                "DATASETS.TEST",
                "the detector is measured on what it is trained on",
                "another data set",
            )
        return
    if case.test is None:
        yield finding("no-test-data", "warning", key, "no test data: AP is not measured", "--test-data SPEC")
        return
    prints = {role: record.fingerprint for role, record in case.data.data_records.items()}
    if case.train is not None and prints.get("train") == prints.get("test"):
        yield finding(
            "train-is-test",
            "warning",
            key,
            "the test data are the training data: AP says what was learnt by heart",
            "--test-data SPEC",
        )
    if not case.test.num_objects:
        yield finding(
            "no-test-data", "error", key, f"no object in {len(case.test.records)} test images", "--test-data SPEC"
        )
    elif len(case.test.records) < FEW_TEST_IMAGES:
        yield finding(
            "few-test-images",
            "note",
            key,
            f"{len(case.test.records)} test images with {case.test.num_objects} objects: AP has a wide interval, whatever the seed",
            "",
        )


def evaluation_cost(case: Case) -> Iterator[Finding]:
    """Evaluations that take longer than the training."""
    solver, test = case.config.SOLVER, case.config.TEST
    if test.EVAL_PERIOD <= 0 or case.test is None or solver.MAX_ITER <= FEW_ITERATIONS:
        return
    times = solver.MAX_ITER // test.EVAL_PERIOD
    precise = test.PRECISE_BN.NUM_ITER * case.images if test.PRECISE_BN.ENABLED and case.trains_batchnorm else 0
    evaluated = times * (len(case.test.records) + precise)
    if evaluated > solver.MAX_ITER * case.images:
        parts = f"{len(case.test.records)} test images" + (f" and {precise} for TEST.PRECISE_BN" if precise else "")
        yield finding(
            "evaluation-cost",
            "warning",
            "TEST.EVAL_PERIOD",
            f"{test.EVAL_PERIOD}: {times} evaluations of {parts}, {evaluated} images in all, of {solver.MAX_ITER * case.images} trained on",
            f"TEST.EVAL_PERIOD {max(1, solver.MAX_ITER // 4)}",
        )


def unlabelled_images(case: Case) -> Iterator[Finding]:
    """Images without an object, which training leaves out."""
    if case.train is None or not case.config.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return
    empty = len(case.train.records) - case.train.num_labelled_images
    if empty > MANY_UNLABELLED * len(case.train.records):
        yield finding(
            "empty-images",
            "note",
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
            f"True: {empty} of {len(case.train.records)} training images have no object and are left out; as background they teach what is none",
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False",
        )


def detections(case: Case) -> Iterator[Finding]:
    """What limits the recall when it is measured."""
    model = case.config.MODEL
    retina = model.META_ARCHITECTURE == "RetinaNet"
    key, threshold = (
        ("MODEL.RETINANET.SCORE_THRESH_TEST", model.RETINANET.SCORE_THRESH_TEST)
        if retina
        else ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", model.ROI_HEADS.SCORE_THRESH_TEST)
    )
    if threshold > LOW_SCORE:
        yield finding(
            "score-threshold",
            "warning",
            key,
            f"{threshold:g}: AP counts detections of every score; the cut takes the end of the precision-recall curve away",
            f"{key} 0.05",
        )
    if case.test is None:
        return
    most = max((_num_objects(record) for record in case.test.records), default=0)
    limit = case.config.TEST.DETECTIONS_PER_IMAGE
    if most > limit:
        crowded = sum(_num_objects(record) > limit for record in case.test.records)
        yield finding(
            "detections-per-image",
            "warning",
            "TEST.DETECTIONS_PER_IMAGE",
            f"{limit}: {crowded} test images hold more objects than that, up to {most}, which cannot all be found"
            + "; COCO's own AP counts 100 an image",
            f"TEST.DETECTIONS_PER_IMAGE {most}",
        )


def _num_objects(record: Mapping[str, Any]) -> int:
    return sum(not thing.get("iscrowd", 0) for thing in record["annotations"])


def flipped_classes(case: Case) -> Iterator[Finding]:
    """Classes that a mirror image exchanges."""
    if case.data is None or case.config.INPUT.RANDOM_FLIP != "horizontal":
        return
    sided = [name for name in case.data.class_names if SIDES.search(name.replace("_", " "))]
    sides = Counter(match.lower() for name in sided for match in SIDES.findall(name.replace("_", " ")))
    if len(sides) == 2:
        yield finding(
            "flipped-classes",
            "warning",
            "INPUT.RANDOM_FLIP",
            f"horizontal: half of the images are mirrored, and {', '.join(sided[:4])} keep their names",
            "INPUT.RANDOM_FLIP none",
        )


def ignored_keys(case: Case) -> Iterator[Finding]:
    """Keys that nothing here reads."""
    if case.config.TEST.AUG.ENABLED:
        yield finding(
            "ignored-key",
            "warning",
            "TEST.AUG.ENABLED",
            "True: test-time augmentation is not run, the figures are without it",
            "TEST.AUG.ENABLED False",
        )
    if case.config.TEST.EXPECTED_RESULTS:
        yield finding("ignored-key", "note", "TEST.EXPECTED_RESULTS", "is not compared with anything", "leave it out")
