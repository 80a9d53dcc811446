"""An evaluation of views from the command's arguments to view_result.json.

In: views by name, a data folder, a configuration, seeds. Out: view_result.json, written once all seeds are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pretrain.atomic import write_json
from pretrain.config import to_plain
from pretrain.distributed import Ranks, pick_device
from pretrain.errors import ConfigError
from pretrain.run_dir import environment
from pretrain.views.channel_views import load_views
from pretrain.views.evaluation import EvaluationConfig, evaluate_once, load_evaluation_data, summarize

FORMAT, VERSION = "infomin-transfer/view-result", 1
FILE_NAME = "view_result.json"


def evaluate_views(
    spec: str,
    data: Path,
    config: EvaluationConfig,
    *,
    seeds: Sequence[int],
    output_dir: Path,
    command: str,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate `spec` with every seed and write the result. Raises UserError before anything is written."""
    check_seeds(seeds)
    views = load_views(spec)
    device = pick_device(config.device, Ranks())
    images = load_evaluation_data(data, config, announce=announce)
    runs, start = [], time.perf_counter()
    for seed in seeds:
        runs.append(evaluate_once(views, images, config, seed=seed, device=device))
        found = runs[-1]
        announce(
            f"seed {seed}: {found['information']['nats']:.3f} nats, top-1 {found['probe']['top1']:.2f} % "
            f"({time.perf_counter() - start:.0f} s)"
        )
        if found["warning"]:
            announce(f"  {found['warning']}")
    result = {
        "format": FORMAT,
        "version": VERSION,
        "views": views.name,
        "about": views.about,
        **summarize(runs),
        "seeds": runs,
        "num_images": {"train": len(images.train), "val": len(images.val)},
        "config": to_plain(config),
        "command": command,
        "seconds": time.perf_counter() - start,
        "environment": environment(),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / FILE_NAME, result)
    return result


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ConfigError for a seed given twice or outside [0, 2^31)."""
    if len(set(seeds)) < len(seeds) or not seeds or not all(0 <= seed < 2**31 for seed in seeds):
        raise ConfigError(f"--seeds: expected different integers in [0, 2^31), found {list(seeds)}")
