"""The linear rule from the published recipe to other numbers of processes, and the schedule of one's own data by its size."""

from __future__ import annotations

from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer

from pretrain.base.errors import ConfigError
from tests.cases import each
from transfer.data.records import DetectionData
from transfer.detect.memory import GIB
from transfer.detect.scaling import falling_at, linear_rate, own_schedule, scale_config

ROOM = 1000 * GIB
KEYS = ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "STEPS", "WARMUP_ITERS")


def published(**solver: Any) -> CfgNode:
    """COCO 1x of a small network: the recipe, without the weight of a ResNet-50."""
    config = get_cfg()
    config.MODEL.RESNETS.DEPTH, config.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    config.SOLVER.BASE_LR, config.SOLVER.MAX_ITER, config.SOLVER.STEPS = 0.02, 90_000, (60_000, 80_000)
    for key, value in solver.items():
        config.SOLVER[key] = value
    return config


def data_of(count: int, side: float = 100) -> DetectionData:
    things = [{"bbox": [0, 0, side, side], "category_id": 0}]
    image = {"file_name": "a.jpg", "width": 1200, "height": 800, "annotations": things}
    return DetectionData(tuple({**image, "image_id": i} for i in range(count)), ("cup",))


def scaled(num_processes: int, *words: Any, train: DetectionData | None = None, memory: int = ROOM) -> CfgNode:
    asked = published()
    asked.merge_from_list(list(words))
    given = frozenset(words[::2])
    return scale_config(asked, published(), given=given, num_processes=num_processes, train=train, memory=memory)[0]


@each("num_processes", [16, 32, 64])
def test_many_processes_get_what_detectron2_scales_to_from_eight(num_processes: int) -> None:
    reference = published(REFERENCE_WORLD_SIZE=8)
    theirs, ours = DefaultTrainer.auto_scale_workers(reference, num_processes).SOLVER, scaled(num_processes).SOLVER
    assert all(ours[key] == pytest.approx(theirs[key]) for key in KEYS)


@each("num_processes", [1, 2, 4, 8])
def test_up_to_eight_processes_keep_the_published_batch_and_schedule_where_memory_allows(num_processes: int) -> None:
    assert scaled(num_processes).dump() == published().dump()


def test_a_small_memory_takes_fewer_images_at_a_lower_rate_for_the_same_epochs() -> None:
    solver = scaled(1, memory=8 * GIB).SOLVER
    batch = solver.IMS_PER_BATCH
    assert batch in (1, 2, 4, 8) and pytest.approx(0.02 * batch / 16) == solver.BASE_LR
    assert solver.MAX_ITER * batch == 90_000 * 16
    assert tuple(step * batch for step in solver.STEPS) == (60_000 * 16, 80_000 * 16)


def test_a_batch_that_was_given_sets_the_rest_and_given_keys_stay() -> None:
    solver = scaled(1, "SOLVER.IMS_PER_BATCH", 4).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (4, 0.005, 360_000)
    assert (solver.STEPS, solver.WARMUP_ITERS) == ((240_000, 320_000), 4000)
    solver = scaled(1, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.BASE_LR", 0.01, "SOLVER.MAX_ITER", 900).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER) == (0.01, 900)
    assert solver.STEPS == (600, 800) and solver.WARMUP_ITERS == 90  # the shares of the published schedule


@each(("count", "epochs"), [(20, 100), (123, 100), (240, 100), (1000, 24), (5000, 24), (100_000, 24)])
def test_own_data_get_a_schedule_by_their_size(count: int, epochs: float) -> None:
    schedule = own_schedule(count, 16)
    assert schedule.max_iter * 16 / count == pytest.approx(epochs, rel=0.03) == schedule.epochs
    assert list(schedule.steps) == sorted(set(schedule.steps)) and schedule.steps[-1] < schedule.max_iter
    assert schedule.warmup <= schedule.steps[0] and schedule.checkpoint_period < schedule.max_iter


def test_the_schedule_of_own_data_never_shrinks_as_they_grow() -> None:
    lengths = [own_schedule(count, 4).max_iter for count in range(1, 3000)]
    assert lengths == sorted(lengths)
    # Between the two bounds it is as many images whatever the size: small sets get more epochs, not fewer images.
    assert own_schedule(300, 4).max_iter == own_schedule(900, 4).max_iter


def test_auto_on_own_data_sets_the_schedule_and_anchors_that_fit() -> None:
    data = data_of(500, side=20)  # at 800 px as it is: below the smallest anchor
    config = scaled(1, train=data)
    assert own_schedule(500, 16).max_iter == config.SOLVER.MAX_ITER
    sizes = [size for level in config.MODEL.ANCHOR_GENERATOR.SIZES for size in level]
    assert min(sizes) <= 24 and published().MODEL.ANCHOR_GENERATOR.SIZES == [[32, 64, 128, 256, 512]]
    kept = scaled(1, "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32, 64]], train=data)
    assert kept.MODEL.ANCHOR_GENERATOR.SIZES == [[16, 32, 64]]
    fitting = scaled(1, train=data_of(500, side=128))
    assert fitting.MODEL.ANCHOR_GENERATOR.SIZES == published().MODEL.ANCHOR_GENERATOR.SIZES


def test_what_was_set_is_said_with_its_rule() -> None:
    asked = published()
    _, notes = scale_config(asked, asked, given=frozenset(), num_processes=16, train=None, memory=ROOM)
    assert "16 processes" in notes[0] and "SOLVER.IMS_PER_BATCH 32" in notes[0] and "SOLVER.BASE_LR 0.04" in notes[0]
    _, notes = scale_config(asked, asked, given=frozenset(), num_processes=8, train=None, memory=ROOM)
    assert "nothing changed" in notes[0]
    _, notes = scale_config(asked, asked, given=frozenset(), num_processes=8, train=data_of(200), memory=ROOM)
    assert "100 epochs of 200 labelled images" in notes[1]


def test_two_scalings_at_once_are_refused() -> None:
    asked = published(REFERENCE_WORLD_SIZE=8)
    with pytest.raises(ConfigError, match="leave one out"):
        scale_config(asked, published(), given=frozenset(), num_processes=2, train=None, memory=ROOM)


def test_retinanet_has_half_the_rate() -> None:
    config = published()
    assert linear_rate(config, 8) == pytest.approx(0.01)
    config.MODEL.META_ARCHITECTURE = "RetinaNet"
    assert linear_rate(config, 16) == pytest.approx(0.01)
    assert falling_at(2, (0.75, 0.92)) == () and falling_at(1, (0.5,)) == ()
