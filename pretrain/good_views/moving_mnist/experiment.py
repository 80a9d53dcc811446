"""The whole experiment: every sharing and seed, the supervised row and the controls. Read `run_experiment` first.

In: digits, backgrounds, `MovingMnistConfig`, sharings, seeds, a folder. Out, in the folder: cells/NAME.json (one file a finished
training with its probes), results.json, table.md, samples.png. What is finished is not done again; what a kill interrupted
starts anew. Source: docs/specification.md 3, row "task dependence".
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.base.atomic import write_json, write_text
from pretrain.base.errors import DataError
from pretrain.base.same_run import require_same
from pretrain.config import to_plain
from pretrain.good_views.information import Estimate, saturation_warning
from pretrain.good_views.moving_mnist.checks import check_pairs
from pretrain.good_views.moving_mnist.config import MovingMnistConfig
from pretrain.good_views.moving_mnist.encoders import build_encoders
from pretrain.good_views.moving_mnist.factors import CONSTANT, PAPER, RANDOM, SUPERVISED, Sharing
from pretrain.good_views.moving_mnist.pairs import PairMaker
from pretrain.good_views.moving_mnist.pools import Worlds, load_worlds
from pretrain.good_views.moving_mnist.probing import TASKS, VIEWS, constant_predictor, probe_encoders
from pretrain.good_views.moving_mnist.report import draw_samples, summarise, to_markdown
from pretrain.good_views.moving_mnist.training import supervised_errors, train_contrast, train_supervised
from pretrain.run.ranks import Ranks, pick_device
from pretrain.views.sheet import save_png

FORMAT = 1
FOLDER = "cells"
CHECKED_PAIRS = 256
CURVE_POINTS = 50
# Less information than this after training, nats: the encoders found nothing, and their row is one of chance.
NOTHING_LEARNED = 0.02


def run_experiment(
    *,
    digits: str,
    backgrounds: str,
    config: MovingMnistConfig,
    sharings: Sequence[Sharing],
    seeds: Sequence[int],
    output_dir: Path,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Run what is not finished and write the table after every cell. Returns what results.json holds.

    Raises ConfigError, before anything is trained, for cells of another configuration in the folder;
    DataError for digits or backgrounds that cannot be used; UserError where a training diverges.
    """
    worlds = load_worlds(digits, backgrounds, scene=config.scene, held_out_share=config.held_out_share)
    bench = Bench(worlds, config, pick_device(config.training.device, Ranks()))
    identity = bench.identity()
    cells = plan_cells(sharings, seeds)
    finished = {cell: read_cell(output_dir, cell, identity) for cell in cells}
    output_dir.mkdir(parents=True, exist_ok=True)
    save_png(output_dir / "samples.png", draw_samples(bench.makers(seeds[0])[1]))
    num_done = sum(result is not None for result in finished.values())
    if num_done:
        announce(f"{num_done} of {len(cells)} cells are finished already")
    for number, cell in enumerate(cells, start=1):
        if finished[cell] is None:
            result = measure_cell(cell, bench)
            write_cell(output_dir, cell, identity, result)
            finished[cell] = result
            announce(f"[{number}/{len(cells)}] {describe(cell, result)}")
            write_table(output_dir, identity, [result for result in finished.values() if result is not None])
            for warning in warnings_about(result):
                announce(f"warning: {warning}")
    return write_table(output_dir, identity, [result for result in finished.values() if result is not None])


