"""From the published recipe (8 GPUs, 16 images an iteration, rate 0.02) to one's own machine and one's own data: `--scale auto`.

In: the configuration as asked for, the family's own values, the number of processes, the training data. Out: the configuration
with batch, rate, schedule, warm-up and anchors for this run, and a sentence on each; keys of the command line stay as given.

Rules, with their basis:

- batch: the published one where it fits into memory (transfer/detect/memory.py), else the largest power of two of images a process
  that does; with more than 8 processes 2 images each, as published.
- rate: linear in the batch, warm-up and schedule inversely so: the same images, the same epochs (Goyal et al., 2017,
  arXiv:1706.02677, section 5.4 for Mask R-CNN; Detectron2's `auto_scale_workers`).
- own data: EPOCHS (COCO "2x" is 24.3 epochs, VOC "24k" 23.2), but at least MIN_IMAGES images (1,500 iterations of 16, where
  BatchNorm and the new layers settle), yet no more than MAX_EPOCHS. The rate falls at 3/4 and 11/12, as in VOC "24k".
- anchors: those that overlap the boxes best, where the published ones do not fit (transfer/detect/anchors.py).

The other way to a batch too large for memory, `--accumulate K`, keeps rate and schedule and runs a batch in parts. It is not what auto
takes: every published family trains its BatchNorm, whose statistics are of one part all the same, and the linear rule costs nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from pretrain.base.errors import ConfigError
from transfer.data.records import DetectionData
from transfer.detect.anchors import anchors_to_pass, show_sizes
from transfer.detect.checks import set_value
from transfer.detect.memory import GIB, device_memory, estimate_memory, host_memory

PUBLISHED_PROCESSES = 8
PUBLISHED_BATCH = 16
PUBLISHED_RATE = {"RetinaNet": 0.01}  # by architecture; all others 0.02
USUAL_RATE = 0.02
MEMORY_SHARE = 0.8  # of the device; the estimate is right to 15 %
EPOCHS = 24
MIN_IMAGES = 24_000
MAX_EPOCHS = 100
STEPS_AT = (3 / 4, 11 / 12)  # of the schedule
LONGEST_WARMUP = 0.1  # of the schedule
CHECKPOINTS = 10  # of a run on one's own data


@dataclass(frozen=True)
class Schedule:
    """SOLVER.MAX_ITER, STEPS, WARMUP_ITERS, CHECKPOINT_PERIOD of a run on one's own data."""

    max_iter: int
    steps: tuple[int, ...]
    warmup: int
    checkpoint_period: int
    epochs: float


def linear_rate(config: CfgNode, batch: int) -> float:
    """The published rate for so many images an iteration."""
    return PUBLISHED_RATE.get(config.MODEL.META_ARCHITECTURE, USUAL_RATE) * batch / PUBLISHED_BATCH


def own_schedule(num_images: int, batch: int) -> Schedule:
    """The schedule for a training set by its size; see the module for the rule."""
    images = max(EPOCHS * num_images, min(MIN_IMAGES, MAX_EPOCHS * num_images))
    max_iter = max(1, math.ceil(images / batch))
    return Schedule(
        max_iter,
        falling_at(max_iter, STEPS_AT),
        warmup=max(1, int(LONGEST_WARMUP * max_iter)) if max_iter > 1 else 0,
        checkpoint_period=math.ceil(max_iter / CHECKPOINTS),
        epochs=max_iter * batch / num_images,
    )


