"""Run a sweep along a family of views: how much information each setting's views share, and what they are worth.

In the output folder: recipes/, one folder a point (record.json, pretrain/, information/, readout/ or detect/), logs/, sweep.json,
table.md, curve.png, views.png, recipe.yaml (the best setting). What is done already, from the same command and the same
files, is reused, so that settings and seeds can be added later.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pretrain.base.atomic import write_json, write_text
from pretrain.base.errors import ConfigError, DataError, UserError
from pretrain.base.record import RECORD, DataRecord, OpenRecord, Record, experiment_hash, read_record
from pretrain.data.source import list_images
from pretrain.views.families import Setting, show_setting
from pretrain.views.recipe_file import recipe_to_plain, write_recipe
from transfer.compare.results import read_information, read_result
from transfer.compare.runner import Say, StageFolder, all_done, open_folder, run_stages, show_plan, show_seconds, shown
from transfer.compare.stages import (
    ROOT,
    Stage,
    checkpoint_of,
    convert_stage,
    detect_stage,
    measure_stage,
    pretrain_stage,
    readout_stage,
    rooted,
    tool_stage,
)
from transfer.compare.statistics import plain_difference
from transfer.compare.sweep_config import FOLDED, Sweep
from transfer.compare.sweep_figures import Figures, Row, SweetSpot, find_sweet_spot, findings, format_table
from transfer.compare.sweep_plots import draw_curve, draw_views
from transfer.compare.sweep_record import describe_sweep, point_figures, point_record

RESULT_NAME = "sweep.json"
RESULT_FORMAT = "infomin-transfer/sweep-result"


def show_sweep(sweep: Sweep, output_dir: Path, *, say: Say) -> None:
    """Say every command and whether it is done already; nothing is run or written."""
    show_plan(all_stages(plan_points(sweep)), output_dir, say=say)


def run_sweep(sweep: Sweep, output_dir: Path, *, say: Say, out: BinaryIO, root: Path = ROOT, command: str = "") -> int:
    """Run what is not done yet, then say and write the results -> 0, or the exit code of the command that failed.

    out: where the commands' own output is shown. root: the project whose tools/ are run. command: for the records. Raises KeyboardInterrupt or
    Terminated when stopped by a signal, after the running command has ended.
    """
    points = plan_points(sweep)
    shared = describe_sweep(sweep)
    start = time.monotonic()
    with open_folder(output_dir, root=root) as folder:
        _require_same_data(points, folder, shared[1])
        (folder.path / "recipes").mkdir(exist_ok=True)
        for setting in sweep.settings:
            write_recipe(folder.path / recipe_file(sweep, setting), sweep.recipe(setting))
        held_out = list_images(sweep.data / "val")
        draw_views(folder.path / "views.png", sweep, held_out[:: max(1, len(held_out) // 4)])
        total = len(all_stages(points))
        rows: dict[Setting, Row] = {}
        try:
            for number, point in enumerate(points):
                before = number * len(point.stages)
                start_record = point_record(sweep, point.setting, point.seed, shared=shared, command=command)
                with _recorded(point, folder, start_record) as running:
                    code, failed = run_stages(point.stages, folder, say=say, out=out, before=before, total=total)
                    if failed is not None:
                        raise _StageFailed(f"{failed.title}: exit code {code}", code)
                    figures = read_figures(point, folder.path)
                    if running is not None:
                        details = {"saturated": figures.information.saturated}
                        running.finish(point_figures(figures), details=details)
                rows.setdefault(point.setting, Row(point.setting)).figures[point.seed] = figures
        except _StageFailed as failure:
            return failure.code
        _conclude(sweep, folder, tuple(rows.values()), seconds=time.monotonic() - start, say=say)
    return 0


def _require_same_data(points: Sequence[Point], folder: StageFolder, data: Mapping[str, DataRecord]) -> None:
    """Raise ConfigError where what is done was made from other content of the same folders: it would be reused, as its
    commands are the same."""
    for point in points:
        earlier = _earlier(folder.path / point.folder / RECORD)
        if earlier is None or not folder.is_done(point.stages[0], {}):  # which the point's other stages start from
            continue
        for role, now in data.items():
            before = earlier.data.get(role)
            if before is not None and before.spec == now.spec and before.fingerprint != now.fingerprint:
                raise ConfigError(
                    f"{now.spec} has changed since {shown(folder.path / point.folder)} was made from it "
                    f"({before.num_images} images then, {now.num_images} now): old and new points would not be comparable; "
                    "name another --output-dir, or put the data back"
                )


class _StageFailed(UserError):
    """Ends a point; what went wrong has been said."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def _recorded(point: Point, folder: StageFolder, record: Record) -> Iterator[OpenRecord | None]:
    """The point's record while it runs; None for a point that is done already, of the same experiment: it keeps its own."""
    path = folder.path / point.folder / RECORD
    earlier = _earlier(path)
    same = earlier is not None and earlier.hash == experiment_hash(record.experiment)
    if same and earlier is not None and earlier.status == "done" and all_done(point.stages, folder):
        yield None
        return
    if not same:  # what another experiment cost is not this one's
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with OpenRecord(path, record) as running:
        yield running


