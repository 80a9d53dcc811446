"""A run of games, one a seed, from the command's arguments to the files that pre-training goes on with.

In the output folder: generator.safetensors and recipe.yaml of the first seed whose game did not diverge, channels.png,
history.png, record.json; under seed_N/ every seed's own generator and history.jsonl.

The first seed that did not diverge is taken, not the best one: which generator is good is for an evaluation to find
(tools/evaluate_views.py on seed_N/generator.safetensors); choosing by the game's own figures would flatter it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.base.atomic import write_json
from pretrain.base.errors import ConfigError, DataError, UserError
from pretrain.base.figures import spread
from pretrain.base.record import DataRecord, Record, seeds_of_runs, without
from pretrain.base.signals import ending_on_sigterm
from pretrain.config import to_plain
from pretrain.good_views.interval import t_interval
from pretrain.good_views.view_learning.config import GameConfig
from pretrain.good_views.view_learning.data import GameData, GameImages, load_game_images
from pretrain.good_views.view_learning.evaluation import GENERATOR
from pretrain.good_views.view_learning.loop import HISTORY, Outcome, play
from pretrain.good_views.view_learning.pictures import draw_channels, draw_history
from pretrain.run.folder import RunDir
from pretrain.run.ranks import Ranks, pick_device
from pretrain.views.generator_file import load_generator, record_of, write_generator
from pretrain.views.operations import HorizontalFlip, RandomResizedCrop
from pretrain.views.paired import ChannelSplit
from pretrain.views.recipe_file import write_recipe
from pretrain.views.recipes import Recipe

RECIPE, SEED_RESULT = "recipe.yaml", "seed_result.json"
METRIC = "mean over seeds at the end of a game, nats"
FREE_TO_CHANGE = (
    "game.runtime.",
    "data",
    "labelled",
    "seeds",
)  # on resume: more seeds are welcome, folders may have moved
PICTURE_ROWS = 6
AGREEMENT_IMAGES = 256


@dataclass(frozen=True)
class GameRunConfig:
    """What config.yaml of a run holds.

    data: folder of images, or of class folders.
    labelled: class folders; None: those of `data`, or no labels.
    seeds: one game each.
    """

    data: Path
    labelled: Path | None
    seeds: tuple[int, ...]
    game: GameConfig = field(default_factory=GameConfig)


def learn_views(
    config: GameRunConfig, output_dir: Path, *, resume: bool, command: str, announce: Callable[[str], None]
) -> Record:
    """Play every seed's game and write the files named above -> the record. Raises UserError before the first step for what
    cannot start, and after the last one, everything written, if every game diverged."""
    if config.game.mode == "unsupervised":
        if config.labelled is not None:
            raise ConfigError(
                "an unsupervised game looks at no label; leave --labelled out, or pass --mode semi-supervised"
            )
        if config.game.labels_per_class is not None:
            announce("an unsupervised game looks at no label: labels_per_class is not used")
    device = pick_device(config.game.runtime.device, Ranks())
    with (
        ending_on_sigterm(),
        RunDir(output_dir, config, resume=resume, free_to_change=FREE_TO_CHANGE) as run,
    ):
        images = load_game_images(config.data, config.labelled, config.game, announce=announce)
        for seed in config.seeds:
            _require_its_images(output_dir / f"seed_{seed}", images.fingerprint)
        record = run.begin(new_record(config, images, command))
        outcomes = [
            _one_seed(config.game, images, seed, output_dir / f"seed_{seed}", device=device, announce=announce)
            for seed in config.seeds
        ]
        details = _publish(config.game, images, outcomes, output_dir)
        if details["kept_seed"] is None:
            record.update(details=details)
            raise UserError(
                f"every game diverged ({len(outcomes)} of {len(outcomes)} seeds; {outcomes[0].diverged}); no recipe was "
                "written. Lower optimizer.learning_rate, or pass estimator.spectral_norm=true or generator.coupling=additive"
            )
        return record.finish(
            {name: values["mean"] for name, values in details["between_seeds"].items()}, details=details
        )


def new_record(config: GameRunConfig, images: GameImages, command: str) -> Record:
    """What is known of a run before its first game."""
    plain = to_plain(config)
    unlabelled, _, labelled = images.fingerprint.partition(" ")
    data = {"images": DataRecord(str(config.data), unlabelled, len(images.unlabelled))}
    if images.labelled is not None and labelled:
        data["labelled"] = DataRecord(str(config.labelled), labelled, len(images.labelled))
    return Record(
        kind="view-learning",
        experiment={
            "config": without(plain["game"], ("runtime",)),
            "data": {role: split.fingerprint for role, split in data.items()},
        },
        config=plain,
        seeds=seeds_of_runs(config.seeds),
        commands=(command,),
        data=data,
        class_names=images.labelled.classes if images.labelled else (),
        metric=METRIC,
    )


def _one_seed(
    config: GameConfig,
    images: GameImages,
    seed: int,
    folder: Path,
    *,
    device: torch.device,
    announce: Callable[[str], None],
) -> Outcome:
    if (folder / SEED_RESULT).exists():
        outcome = _read_outcome(folder)
        announce(f"seed {seed} is finished")
        return outcome
    announce(f"seed {seed}: {config.mode} game")
    data = GameData.of(images.to(device), config, seed=seed)
    outcome = play(config, data, folder=folder, device=device, fingerprint=images.fingerprint, announce=announce)
    training = {
        "steps": outcome.kept_step,
        "bound": config.estimator.bound,
        "num_images": len(data.unlabelled),
        "num_labelled": len(data.labelled) if data.labelled else 0,
        **outcome.final(),
    }
    record = record_of(
        outcome.generator, mode=config.mode, seed=seed, mean=outcome.mean, std=outcome.std, training=training
    )
    write_generator(folder / GENERATOR, outcome.generator, record)
    write_json(folder / SEED_RESULT, {**_plain(outcome), "images": images.fingerprint})
    return outcome


def _plain(outcome: Outcome) -> dict[str, Any]:
    error = outcome.inverse_error
    return {
        "seed": outcome.seed,
        "steps": outcome.steps,
        "kept_step": outcome.kept_step,
        "diverged": outcome.diverged,
        "inverse_error": error if math.isfinite(error) else None,
        "final": outcome.final(),
    }


def _require_its_images(folder: Path, fingerprint: str) -> None:
    """A seed that is finished belongs to its own images. Raises DataError."""
    path = folder / SEED_RESULT
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["images"] != fingerprint:
        raise DataError(
            f"{folder}: this seed was played on other images (names or sizes differ); restore them, or name another "
            "--output-dir"
        )


def _read_outcome(folder: Path) -> Outcome:
    values = json.loads((folder / SEED_RESULT).read_text(encoding="utf-8"))
    frozen = load_generator(folder / GENERATOR)
    rows = [json.loads(line) for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines()]
    error = values["inverse_error"]
    return Outcome(
        generator=frozen.generator,
        seed=values["seed"],
        steps=values["steps"],
        kept_step=values["kept_step"],
        diverged=values["diverged"],
        mean=frozen.record.mean,
        std=frozen.record.std,
        inverse_error=math.inf if error is None else error,
        history=rows,
    )


def _publish(config: GameConfig, images: GameImages, outcomes: Sequence[Outcome], output_dir: Path) -> dict[str, Any]:
    draw_history(output_dir / "history.png", outcomes)
    sound = [outcome for outcome in outcomes if outcome.diverged is None]
    shown = (sound or list(outcomes))[0]
    folder = output_dir / f"seed_{shown.seed}"
    pixels = images.unlabelled.images.cpu()
    picked = pixels[torch.linspace(0, len(pixels) - 1, PICTURE_ROWS).long()]
    draw_channels(output_dir / "channels.png", shown.generator, picked, mean=shown.mean)
    if sound:
        frozen = load_generator(folder / GENERATOR)
        write_generator(output_dir / GENERATOR, frozen.generator, frozen.record)
        write_learned_recipe(output_dir / RECIPE, output_dir / GENERATOR, config)
    return {
        "kept_seed": shown.seed if sound else None,
        "seeds": [_plain(outcome) for outcome in outcomes],
        "between_seeds": between_seeds(sound),
        "agreement": agreement(sound, pixels),
    }


def write_learned_recipe(path: Path, generator: Path, config: GameConfig) -> None:
    """A recipe of the game's crops and the frozen generator's split, for `tools/pretrain.py views.recipe=PATH`."""
    split = ChannelSplit(
        space=load_generator(generator).record.config.space,
        generator=str(generator),
        sha256=hashlib.sha256(generator.read_bytes()).hexdigest(),
    )
    ops = (RandomResizedCrop(scale=config.crop_scale), HorizontalFlip(), split)
    header = (
        f"Views learned by a {config.mode} game. {generator.name} belongs to this file: move both together.\n"
        "python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml --output-dir runs/pre data.root=IMAGES \\\n"
        f"    views.recipe={path.name} method.jigsaw=false"
    )
    write_recipe(path, Recipe("learned_views", ops), header=header)


def between_seeds(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float | int | None]]:
    """Of every final figure: mean and deviation over seeds and the 95 % interval of the mean (None for one seed)."""
    finals = [outcome.final() for outcome in outcomes]
    found: dict[str, dict[str, float | int | None]] = {}
    for name in sorted(set.intersection(*(set(final) for final in finals))) if finals else ():
        values = [final[name] for final in finals]
        figures = spread(values)
        assert figures is not None
        low, high = t_interval(values) if len(values) > 1 else (None, None)
        found[name] = {"mean": figures.mean, "std": figures.std, "low": low, "high": high, "num_seeds": figures.n}
    return found


@torch.no_grad()
def agreement(outcomes: Sequence[Outcome], images: torch.Tensor) -> dict[str, float] | None:
    """How alike the generators of several seeds are: mean |Pearson correlation| over pairs of seeds and pixels, by learned channel.

    1: the same view up to scale and sign. None for fewer than two seeds.
    """
    if len(outcomes) < 2:
        return None
    rgb = images[:: max(1, len(images) // AGREEMENT_IMAGES)][:AGREEMENT_IMAGES].to(torch.float32) / 255
    learned = [outcome.generator.from_rgb(rgb).numpy() for outcome in outcomes]
    pairs = list(itertools.combinations(learned, 2))
    return {
        f"channel_{channel + 1}": float(
            np.mean([abs(np.corrcoef(one[:, channel].ravel(), two[:, channel].ravel())[0, 1]) for one, two in pairs])
        )
        for channel in range(3)
    }
