"""What a run would be, seen in a few real steps: configuration, sizes, operations, rates, memory, the time it will take."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pretrain.base.contract import InputContract
from pretrain.base.signals import StopFlag
from pretrain.config import RunConfig, method_label, to_plain
from pretrain.data.loader import ViewBatch, build_loader
from pretrain.data.stream import ViewStream
from pretrain.run.duration import Pace, in_words
from pretrain.run.monitor import IMAGES_AT_ONCE, Monitor, MonitorImages
from pretrain.run.precision import Precision
from pretrain.run.ranks import Ranks
from pretrain.run.representation import information_ceiling
from pretrain.run.trackers import require_trackers
from pretrain.run.watch import Watch
from pretrain.state import (
    TrainState,
    contract_of,
    learning_rate_of,
    precision_of,
    require_rising_warmup,
    require_trainable,
    state_for,
)
from pretrain.train import images_of_monitor, monitor_encoder, train_step
from pretrain.views.pipeline import normalize

CPU_IMAGES = 32  # a whole batch of the paper's would take a CPU minutes and tens of gigabytes
INPUT_IMAGES, INPUT_SECONDS = 16, 2.0  # of a batch that the loader is timed with, and for how long
STEP_SECONDS, LEAST_STEPS, MOST_STEPS = 3.0, 3, 20  # that steps are timed for
DISK_BYTES_PER_SECOND = 200e6  # of a checkpoint: written, flushed and read again


def describe(config: RunConfig, stream: ViewStream, *, ranks: Ranks) -> str:
    """The text that `tools/pretrain.py --dry-run` prints. This process alone takes the steps, of a rank's share of the batch.

    ranks: of the run. Raises ConfigError for what they could not train.
    """
    require_trackers(config.monitor.trackers)
    require_trainable(config, precision_of(config, ranks), ranks)
    require_rising_warmup(config.optimizer)
    one_step, needed = _steps(config, stream, ranks)
    sections = [
        ("resolved configuration", yaml.safe_dump(to_plain(config), sort_keys=False).rstrip()),
        ("data", f"{len(stream.source)} images, {stream.steps_per_epoch} steps an epoch"),
        ("one step", one_step),
        ("time", needed),
        ("learning rate", _rates(config, stream.steps_per_epoch)),
    ]
    return "\n\n".join(f"== {title}\n{text}" for title, text in sections)


def _share_of_a_rank(config: RunConfig, stream: ViewStream, ranks: Ranks) -> tuple[RunConfig, ViewStream]:
    """What the first of the run's ranks computes and reads, as a run of a single process that exchanges nothing."""
    share = config.optimizer.batch_size // ranks.world_size
    dataset = copy.copy(stream.dataset)
    dataset.jigsaw_images = config.method.jigsaw_images(share // config.optimizer.accumulate)
    alone = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, batch_size=share))
    return alone, dataclasses.replace(stream, dataset=dataset, ranks=Ranks(world_size=ranks.world_size))