def write_table(output_dir: Path, identity: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """results.json and table.md, atomically. Returns what the former holds."""
    summary = summarise(results)
    whole = {
        "format": FORMAT,
        **identity,
        "summary": summary,
        "paper": {
            "status": "UNVERIFIED: recalled, and at another scale",
            "rows": {row: asdict(figures) for row, figures in PAPER.items()},
        },
        "cells": list(results),
    }
    write_json(output_dir / "results.json", whole)
    write_text(
        output_dir / "table.md", to_markdown(summary, title="Colorful Moving-MNIST: what is shared, what is learned")
    )
    return whole


@dataclass(frozen=True)
class Cell:
    """row: the name of a sharing, SUPERVISED, RANDOM or CONSTANT. task: of TASKS for SUPERVISED, else None."""

    row: str
    seed: int
    task: str | None = None

    @property
    def name(self) -> str:
        """File name without suffix."""
        parts = (self.row.replace(" ", "_"), self.task, f"seed{self.seed}")
        return "_".join(part for part in parts if part is not None)


def plan_cells(sharings: Sequence[Sharing], seeds: Sequence[int]) -> tuple[Cell, ...]:
    """Controls first (they take seconds), then seed by seed, so that a run cut short has whole seeds."""
    controls = [Cell(CONSTANT, seeds[0]), *(Cell(RANDOM, seed) for seed in seeds)]
    trained = [
        cell
        for seed in seeds
        for cell in (
            *(Cell(sharing.name, seed) for sharing in sharings),
            *(Cell(SUPERVISED, seed, task) for task in TASKS),
        )
    ]
    return (*controls, *trained)


@dataclass(frozen=True)
class Bench:
    """Everything that the cells of one table have in common."""

    worlds: Worlds
    config: MovingMnistConfig
    device: torch.device

    def makers(self, seed: int) -> tuple[PairMaker, PairMaker]:
        """(train, held out) pairs of a seed."""
        scene = self.config.scene
        return PairMaker(self.worlds.train, scene, seed), PairMaker(self.worlds.held_out, scene, seed)

    def identity(self) -> dict[str, Any]:
        """What must be equal for two cells to stand in one table: configuration (not the device) and data."""
        config = to_plain(self.config)
        del config["training"]["device"]
        pools = {
            f"{split}_{kind}": {"num": len(pool), "fingerprint": pool.fingerprint()}
            for split, world in (("train", self.worlds.train), ("held_out", self.worlds.held_out))
            for kind, pool in (("digits", world.digits), ("backgrounds", world.backgrounds))
        }
        return {"config": config, "data": pools}


def measure_cell(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Train, if there is something to train, and probe. `errors`: view -> task -> figure (of one task for SUPERVISED)."""
    started, started_cpu = time.perf_counter(), time.process_time()
    config, device = bench.config, bench.device
    train, held_out = bench.makers(cell.seed)
    result: dict[str, Any] = {"row": cell.row, "seed": cell.seed, "task": cell.task}
    if cell.row == CONSTANT:
        result["errors"] = _plain(constant_predictor(train, held_out, config))
    elif cell.row == RANDOM:
        networks = build_encoders(config.encoder, config.scene, seed=cell.seed).to(device)
        result["errors"] = _plain(probe_encoders(networks, train, held_out, config, device=device))
    elif cell.row == SUPERVISED:
        assert cell.task is not None
        model, history = train_supervised(train, cell.task, config, seed=cell.seed, device=device)
        errors = supervised_errors(model, held_out, cell.task, config, device=device)
        result["errors"] = {view: {cell.task: error} for view, error in zip(VIEWS, errors, strict=True)}
        result["history"] = _thinned(history)
    else:
        sharing = Sharing(tuple(cell.row.split("+")))
        for maker, split in ((train, "train"), (held_out, "held_out")):
            check_pairs(maker(sharing, split=split, start=0, count=CHECKED_PAIRS), maker.world, config.scene, sharing)
        trained = train_contrast(train, held_out, sharing, config, seed=cell.seed, device=device)
        result["errors"] = _plain(probe_encoders(trained.networks, train, held_out, config, device=device))
        result["information"] = trained.information.to_plain()
        result["history"] = _thinned(trained.history)
    result["seconds"] = round(time.perf_counter() - started, 1)
    result["cpu_seconds"] = round(time.process_time() - started_cpu, 1)
    return result


def read_cell(output_dir: Path, cell: Cell, identity: dict[str, Any]) -> dict[str, Any] | None:
    """A finished cell's figures, None if it is not finished. Raises ConfigError for one of another configuration or data,
    DataError for a file that is none of ours."""
    path = output_dir / FOLDER / f"{cell.name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        made_with, result = values["identity"], values["result"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected a finished cell, found another file ({error}); remove it") from None
    require_same(made_with, identity, place=path, what="cell")
    return result


def write_cell(output_dir: Path, cell: Cell, identity: dict[str, Any], result: dict[str, Any]) -> None:
    """Atomically."""
    (output_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(output_dir / FOLDER / f"{cell.name}.json", {"identity": identity, "result": result})


def describe(cell: Cell, result: dict[str, Any]) -> str:
    """One line about a finished cell."""
    parts = []
    for view, errors in result["errors"].items():
        figures = ", ".join(
            f"{task} {value:.1f}{' px' if task == 'position' else ' %'}" for task, value in errors.items()
        )
        parts.append(f"{view} encoder: {figures}")
    information = result.get("information")
    if information:
        parts.append(f"I_NCE {information['nats']:.2f} of {information['ceiling']:.2f} nats")
    return f"{cell.name}: {'; '.join(parts)} ({result['seconds']:.0f} s)"


def warnings_about(result: dict[str, Any]) -> list[str]:
    """A bound at its ceiling, or encoders that found nothing."""
    if result["row"] in (CONSTANT, RANDOM) or "information" not in result:
        return []
    estimate = Estimate(**result["information"])
    warnings = [saturation_warning(estimate)]
    if estimate.high < NOTHING_LEARNED:
        warnings.append(
            f"{result['row']}, seed {result['seed']}: I_NCE is {estimate.nats:.2f} nats: the encoders found nothing that the views "
            "share, so this row says nothing about the factor; train longer (training.steps), or another "
            "training.learning_rate or training.temperature"
        )
    return [warning for warning in warnings if warning]


def _plain(errors: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {view: entry.to_plain() for view, entry in errors.items()}


def _thinned(history: list[float]) -> dict[str, list[float]]:
    """Means of at most CURVE_POINTS stretches of equal length, with the step each ends at."""
    stretches = np.array_split(np.array(history), min(CURVE_POINTS, len(history)))
    ends = np.cumsum([len(stretch) for stretch in stretches])
    return {"step": ends.tolist(), "mean": [round(float(stretch.mean()), 4) for stretch in stretches]}
