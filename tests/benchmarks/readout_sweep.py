"""What a sweep of 8 learning rates costs as a fast readout and as eight usual runs, and whether both end at the same accuracy.

    python tests/benchmarks/readout_sweep.py --weights RUN --data DATA [--output docs/benchmarks/readout_sweep.json]

DATA holds train/CLASS and val/CLASS (CIFAR-10 in docs/benchmarks); RUN is a pre-training of this project or random:ARCH.

Cost, in seconds of one core (process time, so that what else the machine does counts little): a usual run encodes a new view of
every training image in each of 60 epochs with a float32 trunk and takes a step on it, and encodes the validation images once. An image
of each kind is timed in turns with the others over `--timed` images; the eight runs are that, multiplied out. The fast sweep is
timed whole where its features are concerned per image, too: encoding (bf16 trunk where there is one), writing, the eight heads
on 90 % of the images, the choice, and the chosen head again on all of them, all epochs.

Agreement: eight usual runs are trained at once on the first view that each epoch draws (heads share nothing: tests/transfer/readout/
test_heads.py), on `--images-per-class` images and `--epochs` epochs with the published steps in proportion; the fast sweep
has the same images, rates and epochs. Its difference is to the usual run at the rate that it chose, and to the best of the
eight by the validation images, which a user could not have known.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
PUBLISHED_EPOCHS = 60


def timed(work: Callable[[], object]) -> float:
    """Seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def spread(values: list[float]) -> dict[str, float]:
    """Four significant digits of median, smallest and largest."""
    kept = {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}
    return {name: float(f"{value:.4g}") for name, value in kept.items()}


