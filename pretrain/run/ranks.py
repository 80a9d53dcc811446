"""Ranks and what they exchange. One process without torchrun or srun is rank 0 of 1 and never touches a process group."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.base.errors import EXIT_USER_ERROR, ConfigError, UserError, full_disk
from pretrain.run.slurm import step_environment

# What gloo says, in errors without a type of their own, of a rank that has ended or does not answer.
LOST_RANK = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which process this is.

    rank: in 0..world_size - 1.
    local_rank: on this machine; picks the device.
    world_size: number of processes.
    local_world_size: of them on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and talks to the user."""
        return self.rank == 0

    @property
    def ranks_of_node(self) -> tuple[int, ...]:
        """The ranks on this machine, this one among them. Launchers number the ranks of a machine one after the other."""
        first = self.rank - self.local_rank
        return tuple(range(first, first + self.local_world_size))

    @property
    def node(self) -> int:
        """Which machine this is, from 0, where all have equally many ranks."""
        return (self.rank - self.local_rank) // self.local_world_size


def described_ranks() -> Ranks:
    """What torchrun's environment, or that of Slurm's srun, says of this process; no group is joined."""
    if "WORLD_SIZE" not in os.environ:
        os.environ.update(step_environment(os.environ))
    if "WORLD_SIZE" not in os.environ:
        return Ranks()
    try:
        rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        # Whoever starts ranks by hand does so on one machine; torchrun always says how many of them there are on each.
        return Ranks(rank, local_rank, world_size, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"torchrun's environment is incomplete ({error}); start with torchrun --nproc_per_node=N"
        ) from None


def start_ranks(device: str, *, timeout_s: float) -> Ranks:
    """Join the process group that torchrun describes, or the tasks of Slurm's srun; without either be alone.

    device: "auto", "cpu" or "cuda", resolved as `pick_device` does; nccl where that is a GPU, gloo on the CPU. A peer that
    stops answering ends the job after `timeout_s` seconds instead of hanging for ever.
    """
    ranks = described_ranks()
    if ranks.world_size > 1:
        own = pick_device(device, ranks)
        with _in_time(timeout_s):
            dist.init_process_group(
                "nccl" if own.type == "cuda" else "gloo",
                timeout=datetime.timedelta(seconds=timeout_s),
                device_id=own
                if own.type == "cuda"
                else None,  # nccl: a barrier without it guesses a device by the rank
            )
    return ranks


@contextlib.contextmanager
def _in_time(timeout_s: float) -> Iterator[None]:
    """The ranks meet within `timeout_s`, or this process ends with what is wrong.

    torch asks a first rank that is gone again and again, some times as long as its timeout (20 and 50 s were seen for 10), and
    hears nothing meanwhile.
    """

    def end() -> None:
        os.write(2, f"error: {_NOT_THERE.format(timeout_s)}\n".encode())
        os._exit(EXIT_USER_ERROR)

    clock = threading.Timer(timeout_s + 1, end)
    clock.daemon = True
    clock.start()
    try:
        yield
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise UserError(_NOT_THERE.format(timeout_s)) from error
    finally:
        clock.cancel()


_NOT_THERE = (
    "the other ranks did not come within runtime.timeout_s={:g} s, or have ended; what they printed says why. Nothing was begun; "
    "give the same command again"
)


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether `error` says that another rank has ended or does not answer."""
    return isinstance(error, dist.DistError) or any(words in str(error) for words in LOST_RANK)


def stop_ranks(ranks: Ranks) -> None:
    """Leave the process group."""
    if ranks.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str, ranks: Ranks) -> torch.device:
    """ "auto", "cpu" or "cuda" -> this rank's device, made the current one. Raises ConfigError when there is no such GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("runtime.device=cuda: no CUDA device found; pass runtime.device=cpu (or auto)")
    if ranks.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"{torch.cuda.device_count()} CUDA device(s) for local rank {ranks.local_rank}; start fewer processes on this "
            "machine, or pass runtime.device=cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


@torch.no_grad()
def gather_rows(rows: Tensor, ranks: Ranks, *, over: Literal["world", "node"] = "world") -> Tensor:
    """Concatenate (B, ...) of every rank, or of those of this machine, to (N * B, ...) in rank order. No gradient flows through."""
    num_ranks = ranks.local_world_size if over == "node" else ranks.world_size
    if num_ranks == 1:
        return rows
    group = None if num_ranks == ranks.world_size else _node_group(dist.group.WORLD, num_ranks)
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(num_ranks)]
    dist.all_gather(parts, rows.contiguous(), group=group)
    return torch.cat(parts)


def gather_rows_with_gradient(rows: Tensor, ranks: Ranks) -> Tensor:
    """`gather_rows` through which gradient flows: to a rank's rows from the losses of all ranks, added up.

    Where the loss of a step is the mean over ranks of theirs, DDP's mean of the gradients is then its exact gradient.
    """
    if ranks.world_size == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, ranks)
    return gathered


class _GatherRows(torch.autograd.Function):
    """torch.distributed.nn.functional.all_gather does the same, but is deprecated."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.rank, ctx.count = ranks.rank, rows.shape[0]
        return gather_rows(rows, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count], None


@functools.lru_cache(maxsize=1)
def _node_group(world: Any, size: int) -> Any:
    """The process group of this machine's ranks, made once for a `world`; every rank makes all of them, in the same step."""
    own, _ = dist.new_subgroups(group_size=size)
    return own


def gather_values(value: T, ranks: Ranks) -> list[T]:
    """A small picklable value of every rank, in rank order."""
    if ranks.world_size == 1:
        return [value]
    values: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(values, value)
    return values


def on_main(action: Callable[[], T], ranks: Ranks) -> T | None:
    """`action()` on the main rank while the others wait: its value there, None elsewhere.

    A UserError of it is raised on all, and so is a full disk. Of any other error the others say that it has ended the main rank,
    instead of waiting for it.
    """
    value: T | None = None
    error: UserError | None = None
    own: Exception | None = None
    if ranks.is_main:
        try:
            value = action()
        except UserError as found:
            error = found
        except Exception as found:
            words = full_disk(found) if isinstance(found, OSError) else None
            own = found if words is None else None
            error = UserError(words or f"an error has ended the main rank ({type(found).__name__}: {found})")
    error = gather_values(error, ranks)[0]
    if own is not None:
        raise own
    if error is not None:
        raise error
    return value


def max_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    """The largest of each value over ranks, in place; on a GPU the host does not wait for it."""
    if ranks.world_size > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


@torch.no_grad()
def mean_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    """Mean of a small tensor of figures over ranks (for logs)."""
    if ranks.world_size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / ranks.world_size
