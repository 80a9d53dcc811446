"""Seconds of a step and memory of a device, of several ways in turns. CUDA events on a GPU, the wall clock elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pretrain.gpu_check.baselines import Work

MAX_STEPS = 10  # of one way in one turn
GIB = 2**30


def seconds_a_step(work: Work, *, steps: int, device: torch.device) -> float:
    """Mean over `steps` steps, the device's own clock where it has one."""
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(steps):
            work()
        return (time.perf_counter() - started) / steps
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(steps):
        work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000 / steps


def interleaved(
    ways: Mapping[str, Work], *, turns: int, total_seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Seconds a step of each way in each turn. Every way has been run before; all turns together take about `total_seconds`."""
    once = sum(seconds_a_step(work, steps=1, device=device) for work in ways.values())
    steps = max(1, min(MAX_STEPS, int(total_seconds / (turns * once))))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, work in ways.items():
            found[name].append(seconds_a_step(work, steps=steps, device=device))
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and spread."""
    return {"median": statistics.median(values), "spread": [min(values), max(values)]}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """How many times `fast` is as fast as `slow`, turn by turn."""
    return summary([a / b for a, b in zip(slow, fast, strict=True)])


class PeakMemory:
    """The most memory of the device that a block needs beyond what was held before it, in GiB; None on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.gib: float | None = None

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.gib = (torch.cuda.max_memory_allocated(self._device) - self._before) / GIB
