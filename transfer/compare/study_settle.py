"""What a study leaves open, settled before anything is planned: splits, files and settings, epochs and iterations.

In: `StudyConfig`, the output folder, the devices. Out: `Settled`, with a configuration that has no gaps. What an earlier start in
the same folder chose stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.base.errors import ConfigError
from pretrain.data.source import open_source
from pretrain.run.duration import in_words
from transfer.compare.budget import (
    Costs,
    Schedule,
    Work,
    costs_from,
    divide,
    estimate_lines,
    plain_costs,
    seconds_each,
    seconds_of,
    work_of,
)
from transfer.compare.choices import Choices, apply_choices, choose, read_choices, require_same_budget, require_weights
from transfer.compare.measuring import busy_machine, measure
from transfer.compare.runner import Say
from transfer.compare.stages import ROOT
from transfer.compare.study_checks import check_study
from transfer.compare.study_config import StudyConfig, budget_seconds, detection_file
from transfer.compare.study_data import Prepared, prepare_data
from transfer.compare.study_plan import StudyData, plan_study

if TYPE_CHECKING:
    from transfer.compare.study_doctor import Examined


def is_planned(config: StudyConfig) -> bool:
    """Whether the plan of a study on the embedded data is known before they are made."""
    detect, readout = config.detect, config.readout
    return (
        detect is None
        or (detect.fractions == (1.0,) and detect.test_data is not None and detect.config_file is not None)
    ) and (readout is None or readout.arch is not None or config.pretrain is not None)


def check_embedded(config: StudyConfig, output_dir: Path, *, on_gpu: bool) -> None:
    """Before the embedded data are made: all that can be checked without them."""
    if config.data is None:
        return
    if config.budget is not None:
        raise ConfigError("budget: the embedded data set is not measured; give epochs and iterations instead")
    if is_planned(config):
        chosen = choose(config, train=None, pool_size=None, on_gpu=on_gpu)
        check_study(apply_choices(config, chosen), None)


@dataclass(frozen=True)
class Settled:
    """A study that can be planned. estimate: lines on time and memory, empty where nothing was measured."""

    config: StudyConfig
    data: StudyData
    choices: Choices
    estimate: tuple[str, ...] = ()


def settle_study(
    config: StudyConfig,
    output_dir: Path,
    place: Path,
    *,
    devices: Sequence[str],
    say: Say,
    root: Path = ROOT,
    estimate: bool = False,
) -> Settled:
    """Read and divide one's own data, choose what the study leaves open, divide the budget.

    place: where splits are written. estimate: measure even where no budget asks for it. What an earlier start in `output_dir`
    chose stays. Raises UserError for what a later stage would refuse.
    """
    earlier = read_choices(output_dir) or Choices()
    require_same_budget(earlier, config, output_dir)
    require_weights(config)
    examined = _examined(config, output_dir)
    prepared = prepare_data(config, place, earlier=output_dir)
    for note in prepared.notes:
        say(note)
    pool_size = _pool_size(prepared.data, place)
    found = choose(config, train=prepared.train, pool_size=pool_size, on_gpu=bool(devices))
    for note in found.notes:
        say(f"chosen: {note}")
    budget = config.budget or earlier.budget
    choices = replace(earlier, values={**found.values, **earlier.values}, notes=found.notes, budget=budget)
    full = apply_choices(config, choices)
    warnings = check_study(full, prepared.data, place)
    for line in examined.conclude(full, leaks=prepared.leaks, place=place) if examined is not None else ():
        say(line)
    for text in warnings:
        say(f"WARNING: detector: {text}")
    work = _work(full, prepared, pool_size or 0, devices)
    is_open = (work.pretrainings and work.epochs is None) or (work.detections and work.iterations is None)
    if budget is None and is_open:
        choices = _by_images(choices, full, work, chosen_detector="detect.config_file" in found.values)
        full = apply_choices(config, choices)
        work = _work(full, prepared, pool_size or 0, devices)
        is_open = False
    if not (estimate or (budget is not None and is_open) or (config.budget is not None and not earlier.measured)):
        return Settled(full, prepared.data, choices)
    costs = costs_from(choices.measured)
    if not costs:
        say(busy_machine() or "measuring a few steps of each kind of stage; they are thrown away")
        costs = measure(full, prepared.data, place, say=say, root=root)
    return _with_estimate(
        config, full, prepared.data, choices, work, costs, divides=budget is not None and bool(is_open)
    )


def _with_estimate(
    config: StudyConfig,
    full: StudyConfig,
    data: StudyData,
    choices: Choices,
    work: Work,
    costs: Costs,
    *,
    divides: bool,
) -> Settled:
    """How long all takes. divides: the budget decides what is open; else it must be enough for what is given."""
    budget = choices.budget
    schedule = Schedule(work.epochs or _file_epochs(full), work.iterations or _file_iterations(full))
    if divides and budget is not None:
        schedule = divide(work, costs, budget_seconds(budget))
        choices = _with_schedule(choices, full, schedule)
        full = apply_choices(config, choices)
    elif config.budget is not None:
        _require_time(work, costs, schedule, budget_seconds(config.budget))
    choices = replace(choices, measured=plain_costs(costs), estimate=seconds_each(work, costs, schedule))
    lines = estimate_lines(work, costs, schedule, budget=budget_seconds(budget) if budget else None)
    heading = "measured on a few steps of each kind of stage on this machine:"
    return Settled(full, data, choices, (heading, *lines))


def _examined(config: StudyConfig, output_dir: Path) -> Examined | None:
    """The labelled images, looked at before anything is made of them; None where there are none yet. Raises DataError."""
    if config.detect is None:
        return None
    from transfer.compare.study_doctor import examine_study  # needs Detectron2

    return examine_study(config.detect, output_dir)


def _pool_size(data: StudyData, place: Path) -> int | None:
    if data.pool is None or "{output}/data" in data.pool:
        return None
    return len(open_source(data.pool.replace("{output}", str(place))))


def _work(config: StudyConfig, prepared: Prepared, pool_size: int, devices: Sequence[str]) -> Work:
    most = _most_iterations(config, prepared)
    stages = plan_study(config, prepared.data)
    return work_of(config, stages, pool_size=pool_size, most_iterations=most, devices=max(1, len(devices)))


def _most_iterations(config: StudyConfig, prepared: Prepared) -> int:
    """That the labelled images are worth: the schedule of tools/train_net.py --scale auto."""
    from transfer.detect.config import load_detector_config
    from transfer.detect.scaling import own_schedule

    file = detection_file(config)
    if config.detect is None or file is None or prepared.train is None:
        return 1
    batch = load_detector_config(file, config.detect.overrides).SOLVER.IMS_PER_BATCH
    return own_schedule(max(1, prepared.train.num_labelled_images), batch).max_iter


def _by_images(choices: Choices, config: StudyConfig, work: Work, *, chosen_detector: bool) -> Choices:
    """Without a budget: the pre-training's own epochs; of a detector that was chosen, the iterations that its images are worth."""
    if config.detect is None or config.detect.iterations is not None or not chosen_detector:
        return choices
    notes = (*choices.notes, f"iterations {work.most_iterations}, by the number of labelled images")
    return replace(choices, values={**choices.values, "detect.iterations": work.most_iterations}, notes=notes)


