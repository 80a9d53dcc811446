"""The whole experiment: every sharing and seed, the supervised row and the controls. Read `run_experiment` first.

In: digits, backgrounds, `MovingMnistConfig`, sharings, seeds, a folder. Out, in the folder: cells/ (one file a finished training),
results.json, table.md, samples.png. What is finished is not done again; what a kill interrupted starts anew.
Source: infomin.md 3, row "task dependence".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pretrain.base.atomic import write_json, write_text
from pretrain.good_views.information import Estimate, saturation_warning
from pretrain.good_views.moving_mnist.cells import Bench, Cell, measure_cell, plan_cells, read_cell, write_cell
from pretrain.good_views.moving_mnist.config import MovingMnistConfig
from pretrain.good_views.moving_mnist.factors import CONSTANT, PAPER, RANDOM, Sharing
from pretrain.good_views.moving_mnist.pools import load_worlds
from pretrain.good_views.moving_mnist.sheet import draw_samples
from pretrain.good_views.moving_mnist.table import summarise, to_markdown
from pretrain.run.ranks import Ranks, pick_device
from pretrain.views.sheet import save_png

# Less information than this after training, nats: the encoders found nothing, and their row is one of chance.
NOTHING_LEARNED = 0.02
FORMAT = 1


def run_experiment(
    *,
    digits: str,
    backgrounds: str,
    config: MovingMnistConfig,
    sharings: Sequence[Sharing],
    seeds: Sequence[int],
    output_dir: Path,
    say: Callable[[str], None],
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
        say(f"{num_done} of {len(cells)} cells are finished already")
    for number, cell in enumerate(cells, start=1):
        if finished[cell] is None:
            result = measure_cell(cell, bench)
            write_cell(output_dir, cell, identity, result)
            finished[cell] = result
            say(f"[{number}/{len(cells)}] {describe(cell, result)}")
            write_table(output_dir, identity, [result for result in finished.values() if result is not None])
            for warning in warnings_about(result):
                say(f"warning: {warning}")
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
            "rows": {
                row: {"digit": entry.digit, "position": entry.position, "background": entry.background}
                for row, entry in PAPER.items()
            },
        },
        "cells": list(results),
    }
    write_json(output_dir / "results.json", whole)
    write_text(
        output_dir / "table.md", to_markdown(summary, title="Colorful Moving-MNIST: what is shared, what is learned")
    )
    return whole


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
