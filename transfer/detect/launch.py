"""The processes of a detection run: this one alone, or several on one machine or more, all with what this one prepared.

In: a `DetectionRun`, `Processes`. Out: OUTPUT_DIR as run.py fills it, and the exit code. A stop signal goes on to all of them; one
that ends with an error, or is killed, ends the others, and the record says so.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.engine import launch
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from pretrain.base.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ConfigError, Terminated, run_tool
from pretrain.base.record import RECORD, end_record
from pretrain.base.signals import ending_on_sigterm, passed_to_children
from transfer.detect.loading import fetch_weights
from transfer.detect.run import DetectionRun, enter_process, open_output_dir, run_detection

AGAIN = "the same command goes on from the newest checkpoint"


@dataclass(frozen=True)
class Processes:
    """How many work together, by Detectron2's flags.

    num_gpus: processes of this machine; 0 or 1: this one alone. num_machines: with as many each. machine_rank: which of them this
    is, from 0. dist_url: where they meet. Raises ConfigError for numbers that cannot be.
    """

    num_gpus: int
    num_machines: int
    machine_rank: int
    dist_url: str

    def __post_init__(self) -> None:
        if self.num_machines < 1:
            raise ConfigError(f"--num-machines {self.num_machines}: expected 1 or more")
        if not 0 <= self.machine_rank < self.num_machines:
            raise ConfigError(
                f"--machine-rank {self.machine_rank}: expected 0 to {self.num_machines - 1}, the number of this machine of "
                f"--num-machines {self.num_machines}"
            )
        least = 1 if self.num_machines > 1 else 0
        if self.num_gpus < least:
            raise ConfigError(f"--num-gpus {self.num_gpus}: expected {least} or more")
        devices = torch.cuda.device_count()
        if self.count > 1 and self.num_gpus > devices:
            raise ConfigError(f"--num-gpus {self.num_gpus}, but this machine has {devices} CUDA devices")

    @property
    def count(self) -> int:
        """Of all machines."""
        return max(1, self.num_gpus * self.num_machines)


def carry_out(run: DetectionRun, processes: Processes) -> int:
    """Fetch the weights, take the folder, train or evaluate. Returns the exit code; raises as `run_detection`."""
    fetch_weights(run.weights.weights)
    # The first machine holds the folder; the others write their logs into it.
    with open_output_dir(run.options, run.config) if processes.machine_rank == 0 else nullcontext():
        if processes.count > 1:
            return train_together(run, processes)
        run_detection(run)
        return 0


def train_together(run: DetectionRun, processes: Processes) -> int:
    """Several processes, all of them with the run that this one prepared; a stop signal goes on to them. Returns the exit code."""
    path = Path(run.config.OUTPUT_DIR) / RECORD
    with passed_to_children(AGAIN) as passed:
        try:
            launch(
                worker,
                processes.num_gpus,
                processes.num_machines,
                processes.machine_rank,
                processes.dist_url,
                args=(run,),
            )
        except ProcessException as stop:  # the worker printed why; the others were ended with it
            code = stop.exit_code if isinstance(stop, ProcessExitedException) else -1
            if passed.received is not None and code < 0:  # it was asked to stop before it could save
                code = EXIT_TERMINATED
            stopped = code in (EXIT_TERMINATED, EXIT_INTERRUPTED)
            end_record(path, "stopped" if stopped else "failed", str(stop).strip().splitlines()[0])
            if code < 0:  # a bug, or killed by a signal
                raise
            return int(code)
        except (KeyboardInterrupt, Terminated) as stop:
            end_record(path, "stopped", f"{type(stop).__name__}: {stop}")
            raise
    return 0


def worker(run: DetectionRun) -> None:
    """One of several processes: leaves with the exit code that one process alone would have."""
    run_tool(lambda: _work(run))


def _work(run: DetectionRun) -> None:
    with ending_on_sigterm(AGAIN):
        enter_process(run)
        run_detection(run)
