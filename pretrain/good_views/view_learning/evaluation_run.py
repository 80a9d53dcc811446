"""An evaluation of views from the command's arguments to view_result.json.

In: views by name, a data folder, a configuration, seeds. Out: view_result.json, written once all seeds are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pretrain.base.atomic import write_json
from pretrain.base.errors import ConfigError
from pretrain.config import to_plain
from pretrain.good_views.view_learning.channel_views import ChannelViews, load_views
from pretrain.good_views.view_learning.evaluation import (
    EvaluationConfig,
    evaluate_once,
    load_evaluation_data,
    summarize,
)
from pretrain.run.folder import environment
from pretrain.run.ranks import Ranks, pick_device

FORMAT, VERSION = "infomin-transfer/view-result", 1
FILE_NAME = "view_result.json"
GENERATOR = "generator.safetensors"


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
    """Evaluate `spec` with every seed and write the result. Raises UserError before anything is written.

    spec: a colour space, a generator file, or the output folder of tools/learn_views.py: seed N then trains its encoders on
    the generator of seed N, so that the interval over seeds holds the variance from game to game too.
    """
    views = [views_of(spec, seed) for seed in seeds]
    device = pick_device(config.device, Ranks())
    images = load_evaluation_data(data, config, announce=announce)
    runs, start = [], time.perf_counter()
    for seed, seen in zip(seeds, views, strict=True):
        runs.append(evaluate_once(seen, images, config, seed=seed, device=device) | {"about": seen.about})
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
        "views": spec,
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


def views_of(spec: str, seed: int) -> ChannelViews:
    """The views that seed `seed` is evaluated on. Raises ConfigError for a folder without that seed's generator."""
    folder = Path(spec)
    if not folder.is_dir():
        return load_views(spec)
    path = folder / f"seed_{seed}" / GENERATOR
    if not path.exists():
        known = sorted(found.parent.name for found in folder.glob(f"seed_*/{GENERATOR}"))
        raise ConfigError(
            f"views: {folder} has no {path.relative_to(folder)}; expected an output folder of tools/learn_views.py and "
            f"--seeds out of its own, found {', '.join(known) or 'none'}"
        )
    return load_views(str(path))
