"""Where the time of a step goes: what `tools/pretrain.py --profile` prints.

The steps are the run's own (pretrain/train.py) on its own data, and leave nothing behind. On the CPU parts are taken by the clock; on
a GPU by events in the streams, read after the last step, so that nothing waits within one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from pretrain.base.signals import StopFlag
from pretrain.config import RunConfig
from pretrain.data.index import Source
from pretrain.data.loader import on_device
from pretrain.data.stream import open_stream
from pretrain.run.agreement import require_agreement
from pretrain.run.ranks import Ranks
from pretrain.run.schedule import Momentum
from pretrain.run.watch import Watch
from pretrain.state import learning_rate_of, precision_of, require_rising_warmup, require_trainable, state_for
from pretrain.train import train_step

STEPS, WARM_UP = 20, 3  # the first steps choose kernels and start workers

# Part of a step as `train_step` calls it, and as the table does.
PARTS = {
    "data": "data wait",
    "copy": "copy to the device",
    "forward": "forward, keys and loss",
    "backward": "backward",
    "check": "finite check",
    "optimiser": "optimiser",
    "memory": "key network (EMA) and memory",
}

logger = logging.getLogger(__name__)


@dataclass
class Timer:
    """Durations by part and step. `part` ends one: its time is that since the last one ended."""

    device: torch.device
    spans: list[tuple[str, int, Any, Any]] = field(default_factory=list)
    step: int = 0
    last: Any = None

    def now(self) -> Any:
        """A point in time: of the clock, or in the current stream of the device."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def part(self, name: str) -> None:
        """The part `name` of the current step has ended."""
        now = self.now()
        if self.last is not None:
            self.spans.append((name, self.step, self.last, now))
        self.last = now

    @contextlib.contextmanager
    def around(self, name: str) -> Iterator[None]:
        """A part that lies within others or beside them."""
        start = self.now()
        yield
        self.spans.append((name, self.step, start, self.now()))

    def milliseconds(self, num_steps: int) -> dict[str, float]:
        """Part -> mean over the last `num_steps` steps. Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        sums: dict[str, float] = defaultdict(float)
        for name, step, start, end in self.spans:
            if step >= self.step - num_steps:
                sums[name] += start.elapsed_time(end) if self.device.type == "cuda" else 1000 * (end - start)
        return {name: value / num_steps for name, value in sums.items()}


def profile(config: RunConfig, *, ranks: Ranks, steps: int = STEPS, listed: Source | None = None) -> str:
    """Take `steps` steps after a few that do not count -> a table. Raises ConfigError/DataError as a run would.

    listed: the images of config.data.root, where they have been listed already.
    """
    require_agreement(config, ranks)
    precision = precision_of(config, ranks)
    require_trainable(config, precision, ranks)
    require_rising_warmup(config.optimizer)
    announce = logger.info if ranks.is_main else logger.debug
    stream = open_stream(config, ranks=ranks, announce=announce, listed=listed)
    state = state_for(config, stream, precision=precision, ranks=ranks)
    timer = Timer(precision.device)
    if isinstance(state.forward, DistributedDataParallel):
        state.forward.register_comm_hook(
            timer, lambda timer, bucket: _timed_average(timer, bucket)
        )  # DDP reads annotations
    total = config.optimizer.epochs * stream.steps_per_epoch
    schedule = learning_rate_of(config.optimizer, stream.steps_per_epoch)
    momentum = Momentum(config.method.momentum, config.method.momentum_end, total)
    watch = Watch(StopFlag(), ranks, precision.device)
    num_steps = WARM_UP + steps
    batches = stream.batches(from_step=0, num_steps=num_steps)
    with _timed_collectives(timer):
        timer.part("data")
        for batch in on_device(batches, precision.device, around=lambda: timer.around("copy")):
            timer.part("data")
            at = min(state.step, total - 1)
            train_step(
                state,
                batch,
                learning_rate=schedule(at),
                momentum=momentum(at),
                precision=precision,
                ranks=ranks,
                watch=watch,
                accumulate=config.optimizer.accumulate,
                done=timer.part,
            )
            timer.step += 1
        watch.settle()
    return _table(timer.milliseconds(steps), config, ranks, steps=steps, device=precision.device)


def _timed_average(timer: Timer, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """DDP's own average of a bucket of gradients, which goes on while the next ones are computed."""
    step, start = timer.step, timer.now()

    def ended(average: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
        timer.spans.append(("communication", step, start, timer.now()))
        return average.value()

    return default_hooks.allreduce_hook(None, bucket).then(ended)  # type: ignore[arg-type]


@contextlib.contextmanager
def _timed_collectives(timer: Timer) -> Iterator[None]:
    """Within, the collectives that pretrain/run/ranks.py and BatchNorm call are timed."""
    names = ("all_gather", "all_reduce")
    own = {name: getattr(dist, name) for name in names}

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def collective(*args: Any, **options: Any) -> Any:
            if options.get("async_op"):  # of DDP's hook
                return call(*args, **options)
            with timer.around("communication"):
                return call(*args, **options)

        return collective

    try:
        for name in names:
            setattr(dist, name, timed(own[name]))
        yield
    finally:
        for name in names:
            setattr(dist, name, own[name])


def _table(times: dict[str, float], config: RunConfig, ranks: Ranks, *, steps: int, device: torch.device) -> str:
    beside = device.type == "cuda"  # a stream of its own copies
    whole = sum(times.get(part, 0.0) for part in PARTS if not (beside and part == "copy"))
    lines = [f"mean of {steps} steps of {config.optimizer.batch_size} images on {ranks.world_size} x {device.type}"]
    for part, title in PARTS.items():
        taken = times.get(part, 0.0)
        note = "  (beside the rest)" if beside and part == "copy" else ""
        lines.append(f"{title:30s}{taken:10.2f} ms{taken / whole:8.1%}{note}")
    lines.append(f"{'step':30s}{whole:10.2f} ms{1:8.1%}  {1000 * config.optimizer.batch_size / whole:.1f} images/s")
    taken = times.get("communication", 0.0)
    lines.append(
        f"{'communication':30s}{taken:10.2f} ms{taken / whole:8.1%}  (within the parts above, partly beside them)"
    )
    return "\n".join(lines)
