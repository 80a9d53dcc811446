"""A fast readout from request to record: features encoded once, one sweep of heads, kNN, few labels.

In: `FastRequest`, an output directory or None. Out: the record. Figures are named by their protocol, so that none passes for the
`top1` of a published one:

| figure                                    | what                                                                          |
|-------------------------------------------|-------------------------------------------------------------------------------|
| linear_centre/top1, linear_augmented/top1 | the chosen head of a sweep on one centre crop, or on several augmented views    |
| .../top5, .../held_out_top1               | the same head; what it was chosen by (optimistic: the best of all heads)        |
| knn_K/top1, knn_K_equal_votes/top1        | K nearest neighbours, votes weighted by similarity, or one each                |
| linear_centre_10%/top1                    | the same with 10 % of the labels, the mean over draws; details has each one     |
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pretrain.base.atomic import hold_folder
from pretrain.base.record import RECORD, OpenRecord, Record
from pretrain.base.signals import ending_on_sigterm
from pretrain.config import to_plain
from pretrain.data.cache import cache_dir
from pretrain.data.source import ImageSource
from transfer.readout.defaults import fitting_image_size
from transfer.readout.fast import Features, choose_head, few_labels, nearest_neighbours, smallest_class, too_few
from transfer.readout.fast_config import FastConfig
from transfer.readout.feature_cache import CACHE, CENTRE, FeatureCache, View, encoding_settings, trunk_figures
from transfer.readout.features import (
    FrozenEncoder,
    LabelledImages,
    load_frozen_encoder,
    load_splits,
    require_splits,
    training_recipe,
)
from transfer.readout.linear import MAX_TOP, encoder_stands_still
from transfer.readout.run import (
    NOT_EXPERIMENT,
    Splits,
    Weights,
    already_finished,
    begin_record,
    splits_record,
)

METRIC = "top-1 of fast readouts, %; each figure's name says of which"


@dataclass(frozen=True)
class FastRequest:
    """What is asked for: as `transfer.readout.run.Request`, and features: the folder that they are kept in, None for the cache's."""

    weights: str
    data: Path
    config: FastConfig
    init: str | None
    branch: str | None
    command: str
    skip_unreadable: bool = False
    features: Path | None = None


def run_fast_readout(request: FastRequest, output_dir: Path | None, *, announce: Callable[[str], None]) -> Record:
    """The whole readout; returns its record, which is written if there is an `output_dir`.

    A finished equal run in `output_dir` is returned as it is. Raises ConfigError/DataError/CheckpointError before the encoder runs
    for anything that cannot work, and as `FeatureCache.features` and `choose_head` do.
    """
    with nullcontext() if output_dir is None else hold_folder(output_dir, own=(RECORD,)):
        require_splits(request.data)
        config = with_image_size(request.config, request.weights, request.data / "train", announce)
        train, val = load_splits(request.data, skip_unreadable=request.skip_unreadable, announce=announce)
        smallest = smallest_class(train.labels, train.classes)
        encoder = load_frozen_encoder(request.weights, config, branch=request.branch)
        begun = _begun(request, config, encoder, Splits(train, val, train))
        finished = already_finished(output_dir, begun, announce)
        if finished is not None:
            return finished
        with ending_on_sigterm(), OpenRecord(output_dir and output_dir / RECORD, begun) as record:
            announce(f"{len(train)} training and {len(val)} validation images, {len(train.classes)} classes")
            announce(config.protocol_name())
            with encoder_stands_still(encoder.module) as hash_of:
                folder = request.features or cache_dir(CACHE)
                cache = FeatureCache(folder, encoder, hash_of(), encoding_settings(config), announce)
                trunk = trunk_figures(encoder, val.source, encoding_settings(config), announce)
                features = _features(cache, train, val, config)
            figures, details = _measure(features, config, smallest, announce)
            return record.finish(
                figures,
                history=tuple({"figure": name, "value": value} for name, value in figures.items()),
                cost=record.spend(images=(len(features.train_views) + (config.view == "augmented")) * len(train)),
                details={
                    **begun.details,
                    **details,
                    "features": trunk,
                    "encoder": {"unchanged": True, "state_sha256": hash_of()},
                },
            )