def falling_at(max_iter: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Iterations at which the rate falls, each once and within the schedule."""
    return tuple(sorted({step for share in shares if 0 < (step := round(share * max_iter)) < max_iter}))


def images_a_process(config: CfgNode, published_batch: int, num_processes: int, memory: int | None) -> int:
    """How many images a process gets of the published batch; see the module for the rule."""
    wanted = math.ceil(max(published_batch / PUBLISHED_PROCESSES, published_batch / num_processes))
    if memory is None:
        return wanted
    fitting = estimate_memory(config).images_within(int(MEMORY_SHARE * memory))
    return wanted if wanted <= fitting else 2 ** int(math.log2(max(1, fitting)))


def scale_config(
    asked: CfgNode,
    published: CfgNode,
    *,
    given: frozenset[str],
    num_processes: int,
    train: DetectionData | None,
    memory: int | None = None,
) -> tuple[CfgNode, tuple[str, ...]]:
    """`asked` for this machine and these data, and sentences on what was set.

    published: the family's file alone. given: keys of the command line, which stay. train: one's own training data; None keeps the
    published epochs. memory: bytes of a device; None asks this machine.
    Raises ConfigError where SOLVER.REFERENCE_WORLD_SIZE asks for another scaling.
    """
    if asked.SOLVER.REFERENCE_WORLD_SIZE:
        raise ConfigError(
            f"--scale auto and SOLVER.REFERENCE_WORLD_SIZE {asked.SOLVER.REFERENCE_WORLD_SIZE}: both scale the schedule; leave one out"
        )
    memory = (
        (device_memory(asked) or host_memory()) if memory is None else memory
    )  # a run without its GPU is on the CPU
    old = published.SOLVER
    new: dict[str, Any] = {}
    if "SOLVER.IMS_PER_BATCH" not in given:
        new["SOLVER.IMS_PER_BATCH"] = num_processes * images_a_process(asked, old.IMS_PER_BATCH, num_processes, memory)
    batch = new.get("SOLVER.IMS_PER_BATCH", asked.SOLVER.IMS_PER_BATCH)
    factor = batch / old.IMS_PER_BATCH
    new["SOLVER.BASE_LR"] = old.BASE_LR * factor
    num_images = train.num_labelled_images if train is not None else 0
    if num_images:
        schedule = own_schedule(num_images, batch)
        new["SOLVER.MAX_ITER"] = schedule.max_iter
        new["SOLVER.CHECKPOINT_PERIOD"] = schedule.checkpoint_period
    else:
        new["SOLVER.MAX_ITER"] = round(old.MAX_ITER / factor)
        new["SOLVER.CHECKPOINT_PERIOD"] = max(1, round(old.CHECKPOINT_PERIOD / factor))
    max_iter = asked.SOLVER.MAX_ITER if "SOLVER.MAX_ITER" in given else new["SOLVER.MAX_ITER"]
    shares = STEPS_AT if num_images else tuple(step / old.MAX_ITER for step in old.STEPS)
    new["SOLVER.STEPS"] = falling_at(max_iter, shares)
    new["SOLVER.WARMUP_ITERS"] = min(round(old.WARMUP_ITERS / factor), int(LONGEST_WARMUP * max_iter))
    if published.TEST.EVAL_PERIOD:
        new["TEST.EVAL_PERIOD"] = max(1, round(published.TEST.EVAL_PERIOD * max_iter / old.MAX_ITER))
    anchors = anchors_to_pass(train.records, asked) if train is not None else None
    if anchors is not None:
        new["MODEL.ANCHOR_GENERATOR.SIZES"] = anchors.sizes
    config = asked.clone()
    config.defrost()
    for key, value in new.items():
        if key not in given:
            set_value(config, key, value)
    return config, tuple(_notes(asked, config, num_processes, num_images, memory))


def _notes(asked: CfgNode, config: CfgNode, num_processes: int, num_images: int, memory: int | None) -> list[str]:
    """What `--scale auto` set, and why."""
    solver = config.SOLVER
    batch = solver.IMS_PER_BATCH
    shown = ", ".join(f"{key} {value}" for key, value in _changed(asked, config).items())
    if not shown:
        return [f"--scale auto: the values as asked for are those for {num_processes} processes; nothing changed"]
    room = "" if memory is None else f" of {memory / GIB:.0f} GiB each"
    notes = [f"--scale auto, for {num_processes} process{'es' * (num_processes > 1)}{room}: {shown}"]
    if num_images:
        notes.append(
            f"--scale auto: {solver.MAX_ITER} iterations of {batch} are {solver.MAX_ITER * batch / num_images:.0f} epochs of {num_images} "
            f"labelled images (the rule: {EPOCHS} epochs, at least {MIN_IMAGES} images, at most {MAX_EPOCHS} epochs)"
        )
    return notes


def _changed(asked: CfgNode, config: CfgNode) -> Mapping[str, str]:
    """Keys that the scaling changed, as they are typed."""
    pairs = {
        "SOLVER.IMS_PER_BATCH": (asked.SOLVER.IMS_PER_BATCH, config.SOLVER.IMS_PER_BATCH),
        "SOLVER.BASE_LR": (asked.SOLVER.BASE_LR, config.SOLVER.BASE_LR),
        "SOLVER.MAX_ITER": (asked.SOLVER.MAX_ITER, config.SOLVER.MAX_ITER),
        "SOLVER.STEPS": (tuple(asked.SOLVER.STEPS), tuple(config.SOLVER.STEPS)),
        "SOLVER.WARMUP_ITERS": (asked.SOLVER.WARMUP_ITERS, config.SOLVER.WARMUP_ITERS),
        "SOLVER.CHECKPOINT_PERIOD": (asked.SOLVER.CHECKPOINT_PERIOD, config.SOLVER.CHECKPOINT_PERIOD),
        "TEST.EVAL_PERIOD": (asked.TEST.EVAL_PERIOD, config.TEST.EVAL_PERIOD),
    }
    found = {
        key: f"{after:g}" if isinstance(after, float) else f'"{after}"' if isinstance(after, tuple) else str(after)
        for key, (before, after) in pairs.items()
        if before != after
    }
    before, after = (node.MODEL.ANCHOR_GENERATOR.SIZES for node in (asked, config))
    if list(before) != list(after):
        found["MODEL.ANCHOR_GENERATOR.SIZES"] = show_sizes(after)
    return found
