"""A run as a Slurm job: `--slurm PARTITION` submits the command as it was typed, through submitit, which also requeues it.

Each Slurm task is a rank (pretrain/run/ranks.py). Two minutes before its time ends, or when a job of higher priority needs its
place, a job gets SIGUSR2: the run saves and stops as after SIGTERM, then the job is put back into the queue, and the same command
goes on from there. After `scancel` (SIGTERM) it saves and stops, and is not put back.

This module imports no torch: a command reads its options before it knows that it will train.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.base.errors import EXIT_TERMINATED, ConfigError

FOLDER = "slurm"  # of the run's folder: what is submitted, and what each rank prints
SECONDS_TO_SAVE = 120  # before the end of a job's time
MAX_REQUEUES = 1000  # at the end of its time; a run of weeks on a partition of hours needs many
PREEMPTED = signal.SIGUSR2  # submitit's own; nccl may catch SIGUSR1


def add_slurm_options(parser: argparse.ArgumentParser) -> None:
    """--slurm and what belongs to it."""
    group = parser.add_argument_group("Slurm (docs/runs.md)")
    group.add_argument(
        "--slurm", metavar="PARTITION", help="submit this command as a job, requeued until the run is finished"
    )
    group.add_argument("--nodes", type=int, metavar="N", help="machines (default 1)")
    group.add_argument("--gpus-per-node", type=int, metavar="N", help="and ranks, on each (default 1)")
    group.add_argument("--time", metavar="[D-]HH:MM:SS", help="of one job, as sbatch reads it (default 24:00:00)")
    group.add_argument(
        "--sbatch", action="append", metavar="KEY=VALUE", help="another option of sbatch, for example account=vision"
    )


@dataclass(frozen=True)
class SlurmOptions:
    """What a job asks for. others: further options of sbatch."""

    partition: str
    nodes: int
    gpus_per_node: int
    minutes: int
    others: Mapping[str, str]


def slurm_options(arguments: argparse.Namespace) -> SlurmOptions | None:
    """The options of `add_slurm_options`, None without --slurm. Raises ConfigError."""
    given = {"--nodes": arguments.nodes, "--gpus-per-node": arguments.gpus_per_node, "--time": arguments.time}
    given["--sbatch"] = arguments.sbatch
    if arguments.slurm is None:
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise ConfigError(f"{', '.join(idle)} without --slurm; add --slurm PARTITION, or leave it out")
        return None
    others = [entry.partition("=") for entry in arguments.sbatch or ()]
    wrong = ["".join(entry) for entry in others if not entry[0] or not entry[1]]
    nodes, gpus = (1 if value is None else value for value in (arguments.nodes, arguments.gpus_per_node))
    if wrong:
        raise ConfigError(f"--sbatch {wrong[0]}: expected KEY=VALUE, for example --sbatch account=vision")
    if nodes < 1 or gpus < 0:
        raise ConfigError(f"expected --nodes of at least 1 and --gpus-per-node of at least 0, found {nodes} and {gpus}")
    return SlurmOptions(
        partition=arguments.slurm,
        nodes=nodes,
        gpus_per_node=gpus,
        minutes=minutes_of(arguments.time or "24:00:00"),
        others={key: value for key, _, value in others},
    )


def minutes_of(time: str) -> int:
    """Minutes of a time as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises ConfigError."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if match is None:
        raise ConfigError(f"--time {time}: expected a time as sbatch reads it, for example 24:00:00 or 2-12:00:00")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None or len(numbers) == 3:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, (minutes, seconds) = 0, (*numbers, 0)[:2]
    total = int(days or 0) * 1440 + hours * 60 + minutes + math.ceil(seconds / 60)
    if total == 0:
        raise ConfigError(f"--time {time}: expected more than no time")
    return total


def without_slurm_options(words: Sequence[str]) -> list[str]:
    """The words of a command less those of `add_slurm_options`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_slurm_options(parser)
    return parser.parse_known_args(words)[1]


class Command:
    """What a job runs on each rank: a tool with its words, in this process, as typed."""

    def __init__(self, script: str, words: Sequence[str]) -> None:
        self.script, self.words = script, list(words)

    def checkpoint(self) -> Any:
        """What submitit runs when the job is back from the queue: the same, which goes on by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Raises SystemExit with the tool's exit code unless that is 0, or the job goes back into the queue."""
        code, told = self._run()
        if code == EXIT_TERMINATED and PREEMPTED in told:
            os.kill(os.getpid(), PREEMPTED)  # saved; submitit's own handler, in force again, puts the job back
        elif code:
            raise SystemExit(code)

    def _run(self) -> tuple[int, bytes]:
        """(exit code, the signals that came)."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # whoever handles them
        sys.argv = [self.script, *self.words]
        sys.path.insert(0, str(Path(self.script).parent))  # as Python does for a script
        try:
            runpy.run_path(self.script, run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.set_wakeup_fd(before)
            os.close(write)
        with os.fdopen(read, "rb") as told:
            return code, told.read()


def submit(options: SlurmOptions, words: Sequence[str], *, output_dir: Path, num_workers: int) -> str:
    """Submit the command of `words` (sys.argv) -> what to tell the user. Raises ConfigError where there is no Slurm, or it refuses.

    num_workers: loader processes of a rank; each gets a core.
    """
    import submitit

    folder = output_dir / FOLDER
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=MAX_REQUEUES)
    except RuntimeError:
        raise ConfigError("--slurm: there is no srun here; give the command on a machine of the cluster") from None
    executor.update_parameters(
        job_name=output_dir.name,
        partition=options.partition,
        nodes=options.nodes,
        ntasks_per_node=max(1, options.gpus_per_node),
        gpus_per_node=options.gpus_per_node,
        cpus_per_task=num_workers + 2,
        time=options.minutes,
        signal_delay_s=SECONDS_TO_SAVE,
        srun_args=[f"--wait={SECONDS_TO_SAVE}"],  # a rank that is gone ends the others
        additional_parameters=dict(options.others),
    )
    try:
        job = executor.submit(Command(words[0], without_slurm_options(words[1:])))
    except submitit.core.utils.FailedJobError as error:
        if not any(folder.glob("*_submitted.pkl")):  # no earlier job of this run
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):
                output_dir.rmdir()
        raise ConfigError(f"--slurm: sbatch refused the job: {error}") from None
    return f"submitted job {job.job_id}; it prints to {job.paths.stderr} and goes on after a requeue by itself"


def step_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would say to a task of `srun`: RANK and so on; empty where this is not one of several such tasks.

    Not in the batch script itself, which has the variables of the job but is no task of a step.
    """
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1 or "SLURM_PROCID" not in environment:
        return {}
    from submitit.slurm.slurm import SlurmJobEnvironment

    tasks = _tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"])
    return {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": str(tasks[int(environment["SLURM_NODEID"])]),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or SlurmJobEnvironment().hostnames[0],
        # One that all tasks know and another job on these machines hardly has.
        "MASTER_PORT": environment.get("MASTER_PORT") or str(20000 + int(environment["SLURM_JOB_ID"]) % 10000),
    }


def _tasks_of_nodes(text: str) -> list[int]:
    """ "8(x2),4" -> [8, 8, 4]."""
    tasks: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        tasks += [int(count)] * int(times.rstrip(")") or 1)
    return tasks
