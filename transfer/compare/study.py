"""Run a study from end to end: data, pre-training, conversion, measurements of every initialisation, report.

In the output folder: what transfer/compare/study_plan.py lists, logs/, choices.json and study.json. Stages that are done already,
from the same command and the same inputs, are reused.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from pretrain.base.atomic import write_json
from pretrain.base.errors import ConfigError
from pretrain.base.figures import spread
from pretrain.base.record import what_differs
from pretrain.data.source import open_source
from pretrain.run.duration import in_words
from transfer.compare.budget import (
    Schedule,
    Work,
    busy_machine,
    costs_from,
    divide,
    estimate_lines,
    measure,
    plain_costs,
    seconds_of,
    work_of,
)
from transfer.compare.choices import (
    Choices,
    apply_choices,
    choose,
    read_choices,
    require_same_budget,
    save_choices,
)
from transfer.compare.executor import Executor, cuda_devices, local_executor
from transfer.compare.experiments import Experiment, group_runs, units_of
from transfer.compare.results import key_name, read_result
from transfer.compare.runner import (
    Say,
    StageFolder,
    all_done,
    open_folder,
    run_stages,
    show_plan,
    show_seconds,
    shown,
)
from transfer.compare.stages import ROOT, Stage
from transfer.compare.statistics import Cells, PairedDifference, compare_cells, plain_difference
from transfer.compare.study_checks import check_study
from transfer.compare.study_config import (
    METRICS,
    Expectation,
    StudyConfig,
    budget_seconds,
    detection_file,
)
from transfer.compare.study_data import Prepared, prepare_data
from transfer.compare.study_plan import StudyData, data_stages, plan_study

if TYPE_CHECKING:
    from transfer.data.leakage import Leak

COLUMNS = {
    "bbox/AP50": "box AP50",
    "bbox/AP": "box AP",
    "bbox/AP75": "box AP75",
    "segm/AP50": "mask AP50",
    "segm/AP": "mask AP",
    "segm/AP75": "mask AP75",
    "readout/top1": "readout top-1",
}


def run_study(
    config: StudyConfig,
    output_dir: Path,
    *,
    say: Say,
    out: BinaryIO,
    root: Path = ROOT,
    executor: Executor | None = None,
    devices: Sequence[str] | None = None,
) -> tuple[int, tuple[Verdict, ...]]:
    """Run what is not done yet, then say the table, the expectations and the report's path.

    Returns (0, verdicts), or (the exit code of the stage that failed, ()); (0, ()) for what goes on elsewhere. out: where the
    commands' own output is shown. root: the project whose tools/ are run. executor: None: this machine, devices its GPUs (None:
    all of them). Raises UserError before the first stage for what a later one would refuse; KeyboardInterrupt or Terminated when
    stopped by a signal, after the running command has ended.
    """
    start = time.monotonic()
    devices = cuda_devices() if devices is None else devices
    _check_embedded(config, output_dir, on_gpu=bool(devices))
    with open_folder(output_dir, root=root) as folder:
        if config.data is not None and not _is_planned(config):  # what follows depends on what it makes
            code, failed = run_stages(data_stages(config), folder, say=say, out=out)
            if failed is not None:
                return code, ()
        settled = settle_study(config, folder.path, folder.path, devices=devices, say=say, root=root)
        save_choices(settled.choices, folder.path)
        stages = plan_study(settled.config, settled.data)
        if config.budget is not None and not all_done(stages, folder):
            for line in settled.estimate:
                say(line)
        ended = (executor or local_executor(devices, say=say, out=out))(stages, folder)
        if ended is None:
            return 0, ()
        code, failed = ended
        if code != 0 and failed != stages[-1]:
            return code, ()
        # Where only the report is missing, the figures are worth their time.
        verdicts = _conclude(settled.config, folder, stages, seconds=time.monotonic() - start, say=say)
        return (0, verdicts) if code == 0 else (code, ())


def show_study(
    config: StudyConfig, output_dir: Path, *, say: Say, root: Path = ROOT, devices: Sequence[str] | None = None
) -> None:
    """Say every stage's command, and how long all of it will take and how much memory, measured on a few steps. Nothing is
    written into `output_dir`."""
    devices = cuda_devices() if devices is None else devices
    if config.data is not None:
        _check_embedded(config, output_dir, on_gpu=bool(devices))
        if _is_planned(config):
            chosen = choose(config, train=None, pool_size=None, on_gpu=bool(devices))
            settled_config = apply_choices(config, chosen)
            show_plan(plan_study(settled_config, prepare_data(config, output_dir).data), output_dir, say=say, root=root)
        else:
            show_plan(data_stages(config), output_dir, say=say, root=root)
            say("the further stages depend on what the first one makes")
        say("not measured: the first stage makes the images; the head of a shipped file says how long it takes")
        return
    with tempfile.TemporaryDirectory(prefix="infomin_plan_") as place:
        settled = settle_study(config, output_dir, Path(place), devices=devices, say=say, root=root, estimate=True)
        show_plan(plan_study(settled.config, settled.data), output_dir, say=say, root=root)
        for line in settled.estimate:
            say(line)


def _is_planned(config: StudyConfig) -> bool:
    """Whether the plan of a study on the embedded data is known before they are made."""
    detect, readout = config.detect, config.readout
    return (
        detect is None
        or (detect.fractions == (1.0,) and detect.test_data is not None and detect.config_file is not None)
    ) and (readout is None or readout.arch is not None or config.pretrain is not None)


def _check_embedded(config: StudyConfig, output_dir: Path, *, on_gpu: bool) -> None:
    """Before the embedded data are made: all that can be checked without them."""
    if config.data is None:
        return
    if config.budget is not None:
        raise ConfigError("budget: the embedded data set is not measured; give epochs and iterations instead")
    if _is_planned(config):
        chosen = choose(config, train=None, pool_size=None, on_gpu=on_gpu)
        check_study(apply_choices(config, chosen), None)


# --- what the study leaves open -----------------------------------------------------------------------------------------


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
    doctor = examine_labelled(config, output_dir)
    prepared = prepare_data(config, place, earlier=output_dir)
    for note in prepared.notes:
        say(note)
    pool_size = _pool_size(prepared.data, place)
    found = choose(config, train=prepared.train, pool_size=pool_size, on_gpu=bool(devices))
    for note in found.notes:
        say(f"chosen: {note}")
    budget = config.budget or earlier.budget
    choices = Choices({**found.values, **earlier.values}, found.notes, budget, earlier.measured)
    full = apply_choices(config, choices)
    warnings = check_study(full, prepared.data, place)
    for line in (*doctor(full, prepared.leaks, place), *(f"WARNING: detect: {text}" for text in warnings)):
        say(line)
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
    schedule = Schedule(work.epochs or _file_epochs(full), work.iterations or _file_iterations(full))
    if budget is not None and is_open:
        schedule = divide(work, costs, budget_seconds(budget))
        choices = _with_schedule(choices, full, schedule)
        full = apply_choices(config, choices)
    elif config.budget is not None:
        _require_time(work, costs, schedule, budget_seconds(config.budget))
    choices = replace(choices, measured=plain_costs(costs))
    seconds = budget_seconds(budget) if budget else None
    lines = estimate_lines(work, costs, schedule, budget=seconds)
    heading = "measured on a few steps of each kind of stage on this machine:"
    return Settled(full, prepared.data, choices, (heading, *lines))


def examine_labelled(
    config: StudyConfig, output_dir: Path
) -> Callable[[StudyConfig, Sequence[Leak], Path], tuple[str, ...]]:
    """Look at the labelled images before anything is made of them; once everything is chosen, the function that this returns says
    what was found and writes doctor.json. Raises DataError with every error."""
    if config.detect is None:
        return lambda full, leaks, place: ()
    from transfer.compare.study_doctor import conclude, examine_study, working_size  # needs Detectron2

    examined = examine_study(config.detect, output_dir)
    if examined is None:
        return lambda full, leaks, place: ()
    return lambda full, leaks, place: conclude(examined, size=working_size(full), leaks=leaks, place=place)


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


# --- the end ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """The figures of one fraction of the labels. differences: metric -> initialisation -> to the baseline."""

    fraction: float
    experiments: tuple[Experiment, ...]
    parts: tuple[Scores, ...]
    scores: Scores
    differences: dict[str, dict[str, PairedDifference]]

    def plain(self) -> dict[str, Any]:
        """For study.json."""
        return {
            "fraction": self.fraction,
            "scores": {
                metric: {row: _by_run(cells) for row, cells in rows.items()} for metric, rows in self.scores.items()
            },
            "differences": {
                metric: {init: plain_difference(found) for init, found in row.items()}
                for metric, row in self.differences.items()
            },
        }


def results_of(config: StudyConfig, stages: Sequence[Stage], output_dir: Path) -> tuple[Results, ...]:
    """Of every fraction, the largest first."""
    fractions = sorted({stage.fraction for stage in stages if stage.fraction is not None}, reverse=True)
    found = []
    for fraction in fractions:
        experiments = measured([stage for stage in stages if stage.fraction == fraction], output_dir)
        parts = [(_mark(one, experiments), collect_scores(one)) for one in experiments]
        scores: Scores = {}
        differences: dict[str, dict[str, PairedDifference]] = {}
        baseline = config.baseline_name
        for mark, part in parts:
            for metric, rows in part.items():
                scores.setdefault(metric, {}).update({name + mark: figures for name, figures in rows.items()})
            for metric, row in differences_to(baseline, part).items() if baseline else ():
                differences.setdefault(metric, {}).update({name + mark: one for name, one in row.items()})
        found.append(Results(fraction, experiments, tuple(part for _, part in parts), scores, differences))
    return tuple(found)


def _conclude(
    config: StudyConfig, folder: StageFolder, stages: tuple[Stage, ...], *, seconds: float, say: Say
) -> tuple[Verdict, ...]:
    """Say and write down the tables and the verdicts, which are on the largest fraction."""
    results = results_of(config, stages, folder.path)
    whole, baseline = results[0], config.baseline_name
    verdicts = tuple(judge(wanted, whole.parts) for wanted in config.expect)
    result: dict[str, Any] = {
        "format": "infomin-transfer/study-result",
        "version": 3,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "baseline": baseline,
        **whole.plain(),
        "smaller": [one.plain() for one in results[1:]],
        "expectations": [
            {
                "claim": verdict.line(),
                "outcome": verdict.outcome,
                "difference": plain_difference(verdict.difference),
                **dataclasses.asdict(verdict.expectation),
            }
            for verdict in verdicts
        ],
    }
    write_json(folder.path / "study.json", result)
    for one in reversed(results):
        _say_results(one, config, named=len(results) > 1, say=say)
    say(
        "(percent; mean ± standard deviation over seeds, or over pre-trainings where there are several; their number in brackets)"
    )
    for verdict in verdicts:
        say(verdict.line())
    report = folder.path / stages[-1].result
    say(f"report: {shown(report) if report.is_file() else 'none'}   (this run: {show_seconds(seconds)})")
    return verdicts


def _say_results(results: Results, config: StudyConfig, *, named: bool, say: Say) -> None:
    """The table of one fraction, and the differences to the baseline. named: there are several."""
    for line in _unlike(results.experiments):
        say(line)
    inits = [init.name for init in config.inits]
    names = dict.fromkeys((*inits, *(name for rows in results.scores.values() for name in rows)))
    heading = f"{100 * results.fraction:.3g} % of the labels:\n" if named else ""
    say(f"\n{heading}{format_table(results.scores, list(names))}\n")
    for metric, row in results.differences.items():
        for init, found in row.items():
            say(f"{COLUMNS[metric]}, {init} against {config.baseline_name}: {found.verdict} ({describe(found)})")


# --- the figures ------------------------------------------------------------------------------------------------------


# metric -> initialisation -> (seed of the pre-training, of the run) -> percent
Scores = dict[str, dict[str, Cells]]


def _by_run(cells: Cells) -> dict[str, float]:
    """For JSON: "SEED" -> figure; "pretrain PSEED, SEED" where several pre-trainings stand behind a row."""
    several = len({pretraining for pretraining, _ in cells}) > 1
    return {f"pretrain {p}, {seed}" if several else str(seed): value for (p, seed), value in cells.items()}


@dataclass(frozen=True)
class Verdict:
    """One expectation compared with the figures.

    outcome: held where the interval lies above the margin, FAILED where it lies below, else undecided.
    difference: higher minus lower; None where figures are missing.
    details: what it was decided on.
    """

    expectation: Expectation
    outcome: Literal["held", "FAILED", "undecided"]
    difference: PairedDifference | None
    details: str

    @property
    def held(self) -> bool:
        """Whether the figures bear the expectation out."""
        return self.outcome == "held"

    def line(self) -> str:
        """For people: `held: ...`, `FAILED: ...` or `undecided: ...`."""
        wanted = self.expectation
        margin = f" by more than {wanted.margin:g}" if wanted.margin else ""
        claim = f"{COLUMNS[wanted.metric]}: {wanted.higher} above {wanted.lower}{margin}"
        return f"{self.outcome}: {claim} ({self.details})"


def measured(stages: Sequence[Stage], output_dir: Path) -> tuple[Experiment, ...]:
    """The experiments that a study's measurements are: one of each kind, unless data or code changed between two of its runs,
    or its initialisations have data or configurations of their own. Raises DataError for a damaged result."""
    return group_runs(read_result(output_dir / stage.result) for stage in stages if stage.init is not None)


def _mark(experiment: Experiment, experiments: Sequence[Experiment]) -> str:
    """What is put behind the names of its rows: its hash where there is another experiment of its kind."""
    several = sum(one.kind == experiment.kind for one in experiments) > 1
    return f" [{experiment.short}]" if several else ""


def _unlike(experiments: Sequence[Experiment]) -> list[str]:
    """What differs between measurements of one kind that are several experiments."""
    first: dict[str, Experiment] = {}
    lines = []
    for one in experiments:
        other = first.setdefault(one.kind, one)
        if other is not one:
            keys = [key_name(text) for text in what_differs(other.first.record, one.first.record)]
            lines.append(
                f"NOT AVERAGED: the {one.kind} runs are several experiments, [{other.short}] and [{one.short}], which differ in "
                f"{'; '.join(keys).replace(' there', f' in [{other.short}]').replace(' now', f' in [{one.short}]')}"
            )
    return lines


def collect_scores(experiment: Experiment) -> Scores:
    """The figures of one experiment."""
    scores: Scores = {}
    for metric in METRICS:
        if metric.startswith("readout/") == (experiment.kind == "readout"):
            rows = {row: experiment.cells(row, metric.removeprefix("readout/")) for row in experiment.rows}
            if any(rows.values()):
                scores[metric] = {row: figures for row, figures in rows.items() if figures}
    return scores


def format_table(scores: Scores, inits: Sequence[str]) -> str:
    """Rows: initialisations. Columns: what was measured. Cells: mean ± sample standard deviation (number of seeds)."""
    metrics = [metric for metric in COLUMNS if metric in scores]
    rows = [["initialisation", *(COLUMNS[metric] for metric in metrics)]]
    rows += [[init, *(format_cell(units_of(scores[metric].get(init, {}))) for metric in metrics)] for init in inits]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def format_cell(values: Sequence[float]) -> str:
    """[20, 22] -> `21.0 ± 1.4 (2)`; one value has no deviation, none is a dash."""
    figures = spread(values)
    if figures is None:
        return "-"
    return f"{figures.cell()} ({figures.n})"


def _rows(part: Scores) -> list[str]:
    """Of all metrics of an experiment."""
    return list(dict.fromkeys(row for rows in part.values() for row in rows))


def judge(expectation: Expectation, parts: Sequence[Scores]) -> Verdict:
    """Compare one expectation, which was written down before the figures were known, with the figures of each experiment.

    By the table's interval: what is not told apart there is not held here.
    """
    name, pair = expectation.metric, {expectation.higher, expectation.lower}
    found = [part for part in parts if pair & set(part.get(name, {}))]
    if len(found) > 1:
        return Verdict(expectation, "undecided", None, "its runs are several experiments, which are not compared")
    part = found[0] if found else {}
    measured = part.get(name, {})
    higher, lower = measured.get(expectation.higher, {}), measured.get(expectation.lower, {})
    difference = compare_cells(higher, lower, comparisons=max(1, len(_rows(part)) - 1))
    if difference is None or {seed for _, seed in higher} != {seed for _, seed in lower}:
        return Verdict(expectation, "undecided", None, "figures are missing")
    side = difference.side_of(expectation.margin)
    outcomes: dict[str, Literal["held", "FAILED", "undecided"]] = {"above": "held", "below": "FAILED"}
    return Verdict(expectation, outcomes.get(side, "undecided"), difference, describe(difference))


def describe(difference: PairedDifference) -> str:
    """ "difference +5.3, 95 % interval +1.2 to +9.4, n = 3"."""
    if difference.n == 1:
        return f"difference {difference.mean:+.1f}, n = 1, which gives no interval"
    level = f"{100 * difference.level:.4g} % interval"
    n = f"n = {difference.n}" if difference.unit == "seed" else difference.units()
    return f"difference {difference.mean:+.1f}, {level} {difference.interval()}, {n}"


def differences_to(baseline: str, scores: Scores) -> dict[str, dict[str, PairedDifference]]:
    """metric -> initialisation -> its difference to `baseline`. Of each metric all initialisations are one question, so
    that their intervals hold together."""
    others = [row for row in _rows(scores) if row != baseline]
    found: dict[str, dict[str, PairedDifference]] = {}
    for metric in (name for name in COLUMNS if name in scores):
        for init in others:
            ours, theirs = scores[metric].get(init, {}), scores[metric].get(baseline, {})
            difference = compare_cells(ours, theirs, comparisons=len(others))
            if difference is not None:
                found.setdefault(metric, {})[init] = difference
    return found