def with_image_size(config: FastConfig, weights: str, images: Path, announce: Callable[[str], None]) -> FastConfig:
    """`config` with an image size; where it has none, as `fitting_image_size` finds it, which is announced."""
    if config.image_size is not None:
        return config
    size, origin = fitting_image_size(weights, ImageSource(images))
    announce(f"images of {size} px ({origin} {size} px); pass image_size=N for another size")
    return replace(config, image_size=size)


def _begun(request: FastRequest, config: FastConfig, encoder: FrozenEncoder, images: Splits) -> Record:
    plain = to_plain(config)
    return begin_record(
        experiment={"fast": {key: value for key, value in plain.items() if key not in NOT_EXPERIMENT}},
        config=plain,
        seed=config.seed,
        weights=Weights(request.weights, request.init, request.branch),
        command=request.command,
        encoder=encoder,
        data=splits_record(request.data, images),
        class_names=images.train.classes,
        metric=METRIC,
        protocol={
            "name": config.protocol_name(),
            "is_paper": False,
            "views": config.view if config.view == "centre" else f"{config.num_views} augmented",
            "encoder_precision": encoder.precision.name,
            "top5_k": min(MAX_TOP, len(images.train.classes)),
        },
    )


def _features(cache: FeatureCache, train: LabelledImages, val: LabelledImages, config: FastConfig) -> Features:
    device = cache.encoder.precision.device
    val_centre = cache.features(val.source, CENTRE, title="validation images")
    centre = cache.features(train.source, CENTRE, title="training images")
    views = [centre]
    if config.view == "augmented":
        recipe = training_recipe(config)
        views = [
            cache.features(train.source, View("augmented", recipe, number), title="training images")
            for number in range(config.num_views)
        ]
    return Features(
        [near_device(view, device, of=len(views)) for view in views],
        centre,
        val_centre,
        train.labels.to(device),
        val.labels.to(device),
        len(train.classes),
    )


def near_device(table: torch.Tensor, device: torch.device, *, of: int) -> torch.Tensor:
    """On a GPU where `of` such tables take no more than half of what is free there, else where it lies."""
    if device.type != "cuda":
        return table
    free, _ = torch.cuda.mem_get_info(device)
    return table.to(device) if table.nbytes * of < free / 2 else table


def _measure(
    features: Features, config: FastConfig, smallest: tuple[int, str], announce: Callable[[str], None]
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """(figures, details) of everything that is asked for. smallest: images and name of the smallest class."""
    name = f"linear_{config.view}"
    choice = choose_head(features, config)
    head = choice.chosen.head
    announce(
        f"{len(choice.tried)} heads compared on {choice.num_held_out} held-out training images: learning_rate={head.learning_rate:g} "
        f"weight_decay={head.weight_decay:g} is best there ({choice.chosen.held_out_top1:.2f} %) and is trained again on all"
    )
    _announce_edge(head.learning_rate, config, announce)
    figures: dict[str, float | None] = {
        f"{name}/top1": choice.top1,
        f"{name}/top5": choice.top5,
        f"{name}/held_out_top1": choice.chosen.held_out_top1,
    }
    details: dict[str, Any] = {"sweep": choice.to_dict(), "few_labels": {}}
    figures |= nearest_neighbours(features, config)
    for fraction in config.fractions:
        reason = too_few(fraction, smallest)
        if reason is not None:
            announce(reason)
            figures[f"{name}_{100 * fraction:g}%/top1"] = None
            details["few_labels"][f"{fraction:g}"] = {"left_out": reason}
            continue
        results = few_labels(features, config, fraction=fraction, announce=announce)
        top1 = [result["top1"] for result in results]
        figures[f"{name}_{100 * fraction:g}%/top1"] = statistics.fmean(top1)
        details["few_labels"][f"{fraction:g}"] = {
            "mean": statistics.fmean(top1),
            "standard_deviation": statistics.stdev(top1) if len(top1) > 1 else None,
            "draws": results,
        }
    return figures, details


def _announce_edge(rate: float, config: FastConfig, announce: Callable[[str], None]) -> None:
    rates = config.learning_rates
    if len(rates) > 2 and rate in (min(rates), max(rates)):
        side, factor = ("smallest", 0.1) if rate == min(rates) else ("largest", 10)
        announce(
            f"the chosen rate is the {side} one tried; better ones may lie beyond it: add {rate * factor:g} to learning_rates"
        )
