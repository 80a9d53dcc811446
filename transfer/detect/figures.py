"""The figures of an evaluation, as a record holds them: {"bbox/AP": 12.3, ...}, in percent; and Detectron2's file of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

METRICS = "metrics.json"  # Detectron2's, one object a line
TASKS = ("bbox", "segm", "keypoints")
HEADLINE = ("AP", "AP50", "AP75")
TASK_NAMES = {"bbox": "boxes", "segm": "masks"}


def figures_of(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Evaluator results -> {"bbox/AP": 12.3, ...}; of several test sets, the first one's. NaN becomes None."""
    if results and not any(task in results for task in TASKS):
        results = next(iter(results.values()))
    return {
        f"{task}/{name}": finite_or_none(value)
        for task in TASKS
        if results.get(task) is not None
        for name, value in results[task].items()
    }


def finite_or_none(value: Any) -> float | None:
    """None for NaN and infinities: a figure that could not be computed."""
    number = float(value)
    return number if math.isfinite(number) else None


def figures_table(figures: Mapping[str, float | None]) -> list[str]:
    """The figures people quote, one line a task: AP, AP50, AP75 in percent; empty where nothing was evaluated."""
    if not figures:
        return []
    lines = [f"{'':10}{''.join(f'{name:>8}' for name in HEADLINE)}"]
    for task in dict.fromkeys(key.partition("/")[0] for key in figures):
        cells = (figures.get(f"{task}/{name}") for name in HEADLINE)
        lines.append(
            f"{TASK_NAMES.get(task, task):10}" + "".join(f"{'-':>8}" if v is None else f"{v:8.2f}" for v in cells)
        )
    return lines
