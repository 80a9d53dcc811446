"""How long a study takes and how much memory, measured on a few steps of each kind of stage on this machine; a budget divided.

In: the study's own commands, run twice with few epochs and iterations on a part of the pool, in a folder that is thrown away.
Out: `Costs` (seconds to start and a step, bytes), `Estimate` for a plan, or the epochs and iterations that fill a budget.

The division: from the budget RESERVE is kept back and the fixed costs are subtracted (starting, conversion, evaluation, readouts,
report). Of the rest half goes to pre-training and half to fine-tuning; what one cannot use, because its schedule has reached the
largest that its images are worth, the other gets. Epochs are the same for all pre-trainings, iterations for all initialisations,
seeds and fractions.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.base.errors import ConfigError
from pretrain.config import load_run_config
from pretrain.data.default_run import memory_of
from pretrain.data.source import ImageSource, open_source
from pretrain.run.duration import in_words
from transfer.compare.runner import Say, StageFolder, is_finished
from transfer.compare.stages import ROOT, Stage
from transfer.compare.study_config import PRETRAINED, PretrainConfig, StudyConfig, pretrain_file
from transfer.compare.study_plan import StudyData, plan_study

RESERVE = 0.1  # of a budget: other programs, a slower disk, a few steps that were not typical
REPORT_SECONDS = 30.0
MEASURED_BATCHES = 3  # of the pool, the whole of an epoch of a measured pre-training
FEW, MORE = 1, 3  # epochs of the two measured pre-trainings
FEW_ITERATIONS, MORE_ITERATIONS = 4, 16  # of the two measured fine-tunings
LEAST_STEPS = 100  # of a pre-training: below it, nothing is learned that is worth a comparison
LEAST_ITERATIONS = 100  # of a fine-tuning
MOST_EPOCHS = 800  # of a pre-training: the longest of the paper
BUSY = 1.2  # programs a core
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Of one kind of stage: seconds without a step, seconds a step, bytes of memory at most, of a GPU too (0 without one)."""

    start: float
    step: float = 0.0
    memory: int = 0
    gpu_memory: int = 0

    def of(self, steps: float) -> float:
        """Seconds of a stage of so many steps."""
        return self.start + self.step * steps


Costs = Mapping[str, Cost]  # by kind: pretrain, convert, detect, readout


@dataclass(frozen=True)
class Work:
    """What a plan holds of each kind of stage, and how much a schedule may take.

    pretrainings, conversions, detections, readouts: stages. steps_per_epoch: of the pre-training.
    epochs, iterations: given ones; None: from the budget. most_iterations: that the labelled images are worth.
    devices: stages that run at the same time.
    """

    pretrainings: int
    conversions: int
    detections: int
    readouts: int
    steps_per_epoch: int = 1
    epochs: int | None = None
    iterations: int | None = None
    most_iterations: int = 1
    devices: int = 1

    def waves(self, stages: int) -> int:
        """How often every device is busy."""
        return math.ceil(stages / self.devices)


@dataclass(frozen=True)
class Schedule:
    """epochs: of every pre-training; 0 for a study without. iterations: of every fine-tuning; 0 for a study without."""

    epochs: int
    iterations: int


def seconds_of(work: Work, costs: Costs, schedule: Schedule) -> dict[str, float]:
    """Kind -> seconds of all its stages."""
    zero = Cost(0.0)
    return {
        "pretrain": work.waves(work.pretrainings)
        * costs.get("pretrain", zero).of(schedule.epochs * work.steps_per_epoch),
        "convert": work.waves(work.conversions) * costs.get("convert", zero).start,
        "detect": work.waves(work.detections) * costs.get("detect", zero).of(schedule.iterations),
        "readout": work.waves(work.readouts) * costs.get("readout", zero).start,
        "report": REPORT_SECONDS,
    }


def seconds_each(work: Work, costs: Costs, schedule: Schedule) -> dict[str, float]:
    """Kind -> seconds of one stage, of the kinds that were measured."""
    steps = {"pretrain": schedule.epochs * work.steps_per_epoch, "detect": schedule.iterations}
    return {kind: cost.of(steps.get(kind, 0)) for kind, cost in costs.items()}


