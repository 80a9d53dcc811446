"""Run a study from end to end: data, pre-training, conversion, measurements of every initialisation, report.

In: `StudyConfig`, an output folder. Out, in that folder: data/, pretrain/, weights/, readout/, detect/, report/, logs/,
study.json. Stages that are done already, from the same command and the same inputs, are reused.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pretrain.base.atomic import write_json
from pretrain.base.errors import Terminated
from transfer.compare.runner import run_logged
from transfer.compare.stages import Stage, plan_stages
from transfer.compare.study_config import ROOT, StudyConfig
from transfer.compare.study_folder import StudyFolder, open_folder, shown
from transfer.compare.study_table import Verdict, collect_scores, format_table, judge

Say = Callable[[str], None]


def show_plan(stages: Sequence[Stage], output_dir: Path, *, say: Say) -> None:
    """Say every stage's command and whether it is done already; nothing is run or written."""
    folder = StudyFolder(output_dir.absolute())
    tokens: dict[str, str] = {}
    for number, stage in enumerate(stages, 1):
        done = set(stage.needs) <= set(tokens) and folder.is_done(stage, tokens)
        record = folder.record(stage)
        if done and record:
            tokens[stage.name] = record.token
        say(f"[{number}/{len(stages)}] {stage.title}{': done already' if done else ''}")
        say(f"$ {shlex.join(folder.command(stage))}")


def run_stages(stages: Sequence[Stage], folder: StudyFolder, *, say: Say, out: BinaryIO) -> tuple[int, Stage | None]:
    """Run what is not done yet -> (0, None), or the exit code of the stage that failed and that stage.

    out: where the commands' own output is shown. Raises KeyboardInterrupt or Terminated when stopped by a signal, after
    the running command has ended.
    """
    tokens: dict[str, str] = {}
    for number, stage in enumerate(stages, 1):
        label = f"[{number}/{len(stages)}]"
        if not folder.is_done(stage, tokens):
            code = _run_stage(stage, folder, tokens, label, say=say, out=out)
            if code != 0:
                return code, stage
        else:
            record = folder.record(stage)
            say(f"{label} {stage.title}: done already ({show_seconds(record.seconds if record else 0)})")
        record = folder.record(stage)
        assert record is not None
        tokens[stage.name] = record.token
    return 0, None


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


def _run_stage(
    stage: Stage, folder: StudyFolder, tokens: dict[str, str], label: str, *, say: Say, out: BinaryIO
) -> int:
    """Run one stage's command -> its exit code; 1 for a command that ended well but left no result."""
    wanted = folder.wanted(stage, tokens)
    command = folder.command(stage)
    folder.prepare(stage, wanted)
    typed = shlex.join(command)
    say(f"{label} {stage.title} ...\n$ {typed}")
    start = time.monotonic()
    outcome = run_logged(command, log_path=folder.log_path(stage), out=out, saves_on_sigterm=stage.resumes)
    seconds = time.monotonic() - start
    finished = outcome.code == 0 and (folder.path / stage.result).is_file()
    if finished:
        folder.finish(stage, wanted, seconds)
        say(f"{label} {stage.title}: done in {show_seconds(seconds)}\n")
    if outcome.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if outcome.stopped_by is not None:
        raise Terminated(f"during `{stage.title}`; the same command goes on from there")
    if finished:
        return 0
    why = (
        f"exit code {outcome.code}"
        if outcome.code
        else f"no {shown(folder.path / stage.result)} although its exit code is 0"
    )
    say(f"{label} {stage.title}: FAILED after {show_seconds(seconds)}, {why}")
    say(f"  its log    {shown(folder.log_path(stage))}")
    say(f"  to repeat  {typed}")
    say("  What is done is kept: the same command goes on from here.")
    return outcome.code or 1


def _conclude(
    config: StudyConfig, folder: StudyFolder, stages: tuple[Stage, ...], *, seconds: float, say: Say
) -> tuple[Verdict, ...]:
    """Say and write down the table and the verdicts."""
    scores = collect_scores(stages, folder.path)
    table = format_table(scores, [init.name for init in config.inits])
    verdicts = tuple(judge(expectation, scores) for expectation in config.expect)
    result: dict[str, Any] = {
        "format": "infomin-transfer/study-result",
        "version": 1,
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "scores": scores,
        "expectations": [{"claim": verdict.line(), "held": verdict.held} for verdict in verdicts],
    }
    write_json(folder.path / "study.json", result)
    say(f"\n{table}\n(percent; mean ± standard deviation over seeds, number of seeds in brackets)\n")
    for verdict in verdicts:
        say(verdict.line())
    report = folder.path / stages[-1].result
    say(f"report: {shown(report) if report.is_file() else 'none'}   (this run: {show_seconds(seconds)})")
    return verdicts


def show_seconds(seconds: float) -> str:
    """75 -> `1m15s`."""
    whole = round(seconds)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60:02d}s"
