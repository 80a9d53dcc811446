"""What each kind of stage of a study takes on this machine: its own commands on few images for a few steps, thrown away.

In: `StudyConfig` with everything chosen, the data. Out: `Cost`s.

| stage       | measured                                                                                                     |
|-------------|--------------------------------------------------------------------------------------------------------------|
| pre-training| TRIALS, of which the second has more epochs and the third more steps: start, epoch and step come apart       |
| fine-tuning | once: the step is the time that the command itself writes; what remains is its start and the evaluation      |
| readout     | whole, on the largest and the smallest fraction of the labels                                                |
| conversion  | whole                                                                                                        |

An epoch has a cost of its own (loader processes, a checkpoint): where it went into the step of an epoch of three steps, the time of a
large pool came out several times too long. The evaluation is of a detector that has hardly learned anything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pretrain.base.errors import ConfigError
from pretrain.config import load_run_config
from pretrain.data.default_run import memory_of
from pretrain.data.source import open_source
from transfer.compare.budget import Cost, kind_of, rootless
from transfer.compare.runner import Say, StageFolder, is_finished
from transfer.compare.stages import ROOT, Stage
from transfer.compare.study_config import (
    NO_WEIGHTS,
    PRETRAINED,
    InitConfig,
    PretrainConfig,
    StudyConfig,
    pretrain_file,
    weight_file,
)
from transfer.compare.study_plan import StudyData, needs_conversion, plan_study

ITERATIONS = 16  # of the measured fine-tuning
FEW_ITERATIONS = 4  # of another, where the command does not say what an iteration takes
BUSY = 1.2  # programs a core


@dataclass(frozen=True)
class Trial:
    """epochs: of a pre-training. batches: of images that it has."""

    epochs: int
    batches: int


TRIALS = (Trial(1, 3), Trial(3, 3), Trial(1, 12))


@dataclass(frozen=True)
class Measured:
    """What a stage took. amounts: epochs and steps of a pre-training, (0, iterations) of a fine-tuning, else (0, 0)."""

    seconds: float
    memory: int
    gpu_memory: int
    amounts: tuple[int, int] = (0, 0)


def measure(config: StudyConfig, data: StudyData, output_dir: Path, *, say: Say, root: Path = ROOT) -> dict[str, Cost]:
    """Run each kind of stage of the study for a few steps and throw it away. Raises ConfigError for a command that fails."""
    with tempfile.TemporaryDirectory(prefix="infomin_measure_") as place:
        bench = _Bench(_one_row(config), _located(data, output_dir), StageFolder(Path(place), root), say)
        costs = {}
        if bench.config.pretrainings:
            costs["pretrain"] = _pretrain_cost([bench.pretraining(trial) for trial in bench.trials()])
        for stage in bench.stages("convert"):
            costs["convert"] = _whole([bench.run(stage, "whole")])
        for stage in bench.stages("detect"):
            costs["detect"] = _detect_cost(bench, stage)
        readouts = [bench.run(stage, "whole") for stage in bench.stages("readout")]
        if readouts:  # of the largest and the smallest fraction: on average that of the mean
            fractions = config.readout.fractions if config.readout else (1.0,)
            costs["readout"] = _readout_cost(readouts, fractions)
    return costs


def busy_machine() -> str:
    """A warning where other programs use this machine, so that what is measured is too long; "" where none do."""
    if not hasattr(os, "getloadavg"):
        return ""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= BUSY * cores:
        return ""
    return (
        f"WARNING: other programs use this machine (load {load:.1f} on {cores} cores): what is measured now is too long"
    )


@dataclass
class _Bench:
    """Where the commands run. config: of one row and one seed."""

    config: StudyConfig
    data: StudyData
    folder: StageFolder
    say: Say

    def stages(self, kind: str, *, iterations: int = ITERATIONS) -> list[Stage]:
        """Of one kind, after one pre-training."""
        part = self.config.detect
        config = replace(self.config, detect=part and replace(part, iterations=iterations))
        return [stage for stage in plan_study(config, self.data) if kind_of(stage) == kind]

    def trials(self) -> tuple[Trial, ...]:
        """The last one has more steps; a pool that has none more is left at the first two."""
        part = self._part()
        batches = len(open_source(self._pool(part))) // _batch(part)
        return TRIALS if batches > TRIALS[0].batches else TRIALS[:2]

    def pretraining(self, trial: Trial) -> Measured:
        """Epochs on a few images of the pool."""
        part = self._part()
        pool, images = self._few_images(trial)
        part = replace(part, epochs=trial.epochs, overrides=_fitted(part, images))
        (init,) = self.config.inits
        inits = (replace(init, pretrain=part if init.pretrain else None),)
        config = replace(self.config, pretrain=part, inits=inits)
        stages = plan_study(config, replace(self.data, pool=str(pool)))
        (stage,) = (one for one in stages if kind_of(one) == "pretrain")
        steps = trial.epochs * max(1, images // _batch(part))
        found = self.run(stage, f"{steps} steps in {trial.epochs} epoch{'s' * (trial.epochs > 1)}")
        return replace(found, amounts=(trial.epochs, steps))

    def run(self, stage: Stage, length: str) -> Measured:
        """One stage's command."""
        self.say(f"measuring: {stage.title}, {length}")
        return _run(stage, self.folder)

    def _part(self) -> PretrainConfig:
        (part,) = self.config.pretrainings.values()
        return part

    def _pool(self, part: PretrainConfig) -> str:
        given = (word.partition("=")[2] for word in part.overrides if word.startswith("data.root="))
        return self.data.pool or next(given)

    def _few_images(self, trial: Trial) -> tuple[Path, int]:
        """A folder with copies of images spread over the pool (of shards on a server the first ones), and how many."""
        part, place = self._part(), self.folder.path / f"images_{trial.batches}"
        source = open_source(self._pool(part))
        wanted = min(len(source), trial.batches * _batch(part))
        step = max(1, len(source) // wanted) if source.scanned else 1
        place.mkdir(exist_ok=True)
        for number in range(wanted):
            name = Path(source.name(number * step))
            (place / f"{number}{name.suffix}").write_bytes(source.read(number * step))
        return place, wanted


def _one_row(config: StudyConfig) -> StudyConfig:
    """One seed of the row that has most kinds of stages: the own pre-training, else a file that is converted, else no name of the
    detector's catalog, which has no readout."""

    def kinds(init: InitConfig) -> int:
        path = None if init.weights == PRETRAINED else weight_file(init)
        if init.weights == PRETRAINED or (path is not None and needs_conversion(path)):
            return 3 if init.weights == PRETRAINED else 2
        return int(path is not None or init.weights == NO_WEIGHTS)

    first = max(config.inits, key=kinds)
    part = first.pretrain or config.pretrain
    part = part and replace(part, seeds=part.seeds[:1])
    detect, readout = config.detect, config.readout
    if detect is not None:
        detect = replace(detect, seeds=detect.seeds[:1], fractions=(max(detect.fractions),))
    if readout is not None:
        ends = tuple(dict.fromkeys((max(readout.fractions), min(readout.fractions))))
        readout = replace(readout, seeds=readout.seeds[:1], fractions=ends)
    own = replace(first, pretrain=part if first.pretrain else None, input_of=None)
    return replace(
        config, inits=(own,), pretrain=part, detect=detect, readout=readout, expect=(), baseline=None, data=None,
        pool=config.pool if first.weights == PRETRAINED else None,
    )  # fmt: skip


def _located(data: StudyData, output_dir: Path) -> StudyData:
    """The same images, named from any folder."""

    def whole(text: str) -> str:
        return text.replace("{output}", str(output_dir.absolute()))

    train = {key: whole(spec) for key, spec in data.train.items()}
    return replace(
        data,
        pool=data.pool and whole(data.pool),
        train=train,
        test=whole(data.test),
        readout=data.readout and whole(data.readout),
    )


def _batch(part: PretrainConfig) -> int:
    file = pretrain_file(part)
    assert file is not None, "chosen before anything is measured"
    return load_run_config(file, ["data.root=POOL", *rootless(part.overrides)]).optimizer.batch_size


def _fitted(part: PretrainConfig, images: int) -> tuple[str, ...]:
    """Overrides with a queue or bank that so few images can fill, and without warm-up."""
    file = pretrain_file(part)
    assert file is not None
    words = [*rootless(part.overrides), "optimizer.warmup_epochs=0"]
    given = load_run_config(file, ["data.root=POOL", *words])
    words = [word for word in words if not word.startswith("method.queue_size=")] + memory_of(given, images)
    return tuple({word.partition("=")[0]: word for word in words}.values())  # of words that set one key, the last


# --- costs of what was measured -----------------------------------------------------------------------------------------


def _whole(found: Sequence[Measured], *, start: float | None = None, step: float = 0.0, epoch: float = 0.0) -> Cost:
    seconds = max(0.0, found[-1].seconds if start is None else start)
    memory, gpu_memory = (max(getattr(one, name) for one in found) for name in ("memory", "gpu_memory"))
    return Cost(seconds, step, memory, gpu_memory, epoch)


def _pretrain_cost(found: Sequence[Measured]) -> Cost:
    """Of two or three TRIALS: start + epochs * epoch + steps * step; never below 0, whatever a busy machine makes of them."""
    first, second = found[:2]
    (epochs, steps), (more_epochs, more_steps) = first.amounts, second.amounts
    slower = max(0.0, second.seconds - first.seconds)
    if len(found) < 3:  # the pool has no more steps an epoch than these
        step, epoch = slower / (more_steps - steps), 0.0
    else:
        step = max(0.0, found[2].seconds - first.seconds) / (found[2].amounts[1] - steps)
        step = min(step, slower / (more_steps - steps))
        epoch = (slower - step * (more_steps - steps)) / (more_epochs - epochs)
    return _whole(found, start=first.seconds - epoch * epochs - step * steps, step=step, epoch=epoch)


def _detect_cost(bench: _Bench, stage: Stage) -> Cost:
    found = [bench.run(stage, f"{ITERATIONS} iterations")]
    step = _said_step(bench.folder.path / stage.folder / "metrics.json")
    if step is None:
        (fewer,) = bench.stages("detect", iterations=FEW_ITERATIONS)
        found.insert(0, bench.run(fewer, f"{FEW_ITERATIONS} iterations"))
        step = max(0.0, found[1].seconds - found[0].seconds) / (ITERATIONS - FEW_ITERATIONS)
    return _whole(found, start=found[-1].seconds - ITERATIONS * step, step=step)


def _said_step(path: Path) -> float | None:
    """Seconds of an iteration, as Detectron2 writes it; None where it does not."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return max(1e-9, next(float(row["time"]) for row in reversed(rows) if "time" in row))
    except (OSError, ValueError, TypeError, StopIteration):
        return None


def _readout_cost(found: Sequence[Measured], fractions: Sequence[float]) -> Cost:
    """found: of the largest and the smallest of the fractions. On average that of their mean, on the line through both."""
    largest, smallest, mean = max(fractions), min(fractions), sum(fractions) / len(fractions)
    whole, part = found[0].seconds, found[-1].seconds
    share = 1.0 if largest == smallest else (mean - smallest) / (largest - smallest)
    return _whole(found, start=part + share * (whole - part))


# --- one command --------------------------------------------------------------------------------------------------------


def _run(stage: Stage, folder: StageFolder) -> Measured:
    shutil.rmtree(folder.path / stage.folder, ignore_errors=True)
    (folder.path / stage.folder).parent.mkdir(parents=True, exist_ok=True)
    command = folder.command(stage)
    log = folder.path / "log.txt"
    began = time.monotonic()
    with log.open("wb") as out, _GpuMemory() as gpu:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode != 0 or not is_finished(folder.path / stage.result):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ConfigError(
            f"measuring `{stage.title}` failed with exit code {process.returncode}, and so would the study:\n"
            + "\n".join(f"  {line}" for line in lines[-8:])
        )
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(seconds, memory, gpu.peak)


class _GpuMemory:
    """The most memory of the first GPU in use while the block runs, less what was in use before; 0 without one."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> _GpuMemory:
        import torch

        if torch.cuda.is_available():
            before = _used()
            self._thread = threading.Thread(target=self._watch, args=(before,), daemon=True)
            self._thread.start()
        return self

    def _watch(self, before: int) -> None:
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, _used() - before)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _used() -> int:
    import torch

    free, total = torch.cuda.mem_get_info(0)
    return total - free
