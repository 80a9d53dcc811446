"""Where a plan runs: here one stage after another, here one stage a GPU at the same time, or as Slurm jobs through submitit.

In: stages, the output folder. Out: what each stage makes, with the same records in every case, so that a study that was begun one
way goes on another. The order is that of what stages need; nothing else is scheduled.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pretrain.base.atomic import write_json
from pretrain.base.errors import ConfigError, Terminated
from pretrain.run.slurm import MAX_REQUEUES, PREEMPTED, SECONDS_TO_SAVE, SlurmOptions
from transfer.compare.runner import (
    Forwarding,
    Say,
    StageFolder,
    forwarding_signals,
    is_finished,
    run_logged,
    run_stages,
    say_failed,
    show_seconds,
    shown,
    stop_request,
)
from transfer.compare.stages import Stage

POLL_SECONDS = 0.05
JOBS = "jobs.json"  # below slurm/: stage -> job
ACTIVE = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "CONFIGURING", "COMPLETING")
CORES_OF_A_JOB = 6  # loader processes and the stage's own
Failure = tuple[int, Stage | None]
Executor = Callable[[Sequence[Stage], StageFolder], "Failure | None"]  # None: it goes on elsewhere


def cuda_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(visible[:count]) if len(visible) >= count > 0 else tuple(map(str, range(count)))


def local_executor(devices: Sequence[str], *, say: Say, out: BinaryIO) -> Executor:
    """On this machine: with several devices one stage on each."""
    if len(devices) < 2:
        return lambda stages, folder: run_stages(stages, folder, say=say, out=out)
    return lambda stages, folder: run_on_devices(stages, folder, devices=devices, say=say)


# --- several devices of this machine ------------------------------------------------------------------------------------


@dataclass
class _Running:
    stage: Stage
    device: str
    process: subprocess.Popen[bytes]
    began: float
    command: list[str]


def run_on_devices(stages: Sequence[Stage], folder: StageFolder, *, devices: Sequence[str], say: Say) -> Failure:
    """Every stage that is not done, as soon as what it needs is there and a device is free -> as `run_stages`.

    After a failure nothing new is started; what runs is waited for. Output goes to the logs alone.
    """
    tokens: dict[str, str] = {}
    waiting = list(stages)
    running: list[_Running] = []
    failure: Failure = (0, None)
    numbers = {stage.name: f"[{number}/{len(stages)}]" for number, stage in enumerate(stages, 1)}
    with forwarding_signals() as signals:
        try:
            while waiting or running:
                if failure[0] == 0 and signals.received is None:
                    _start(waiting, running, devices, folder, tokens, numbers, signals, say)
                if not running:
                    break
                time.sleep(POLL_SECONDS)
                for one in [entry for entry in running if entry.process.poll() is not None]:
                    running.remove(one)
                    code = _ended(one, folder, tokens, numbers[one.stage.name], say)
                    failure = failure if failure[0] or not code else (code, one.stage)
        finally:
            for one in running:
                one.process.kill()
                one.process.wait()
    if signals.received == signal.SIGINT:
        raise KeyboardInterrupt
    if signals.received is not None:
        raise Terminated("the same command goes on from there")
    return failure


def _start(
    waiting: list[Stage],
    running: list[_Running],
    devices: Sequence[str],
    folder: StageFolder,
    tokens: dict[str, str],
    numbers: Mapping[str, str],
    signals: Forwarding,
    say: Say,
) -> None:
    """Take from `waiting` what is done, and what can start now."""
    for stage in list(waiting):
        if not set(stage.needs) <= set(tokens):
            continue
        if folder.is_done(stage, tokens):
            record = folder.record(stage)
            assert record is not None
            tokens[stage.name] = record.token
            waiting.remove(stage)
            say(f"{numbers[stage.name]} {stage.title}: done already ({show_seconds(record.seconds)})")
            continue
        free = [device for device in devices if device not in {one.device for one in running}]
        if not free:
            continue
        waiting.remove(stage)
        folder.prepare(stage, folder.wanted(stage, tokens))
        command = folder.command(stage)
        say(f"{numbers[stage.name]} {stage.title} on GPU {free[0]} ...\n$ {shlex.join(command)}")
        with folder.log_path(stage).open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": free[0]},
            )
        signals.attach(process, stop_request(stage))
        running.append(_Running(stage, free[0], process, time.monotonic(), command))


def _ended(one: _Running, folder: StageFolder, tokens: dict[str, str], number: str, say: Say) -> int:
    """The exit code of a stage; 1 for one that ended well without its result."""
    code, seconds = one.process.returncode, time.monotonic() - one.began
    code = code if code >= 0 else 128 - code
    if code == 0 and is_finished(folder.path / one.stage.result):
        folder.finish(one.stage, folder.wanted(one.stage, tokens), seconds)
        record = folder.record(one.stage)
        assert record is not None
        tokens[one.stage.name] = record.token
        say(f"{number} {one.stage.title}: done in {show_seconds(seconds)}")
        return 0
    say_failed(one.stage, folder, number, code=code, seconds=seconds, typed=shlex.join(one.command), say=say)
    return code or 1


# --- Slurm --------------------------------------------------------------------------------------------------------------


class StageJob:
    """What a job runs: one stage, with the record that a local run keeps of it.

    Two minutes before its time ends, or when it has to make room, the stage's command is asked to save and the job is put back
    into the queue, as tools/pretrain.py --slurm does.
    """

    def __init__(self, path: Path, root: Path, stage: Stage, needed: Sequence[Stage]) -> None:
        self.path, self.root, self.stage, self.needed = path, root, stage, list(needed)

    def checkpoint(self) -> Any:
        """What submitit runs when the job is back from the queue: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Raises SystemExit with the command's exit code unless that is 0, or the job goes back into the queue."""
        import sys

        folder = StageFolder(self.path, self.root)
        tokens = {stage.name: record.token for stage in self.needed if (record := folder.record(stage))}
        if folder.is_done(self.stage, tokens):
            return
        wanted, began = folder.wanted(self.stage, tokens), time.monotonic()
        folder.prepare(self.stage, wanted)
        outcome = run_logged(
            folder.command(self.stage),
            log_path=folder.log_path(self.stage),
            out=sys.stdout.buffer,
            saves_on_sigterm=self.stage.resumes,
            also=(PREEMPTED,),
        )
        if outcome.code == 0 and is_finished(folder.path / self.stage.result):
            folder.finish(self.stage, wanted, time.monotonic() - began)
        elif outcome.stopped_by == PREEMPTED:
            os.kill(os.getpid(), PREEMPTED)  # saved; submitit's own handler, in force again, puts the job back
        else:
            raise SystemExit(outcome.code or 1)


