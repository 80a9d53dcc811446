"""What frozen views are worth: their information on held-out pairs, and what a linear layer reads off encoders trained on them.

In: views (a colour space or a generator), class folders train/ and val/, seeds. Out: for every seed an information estimate
and a top-1, both with 95 % intervals over seeds, in record.json.
Source: docs/specification.md 3 (I_NCE as a proxy, frozen encoders, linear classifier) and 4.

Two encoders, one a view, are trained by in-batch InfoNCE on train/ (labels unseen); their information is measured on pairs
from val/; then both are frozen and one logistic regression reads their features, side by side, of central crops.

DEVIATION: the paper's encoders are half-width AlexNets and its probe Adam on augmented crops for 100 epochs; here
pretrain/good_views/encoders.py, and the optimum of a convex problem (pretrain/good_views/probe.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from pretrain.base.atomic import hold_folder
from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import (
    RECORD,
    DataRecord,
    Initialisation,
    OpenRecord,
    Record,
    find_finished,
    seeds_of_runs,
    without,
)
from pretrain.base.signals import ending_on_sigterm
from pretrain.base.strict import load_config, require
from pretrain.config import to_plain
from pretrain.data.order import GlobalBatches
from pretrain.data.source import ImageSource, some_of_each_class
from pretrain.good_views.encoders import VIEW_CHANNELS, ViewEncoderConfig, build_view_encoder, require_image_size
from pretrain.good_views.information import saturation_warning
from pretrain.good_views.interval import t_interval
from pretrain.good_views.measure import MAIN_BOUND
from pretrain.good_views.pairs import PairEncoders, held_out_information, train_pair
from pretrain.good_views.probe import fit_classifier
from pretrain.good_views.view_learning.pixels import PixelSet, central_boxes, cut, draw_boxes, load_classes
from pretrain.run.ranks import Ranks, pick_device
from pretrain.views.colour import colour_space
from pretrain.views.generator import split_views
from pretrain.views.generator_file import load_generator
from pretrain.views.rng import CROPS_STREAM, sample_generator

METRIC = "top-1 of a linear classifier on both views, %"
OLD_RESULT = "view_result.json"  # of an older version, in place of the record
GENERATOR, GENERATOR_SUFFIX = "generator.safetensors", ".safetensors"
HELD_OUT = 2**32  # added to the seed for crops of held-out images
FEATURE_BATCH = 512
Pairs = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class EvaluationConfig:
    """image_size: of a crop, pixels. crop_scale: its area. same_crop: both views from one crop (CMC) instead of two (a game's).

    epochs: over train/, by Adam at a learning rate that falls along a cosine.
    held_out_passes: how often val/ is cropped for the information.
    labels_per_class: of train/, for the probe; None: all.
    side: as in a game's data.side.
    """

    image_size: int = 64
    crop_scale: tuple[float, float] = (0.2, 1.0)
    same_crop: bool = False
    encoder: ViewEncoderConfig = field(default_factory=ViewEncoderConfig)
    embedding_dim: int = 128
    head: Literal["linear", "mlp", "mlp_bn"] = "mlp"
    temperature: float = 0.1
    learning_rate: float = 1e-3
    batch_size: int = 256
    epochs: int = 100
    held_out_passes: int = 2
    probe_weight_decay: float = 1e-3
    labels_per_class: int | None = None
    side: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require(self.batch_size >= 2 and self.epochs > 0, "batch_size expected at least 2, epochs at least 1")
        require(self.temperature > 0 and self.learning_rate > 0, "temperature and learning_rate expected positive")
        require(self.held_out_passes > 0 and self.probe_weight_decay > 0, "held_out_passes and probe_weight_decay > 0")
        require(self.labels_per_class is None or self.labels_per_class > 0, "labels_per_class expected positive")


def load_evaluation_config(path: Path | None, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """Read `path` (None: defaults) and apply `overrides`. Raises ConfigError naming the key."""
    return load_config(EvaluationConfig, path, overrides, "views")


@dataclass(frozen=True)
class ChannelViews:
    """A pair of views: channel 1 and channels 2:3 of `to_channels`.

    name: as given.
    to_channels: RGB in [0, 1] (B, 3, H, W) -> normalised (B, 3, H, W).
    about: what to write beside a figure.
    """

    name: str
    to_channels: Callable[[Tensor], Tensor]
    about: dict[str, Any]


def load_views(spec: str) -> ChannelViews:
    """ "lab", or the path of a generator.safetensors.

    Raises ConfigError for what is neither a colour space nor a file, CheckpointError for a file that is no generator.
    """
    path = Path(spec)
    if spec.endswith(GENERATOR_SUFFIX) or path.is_file():
        frozen = load_generator(path)
        record = frozen.record
        about = {
            "kind": "generator",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "mode": record.mode,
            "seed": record.seed,
            "space": record.config.space,
            "coupling": record.config.coupling,
            "training": record.training,
        }
        return ChannelViews(spec, frozen.to_space, about)
    try:
        space = colour_space(spec)
    except ConfigError as error:
        raise ConfigError(f"views: expected the path of a generator (*{GENERATOR_SUFFIX}) or a {error}") from None
    about = {"kind": "colour space", "channels": list(space.channels)}
    return ChannelViews(space.name, lambda rgb: space.normalize(space.to_space(rgb)), about)


def views_of(spec: str, seed: int) -> ChannelViews:
    """The views that seed `seed` is evaluated on: of a folder of games, its own generator. Raises ConfigError where it has none."""
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


@dataclass(frozen=True)
class EvaluationData:
    """train and val: labelled images of the same classes. fingerprints: of the two listings, in this order."""

    train: PixelSet
    val: PixelSet
    fingerprints: tuple[str, str]


def load_evaluation_data(root: Path, config: EvaluationConfig, *, announce: Callable[[str], None]) -> EvaluationData:
    """Read root/train and root/val. Raises DataError for unlike classes or too few images for a batch."""
    train, val = (load_classes(root / part, side=config.side, announce=announce) for part in ("train", "val"))
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise DataError(f"{root}: train/ and val/ have other classes; only one of them has {', '.join(odd[:5])}")
    for part, pixels in (("train", train), ("val", val)):
        if len(pixels) < config.batch_size:
            raise DataError(
                f"{root / part}: {len(pixels)} images do not fill a batch of {config.batch_size}; pass "
                f"batch_size={len(pixels)}, or add images"
            )
    return EvaluationData(
        train, val, (ImageSource(root / "train").fingerprint(), ImageSource(root / "val").fingerprint())
    )


def evaluate_once(
    views: ChannelViews, data: EvaluationData, config: EvaluationConfig, *, seed: int, device: torch.device
) -> dict[str, Any]:
    """One training from `seed`: {"seed", "information": Estimate as plain values, "probe": {"top1": percent, ...}, ...}."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoders = [build_view_encoder(config.encoder, channels) for channels in VIEW_CHANNELS]
        networks = PairEncoders(*encoders, embedding_dim=config.embedding_dim, head=config.head).to(device)
    train, val = data.train.to(device), data.val.to(device)
    steps = config.epochs * (len(train) // config.batch_size)
    batches = pairs(views, train, config, seed=seed, num_steps=steps)
    history = train_pair(
        networks,
        tqdm(batches, total=steps, unit="step", desc=f"encoders of seed {seed}", delay=5),
        learning_rate=config.learning_rate,
        temperature=config.temperature,
        num_steps=steps,
    )
    held_out = pairs(
        views, val, config, seed=seed + HELD_OUT, num_steps=config.held_out_passes * (len(val) // config.batch_size)
    )
    estimate = held_out_information(networks, held_out, temperature=config.temperature)
    known = _labelled(train, config.labels_per_class, seed=seed)
    features = {
        name: central_features(networks, views, pixels, config) for name, pixels in (("train", known), ("val", val))
    }
    probe = fit_classifier(
        features["train"], known.labels, num_classes=len(train.classes), weight_decay=config.probe_weight_decay
    )
    last = history[-max(1, len(history) // 10) :]
    return {
        "seed": seed,
        "information": estimate.to_plain(),
        "probe": {"top1": probe.accuracy(features["val"], val.labels), "num_labels": len(known)},
        "training": {"steps": len(history), "information": math.fsum(last) / len(last)},
        "warning": saturation_warning(estimate),
    }


def pairs(views: ChannelViews, pixels: PixelSet, config: EvaluationConfig, *, seed: int, num_steps: int) -> Pairs:
    """Pairs of views of `num_steps` batches: functions of (seed, step)."""
    batches = GlobalBatches(len(pixels), config.batch_size, seed=seed)
    height, width = pixels.images.shape[2:]
    for step in range(num_steps):
        rows = torch.from_numpy(batches.batch(step)[1].copy()).to(pixels.images.device)
        channels = []
        for which in range(1 if config.same_crop else 2):
            rng = sample_generator(seed=seed, epoch=step, index=which, stream=CROPS_STREAM)
            boxes = draw_boxes(rng, len(rows), height=height, width=width, scale=config.crop_scale)
            with torch.no_grad():
                channels.append(views.to_channels(cut(pixels.images[rows], boxes, size=config.image_size)))
        yield split_views(channels[0], channels[-1])


@torch.no_grad()
def central_features(networks: PairEncoders, views: ChannelViews, pixels: PixelSet, config: EvaluationConfig) -> Tensor:
    """Both encoders' features (N, D) of the central crop, in evaluation mode."""
    networks.eval()
    height, width = pixels.images.shape[2:]
    found = []
    for images in pixels.images.split(FEATURE_BATCH):
        crops = cut(images, central_boxes(len(images), height=height, width=width), size=config.image_size)
        channels = views.to_channels(crops)
        found.append(networks.features(*split_views(channels, channels)))
    return torch.cat(found)


def _labelled(train: PixelSet, labels_per_class: int | None, *, seed: int) -> PixelSet:
    if labels_per_class is None:
        return train
    fewest = int(torch.bincount(train.labels, minlength=len(train.classes)).min())
    if fewest < labels_per_class:
        raise DataError(f"a class has {fewest} images; expected at least labels_per_class={labels_per_class}")
    return train.take(some_of_each_class(train.labels.tolist(), labels_per_class, seed=seed))


def summarize(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"information": {...}, "probe": {...}} of all seeds: means, and 95 % intervals (Student's t) over seeds.

    Of one seed: its own estimate with the interval over batches, and no interval for top-1.
    """
    first = runs[0]["information"]
    nats, top1 = ([run[part][key] for run in runs] for part, key in (("information", "nats"), ("probe", "top1")))
    information = {**first, "interval": "batches of one seed"}
    probe: dict[str, Any] = {"top1": math.fsum(top1) / len(top1), "low": None, "high": None}
    if len(runs) > 1:
        low, high = t_interval(nats)
        information |= {"nats": math.fsum(nats) / len(nats), "low": low, "high": high, "interval": "seeds"}
        information["saturated"] = any(run["information"]["saturated"] for run in runs)
        probe["low"], probe["high"] = t_interval(top1)
    return {"information": information, "probe": probe}


def evaluate_views(
    spec: str,
    data: Path,
    config: EvaluationConfig,
    *,
    seeds: Sequence[int],
    output_dir: Path,
    command: str,
    announce: Callable[[str], None],
) -> Record:
    """Evaluate `spec` with every seed; the record in `output_dir` says running until all are done.

    A finished equal evaluation there is returned as it is; that of another one is refused (ConfigError). Raises UserError with
    nothing written for what cannot start.

    spec: a colour space, a generator file, or the output folder of tools/learn_views.py: seed N then trains its encoders on
    the generator of seed N, so that the interval over seeds holds the variance from game to game too.
    """
    with hold_folder(output_dir, own=(RECORD, OLD_RESULT)):
        views = [views_of(spec, seed) for seed in seeds]
        device = pick_device(config.device, Ranks())
        images = load_evaluation_data(data, config, announce=announce)
        begun = new_record(spec, views, data, images, config, seeds=seeds, command=command)
        finished = find_finished(output_dir / RECORD, begun)
        if finished is not None:
            announce(f"{output_dir} is finished already; nothing to do")
            return finished
        with ending_on_sigterm(), OpenRecord(output_dir / RECORD, begun) as record:
            runs = []
            for seed, seen in zip(seeds, views, strict=True):
                found = evaluate_once(seen, images, config, seed=seed, device=device) | {"about": seen.about}
                runs.append(found)
                announce(
                    f"seed {seed}: {found['information']['nats']:.3f} nats, top-1 {found['probe']['top1']:.2f} % "
                    f"({record.spend(images=0).seconds:.0f} s)"
                )
                if found["warning"]:
                    announce(f"  {found['warning']}")
            summary = summarize(runs)
            return record.finish(
                {"top1": summary["probe"]["top1"], MAIN_BOUND: summary["information"]["nats"]},
                details={**begun.details, **summary, "seeds": runs},
                cost=record.spend(images=len(seeds) * config.epochs * len(images.train)),
            )


def new_record(
    spec: str,
    views: Sequence[ChannelViews],
    data: Path,
    images: EvaluationData,
    config: EvaluationConfig,
    *,
    seeds: Sequence[int],
    command: str,
) -> Record:
    """What is known of an evaluation before its first step. The views are what it starts from."""
    plain = to_plain(config)
    hashes = [seen.about.get("sha256", "") for seen in views]
    splits = {
        role: DataRecord(str(data / folder), fingerprint, len(pixels))
        for role, folder, fingerprint, pixels in zip(
            ("train", "test"), ("train", "val"), images.fingerprints, (images.train, images.val), strict=True
        )
    }
    return Record(
        kind="view-evaluation",
        experiment={
            "config": without(plain, ("device",)),
            "data": {role: split.fingerprint for role, split in splits.items()},
        },
        config=plain,
        seeds=seeds_of_runs(seeds),
        commands=(command,),
        data=splits,
        class_names=images.train.classes,
        metric=METRIC,
        initialisation=Initialisation(
            spec, "asked", weights=spec, sha256=" ".join(hashes) if any(hashes) else None, method=views[0].about["kind"]
        ),
        details={"views": spec},
    )
