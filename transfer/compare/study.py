"""Run a study from end to end: data, pre-training, conversion, measurements of every initialisation, report.

In the output folder: data/, pretrain/, weights/, readout/, detect/, report/, logs/, study.json. Stages that are done
already, from the same command and the same inputs, are reused.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pretrain.base.atomic import write_json
from pretrain.base.figures import spread
from pretrain.base.record import what_differs
from transfer.compare.experiments import Experiment, group_runs
from transfer.compare.results import key_name, read_result
from transfer.compare.runner import Say, StageFolder, open_folder, run_stages, show_seconds, shown
from transfer.compare.stages import (
    ROOT,
    Stage,
    convert_stage,
    detect_stage,
    pretrain_stage,
    readout_stage,
    rooted,
    tool_stage,
)
from transfer.compare.statistics import PairedDifference, paired_difference, plain_difference
from transfer.compare.study_config import (
    METRICS,
    PRETRAINED,
    Expectation,
    InitConfig,
    StudyConfig,
    detection_files,
    pretrain_file,
    readout_file,
    weight_file,
)

DATA = "{output}/data"
CONVERTED = "{output}/weights/pretrained.pth"
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
    config: StudyConfig, output_dir: Path, *, say: Say, out: BinaryIO, root: Path = ROOT
) -> tuple[int, tuple[Verdict, ...]]:
    """Run what is not done yet, then say the table, the expectations and the report's path.

    Returns (0, verdicts), or (the exit code of the stage that failed, ()). out: where the commands' own output is
    shown. root: the project whose tools/ are run. Raises KeyboardInterrupt or Terminated when stopped by a signal,
    after the running command has ended.
    """
    stages = plan_stages(config)
    start = time.monotonic()
    with open_folder(output_dir, root=root) as folder:
        code, failed = run_stages(stages, folder, say=say, out=out)
        if code != 0 and failed != stages[-1]:
            return code, ()
        # Where only the report is missing, the figures are worth their time.
        verdicts = _conclude(config, folder, stages, seconds=time.monotonic() - start, say=say)
        return (0, verdicts) if code == 0 else (code, ())


def _conclude(
    config: StudyConfig, folder: StageFolder, stages: tuple[Stage, ...], *, seconds: float, say: Say
) -> tuple[Verdict, ...]:
    """Say and write down the table and the verdicts."""
    experiments = measured(stages, folder.path)
    parts = [(_mark(one, experiments), collect_scores(one)) for one in experiments]
    inits, baseline = [init.name for init in config.inits], config.baseline_name
    scores: Scores = {}
    differences: dict[str, dict[str, PairedDifference]] = {}
    for mark, part in parts:
        for metric, rows in part.items():
            scores.setdefault(metric, {}).update({name + mark: figures for name, figures in rows.items()})
        for metric, row in differences_to(baseline, part).items() if baseline else ():
            differences.setdefault(metric, {}).update({name + mark: found for name, found in row.items()})
    names = dict.fromkeys((*inits, *(name for rows in scores.values() for name in rows)))
    table = format_table(scores, list(names))
    verdicts = tuple(judge(wanted, [part for _, part in parts]) for wanted in config.expect)
    result: dict[str, Any] = {
        "format": "infomin-transfer/study-result",
        "version": 2,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "scores": scores,
        "baseline": baseline,
        "differences": {
            metric: {init: plain_difference(found) for init, found in row.items()}
            for metric, row in differences.items()
        },
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
    for line in _unlike(experiments):
        say(line)
    say(f"\n{table}\n(percent; mean ± standard deviation over seeds, number of seeds in brackets)\n")
    for metric, row in differences.items():
        for init, found in row.items():
            say(f"{COLUMNS[metric]}, {init} against {baseline}: {found.verdict} ({describe(found)})")
    for verdict in verdicts:
        say(verdict.line())
    report = folder.path / stages[-1].result
    say(f"report: {shown(report) if report.is_file() else 'none'}   (this run: {show_seconds(seconds)})")
    return verdicts


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_stages(config: StudyConfig) -> tuple[Stage, ...]:
    """All stages of a study: preparation, then seed by seed all initialisations, then the report."""
    measurements = (*_readouts(config), *_detections(config))
    folders = ["{output}/" + stage.folder for stage in measurements]
    if config.pretrain:
        folders.append("{output}/pretrain")
    report = tool_stage(
        "report",
        *(*folders, "--output", "{output}/report"),
        *(("--baseline", config.baseline) if config.baseline else ()),
        name="report",
        title="report",
        folder="report",
        result="index.html",
        needs=tuple(stage.name for stage in measurements) + (("pretrain",) if config.pretrain else ()),
    )
    return (*_preparation(config), *measurements, report)


def _preparation(config: StudyConfig) -> list[Stage]:
    """Data, pre-training and conversion, as far as the study has them."""
    stages = []
    if config.data:
        data = tool_stage(
            "make_demo_data",
            *("--output-dir", DATA, *config.data.arguments),
            name="data",
            title="make the data set",
            folder="data",
            result="dataset.json",
        )
        stages.append(data)
    if config.pretrain:
        pretrain = pretrain_stage(
            name="pretrain",
            title="pre-train",
            folder="pretrain",
            config_file=pretrain_file(config.pretrain),
            overrides=[text.replace("{data}", DATA) for text in config.pretrain.overrides],
            needs=["data"] if config.data else [],
        )
        convert = convert_stage(
            name="convert",
            title="convert the weights and prove them equal",
            folder="weights",
            pretrain=pretrain,
            branch=config.pretrain.branch,
        )
        stages += [pretrain, convert]
    return stages


def _detections(config: StudyConfig) -> list[Stage]:
    """Fine-tuning of every initialisation, seed by seed."""
    part = config.detect
    if part is None:
        return []

    def stage(init: InitConfig, config_file: Path, seed: int) -> Stage:
        def fill(text: str) -> str:
            return text.replace("{data}", DATA).replace("{init}", init.name)

        return detect_stage(
            name=f"detect-{init.name}-seed{seed}",
            title=f"fine-tune from {init.name}, seed {seed}",
            folder=f"detect/{init.name}_seed{seed}",
            weights=_weights(init) or "",
            init=init.name,
            seed=seed,
            train_data=fill(part.train_data),
            test_data=fill(part.test_data),
            config_file=config_file,
            overrides=list(map(fill, part.overrides)),
            needs=_inputs(config, init),
            files=_outside(init),
        )

    files = detection_files(config)
    return [stage(init, file, seed) for seed in part.seeds for init, file in zip(config.inits, files, strict=True)]


def _readouts(config: StudyConfig) -> list[Stage]:
    """Linear readout of every initialisation, seed by seed."""
    part = config.readout
    if part is None:
        return []
    return [
        readout_stage(
            name=f"readout-{init.name}-seed{seed}",
            title=f"linear readout of {init.name}, seed {seed}",
            folder=f"readout/{init.name}_seed{seed}",
            weights=_weights(init) or f"random:{part.arch}",
            init=init.name,
            seed=seed,
            data=part.data.replace("{data}", DATA),
            config_file=readout_file(part),
            overrides=part.overrides,
            needs=_inputs(config, init),
            files=_outside(init),
        )
        for seed in part.seeds
        for init in config.inits
    ]


def _weights(init: InitConfig) -> str | None:
    """The weight file that a measurement of `init` starts from; None for random weights."""
    outside = weight_file(init)
    return rooted(outside) if outside else CONVERTED if init.weights == PRETRAINED else None


def _inputs(config: StudyConfig, init: InitConfig) -> list[str]:
    return [*(["data"] if config.data else []), *(["convert"] if init.weights == PRETRAINED else [])]


def _outside(init: InitConfig) -> list[Path]:
    """The weight file that comes from outside, if one does."""
    outside = weight_file(init)
    return [outside] if outside else []


# --- the figures ------------------------------------------------------------------------------------------------------


# metric -> initialisation -> seed -> percent
Scores = dict[str, dict[str, dict[int, float]]]


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
            rows = {row: experiment.figures(row, metric.removeprefix("readout/")) for row in experiment.rows}
            if any(rows.values()):
                scores[metric] = {row: figures for row, figures in rows.items() if figures}
    return scores


def format_table(scores: Scores, inits: Sequence[str]) -> str:
    """Rows: initialisations. Columns: what was measured. Cells: mean ± sample standard deviation (number of seeds)."""
    metrics = [metric for metric in COLUMNS if metric in scores]
    rows = [["initialisation", *(COLUMNS[metric] for metric in metrics)]]
    rows += [
        [init, *(format_cell(list(scores[metric].get(init, {}).values())) for metric in metrics)] for init in inits
    ]
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
    difference = paired_difference(higher, lower, comparisons=max(1, len(_rows(part)) - 1))
    if difference is None or set(higher) != set(lower):
        return Verdict(expectation, "undecided", None, "figures are missing")
    side = difference.side_of(expectation.margin)
    outcomes: dict[str, Literal["held", "FAILED", "undecided"]] = {"above": "held", "below": "FAILED"}
    return Verdict(expectation, outcomes.get(side, "undecided"), difference, describe(difference))


def describe(difference: PairedDifference) -> str:
    """ "difference +5.3, 95 % interval +1.2 to +9.4, n = 3"."""
    if difference.n == 1:
        return f"difference {difference.mean:+.1f}, n = 1, which gives no interval"
    level = f"{100 * difference.level:.4g} % interval"
    return f"difference {difference.mean:+.1f}, {level} {difference.interval()}, n = {difference.n}"


def differences_to(baseline: str, scores: Scores) -> dict[str, dict[str, PairedDifference]]:
    """metric -> initialisation -> its difference to `baseline`. Of each metric all initialisations are one question, so
    that their intervals hold together."""
    others = [row for row in _rows(scores) if row != baseline]
    found: dict[str, dict[str, PairedDifference]] = {}
    for metric in (name for name in COLUMNS if name in scores):
        for init in others:
            ours, theirs = scores[metric].get(init, {}), scores[metric].get(baseline, {})
            difference = paired_difference(ours, theirs, comparisons=len(others))
            if difference is not None:
                found.setdefault(metric, {})[init] = difference
    return found