def divide(work: Work, costs: Costs, budget: float) -> Schedule:
    """The epochs and iterations that fill `budget` seconds by the module's rule. Raises ConfigError where too few remain, with
    what would fit."""
    schedule = _divided(work, costs, budget)
    short = _too_short(work, schedule)
    if short:
        raise ConfigError(f"--budget {in_words(budget)}: {short}. {_what_would_fit(work, costs, budget)}")
    return schedule


def _divided(work: Work, costs: Costs, budget: float) -> Schedule:
    given = Schedule(work.epochs or 0, work.iterations or 0)
    room = (1 - RESERVE) * budget - sum(seconds_of(work, costs, given).values())
    an_epoch = work.waves(work.pretrainings) * _step(costs, "pretrain") * work.steps_per_epoch
    an_iteration = work.waves(work.detections) * _step(costs, "detect")
    open_epochs = work.epochs is None and work.pretrainings > 0
    open_iterations = work.iterations is None and work.detections > 0
    most_epochs = MOST_EPOCHS if open_epochs else 0
    most_iterations = work.most_iterations if open_iterations else 0
    room = max(0.0, room)
    for_pretraining = room if not open_iterations else room / 2
    for_pretraining = max(min(for_pretraining, most_epochs * an_epoch), room - most_iterations * an_iteration)
    epochs = min(most_epochs, int(for_pretraining / an_epoch)) if open_epochs else given.epochs
    spent = epochs * an_epoch if open_epochs else 0.0
    iterations = min(most_iterations, int((room - spent) / an_iteration)) if open_iterations else given.iterations
    return Schedule(epochs, iterations)


def _step(costs: Costs, kind: str) -> float:
    return max(1e-9, costs[kind].step) if kind in costs else 1e-9


def _too_short(work: Work, schedule: Schedule) -> str:
    """Which part gets too little, "" where none does."""
    lines = []
    steps = schedule.epochs * work.steps_per_epoch
    if work.pretrainings and work.epochs is None and steps < LEAST_STEPS and schedule.epochs < MOST_EPOCHS:
        lines.append(
            f"{work.pretrainings} pre-trainings would get {steps} steps each (at least {LEAST_STEPS} are wanted)"
        )
    least = min(LEAST_ITERATIONS, work.most_iterations)
    if work.detections and work.iterations is None and schedule.iterations < least:
        lines.append(
            f"{work.detections} fine-tunings would get {schedule.iterations} iterations each (at least {least} are wanted)"
        )
    return " and ".join(lines)


def least_budget(work: Work, costs: Costs) -> float:
    """Seconds for which `divide` finds room."""
    low, high = 0.0, 60.0
    while _too_short(work, _divided(work, costs, high)) and high < 1e9:
        low, high = high, high * 2
    while high - low > 30:
        middle = (low + high) / 2
        low, high = (middle, high) if _too_short(work, _divided(work, costs, middle)) else (low, middle)
    return high