def _earlier(path: Path) -> Record | None:
    try:
        return read_record(path)
    except DataError:  # absent, or damaged: the point's stages say what is done
        return None


def _conclude(sweep: Sweep, folder: StageFolder, rows: tuple[Row, ...], *, seconds: float, say: Say) -> None:
    """Write table, picture, recipe and result; say the table and what it shows."""
    spot = find_sweet_spot(rows, sweep.family)
    best = spot.setting if spot else None
    table = format_table(rows, sweep.family, accuracy_name=sweep.unit_of_accuracy, best=best)
    shown_findings = (*findings(rows, sweep.family), *_on_the_best(sweep, spot))
    lines = [
        f"# Sweep: {sweep.family.name}",
        "",
        f"{sweep.family.parameter}; source: {sweep.family.source}",
        "",
        table,
        "",
    ]
    bullets = [f"  - {line.strip()}" if line.startswith(" ") else f"- {line}" for line in shown_findings]
    write_text(folder.path / "table.md", "\n".join([*lines, *bullets]) + "\n")
    draw_curve(folder.path / "curve.png", rows, sweep.family, accuracy_name=sweep.unit_of_accuracy, best=best)
    if spot is not None:
        header = (
            f"Best of a sweep along {sweep.family.name}: {sweep.family.parameter}.\n"
            f"{spot.line(sweep.family)}, {sweep.unit_of_accuracy}\n"
            + "".join(f"{note}\n" for note in spot.notes)
            + "Use: python tools/pretrain.py --config-file CONFIG --output-dir RUN data.root=IMAGES views.recipe=THIS_FILE"
        )
        write_recipe(folder.path / "recipe.yaml", sweep.recipe(spot.setting), header=header)
    else:
        (folder.path / "recipe.yaml").unlink(missing_ok=True)
    write_json(folder.path / RESULT_NAME, _result(sweep, rows, spot, shown_findings))
    say(f"\n{table}\n(mean ± standard deviation over seeds)\n")
    for line in shown_findings:
        say(line)
    names = ["table.md", "curve.png", "views.png", RESULT_NAME, *(["recipe.yaml"] if spot else [])]
    say(f"wrote {shown(folder.path)}/: {', '.join(names)}   (this run: {show_seconds(seconds)})")
    if spot is None:
        say("no recipe.yaml: without a downstream measure no setting is the best")


def _on_the_best(sweep: Sweep, spot: SweetSpot | None) -> tuple[str, ...]:
    if spot is None:
        return ()
    paper = sweep.family.sweet_spot
    return (
        spot.line(sweep.family),
        *(f"  {note}" for note in spot.notes),
        *(() if paper is None else (f"  the paper's sweet spot, at its scale, is {show_setting(paper)}",)),
    )


def _result(
    sweep: Sweep, rows: tuple[Row, ...], spot: SweetSpot | None, shown_findings: tuple[str, ...]
) -> dict[str, Any]:
    def entry(row: Row) -> dict[str, Any]:
        accuracy = row.accuracy
        return {
            "setting": row.setting,
            "recipe": recipe_to_plain(sweep.recipe(row.setting)),
            "information": asdict(row.nats),
            "saturated": row.saturated,
            "accuracy": None if accuracy is None else asdict(accuracy),
            "seeds": {
                str(seed): {**asdict(point.information), "accuracy": point.accuracy}
                for seed, point in row.figures.items()
            },
        }

    return {
        "format": RESULT_FORMAT,
        "version": 1,
        "family": sweep.family.name,
        "parameter": sweep.family.parameter,
        "unit": sweep.family.unit,
        "source": sweep.family.source,
        "settings": list(sweep.settings),
        "seeds": list(sweep.seeds),
        "data": str(sweep.data),
        "pretrain_config": str(sweep.pretrain_config),
        "overrides": list(sweep.overrides),
        "downstream": {"kind": sweep.downstream, "figure": sweep.unit_of_accuracy},
        "measure_batch": sweep.measure_batch,
        "points": [entry(row) for row in rows],
        "sweet_spot": _spot(spot),
        "paper_sweet_spot": sweep.family.sweet_spot,
        "findings": [line.strip() for line in shown_findings],
    }


def _spot(spot: SweetSpot | None) -> dict[str, Any] | None:
    if spot is None:
        return None
    return {
        "setting": spot.setting,
        "accuracy": asdict(spot.accuracy),
        "rivals": [
            {"setting": rival.setting, "difference": plain_difference(rival.difference)} for rival in spot.rivals
        ],
        "notes": list(spot.notes),
    }


