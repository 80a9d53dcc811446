"""Run a sweep along a family of views: how much information each setting's views share, and what they are worth.

In: `SweepConfig`, an output folder. Out, in that folder: recipes/, one folder a point (pretrain/, information/, readout/ or
detect/), logs/, and sweep.json, table.md, curve.png, views.png, recipe.yaml (the best setting). What is done already, from
the same command and the same files, is reused, so that settings and seeds can be added later.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from pretrain.base.atomic import write_json, write_text
from pretrain.data.source import list_images
from pretrain.views.families import Setting, show_setting
from pretrain.views.recipe_file import recipe_to_plain, write_recipe
from transfer.compare.study import Say, run_stages, show_plan, show_seconds
from transfer.compare.study_config import ROOT
from transfer.compare.study_folder import StudyFolder, open_folder, shown
from transfer.compare.sweep_config import SweepConfig
from transfer.compare.sweep_figures import Row, SweetSpot, collect_rows, find_sweet_spot, findings, format_table
from transfer.compare.sweep_plots import draw_curve, draw_views
from transfer.compare.sweep_stages import all_stages, plan_points, recipe_file

RESULT_NAME = "sweep.json"
RESULT_FORMAT = "infomin-transfer/sweep-result"


def show_sweep(config: SweepConfig, output_dir: Path, *, say: Say) -> None:
    """Say every command and whether it is done already; nothing is run or written."""
    show_plan(all_stages(plan_points(config)), output_dir, say=say)


def run_sweep(config: SweepConfig, output_dir: Path, *, say: Say, out: BinaryIO, root: Path = ROOT) -> int:
    """Run what is not done yet, then say and write the results -> 0, or the exit code of the command that failed.

    out: where the commands' own output is shown. root: the project whose tools/ are run. Raises KeyboardInterrupt or
    Terminated when stopped by a signal, after the running command has ended.
    """
    points = plan_points(config)
    start = time.monotonic()
    with open_folder(output_dir, root=root) as folder:
        (folder.path / "recipes").mkdir(exist_ok=True)
        for setting in config.settings:
            write_recipe(folder.path / recipe_file(config, setting), config.recipe(setting))
        held_out = list_images(config.data / "val")
        draw_views(folder.path / "views.png", config, held_out[:: max(1, len(held_out) // 4)])
        code, _ = run_stages(all_stages(points), folder, say=say, out=out)
        if code != 0:
            return code
        _conclude(config, folder, collect_rows(points, folder.path), seconds=time.monotonic() - start, say=say)
    return 0


def _conclude(config: SweepConfig, folder: StudyFolder, rows: tuple[Row, ...], *, seconds: float, say: Say) -> None:
    """Write table, picture, recipe and result; say the table and what it shows."""
    spot = find_sweet_spot(rows, config.family)
    best = spot.setting if spot else None
    table = format_table(rows, config.family, accuracy_name=config.unit_of_accuracy, best=best)
    shown_findings = (*findings(rows, config.family), *_on_the_best(config, spot))
    lines = [
        f"# Sweep: {config.family.name}",
        "",
        f"{config.family.parameter}; source: {config.family.source}",
        "",
        table,
        "",
    ]
    bullets = [f"  - {line.strip()}" if line.startswith(" ") else f"- {line}" for line in shown_findings]
    write_text(folder.path / "table.md", "\n".join([*lines, *bullets]) + "\n")
    draw_curve(folder.path / "curve.png", rows, config.family, accuracy_name=config.unit_of_accuracy, best=best)
    if spot is not None:
        header = (
            f"Best of a sweep along {config.family.name}: {config.family.parameter}.\n"
            f"{spot.line(config.family)}, {config.unit_of_accuracy}\n"
            + "".join(f"{note}\n" for note in spot.notes)
            + "Use: python tools/pretrain.py --config-file CONFIG --output-dir RUN data.root=IMAGES views.recipe=THIS_FILE"
        )
        write_recipe(folder.path / "recipe.yaml", config.recipe(spot.setting), header=header)
    else:
        (folder.path / "recipe.yaml").unlink(missing_ok=True)
    write_json(folder.path / RESULT_NAME, _result(config, rows, spot, shown_findings))
    say(f"\n{table}\n(mean ± standard deviation over seeds)\n")
    for line in shown_findings:
        say(line)
    names = ["table.md", "curve.png", "views.png", RESULT_NAME, *(["recipe.yaml"] if spot else [])]
    say(f"wrote {shown(folder.path)}/: {', '.join(names)}   (this run: {show_seconds(seconds)})")
    if spot is None:
        say("no recipe.yaml: without a downstream measure no setting is the best")


def _on_the_best(config: SweepConfig, spot: SweetSpot | None) -> tuple[str, ...]:
    if spot is None:
        return ()
    paper = config.family.sweet_spot
    return (
        spot.line(config.family),
        *(f"  {note}" for note in spot.notes),
        *(() if paper is None else (f"  the paper's sweet spot, at its scale, is {show_setting(paper)}",)),
    )


def _result(
    config: SweepConfig, rows: tuple[Row, ...], spot: SweetSpot | None, shown_findings: tuple[str, ...]
) -> dict[str, Any]:
    def entry(row: Row) -> dict[str, Any]:
        accuracy = row.accuracy
        return {
            "setting": row.setting,
            "recipe": recipe_to_plain(config.recipe(row.setting)),
            "information": asdict(row.nats),
            "saturated": row.saturated,
            "accuracy": None if accuracy is None else asdict(accuracy),
            "seeds": {str(seed): asdict(point) for seed, point in row.figures.items()},
        }

    return {
        "format": RESULT_FORMAT,
        "version": 1,
        "family": config.family.name,
        "parameter": config.family.parameter,
        "unit": config.family.unit,
        "source": config.family.source,
        "settings": list(config.settings),
        "seeds": list(config.seeds),
        "data": str(config.data),
        "pretrain_config": str(config.pretrain_config),
        "overrides": list(config.overrides),
        "downstream": {"kind": config.downstream, "figure": config.unit_of_accuracy},
        "measure_batch": config.measure_batch,
        "points": [entry(row) for row in rows],
        "sweet_spot": _spot(spot),
        "paper_sweet_spot": config.family.sweet_spot,
        "findings": [line.strip() for line in shown_findings],
    }


def _spot(spot: SweetSpot | None) -> dict[str, Any] | None:
    if spot is None:
        return None
    setting: Setting = spot.setting
    return {"setting": setting, "accuracy": asdict(spot.accuracy), "notes": list(spot.notes)}
