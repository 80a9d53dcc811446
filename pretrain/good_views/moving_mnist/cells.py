"""The cells of a Moving-MNIST table: one training and its probes each, kept as a file so that a killed run goes on.

In: `Bench` (worlds, configuration), a `Cell`. Out: the cell's figures; on disk `cells/NAME.json`, whole or absent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.base.atomic import write_json
from pretrain.base.errors import ConfigError, DataError
from pretrain.config import to_plain
from pretrain.good_views.moving_mnist.checks import check_pairs
from pretrain.good_views.moving_mnist.config import MovingMnistConfig
from pretrain.good_views.moving_mnist.encoders import build_encoders
from pretrain.good_views.moving_mnist.factors import CONSTANT, RANDOM, SUPERVISED, Sharing
from pretrain.good_views.moving_mnist.pairs import PairMaker
from pretrain.good_views.moving_mnist.pools import Worlds
from pretrain.good_views.moving_mnist.probing import TASKS, VIEWS, constant_predictor, probe_encoders
from pretrain.good_views.moving_mnist.training import supervised_errors, train_contrast, train_supervised

CHECKED_PAIRS = 256
CURVE_POINTS = 50
FOLDER = "cells"


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
    if made_with != identity:
        difference = "; ".join(differences(made_with, identity))
        raise ConfigError(
            f"{path} was made with another configuration or other data ({difference}); type another --output-dir, or the "
            "values it was made with"
        )
    return result


def write_cell(output_dir: Path, cell: Cell, identity: dict[str, Any], result: dict[str, Any]) -> None:
    """Atomically."""
    (output_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(output_dir / FOLDER / f"{cell.name}.json", {"identity": identity, "result": result})


def differences(made_with: Any, now: Any, prefix: str = "") -> list[str]:
    """Nested plain values: "key: then x, now y" for every leaf that differs."""
    if isinstance(made_with, dict) and isinstance(now, dict):
        keys = [*made_with, *(key for key in now if key not in made_with)]
        return [line for key in keys for line in differences(made_with.get(key), now.get(key), f"{prefix}.{key}")]
    return [] if made_with == now else [f"{prefix.lstrip('.')}: then {made_with}, now {now}"]


def _plain(errors: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {view: entry.to_plain() for view, entry in errors.items()}


def _thinned(history: list[float]) -> dict[str, list[float]]:
    """Means of at most CURVE_POINTS stretches of equal length, with the step each ends at."""
    stretches = np.array_split(np.array(history), min(CURVE_POINTS, len(history)))
    ends = np.cumsum([len(stretch) for stretch in stretches])
    return {"step": ends.tolist(), "mean": [round(float(stretch.mean()), 4) for stretch in stretches]}