# --- the plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One setting with one seed.

    folder: below the sweep's folder.
    stages: in order.
    information, accuracy: result files, below the sweep's folder; accuracy is None where it is not measured.
    """

    setting: Setting
    seed: int
    folder: str
    stages: tuple[Stage, ...]
    information: str
    accuracy: str | None


def recipe_file(sweep: Sweep, setting: Setting) -> str:
    """recipes/NAME-HASH.yaml, below the sweep's folder: another content is another file, and so another command."""
    recipe = sweep.recipe(setting)
    content = json.dumps(recipe_to_plain(recipe), sort_keys=True)
    return f"recipes/{recipe.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.yaml"


def plan_points(sweep: Sweep) -> tuple[Point, ...]:
    """All points of a sweep."""
    return tuple(_point(sweep, setting, seed) for seed in sweep.seeds for setting in sweep.settings)


def all_stages(points: tuple[Point, ...]) -> tuple[Stage, ...]:
    """Every point's stages, in order."""
    return tuple(stage for point in points for stage in point.stages)


def _point(sweep: Sweep, setting: Setting, seed: int) -> Point:
    name = f"{sweep.recipe(setting).name}_seed{seed}"
    title = f"{sweep.family.name} {show_setting(setting)}, seed {seed}"
    if sweep.pair_encoders:
        return _pair_point(sweep, setting, seed, name, title)
    assert sweep.pretrain_config is not None
    pretrain = pretrain_stage(
        name=f"{name}-pretrain",
        title=f"{title}: pre-train",
        folder=f"{name}/pretrain",
        config_file=sweep.pretrain_config,
        overrides=_overrides(sweep, setting, seed),
    )
    measure = measure_stage(
        name=f"{name}-measure",
        title=f"{title}: measure the information",
        folder=f"{name}/information",
        pretrain=pretrain,
        data=sweep.data / "val",
        batch_size=sweep.measure_batch,
    )
    init = name.rpartition("_seed")[0]
    rest: tuple[Stage, ...] = ()
    if sweep.downstream == "readout":
        readout = readout_stage(
            name=f"{name}-readout",
            title=f"{title}: linear readout",
            folder=f"{name}/readout",
            weights=checkpoint_of(pretrain.folder),
            init=init,
            seed=seed,
            data=str(sweep.readout_data),
            config_file=sweep.linear_config,
            needs=[pretrain.name],
        )
        rest = (readout,)
    elif sweep.detection is not None:
        convert = convert_stage(
            name=f"{name}-convert",
            title=f"{title}: convert the weights and prove them equal",
            folder=f"{name}/weights",
            checkpoint=checkpoint_of(pretrain.folder),
            branch="query",
            needs=[pretrain.name],
        )
        detect = detect_stage(
            name=f"{name}-detect",
            title=f"{title}: fine-tune",
            folder=f"{name}/detect",
            init=f"{init}={{output}}/{convert.result}",
            seed=seed,
            train_data=sweep.detection.train_data,
            test_data=sweep.detection.test_data,
            config_file=sweep.detection.config_file,
            needs=[convert.name],
        )
        rest = (convert, detect)
    return Point(setting, seed, name, (pretrain, measure, *rest), measure.result, rest[-1].result if rest else None)


def _pair_point(sweep: Sweep, setting: Setting, seed: int, name: str, title: str) -> Point:
    """Two small encoders on the two parts of the channels: one command, one result with both figures."""
    files = [sweep.pretrain_config] if sweep.pretrain_config else []
    folder = f"{name}/views"
    stage = tool_stage(
        "evaluate_views",
        *("--views", show_setting(setting), "--data", str(sweep.data), "--output-dir", f"{{output}}/{folder}"),
        *(part for path in files for part in ("--config-file", rooted(path))),
        *("--seeds", str(seed), "--", *sweep.overrides),
        name=f"{name}-views",
        title=f"{title}: train two encoders, measure, probe",
        folder=folder,
        result=RECORD,
        files=files,
    )
    return Point(setting, seed, name, (stage,), stage.result, None if sweep.downstream == "none" else stage.result)


def _overrides(sweep: Sweep, setting: Setting, seed: int) -> tuple[str, ...]:
    """The user's own, less what the recipe file says, then data, seed and recipe."""
    replaced = {"data.root", "seed", "views.recipe", *(f"views.{key}" for key in FOLDED)}
    return (
        *(text for text in sweep.overrides if text.partition("=")[0] not in replaced),
        *(f"views.{key}=null" for key in sweep.unset),
        f"data.root={sweep.data / 'train'}",
        f"seed={seed}",
        f"views.recipe={{output}}/{recipe_file(sweep, setting)}",
    )


# --- the figures ------------------------------------------------------------------------------------------------------


def read_figures(point: Point, folder: Path) -> Figures:
    """Read a point's result files. Raises DataError for a file that is none of ours."""
    accuracy = None if point.accuracy is None else _accuracy(folder / point.accuracy)
    return Figures(read_information(folder / point.information), accuracy)


def _accuracy(path: Path) -> float:
    """Percent: of a probe on both views, of a readout, or a detector's box AP."""
    metrics = read_result(path).metrics
    value = metrics.get("top1", metrics.get("bbox/AP"))
    if value is None:
        raise DataError(f"{path} has no box AP: nothing tells how good this setting is")
    return float(value)
