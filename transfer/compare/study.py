"""Run a study from end to end: data, pre-training, conversion, measurements of every initialisation, report.

In the output folder: what transfer/compare/study_plan.py lists, logs/, doctor.json, choices.json and study.json. Stages that are
done already, from the same command and the same inputs, are reused.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pretrain.base.atomic import write_json
from transfer.compare.choices import apply_choices, choose, save_choices
from transfer.compare.executor import Executor, cuda_devices, local_executor
from transfer.compare.runner import Say, StageFolder, all_done, open_folder, run_stages, show_plan, show_seconds, shown
from transfer.compare.stages import ROOT, Stage
from transfer.compare.statistics import plain_difference
from transfer.compare.study_account import stage_times
from transfer.compare.study_config import StudyConfig
from transfer.compare.study_data import prepare_data
from transfer.compare.study_figures import (
    COLUMNS,
    Results,
    Verdict,
    describe,
    format_table,
    judge,
    results_of,
    unlike,
)
from transfer.compare.study_plan import data_stages, plan_study
from transfer.compare.study_settle import check_embedded, is_planned, settle_study


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
    check_embedded(config, output_dir, on_gpu=bool(devices))
    with open_folder(output_dir, root=root) as folder:
        if config.data is not None and not is_planned(config):  # what follows depends on what it makes
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
        check_embedded(config, output_dir, on_gpu=bool(devices))
        if is_planned(config):
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


# --- the end ------------------------------------------------------------------------------------------------------------


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
        "time": {one.kind: one.plain() for one in stage_times(folder.path)},
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
    for line in unlike(results.experiments):
        say(line)
    inits = [init.name for init in config.inits]
    names = dict.fromkeys((*inits, *(name for rows in results.scores.values() for name in rows)))
    heading = f"{100 * results.fraction:.3g} % of the labels:\n" if named else ""
    say(f"\n{heading}{format_table(results.scores, list(names))}\n")
    for metric, row in results.differences.items():
        for init, found in row.items():
            say(f"{COLUMNS[metric]}, {init} against {config.baseline_name}: {found.verdict} ({describe(found)})")
