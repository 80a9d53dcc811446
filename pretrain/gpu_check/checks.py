"""The parts of the GPU check, each a function of sizes and device that returns JSON-ready figures. tools/gpu_check.py runs all.

Everything that trains goes through the run's own `build_state` and `train_step`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.base.signals import StopFlag
from pretrain.config import RunConfig
from pretrain.data.loader import ViewBatch, on_device
from pretrain.data.stream import open_stream
from pretrain.gpu_check.baselines import Work, reference_step, supervised_step
from pretrain.gpu_check.sizes import Sizes, run_config, synthetic_batch, write_jpegs
from pretrain.gpu_check.timing import PeakMemory, interleaved, ratio, summary
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.run.watch import Watch
from pretrain.state import TrainState, build_state, contract_of, precision_of
from pretrain.train import train_step

METHODS = ("moco_v2", "infomin")
WARM_STEPS = 4  # libraries choose their kernels, the allocator its blocks, the key network is recorded
RANK_SECONDS = 120
SETTLED = 10  # steps: fp16 skips the first updates (three on an H200) until the scale of its loss fits


class Trainer:
    """A run's state and its step on a given batch."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config, self.ranks = config, Ranks()
        self.precision = precision_of(config, self.ranks)
        self.state: TrainState = build_state(config, contract_of(config), precision=self.precision, ranks=self.ranks)
        self.watch = Watch(StopFlag(), self.ranks, device)

    def step(self, batch: ViewBatch) -> Tensor:
        """One optimiser step; the loss stays on the device."""
        figures = train_step(
            self.state,
            batch,
            learning_rate=self.config.optimizer.learning_rate,
            momentum=self.config.method.momentum,
            precision=self.precision,
            ranks=self.ranks,
            watch=self.watch,
        )
        return figures["loss"]