def _steps(config: RunConfig, stream: ViewStream, ranks: Ranks) -> tuple[str, str]:
    """A rank's share of the first step, operations counted; then some more for the clock, and what a run of them takes. All on a
    state that is thrown away. ranks: of the run."""
    contract, batch_size = contract_of(config), config.optimizer.batch_size
    precision = precision_of(config, Ranks())
    alone, stream = _share_of_a_rank(config, stream, ranks)
    state = state_for(alone, stream, precision=precision, ranks=Ranks())
    whole = next(stream.batches(from_step=0, num_steps=1))
    share, accumulate = len(whole.index), config.optimizer.accumulate
    micro = whole.split(accumulate)[0]
    if precision.device.type == "cpu":
        micro, accumulate = micro.map(lambda rows: rows[:CPU_IMAGES]), 1
        batch = micro
    else:
        batch = whole.to(precision.device)
        micro = micro.to(precision.device)
    flops, figures = _operations(state, micro, precision)
    seconds = _step_seconds(state, batch, config, precision, accumulate=accumulate) * share / len(batch.index)
    stored, saving = _checkpoint(state.state_dict(config, contract, stream.steps_per_epoch))
    part = (
        ""
        if len(batch.index) == share
        else f", scaled up from {len(batch.index)} of the {'batch' if share == batch_size else 'rank'}'s {share} images"
    )
    trained = sum(parameter.numel() for parameter in state.method.trained.parameters())
    others = config.method.num_negatives or 2 * len(micro.index) - 2
    guess = information_ceiling(others if stream.num_classes is None else stream.num_classes - 1)
    lines = [
        f"method {method_label(to_plain(config))}, encoder {config.encoder.arch}; {trained:,} trained parameters",
        f"device {precision.device}, precision {precision.name}",
        *_pixels(batch, contract),
        *(f"{name} {value.item():.4f}" for name, value in figures.items()),
        f"loss of a uniform guess {'ln(K + 1)' if stream.num_classes is None else 'ln(classes)'} = {guess:.4f}",
        f"{flops * batch_size / len(micro.index) / 1e9:.1f} GFLOP for the global batch of {batch_size}",
        f"{seconds:.2f} s a step{part}",
        f"{stored / 1e6:.0f} MB of state, the size of a checkpoint",
    ]
    if precision.device.type == "cuda":
        lines.append(f"{torch.cuda.max_memory_allocated(precision.device) / 1e9:.2f} GB of GPU memory at most")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pace = Pace(
        step=seconds,
        input=input_seconds(stream, share),
        workers=stream.num_workers,
        shares_cores=precision.device.type == "cpu",
        cores=max(1, cores // ranks.local_world_size),
        threads=torch.get_num_threads(),
    )
    monitor = _monitor_seconds(config, stream, state, precision)
    needed = _time_needed(config, stream.steps_per_epoch, pace, monitor, saving, num_ranks=ranks.world_size)
    return "\n".join(lines), f"{needed}\n{_what_was_measured(batch_size, ranks.world_size)}"


def _operations(state: TrainState, batch: ViewBatch, precision: Precision) -> tuple[int, dict[str, Tensor]]:
    """(operations of `batch` forward and back, the method's figures)."""
    with FlopCounterMode(display=False) as counter, precision.autocast():
        output = state.method.step(batch, forward=state.forward, ranks=Ranks(), step=0)
        output.loss.backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops(), output.figures


def _step_seconds(
    state: TrainState, batch: ViewBatch, config: RunConfig, precision: Precision, *, accumulate: int
) -> float:
    """Median time of a step on `batch`."""
    ranks = Ranks()
    watch = Watch(StopFlag(), ranks, precision.device)

    def step() -> None:
        train_step(
            state,
            batch,
            learning_rate=0.0,
            momentum=config.method.momentum,
            precision=precision,
            ranks=ranks,
            watch=watch,
            accumulate=accumulate,
        )
        if precision.device.type == "cuda":
            torch.cuda.synchronize(precision.device)

    step()  # the optimiser's buffers, the libraries' choices of kernels
    return _median_seconds(step)


def _checkpoint(state_dict: dict[str, Any]) -> tuple[int, float]:
    """(bytes, seconds to write) of a checkpoint."""
    began = time.perf_counter()
    torch.save(state_dict, written := io.BytesIO())
    stored = written.tell()
    return stored, time.perf_counter() - began + stored / DISK_BYTES_PER_SECOND


def _what_was_measured(batch_size: int, world_size: int) -> str:
    if world_size == 1:
        return f"measured: one process that takes whole batches of {batch_size} images"
    return (
        f"measured: the first of {world_size} ranks alone, with its {batch_size // world_size} of a batch's {batch_size} images. "
        "The others need devices and cores of their own; what ranks exchange was not measured"
    )


def _time_needed(
    config: RunConfig, steps_per_epoch: int, pace: Pace, monitor: float, saving: float, *, num_ranks: int
) -> str:
    """monitor, saving: seconds of one measurement and of one checkpoint."""
    epochs = config.optimizer.epochs
    steps = epochs * steps_per_epoch
    checkpoints = saving * -(-steps // (config.runtime.checkpoint_every_steps or steps_per_epoch))
    every = config.monitor.every_epochs
    measured = monitor * (1 + -(-epochs // every)) if every else 0.0
    total = steps * pace.seconds + checkpoints + measured
    processes = "on this machine with one process" if num_ranks == 1 else f"with {num_ranks} ranks like this one"
    parts = [f"checkpoints {in_words(checkpoints)} at {DISK_BYTES_PER_SECOND / 1e6:.0f} MB/s to disk (assumed)"]
    if every:
        parts.append(f"monitor {in_words(measured)}")
    return (
        f"about {in_words(total)} {processes}: {steps} steps of {pace.seconds:.2f} s "
        f"(step {pace.step:.2f} s, input {pace.input:.2f} s a batch with data.num_workers={pace.workers}; {pace.limit})\n"
        f"of it {', '.join(parts)}"
    )


def _median_seconds(action: Callable[[], None]) -> float:
    """Of `action`: LEAST_STEPS runs, and more until STEP_SECONDS are spent."""
    seconds: list[float] = []
    while len(seconds) < LEAST_STEPS or (len(seconds) < MOST_STEPS and sum(seconds) < STEP_SECONDS):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
        if sum(seconds) > 4 * STEP_SECONDS:  # a large network on a CPU: one look is enough
            break
    return statistics.median(seconds)


def input_seconds(stream: ViewStream, batch_size: int) -> float:
    """Of the views of a whole batch, by the loader's own processes with nothing else running.

    Measured on small batches, so that it is short; and from the time on at which every worker has delivered one.
    """
    workers, size = stream.num_workers, min(INPUT_IMAGES, batch_size)
    order = stream.batches_of_run.batch(0)[1]
    keys = [(0, int(index)) for index in order]
    least = max(4, workers)
    batches = [[keys[(number * size + i) % len(keys)] for i in range(size)] for number in range(workers + 200 * least)]
    dataset = copy.copy(stream.dataset)
    if dataset.jigsaw_images is not None:  # the same share of the images gets patches
        share = dataset.jigsaw_images * dataset.micro_batches / batch_size
        dataset.jigsaw_images, dataset.micro_batches = max(1, round(share * size)), 1
    loader = build_loader(dataset, batches, num_workers=workers)
    for _ in range(max(1, workers)):
        next(loader)
    began, count, seconds = time.perf_counter(), 0, 0.0
    while (count < least or seconds < INPUT_SECONDS) and count < 199 * least:
        next(loader)
        count, seconds = count + 1, time.perf_counter() - began
    loader.close()  # type: ignore[attr-defined]
    return seconds / (count * size) * batch_size


def _monitor_seconds(config: RunConfig, stream: ViewStream, state: TrainState, precision: Precision) -> float:
    images = images_of_monitor(config, stream)
    if images is None:
        return 0.0
    few = MonitorImages(min(IMAGES_AT_ONCE, images.count), images.read)
    monitor = Monitor(
        few,
        encode=monitor_encoder(precision),
        image_size=config.views.image_size,
        neighbours=config.monitor.neighbours,
        every_steps=1,
        num_steps=1,
        ranks=Ranks(),
        stop=StopFlag(),
        threads=config.data.num_workers,
    )
    began = time.perf_counter()
    monitor.after_epoch(state.method, 1)
    return (time.perf_counter() - began) * images.count / few.count


def _pixels(batch: ViewBatch, contract: InputContract) -> list[str]:
    lines = []
    for name, pixels in (("views", batch.images), ("patches", batch.patches)):
        if pixels is not None:
            values = normalize(pixels, contract)
            lines.append(
                f"{name} {tuple(pixels.shape)} uint8; normalised mean {values.mean().item():.3f}, std {values.std().item():.3f}"
            )
    return lines


def _rates(config: RunConfig, steps_per_epoch: int) -> str:
    schedule = learning_rate_of(config.optimizer, steps_per_epoch)
    epochs = config.optimizer.epochs
    shown = sorted({0, *range(0, epochs, max(1, epochs // 12)), epochs - 1})
    top = max(schedule(epoch * steps_per_epoch) for epoch in shown)
    rows = []
    for epoch in shown:
        rate = schedule(epoch * steps_per_epoch)
        rows.append(f"epoch {epoch + 1:4d}  {rate:10.3g}  {'#' * round(40 * rate / top)}")
    return "\n".join(rows)
