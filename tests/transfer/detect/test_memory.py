"""The memory of a training step, counted on shapes, against what was measured elsewhere."""

from __future__ import annotations

import pytest
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from transfer.detect.memory import GIB, WORKSPACE, estimate_memory

# Detectron2 MODEL_ZOO.md, "train mem (GB)": 8 V100, 2 images a GPU.
ZOO = {
    "COCO-Detection/faster_rcnn_R_50_C4_1x": 4.8,
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": 3.0,
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": 4.1,
    "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x": 6.7,
    "COCO-Detection/retinanet_R_50_FPN_1x": 3.9,
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x": 5.2,
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": 3.4,
    "Misc/cascade_mask_rcnn_R_50_FPN_1x": 4.0,
    "Misc/mask_rcnn_R_50_FPN_3x_syncbn": 5.5,
}


def small(**inputs: int) -> CfgNode:
    config = get_cfg()
    config.MODEL.RESNETS.DEPTH, config.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    config.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    config.INPUT.MIN_SIZE_TRAIN = (inputs.get("side", 192),)
    return config


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ZOO)
def test_the_estimate_is_within_15_percent_of_the_model_zoo(name: str) -> None:
    config = model_zoo.get_config(f"{name}.yaml")
    assert estimate_memory(config).total(2) / GIB == pytest.approx(ZOO[name], rel=0.15)


def test_images_that_fit_and_their_total_agree() -> None:
    estimate = estimate_memory(small())
    memory = estimate.total(5)
    assert estimate.images_within(memory) == 5 and estimate.images_within(memory - 1) == 4
    assert estimate.images_within(WORKSPACE) == 0


def test_memory_grows_with_the_area_of_the_image_and_halves_with_half_precision() -> None:
    small_one, middle, large = (estimate_memory(small(side=side)) for side in (192, 384, 768))
    assert small_one.fixed == middle.fixed == large.fixed
    grown = (large.per_image - middle.per_image) / (middle.per_image - small_one.per_image)
    assert grown == pytest.approx(4, rel=0.01)  # the region heads' part is the same at each size
    half = small(side=384)
    half.SOLVER.AMP.ENABLED = True
    assert estimate_memory(half).per_image == pytest.approx(middle.per_image / 2, abs=1)


def test_a_frozen_backbone_takes_less() -> None:
    frozen, trained = small(), small()
    frozen.MODEL.BACKBONE.FREEZE_AT, trained.MODEL.BACKBONE.FREEZE_AT = 5, 0
    assert estimate_memory(frozen).per_image < estimate_memory(trained).per_image
    assert estimate_memory(frozen).fixed < estimate_memory(trained).fixed
