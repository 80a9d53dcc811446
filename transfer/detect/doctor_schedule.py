"""Checks of learning rate, warm-up, steps, length and gradients. See doctor.py."""

from __future__ import annotations

from collections.abc import Iterator

from transfer.data.findings import Finding, Severity
from transfer.detect.doctor_case import FEW_ITERATIONS, LONG_RUN, Case, finding
from transfer.detect.scaling import (
    EPOCHS,
    MAX_EPOCHS,
    STEPS_AT,
    falling_at,
    linear_rate,
    own_schedule,
)

RATE_ABOVE = {True: 2.5, False: 1.5}  # times the linear rule, with and without clipped gradients
RATE_BELOW = 0.25
FEW_EPOCHS = 5
OFF_RULE = 4  # times the schedule by the rule of transfer/detect/scaling.py


def learning_rate(case: Case) -> Iterator[Finding]:
    """The rate against the batch."""
    solver = case.config.SOLVER
    if case.images < 1:
        return
    expected = linear_rate(case.config, case.images)
    ratio = solver.BASE_LR / expected
    clipped = bool(solver.CLIP_GRADIENTS.ENABLED)
    rule = f"{expected:g} for {case.images} images by the linear rule from the published {linear_rate(case.config, 16):g} for 16"
    if solver.BASE_LR <= 0:
        yield finding(
            "learning-rate",
            "error",
            "SOLVER.BASE_LR",
            f"{solver.BASE_LR:g} teaches nothing",
            f"SOLVER.BASE_LR {expected:g}",
        )
    elif ratio > RATE_ABOVE[clipped] * (1 + 1e-6):
        yield finding(
            "learning-rate",
            "warning",
            "SOLVER.BASE_LR",
            f"{solver.BASE_LR:g} is {ratio:.2g} times {rule}; it may diverge",
            f"SOLVER.BASE_LR {expected:g}, or --scale auto",
        )
    elif ratio < RATE_BELOW:
        yield finding(
            "learning-rate",
            "note",
            "SOLVER.BASE_LR",
            f"{solver.BASE_LR:g} is {ratio:.2g} times {rule}: slow",
            f"SOLVER.BASE_LR {expected:g}",
        )


def warmup(case: Case) -> Iterator[Finding]:
    """How the rate begins."""
    solver = case.config.SOLVER
    iterations = solver.WARMUP_ITERS
    change = f"SOLVER.WARMUP_ITERS {max(1, solver.MAX_ITER // 10)}"
    if solver.MAX_ITER <= FEW_ITERATIONS:
        return
    if iterations >= solver.MAX_ITER:
        yield finding(
            "warmup",
            "warning",
            "SOLVER.WARMUP_ITERS",
            f"{iterations} of {solver.MAX_ITER} iterations: the rate never reaches BASE_LR",
            change,
        )
    elif solver.STEPS and iterations > solver.STEPS[0]:
        yield finding(
            "warmup",
            "warning",
            "SOLVER.WARMUP_ITERS",
            f"{iterations}: the rate falls at {solver.STEPS[0]}, before it has risen",
            change,
        )
    elif iterations <= 0 and solver.MAX_ITER > LONG_RUN // 10:
        yield finding(
            "warmup",
            "warning",
            "SOLVER.WARMUP_ITERS",
            f"{iterations}: new layers meet the full rate at once, and often diverge",
            change,
        )


def rate_steps(case: Case) -> Iterator[Finding]:
    """Where the rate falls."""
    solver = case.config.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR" or solver.MAX_ITER <= FEW_ITERATIONS:
        return
    reached = [step for step in solver.STEPS if step < solver.MAX_ITER]
    change = f'SOLVER.STEPS "{falling_at(solver.MAX_ITER, STEPS_AT)}"'
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late:
        yield finding(
            "steps-beyond-end",
            "warning",
            "SOLVER.STEPS",
            f"{', '.join(map(str, late))} lie beyond SOLVER.MAX_ITER {solver.MAX_ITER}",
            change,
        )
    elif not reached:
        yield finding(
            "rate-never-falls",
            "warning",
            "SOLVER.STEPS",
            f"none is reached in {solver.MAX_ITER} iterations: the rate stays at {solver.BASE_LR:g}, and the last fall is worth several AP",
            change,
        )


def epochs(case: Case) -> Iterator[Finding]:
    """How often each image is seen."""
    if case.train is None or not case.train.num_labelled_images:
        return
    count = case.train.num_labelled_images
    seen = case.config.SOLVER.MAX_ITER * case.images / count
    rule = own_schedule(count, case.images)
    if case.config.SOLVER.MAX_ITER <= FEW_ITERATIONS or rule.epochs / OFF_RULE <= seen <= rule.epochs * OFF_RULE:
        return
    few = seen < rule.epochs
    severity: Severity = "warning" if (seen < FEW_EPOCHS if few else seen > MAX_EPOCHS) else "note"
    yield finding(
        "epochs",
        severity,
        "SOLVER.MAX_ITER",
        f"{case.config.SOLVER.MAX_ITER} iterations of {case.images} are {seen:.3g} epochs of {count} labelled images, {'few' if few else 'many'}; "
        f"by the published ones ({EPOCHS}, up to {MAX_EPOCHS} for small sets) {rule.epochs:.3g}",
        f'SOLVER.MAX_ITER {rule.max_iter} SOLVER.STEPS "{rule.steps}" SOLVER.WARMUP_ITERS {rule.warmup}, or --scale auto',
    )


def clip_gradients(case: Case) -> Iterator[Finding]:
    """A bound that stops every step, or that means nothing."""
    clip = case.config.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_VALUE <= 0.01:
        yield finding(
            "clip-gradients",
            "error" if clip.CLIP_VALUE <= 0 else "warning",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
            f"{clip.CLIP_VALUE:g} cuts every gradient ({clip.CLIP_TYPE})",
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE norm SOLVER.CLIP_GRADIENTS.CLIP_VALUE 10.0",
        )