def speed(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Images a second and memory of MoCo v2 and InfoMin, of the supervised step and of the reference's, in turns."""
    ways: dict[str, Work] = {}
    memory: dict[str, float | None] = {}

    def add(name: str, make: Any) -> None:
        with PeakMemory(device) as peak:
            work = make()
            for _ in range(WARM_STEPS):
                work()
        ways[name], memory[name] = work, peak.gib

    with cudnn(benchmark=True):  # as a run has it, and the reference
        for method in METHODS:
            config = run_config(method, sizes, device=device.type)
            batch = synthetic_batch(config, device=device)
            add(method, lambda config=config, batch=batch: _bound(Trainer(config, device), batch))
            reference = {"queue_size": sizes.queue_size, "temperature": config.method.temperature, "device": device}
            add(
                f"reference {method}",
                lambda batch=batch, reference=reference: reference_step(
                    sizes.arch, batch.images, batch.patches, **reference
                ),
            )
        precision = choose_precision("auto", device)
        add("supervised", lambda: supervised_step(sizes.arch, batch.images[:, 0].contiguous(), precision))
        found = interleaved(ways, turns=sizes.turns, total_seconds=sizes.step_seconds, device=device)
    return {
        "batch_size": sizes.batch_size,
        "precision": precision.name,
        "images_a_second": {name: summary([sizes.batch_size / s for s in found[name]]) for name in ways},
        "of_supervised": {name: ratio(found["supervised"], found[name]) for name in METHODS},
        "of_reference": {name: ratio(found[f"reference {name}"], found[name]) for name in METHODS},
        "peak_memory_gib": memory,
    }


@contextmanager
def cudnn(*, benchmark: bool, deterministic: bool = False) -> Iterator[None]:
    """How convolutions are chosen, for the block."""
    flags = torch.backends.cudnn
    before = flags.benchmark, flags.deterministic
    flags.benchmark, flags.deterministic = benchmark, deterministic
    try:
        yield
    finally:
        flags.benchmark, flags.deterministic = before


def _bound(trainer: Trainer, batch: ViewBatch) -> Work:
    return lambda: trainer.step(batch)


def compiled(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """MoCo v2 with torch.compile on and off, in turns. Where the sizes leave the compiler out, its networks run as they are."""
    ways: dict[str, Work] = {}
    seconds = 0.0
    with cudnn(benchmark=True), torch.compiler.set_stance("default" if sizes.compile else "force_eager"):
        for name, on in (("off", False), ("on", True)):
            config = run_config("moco_v2", sizes, device=device.type, compile=on)
            batch = synthetic_batch(config, device=device)
            started = time.perf_counter()
            ways[name] = _bound(Trainer(config, device), batch)
            for _ in range(WARM_STEPS + 1):
                ways[name]()
            seconds = time.perf_counter() - started
        found = interleaved(ways, turns=sizes.turns, total_seconds=sizes.step_seconds / 4, device=device)
    return {
        "images_a_second": {name: summary([sizes.batch_size / s for s in found[name]]) for name in ways},
        "times_as_fast": ratio(found["off"], found["on"]),
        "start_seconds": seconds,
        "compiler": sizes.compile,
    }


def input_stall(sizes: Sizes, device: torch.device, folder: Path) -> dict[str, Any]:
    """Share of the time in which the device has nothing to do because the next batch is not there yet, from JPEGs on disk.

    On a GPU: from the end of a step on the device to the moment at which the next batch is there for it. On the CPU: the wait.
    """
    bytes_each = write_jpegs(folder, sizes)
    found: dict[str, Any] = {"jpegs": sizes.num_jpegs, "bytes_each": bytes_each, "side": sizes.jpeg_side}
    for method in METHODS:
        config = run_config(method, sizes, device=device.type, root=folder)
        trainer = Trainer(config, device)
        stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
        warm = (
            min(WARM_STEPS + config.data.num_workers * 2 // max(1, sizes.batch_size // 64), sizes.stream_steps // 4) + 1
        )
        batches = on_device(stream.batches(from_step=0, num_steps=warm + sizes.stream_steps), device)
        with cudnn(benchmark=True):
            for batch in itertools.islice(batches, warm):
                trainer.step(batch)
            idle, total, steps = _idle_and_total(trainer, batches, device, at_most=sizes.stream_seconds)
        found[method] = {
            "stall": idle / total,
            "steps": steps,
            "images_a_second": steps * sizes.batch_size / total,
            "loader_processes": config.data.num_workers,
        }
    return found


def _idle_and_total(
    trainer: Trainer, batches: Iterator[ViewBatch], device: torch.device, *, at_most: float
) -> tuple[float, float, int]:
    """Seconds without a batch, seconds of everything, and steps, over what is left of `batches` or `at_most` seconds of it."""
    started, marks = time.perf_counter(), [_mark(device)]
    while time.perf_counter() - started < at_most and (batch := next(batches, None)) is not None:
        marks.append(_mark(device))  # on a GPU behind the copy of the batch, which the step waits for
        trainer.step(batch)
        marks.append(_mark(device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    gaps = [_between(marks[i], marks[i + 1]) for i in range(0, len(marks) - 1, 2)]
    return sum(gaps), _between(marks[0], marks[-1]), len(gaps)


def _mark(device: torch.device) -> Any:
    """A point in time: of the clock, or in the current stream of a GPU."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _between(start: Any, end: Any) -> float:
    return float(start.elapsed_time(end) / 1000) if isinstance(start, torch.cuda.Event) else float(end - start)


def number_types(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Losses of the same run in fp32, bf16 and (on a GPU) fp16, step by step; their difference from the SETTLED-th step on.

    A run in fp16 skips its first updates until the scale of its loss has come down: until then it is another run, not another
    number type.
    """
    small = replace(sizes, batch_size=sizes.loss_batch)
    names = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    losses: dict[str, list[float]] = {}
    first = min(SETTLED, sizes.loss_steps // 2)
    for name in names:
        trainer = Trainer(run_config("infomin", small, device=device.type, precision=name), device)
        batches = [synthetic_batch(trainer.config, device=device, seed=seed) for seed in range(4)]
        found = [trainer.step(batches[index % 4]) for index in range(sizes.loss_steps)]
        losses[name] = torch.stack(found).float().tolist()
    return {
        "steps": sizes.loss_steps,
        "first": {name: values[0] for name, values in losses.items()},
        "last": {name: values[-1] for name, values in losses.items()},
        "compared_from_step": first,
        "mean_relative_difference": {
            name: statistics.fmean(
                abs(a - b) / a for a, b in zip(losses["fp32"][first:], losses[name][first:], strict=True)
            )
            for name in names[1:]
        },
        "losses": losses,
    }


def exact_resume(sizes: Sizes, device: torch.device, folder: Path) -> dict[str, Any]:
    """Whether a run that is saved in the middle and goes on from its checkpoint ends with the same bits; deterministic kernels.

    The control goes on without the optimiser's momentum, and must end with others.
    """
    small = replace(sizes, batch_size=sizes.loss_batch)
    config, middle = run_config("infomin", small, device=device.type), sizes.resume_steps // 2
    path = checkpoint_path(folder, middle)

    def run(trainer: Trainer) -> dict[str, Tensor]:
        while trainer.state.step < sizes.resume_steps:
            if trainer.state.step == middle and not path.exists():
                write_checkpoint(path, trainer.state.state_dict(config, contract_of(config), 1))
            trainer.step(synthetic_batch(config, device=device, seed=trainer.state.step))
        trainer.watch.settle()
        return _bits(trainer.state)

    def resumed(*, momentum: bool) -> dict[str, Tensor]:
        trainer, state = Trainer(config, device), read_checkpoint(path)
        if not momentum:
            state["optimizer"]["state"] = {}
        trainer.state.load_state_dict(state)
        return run(trainer)

    with deterministic() as found:
        whole = run(Trainer(config, device))
        same, control = _different(whole, resumed(momentum=True)), _different(whole, resumed(momentum=False))
    return {
        "steps": sizes.resume_steps,
        "tensors": len(whole),
        "different_after_resume": same,
        "different_in_the_control": len(control),
        "not_deterministic": found,
    }


@contextmanager
def deterministic() -> Iterator[list[str]]:
    """Deterministic kernels for the block; yields the messages of those that have none, complete once the block has ended."""
    before = torch.are_deterministic_algorithms_enabled()
    messages: list[str] = []
    with (
        warnings.catch_warnings(record=True) as caught,
        cudnn(benchmark=False, deterministic=True),
    ):
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield messages
        finally:
            torch.use_deterministic_algorithms(before)
            texts = (str(entry.message) for entry in caught)
            messages.extend(dict.fromkeys(text.partition("\n")[0][:120] for text in texts if "determinis" in text))


def _bits(state: TrainState) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value for name, value in state.method.state_dict().items()}
    for index, entry in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entry.items() if isinstance(value, Tensor)}
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def _different(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same, bit for bit."""
    return sorted(
        name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])
    )


def _error_of(printed: str) -> str:
    """The line of the process's own error in what torchrun printed, before its report of many lines."""
    lines = [line.strip() for line in printed.splitlines()]
    own = [line for line in lines if re.match(r"(\[rank\d+\]: )?[\w.]*(Error|Exception): ", line)]
    return (own or lines or [""])[0 if own else -1][:300]


def one_rank(sizes: Sizes, device: torch.device, folder: Path) -> dict[str, Any]:
    """torchrun with one process: the process group of the device's own backend, its collectives, and a step through DDP."""
    answer = folder / "rank.json"
    miniature = "1" if sizes.batch_size < 32 else "0"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", "-m"]
    command += ["pretrain.gpu_check.one_rank", device.type, miniature, str(answer)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path[:1]]),
    }
    # In a session of its own: torchrun that is killed for its time leaves its process, and with it the device's memory.
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as launched:
        try:
            _, printed = launched.communicate(timeout=RANK_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(launched.pid, signal.SIGKILL)
            return {"ok": False, "error": f"no answer within {RANK_SECONDS} s"}
    if launched.returncode != 0 or not answer.exists():
        return {"ok": False, "error": _error_of(printed) or f"exit code {launched.returncode}"}
    return dict(json.loads(answer.read_text()))
