"""Speed of a training step on the CPU against the reference's own step, written out here.

python tests/benchmarks/step_speed.py [--rounds 7] [--threads 1] [--cpu-time] [--out step_speed.json]

The reference (PyContrast, as written): float32 in NCHW, BatchNorm over the whole batch, one view through the query network and one
through the key network in shuffled order, logits against a clone of the queue copied together with the positive, cross-entropy,
SGD without fusing, key network updated parameter by parameter. Ours: `train_step` with `runtime.precision=auto`. MoCo v2 with
K = 65536, the same sizes, all arms one after the other in every round; figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pretrain.base.contract import InputContract
from pretrain.base.signals import StopFlag
from pretrain.base.strict import from_mapping
from pretrain.config import RunConfig
from pretrain.data.loader import ViewBatch
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.run.watch import Watch
from pretrain.train import build_state, train_step
from pretrain.views.pipeline import normalize

CASES = {"resnet18 64 px": ("resnet18", 64, 64), "resnet50 96 px": ("resnet50", 96, 64)}
QUEUE, DIM = 65536, 128


class ReferenceStep:
    """The reference's step. autocast: torch.float16 on a GPU, with the reference's loss scaling."""

    def __init__(self, arch: str, device: torch.device, *, autocast: torch.dtype | None = None) -> None:
        torch.manual_seed(0)
        self.device, self.autocast = device, autocast
        encoder = getattr(torchvision.models, arch)(weights=None)
        width = encoder.fc.in_features
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, DIM))
        self.query = encoder.to(device).train()
        self.key = copy.deepcopy(self.query).train()
        self.queue = F.normalize(torch.randn(QUEUE, DIM, device=device), dim=1)
        self.pointer = 0
        self.optimizer = torch.optim.SGD(
            self.query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, foreach=False, fused=False
        )
        self.criterion = nn.CrossEntropyLoss()
        self.scaler = torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """One step on float32 (B, 3, S, S) views, normalised by the workers as the reference's are."""
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            q = F.normalize(self.query(first), dim=1)
            with torch.no_grad():
                order = torch.randperm(len(second), device=self.device)
                k = F.normalize(self.key(second[order]), dim=1)[torch.argsort(order)]
            positive = (q * k).sum(dim=1, keepdim=True)
            negative = q @ self.queue.clone().detach().T.to(q.dtype)
            logits = torch.cat([positive, negative], dim=1) / 0.2
            loss = self.criterion(logits.float(), torch.zeros(len(q), dtype=torch.long, device=self.device))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            for own, slow in zip(self.query.parameters(), self.key.parameters(), strict=True):
                slow.data.mul_(0.999).add_(own.data, alpha=0.001)
            rows = (self.pointer + torch.arange(len(k), device=self.device)) % QUEUE
            self.queue[rows] = k.float()
            self.pointer = (self.pointer + len(k)) % QUEUE
        return loss.detach()


def our_step(arch: str, size: int, batch: int, device: torch.device, **over: Any) -> Callable[[], Tensor]:
    """`train_step` of MoCo v2 on a fixed batch of bytes; over: nested configuration values."""
    values: dict[str, Any] = {
        "data": {"root": "none"},
        "encoder": {"arch": arch},
        "method": {"name": "moco_v2", "temperature": 0.2, "jigsaw": False, "queue_size": QUEUE, "feature_dim": DIM},
        "views": {"recipe": "moco_v2", "image_size": size},
        "optimizer": {"batch_size": batch},
        "runtime": {"device": device.type},
    }
    for group, changed in over.items():
        values[group] = {**values[group], **changed}
    config = from_mapping(RunConfig, values, where="benchmark")
    precision, ranks = choose_precision(config.runtime.precision, device), Ranks()
    state = build_state(config, InputContract(), precision=precision, ranks=ranks)
    watch = Watch(StopFlag(), ranks, device)
    views = pictures(batch, size).to(device)

    def step() -> Tensor:
        figures = train_step(
            state,
            views,
            learning_rate=0.03,
            momentum=0.999,
            precision=precision,
            ranks=ranks,
            watch=watch,
            accumulate=config.optimizer.accumulate,
        )
        return figures["loss"]

    return step


def pictures(batch: int, size: int) -> ViewBatch:
    """Two views of random bytes."""
    generator = torch.Generator().manual_seed(0)
    return ViewBatch(
        torch.arange(batch), torch.randint(0, 256, (batch, 2, 3, size, size), dtype=torch.uint8, generator=generator)
    )


def arms(arch: str, size: int, batch: int) -> dict[str, Callable[[], Tensor]]:
    """Name -> one step on the CPU."""
    device = torch.device("cpu")
    reference = ReferenceStep(arch, device)
    first, second = (normalize(pictures(batch, size).images[:, view], InputContract()) for view in range(2))
    return {
        "reference, float32 NCHW": lambda: reference(first, second),
        "ours": our_step(arch, size, batch, device),
        "ours, float32": our_step(arch, size, batch, device, runtime={"device": "cpu", "precision": "fp32"}),
    }


def measure(
    steps: dict[str, Callable[[], Any]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each arm in every round, all arms one after the other in a round; one round before is thrown away."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            started = clock()
            step()
            if round_:
                taken[name].append(clock() - started)
    return taken


@dataclasses.dataclass(frozen=True)
class Result:
    """Of a case: images/s (medians) and the median over rounds of (reference's time / ours), with its range."""

    images_per_second: dict[str, float]
    times_faster: dict[str, float]
    spread: dict[str, tuple[float, float]]


def step_speed(
    *,
    rounds: int = 7,
    threads: int = 1,
    cases: dict[str, tuple[str, int, int]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Case -> `Result` as a dictionary, of interleaved rounds on `threads` cores.

    clock: time.process_time where others use the machine, with one thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    results = {}
    try:
        for name, (arch, size, batch) in (CASES if cases is None else cases).items():
            taken = measure(arms(arch, size, batch), rounds=rounds, clock=clock)
            reference = next(iter(taken.values()))
            ratios = {arm: sorted(r / t for r, t in zip(reference, times, strict=True)) for arm, times in taken.items()}
            result = Result(
                {arm: round(batch / statistics.median(times), 2) for arm, times in taken.items()},
                {arm: round(statistics.median(values), 3) for arm, values in ratios.items()},
                {arm: (round(values[0], 2), round(values[-1], 2)) for arm, values in ratios.items()},
            )
            results[name] = dataclasses.asdict(result)
    finally:
        torch.set_num_threads(before)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of this process instead of the clock's, with one thread"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    text = json.dumps(step_speed(rounds=arguments.rounds, threads=arguments.threads, clock=clock), indent=1)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