def _with_schedule(choices: Choices, config: StudyConfig, schedule: Schedule) -> Choices:
    """Only for what the study leaves open: `apply_choices` keeps the rest."""
    values: dict[str, Any] = dict(choices.values)
    if config.detect is not None:
        values["detect.iterations"] = schedule.iterations
    for name in config.pretrainings:
        key = f"inits.{name}.pretrain" if name else "pretrain"
        values[f"{key}.epochs"] = schedule.epochs
        warmup = [
            word for word in values.get(f"{key}.overrides", ()) if not word.startswith("optimizer.warmup_epochs=")
        ]
        values[f"{key}.overrides"] = [*warmup, f"optimizer.warmup_epochs={schedule.epochs // 10}"]
    return replace(choices, values=values)


def _file_epochs(config: StudyConfig) -> int:
    from pretrain.config import load_run_config
    from transfer.compare.study_config import pretrain_file

    for part in config.pretrainings.values():
        file = pretrain_file(part)
        if file is not None:
            words = [word for word in part.overrides if not word.startswith("data.root=")]
            return load_run_config(file, ["data.root=POOL", *words]).optimizer.epochs
    return 0


def _file_iterations(config: StudyConfig) -> int:
    from transfer.detect.config import load_detector_config

    file = detection_file(config)
    if config.detect is None or file is None:
        return 0
    return int(
        load_detector_config(file, [word.replace("{data}", "DATA") for word in config.detect.overrides]).SOLVER.MAX_ITER
    )


def _require_time(work: Work, costs: Any, schedule: Schedule, budget: float) -> None:
    total = sum(seconds_of(work, costs, schedule).values())
    if total > budget:
        raise ConfigError(
            f"--budget {in_words(budget)}: {schedule.epochs} epochs and {schedule.iterations} iterations, as given, take about "
            f"{in_words(total)} for {work.pretrainings} pre-trainings, {work.detections} fine-tunings and {work.readouts} readouts; "
            "leave them out to have them fitted, or pass fewer --seeds. Nothing was run"
        )