def measure_cost(weights: str, data: Path, *, num_timed: int, turns: int, views: int) -> dict[str, Any]:
    """Seconds an image and for all, and the ratio."""
    from transfer.readout.fast import choose_head
    from transfer.readout.feature_cache import CENTRE, FeatureCache, View
    from transfer.readout.features import few_per_class, load_frozen_encoder, load_splits, training_recipe

    config = fast_config(epochs=PUBLISHED_EPOCHS)
    train, val = load_splits(data)
    exact = load_frozen_encoder(weights, replace(config, precision="fp32"), branch=None)
    trunk = load_frozen_encoder(weights, config, branch=None)
    some = few_per_class(train, max(1, num_timed // len(train.classes)), seed=0)
    augmented = View("augmented", training_recipe(config), 0)
    taken: dict[str, list[float]] = {"usual": [], "centre": [], "augmented": []}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(turns + 1):
            cache = FeatureCache(Path(name) / str(turn), trunk, "timed", config, lambda text: None)
            ways = {
                "usual": lambda: usual_epoch(exact, some, config),
                "centre": lambda: cache.features(some.source, CENTRE, title="timed"),  # noqa: B023  called in this turn
                "augmented": lambda: cache.features(some.source, augmented, title="timed"),  # noqa: B023
            }
            for way, work in ways.items():
                seconds = timed(work) / len(some)
                if turn:  # the first warms up
                    taken[way].append(seconds)
        usual, centre, one = (statistics.median(taken[way]) for way in ("usual", "centre", "augmented"))
        heads = {
            count: timed(lambda: choose_head(as_if(train, val, count, trunk.module.feature_dim), config))  # noqa: B023
            for count in (1, views)
        }
    eight = len(RATES) * (PUBLISHED_EPOCHS * len(train) * usual + len(val) * usual)
    fast = {
        "one_view": (len(train) + len(val)) * centre + heads[1],
        "several_views": (len(train) + len(val)) * centre + views * len(train) * one + heads[views],
    }
    return {
        "images": {"train": len(train), "val": len(val)},
        "timed_images": len(some),
        "turns": turns,
        "milliseconds_an_image": {way: spread([1000 * value for value in values]) for way, values in taken.items()},
        "seconds_of_heads": {"one_view": heads[1], "several_views": heads[views]},
        "views": {"one_view": 1, "several_views": views},
        "trunk": {"usual": "fp32", "fast": trunk.precision.name},
        "seconds_of_eight_usual_runs": eight,
        "seconds_of_fast_sweep": fast,
        "times_cheaper": {way: eight / seconds for way, seconds in fast.items()},
        "times_cheaper_than_with_the_fast_trunk": {
            way: len(RATES) * PUBLISHED_EPOCHS * len(train) * one / seconds for way, seconds in fast.items()
        },
    }


def fast_config(*, epochs: int) -> Any:
    """Eight rates, the published schedule in proportion; features as they are."""
    from transfer.readout.fast_config import FastConfig

    return FastConfig(
        image_size=32,
        learning_rates=RATES,
        weight_decays=(0.0,),
        epochs=epochs,
        milestones=tuple(round(epochs * part) for part in (1 / 2, 2 / 3, 5 / 6)),
        standardize=False,  # as in a usual run: its rates mean the same
        least_steps=0,
        neighbours=(),
        fractions=(),
        num_workers=0,
        device="cpu",
    )


def usual_config(config: Any) -> Any:
    """The published protocol with the schedule of `config`."""
    from transfer.readout.config import LinearConfig

    return LinearConfig(
        epochs=config.epochs, milestones=config.milestones, image_size=32, num_workers=0, device="cpu", precision="fp32"
    )


def usual_epoch(encoder: Any, images: Any, config: Any) -> None:
    """A new view of every image, encoded, and a step of one head on every batch."""
    usual_heads(encoder, images, replace(usual_config(config), epochs=1), rates=(0.1,))


def usual_heads(encoder: Any, images: Any, config: Any, *, rates: tuple[float, ...]) -> Any:
    """One usual run for each rate, on the same stream of fresh views."""
    from pretrain.run.schedule import LearningRate
    from transfer.readout.features import batches_per_epoch, fresh_batches
    from transfer.readout.heads import Head, LinearHeads, starting_layer, train_epochs

    layer = starting_layer(encoder.module.feature_dim, len(images.classes), start="torch", seed=config.seed)
    heads = LinearHeads(
        layer, [Head(rate, 0.0) for rate in rates], momentum=config.momentum, device=encoder.precision.device
    )
    steps = batches_per_epoch(len(images), config)
    schedule = LearningRate(1.0, config.epochs, steps, "step", config.decay, config.milestones)
    for _ in train_epochs(heads, fresh_batches(encoder, images, config), schedule):
        pass
    return heads


def as_if(train: Any, val: Any, views: int, dim: int) -> Any:
    """Features of the true size (what a head costs does not depend on their values)."""
    import torch

    from transfer.readout.fast import Features

    generator = torch.Generator().manual_seed(0)
    tables = [torch.rand(len(train), dim, generator=generator).half() for _ in range(views)]
    held_out = torch.rand(len(val), dim, generator=generator).half()
    return Features(tables, tables[0], held_out, train.labels, val.labels, len(train.classes))


def measure_agreement(weights: str, data: Path, *, images_per_class: int, epochs: int, views: int) -> dict[str, Any]:
    """Top-1 of eight usual runs and of the fast sweeps on the same images."""
    import torch

    from transfer.readout.fast import Features, choose_head
    from transfer.readout.feature_cache import CENTRE, FeatureCache, View
    from transfer.readout.features import few_per_class, load_frozen_encoder, load_splits, training_recipe
    from transfer.readout.linear import accuracy

    config = fast_config(epochs=epochs)
    train, val = load_splits(data)
    train = few_per_class(train, images_per_class, seed=0)
    exact = load_frozen_encoder(weights, replace(config, precision="fp32"), branch=None)
    trunk = load_frozen_encoder(weights, config, branch=None)
    found: dict[str, Any] = {"images": {"train": len(train), "val": len(val)}, "epochs": epochs}
    with tempfile.TemporaryDirectory() as name:
        caches = {
            which: FeatureCache(Path(name) / which, encoder, which, config, print)
            for which, encoder in (("fp32", exact), ("fast", trunk))
        }
        of_val = {which: cache.features(val.source, CENTRE, title="val") for which, cache in caches.items()}
        heads = usual_heads(exact, train, usual_config(config), rates=RATES)
        logits = heads.logits(of_val["fp32"].float())
        usual = {rate: accuracy(logits[:, place], val.labels, k=1)[0] for place, rate in enumerate(RATES)}
        found["usual_top1"] = usual
        recipe = training_recipe(config)
        for which, cache in caches.items():
            centre = cache.features(train.source, CENTRE, title="train")
            ways = {"one_view": [centre]}
            if which == "fast":
                ways["several_views"] = [
                    cache.features(train.source, View("augmented", recipe, number), title="train")
                    for number in range(views)
                ]
            for way, tables in ways.items():
                features = Features(tables, centre, of_val[which], train.labels, val.labels, len(train.classes))
                choice = choose_head(features, config)
                rate = choice.chosen.head.learning_rate
                found[f"{way}_{which}_trunk"] = {
                    "chosen_rate": rate,
                    "held_out_top1": {t.head.learning_rate: t.held_out_top1 for t in choice.tried},
                    "top1": choice.top1,
                    "minus_usual_at_the_same_rate": choice.top1 - usual[rate],
                    "minus_best_usual": choice.top1 - max(usual.values()),
                }
        share = torch.tensor(max(usual.values())) / 100
        found["standard_error_of_a_top1"] = 100 * float((share * (1 - share) / len(val)).sqrt())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks" / "readout_sweep.json")
    parser.add_argument("--timed", type=int, default=500)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--images-per-class", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    import cv2
    import torch

    from pretrain.base.environment import environment

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    known = environment()
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": {key: known[key] for key in ("cpu", "torch", "torchvision", "python", "git")},
        "cost": measure_cost(
            arguments.weights, arguments.data, num_timed=arguments.timed, turns=arguments.turns, views=arguments.views
        ),
        "agreement": measure_agreement(
            arguments.weights,
            arguments.data,
            images_per_class=arguments.images_per_class,
            epochs=arguments.epochs,
            views=arguments.views,
        ),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=2) + "\n")
    for way, times in found["cost"]["times_cheaper"].items():
        print(f"{way}: 1/{times:.0f} of eight usual runs")
    print(json.dumps(found["agreement"], indent=1))


if __name__ == "__main__":
    main()