def _what_would_fit(work: Work, costs: Costs, budget: float) -> str:
    """The budget that this plan needs, and the share of it that this budget pays."""
    needed = least_budget(work, costs)
    minutes = math.ceil(needed / 60)
    lines = [f"This plan needs --budget {minutes}m at least"]
    for share in (2, 3, 4, 5, 6, 8, 10):
        fewer = replace(
            work,
            detections=max(1, work.detections // share) if work.detections else 0,
            readouts=max(1, work.readouts // share) if work.readouts else 0,
        )
        if not _too_short(fewer, _divided(fewer, costs, budget)):
            lines.append(f"with 1/{share} of the measurements it fits: fewer --seeds, fewer --fractions, fewer --init")
            break
    else:
        if work.pretrainings > 1:
            lines.append("or fewer --pretrain-seeds and fewer --seeds together")
    return "; ".join(lines) + ". Nothing was run"


# --- measuring ----------------------------------------------------------------------------------------------------------


def work_of(
    config: StudyConfig, stages: Sequence[Stage], *, pool_size: int, most_iterations: int, devices: int
) -> Work:
    """What a plan holds."""
    kinds = [kind_of(stage) for stage in stages]
    parts = list(config.pretrainings.values())
    given = {part.epochs for part in parts}
    batch = max((_run_batch(part) for part in parts), default=1)
    return Work(
        pretrainings=kinds.count("pretrain"),
        conversions=kinds.count("convert"),
        detections=kinds.count("detect"),
        readouts=kinds.count("readout"),
        steps_per_epoch=max(1, pool_size // batch),
        epochs=given.pop() if len(given) == 1 else None,
        iterations=config.detect.iterations if config.detect else None,
        most_iterations=most_iterations,
        devices=devices,
    )


def kind_of(stage: Stage) -> str:
    """pretrain, convert, detect, readout or another (data, report)."""
    return {"weights": "convert"}.get(stage.folder.partition("/")[0], stage.folder.partition("/")[0])


def _run_batch(part: PretrainConfig) -> int:
    file = pretrain_file(part)
    assert file is not None
    return load_run_config(file, ["data.root=POOL", *_rootless(part.overrides)]).optimizer.batch_size


def _rootless(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if not word.startswith("data.root=")]


def measure(config: StudyConfig, data: StudyData, output_dir: Path, *, say: Say, root: Path = ROOT) -> dict[str, Cost]:
    """Run each kind of stage of the study for a few steps and throw it away. Raises ConfigError for a command that fails."""
    with tempfile.TemporaryDirectory(prefix="infomin_measure_") as place:
        folder = StageFolder(Path(place), root)
        found: dict[str, list[tuple[int, Cost]]] = {}
        for number, (epochs, iterations) in enumerate(((FEW, FEW_ITERATIONS), (MORE, MORE_ITERATIONS))):
            small, own = _smaller(config, _located(data, output_dir), Path(place), epochs=epochs, iterations=iterations)
            stages = plan_study(small, own)
            for stage in stages:
                kind = kind_of(stage)
                if kind not in ("pretrain", "convert", "detect", "readout") or (
                    number and kind in ("convert", "readout")
                ):
                    continue
                say(f"measuring: {stage.title}, {_length(kind, epochs, iterations)}")
                steps = {"pretrain": epochs * MEASURED_BATCHES, "detect": iterations}.get(kind, 0)
                found.setdefault(kind, []).append((steps, _run(stage, folder, say)))
    return {kind: _line(points) for kind, points in found.items()}


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


def _length(kind: str, epochs: int, iterations: int) -> str:
    return {"pretrain": f"{epochs * MEASURED_BATCHES} steps", "detect": f"{iterations} iterations"}.get(kind, "whole")


def _line(points: Sequence[tuple[int, Cost]]) -> Cost:
    """Start and step of two measurements of one kind, of one the start alone."""
    first, last = points[0], points[-1]
    step = max(0.0, last[1].start - first[1].start) / (last[0] - first[0]) if last[0] > first[0] else 0.0
    return Cost(
        start=max(0.0, first[1].start - step * first[0]),
        step=step,
        memory=max(cost.memory for _, cost in points),
        gpu_memory=max(cost.gpu_memory for _, cost in points),
    )


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


def _smaller(
    config: StudyConfig, data: StudyData, place: Path, *, epochs: int, iterations: int
) -> tuple[StudyConfig, StudyData]:
    """One initialisation, one seed, all labels, few steps, MEASURED_BATCHES batches of the pool."""
    inits = [init for init in config.inits if init.weights == PRETRAINED] or list(config.inits)
    first = inits[0]
    part = first.pretrain or config.pretrain
    if first.weights == PRETRAINED and part is not None:
        run = load_run_config(_file(part), ["data.root=POOL", *_rootless(part.overrides)])
        pool = data.pool or str(
            next(word.partition("=")[2] for word in part.overrides if word.startswith("data.root="))
        )
        few = place / "few.txt"
        source = open_source(pool)
        wanted = MEASURED_BATCHES * run.optimizer.batch_size
        if isinstance(source, ImageSource):
            paths = [str(path.absolute()) for path in source.paths]
            wanted = min(wanted, len(paths))
            few.write_text("\n".join(paths[:: max(1, len(paths) // wanted)][:wanted]) + "\n", encoding="utf-8")
            data = replace(data, pool=str(few))
        overrides = [*_rootless(part.overrides), "optimizer.warmup_epochs=0"]
        given = load_run_config(_file(part), ["data.root=POOL", *overrides])
        overrides = [word for word in overrides if not word.startswith("method.queue_size=")]
        overrides += memory_of(given, wanted)
        part = replace(part, seeds=part.seeds[:1], epochs=epochs, overrides=tuple(_last(overrides)))
    detect = config.detect
    if detect is not None:
        seed, fraction = detect.seeds[0], max(detect.fractions)
        detect = replace(detect, seeds=(seed,), fractions=(fraction,), iterations=iterations)
    readout = config.readout and replace(
        config.readout, seeds=config.readout.seeds[:1], fractions=(max(config.readout.fractions),)
    )
    own = replace(first, pretrain=part if first.pretrain else None)
    small = replace(
        config, inits=(own,), pretrain=part, detect=detect, readout=readout, expect=(), baseline=None, data=None,
        pool=config.pool if first.weights == PRETRAINED else None,
    )  # fmt: skip
    return small, data


def _file(part: PretrainConfig) -> Path:
    file = pretrain_file(part)
    assert file is not None, "chosen before anything is measured"
    return file


def _last(overrides: Sequence[str]) -> list[str]:
    """Of words that set one key, the last."""
    by_key = {word.partition("=")[0]: word for word in overrides}
    return list(by_key.values())


def _run(stage: Stage, folder: StageFolder, say: Say) -> Cost:
    """One stage's command -> its seconds as `start`, and its memory."""
    import shutil

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
    return Cost(seconds, 0.0, memory, gpu.peak)


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


# --- in words -----------------------------------------------------------------------------------------------------------


def estimate_lines(work: Work, costs: Costs, schedule: Schedule, *, budget: float | None) -> list[str]:
    """How long and how much memory, by kind of stage and in all."""
    seconds = seconds_of(work, costs, schedule)
    counts = {
        "pretrain": work.pretrainings,
        "convert": work.conversions,
        "detect": work.detections,
        "readout": work.readouts,
    }
    lengths = {
        "pretrain": f"{schedule.epochs} epochs of {work.steps_per_epoch} steps of {_step(costs, 'pretrain'):.2f} s",
        "detect": f"{schedule.iterations} iterations of {_step(costs, 'detect'):.2f} s",
    }
    lines = []
    for kind, count in counts.items():
        if count:
            cost = costs[kind]
            detail = (
                f"{lengths[kind]}, and {cost.start:.0f} s to start and end"
                if kind in lengths
                else f"{cost.start:.0f} s each"
            )
            gpu = f", {cost.gpu_memory / MIB:,.0f} MiB of a GPU" if cost.gpu_memory else ""
            lines.append(
                f"  {kind:<9} {count:>3} x  {in_words(seconds[kind]):>12}   {detail}; {cost.memory / MIB:,.0f} MiB{gpu}"
            )
    total = sum(seconds.values())
    at_once = f" on {work.devices} devices at once" if work.devices > 1 else ""
    lines.append(
        f"  in all         {in_words(total):>12}{at_once}" + (f" of a budget of {in_words(budget)}" if budget else "")
    )
    return lines


def plain_costs(costs: Costs) -> dict[str, Any]:
    """For OUT/choices.json."""
    return {kind: asdict(cost) for kind, cost in costs.items()}


def costs_from(measured: Mapping[str, Any]) -> dict[str, Cost]:
    """What `plain_costs` wrote."""
    return {kind: Cost(**values) for kind, values in measured.items()}
