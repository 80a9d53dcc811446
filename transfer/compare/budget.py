"""How long a study takes and how much memory, by what transfer/compare/measuring.py measured; a budget divided.

In: `Costs` (seconds to start, of an epoch and of a step, bytes), the plan. Out: the time of each kind of stage, or the epochs and
iterations that fill a budget.

The division: from the budget RESERVE is kept back and the fixed costs are subtracted (starting, conversion, evaluation, readouts,
report). Of the rest half goes to pre-training and half to fine-tuning; what one cannot use, because its schedule has reached the
largest that its images are worth, the other gets. Epochs are the same for all pre-trainings, iterations for all initialisations,
seeds and fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pretrain.base.errors import ConfigError
from pretrain.config import load_run_config
from pretrain.run.duration import in_words
from transfer.compare.stages import Stage
from transfer.compare.study_config import PretrainConfig, StudyConfig, pretrain_file

RESERVE = 0.1  # of a budget: other programs, a slower disk, a few steps that were not typical
REPORT_SECONDS = 30.0
LEAST_STEPS = 100  # of a pre-training: below it, nothing is learned that is worth a comparison
LEAST_ITERATIONS = 100  # of a fine-tuning
MOST_EPOCHS = 800  # of a pre-training: the longest of the paper
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Of one kind of stage: seconds without a step, seconds a step, bytes of memory at most, of a GPU too (0 without one); seconds
    of an epoch besides its steps."""

    start: float
    step: float = 0.0
    memory: int = 0
    gpu_memory: int = 0
    epoch: float = 0.0

    def of(self, steps: float, epochs: float = 0.0) -> float:
        """Seconds of a stage of so many steps in so many epochs."""
        return self.start + self.step * steps + self.epoch * epochs


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
        * costs.get("pretrain", zero).of(schedule.epochs * work.steps_per_epoch, schedule.epochs),
        "convert": work.waves(work.conversions) * costs.get("convert", zero).start,
        "detect": work.waves(work.detections) * costs.get("detect", zero).of(schedule.iterations),
        "readout": work.waves(work.readouts) * costs.get("readout", zero).start,
        "report": REPORT_SECONDS,
    }


def seconds_each(work: Work, costs: Costs, schedule: Schedule) -> dict[str, float]:
    """Kind -> seconds of one stage, of the kinds that were measured."""
    steps = {"pretrain": schedule.epochs * work.steps_per_epoch, "detect": schedule.iterations}
    epochs = {"pretrain": schedule.epochs}
    return {kind: cost.of(steps.get(kind, 0), epochs.get(kind, 0)) for kind, cost in costs.items()}


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
    an_epoch = work.waves(work.pretrainings) * _an_epoch(work, costs)
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


def _an_epoch(work: Work, costs: Costs) -> float:
    """Seconds, of one pre-training."""
    more = costs["pretrain"].epoch if "pretrain" in costs else 0.0
    return _step(costs, "pretrain") * work.steps_per_epoch + more


def _step(costs: Costs, kind: str) -> float:
    return max(1e-9, costs[kind].step) if kind in costs else 1e-9


def _too_short(work: Work, schedule: Schedule) -> str:
    """Which part gets too little, "" where none does."""
    lines = []
    steps = schedule.epochs * work.steps_per_epoch
    if work.pretrainings and work.epochs is None and steps < LEAST_STEPS and schedule.epochs < MOST_EPOCHS:
        lines.append(
            f"{_counted(work.pretrainings, 'pre-training')} would get {steps} steps each (at least {LEAST_STEPS} are wanted)"
        )
    least = min(LEAST_ITERATIONS, work.most_iterations)
    if work.detections and work.iterations is None and schedule.iterations < least:
        lines.append(
            f"{_counted(work.detections, 'fine-tuning')} would get {schedule.iterations} iterations each (at least {least} are wanted)"
        )
    return " and ".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


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
    return load_run_config(file, ["data.root=POOL", *rootless(part.overrides)]).optimizer.batch_size


def rootless(overrides: Sequence[str]) -> list[str]:
    """`overrides` without the pool."""
    return [word for word in overrides if not word.startswith("data.root=")]


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
        "pretrain": f"{schedule.epochs} epochs of {_an_epoch(work, costs):.1f} s ({work.steps_per_epoch} steps)",
        "detect": f"{schedule.iterations} iterations of {_step(costs, 'detect'):.2f} s",
    }
    lines = []
    for kind, count in counts.items():
        if count and kind in costs:
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