def slurm_executor(options: SlurmOptions, *, say: Say) -> Executor:
    """Every stage that is not done as a job of one task, which starts when the jobs of what it needs have ended well."""
    return lambda stages, folder: _submit(stages, folder, options, say)


def _submit(stages: Sequence[Stage], folder: StageFolder, options: SlurmOptions, say: Say) -> Failure | None:
    import submitit

    place = folder.path / "slurm"
    known = _read_jobs(place)
    tokens: dict[str, str] = {}
    open_stages = []
    for stage in stages:
        if set(stage.needs) <= set(tokens) and folder.is_done(stage, tokens):
            record = folder.record(stage)
            assert record is not None
            tokens[stage.name] = record.token
        else:
            open_stages.append(stage)
    if not open_stages:
        return 0, None
    active = {stage.name: known[stage.name] for stage in open_stages if _is_active(place, known.get(stage.name))}
    if active:
        shown_jobs = ", ".join(f"{name} (job {job})" for name, job in list(active.items())[:5])
        say(
            f"{len(active)} of {len(open_stages)} stages that are not done are in the queue or run: {shown_jobs}; nothing was submitted"
        )
        return None
    try:
        executor = submitit.SlurmExecutor(place, max_num_timeout=MAX_REQUEUES)
    except RuntimeError:
        raise ConfigError(
            "--executor slurm: there is no srun here; give the command on a machine of the cluster"
        ) from None
    by_name = {stage.name: stage for stage in stages}
    jobs: dict[str, str] = {}
    for stage in open_stages:
        after = [jobs[name] for name in stage.needs if name in jobs]
        depends = {"dependency": "afterok:" + ":".join(after), "kill-on-invalid-dep": "yes"} if after else {}
        executor.update_parameters(
            job_name=f"{folder.path.name}-{stage.name}",
            partition=options.partition,
            nodes=1,
            ntasks_per_node=1,
            gpus_per_node=0 if stage.name == "report" or stage.folder.startswith("weights") else options.gpus_per_node,
            cpus_per_task=CORES_OF_A_JOB,
            time=options.minutes,
            signal_delay_s=SECONDS_TO_SAVE,
            additional_parameters={**dict(options.others), **depends},
        )
        needed = [by_name[name] for name in stage.needs]
        try:
            job = executor.submit(StageJob(folder.path, folder.root, stage, needed))
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(
                f"--executor slurm: sbatch refused `{stage.title}` after {len(jobs)} submitted jobs: {error}"
            ) from None
        jobs[stage.name] = job.job_id
        write_json(place / JOBS, {**known, **jobs})
        say(f"job {job.job_id}: {stage.title}" + (f", after {', '.join(after)}" if after else ""))
    say(
        f"submitted {len(jobs)} jobs; they print to {shown(place)} and keep their records in {shown(folder.path)}. When they have "
        "ended, the same command prints the table; where one has failed, it submits what is missing"
    )
    return None


def _read_jobs(place: Path) -> dict[str, str]:
    try:
        return dict(json.loads((place / JOBS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _is_active(place: Path, job: str | None) -> bool:
    """Whether Slurm still has a job: it would run twice."""
    if job is None:
        return False
    import submitit

    state = submitit.SlurmJob(place, job).get_info(mode="force").get("State", "UNKNOWN")
    return str(state).partition(" ")[0] in ACTIVE
