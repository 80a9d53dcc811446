"""Checks of batch, memory, precision and disk of this machine. See doctor.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from transfer.data.findings import Finding
from transfer.detect.checkpointer import NUM_KEPT
from transfer.detect.doctor_case import LONG_RUN, Case, finding
from transfer.detect.memory import GIB, STATE_COPIES, WORKSPACE, largest_training_image
from transfer.detect.scaling import (
    PUBLISHED_PROCESSES,
    images_a_process,
    linear_rate,
)

USUAL_GPU = 24 * GIB  # what a batch for eight GPUs is compared with where the device is not known
USED_FOR_MEMORY = 0.95


def batch_divisible(case: Case) -> Iterator[Finding]:
    """Every process needs the same number of images."""
    if case.images < 1 or case.images % case.num_processes:
        fitting = max(1, round(case.images / case.num_processes)) * case.num_processes
        yield finding(
            "batch-divisible",
            "error",
            "SOLVER.IMS_PER_BATCH",
            f"{case.images} is no positive multiple of the number of processes, {case.num_processes}",
            f"SOLVER.IMS_PER_BATCH {fitting} SOLVER.BASE_LR {linear_rate(case.config, fitting):g}",
        )


def image_memory(case: Case) -> Iterator[Finding]:
    """A batch for eight GPUs on fewer, and a batch that does not fit."""
    if case.estimate is None:
        return
    needed = case.estimate.total(case.images_a_process)
    on_gpu = case.config.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()
    fits = case.memory is None or needed <= USED_FOR_MEMORY * case.memory
    height, width = largest_training_image(case.config)
    basis = (
        f"{case.images_a_process} images of up to {width} x {height} px a process need about {needed / GIB:.1f} GiB (what the backward pass "
        "keeps, counted on shapes, with parameters and momentum)"
    )
    for_eight = case.num_processes < PUBLISHED_PROCESSES and case.images_a_process > 4 and needed > USUAL_GPU
    if for_eight and not (on_gpu and fits):
        yield finding(
            "batch-for-eight-gpus",
            "warning",
            "SOLVER.IMS_PER_BATCH",
            f"{case.images} images and rate {case.config.SOLVER.BASE_LR:g} are the recipe for {PUBLISHED_PROCESSES} GPUs, here on "
            f"{case.num_processes} process{'es' * (case.num_processes > 1)}: {basis}",
            f"--scale auto, or by hand {_fewer_images(case)}",
        )
    elif not fits:
        assert case.memory is not None
        yield finding(
            "memory",
            "warning",
            "SOLVER.IMS_PER_BATCH",
            f"{basis}; the device has {case.memory / GIB:.1f} GiB",
            f"--scale auto, or by hand {_fewer_images(case)}, or smaller INPUT.MIN_SIZE_TRAIN",
        )


def _fewer_images(case: Case) -> str:
    """Batch, rate and schedule for what fits, as they are typed."""
    solver = case.config.SOLVER
    memory = case.memory if case.memory is not None and case.config.MODEL.DEVICE.startswith("cuda") else USUAL_GPU
    batch = case.num_processes * images_a_process(case.config, case.images, case.num_processes, memory)
    factor = batch / case.images
    steps = tuple(round(step / factor) for step in solver.STEPS)
    return (
        f"SOLVER.IMS_PER_BATCH {batch} SOLVER.BASE_LR {solver.BASE_LR * factor:g} SOLVER.MAX_ITER {round(solver.MAX_ITER / factor)} "
        f'SOLVER.STEPS "{steps}" SOLVER.WARMUP_ITERS {round(solver.WARMUP_ITERS / factor)}'
    )


def mixed_precision(case: Case) -> Iterator[Finding]:
    """Half precision on a CPU, or unused on a GPU."""
    enabled, on_cpu = case.config.SOLVER.AMP.ENABLED, case.config.MODEL.DEVICE == "cpu"
    if enabled and on_cpu:
        yield finding(
            "amp",
            "error",
            "SOLVER.AMP.ENABLED",
            "True needs a CUDA device; the run is on the CPU",
            "SOLVER.AMP.ENABLED False",
        )
    elif not enabled and not on_cpu and torch.cuda.is_available() and case.num_processes < PUBLISHED_PROCESSES:
        yield finding(
            "amp",
            "note",
            "SOLVER.AMP.ENABLED",
            "False: half precision takes less time and memory on this device",
            "SOLVER.AMP.ENABLED True",
        )


def checkpoints(case: Case) -> Iterator[Finding]:
    """How much a kill costs, and how much the files take."""
    solver = case.config.SOLVER
    period, iterations = solver.CHECKPOINT_PERIOD, solver.MAX_ITER
    if iterations >= LONG_RUN and (period <= 0 or period >= iterations):
        yield finding(
            "checkpoint-period",
            "warning",
            "SOLVER.CHECKPOINT_PERIOD",
            f"{period}: no checkpoint before the end of {iterations} iterations; a run that is killed begins again",
            f"SOLVER.CHECKPOINT_PERIOD {max(1, iterations // 10)}",
        )
    space = _disk_free(Path(case.config.OUTPUT_DIR))
    if case.estimate is None or space is None:
        return
    size = (case.estimate.fixed - WORKSPACE) * 2 // STATE_COPIES  # parameters and momentum, without the gradient
    needed = (NUM_KEPT + 1) * size + size // 2
    if needed > space:
        yield finding(
            "checkpoints-disk",
            "warning",
            "OUTPUT_DIR",
            f"{case.config.OUTPUT_DIR}: about {needed / GIB:.1f} GiB needed for the {NUM_KEPT} newest checkpoints, one that is being written "
            f"and the best weights; {space / GIB:.1f} GiB are free",
            "OUTPUT_DIR and a folder on another disk",
        )


def _disk_free(folder: Path) -> int | None:
    for place in (folder, *folder.absolute().parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return None
