"""Speed of a training step on the CPU against the reference's own step (pretrain/gpu_check/baselines.py).

python tests/benchmarks/step_speed.py [--rounds 7] [--threads 1] [--cpu-time] [--out step_speed.json]

The reference (PyContrast, as written): float32 in NCHW, BatchNorm over the whole batch, one view through the query network and one
through the key network in shuffled order, logits against a clone of the queue copied together with the positive, cross-entropy,
SGD without fusing, key network updated parameter by parameter. Ours: `train_step` with `runtime.precision=auto`. MoCo v2 with
K = 65536, the same sizes, all arms one after the other in every round; figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pretrain.gpu_check.baselines import Work, reference_step
from pretrain.gpu_check.checks import Trainer
from pretrain.gpu_check.sizes import Sizes, run_config, synthetic_batch

CASES = {"resnet18 64 px": ("resnet18", 64, 64), "resnet50 96 px": ("resnet50", 96, 64)}
CPU = torch.device("cpu")


def arms(arch: str, size: int, batch: int) -> dict[str, Work]:
    """Name -> one step on the CPU."""
    sizes = Sizes(arch, image_size=size, batch_size=batch)

    def ours(precision: str) -> Work:
        config = run_config("moco_v2", sizes, device="cpu", precision=precision)
        trainer, views = Trainer(config, CPU), synthetic_batch(config, device=CPU)
        return lambda: trainer.step(views)

    config = run_config("moco_v2", sizes, device="cpu")
    views, temperature = synthetic_batch(config, device=CPU).images, config.method.temperature
    return {
        "reference, float32 NCHW": reference_step(
            arch, views, None, queue_size=sizes.queue_size, temperature=temperature, device=CPU
        ),
        "ours": ours("auto"),
        "ours, float32": ours("fp32"),
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
