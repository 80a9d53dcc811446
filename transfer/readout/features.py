"""Features of a frozen encoder: the images of a readout, the encoder in eval() mode, and the proof that it stays still.

In: ROOT with class folders train/ and val/, weights. Out: `LabelledImages`, `FrozenEncoder`, feature tensors.
Random numbers depend on (seed, epoch, image index) alone: neither workers nor batch composition can change a view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.data.index import Source
from pretrain.data.loader import ViewDataset, build_loader
from pretrain.data.order import Key, epoch_permutation
from pretrain.data.source import ClassFolders, ImageSource, leave_out, scan_images, some_of_each_class
from pretrain.model.channels import NUM_CHANNELS, channels_of
from pretrain.model.encoder import ResNetEncoder, uninitialised_encoder
from pretrain.run.precision import Precision, choose_precision
from pretrain.views.pipeline import ViewMaker, normalize
from pretrain.views.recipes import RECIPES, Recipe, with_overrides
from transfer.conversion.towers import Encoders, load_encoders
from transfer.readout.config import LinearConfig
from transfer.readout.fast_config import FastConfig

RANDOM = "random:"
SKIP = "--skip-unreadable"
SCALE_ROWS = 8192  # of features that are looked at in one piece


class BatchSettings(Protocol):
    """What batches of images read of a configuration, of whichever protocol. seed: of their order. batch_size: images in one."""

    @property
    def seed(self) -> int: ...
    @property
    def batch_size(self) -> int: ...


class TrainingSettings(BatchSettings, Protocol):
    """And for how long to train."""

    @property
    def epochs(self) -> int: ...


class EncodingSettings(BatchSettings, Protocol):
    """And what encoding reads. seed: of views, too. image_size: pixels."""

    @property
    def image_size(self) -> int: ...
    @property
    def num_workers(self) -> int: ...


class EncoderSettings(Protocol):
    """What loading an encoder reads of a configuration. device, precision: as `LinearConfig` has them."""

    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...


@dataclass(frozen=True)
class LabelledImages:
    """Images of one split with their labels.

    source: the images, in order.
    labels: int64 (N,), indices into `classes`.
    classes: names of the class folders.
    """

    source: ImageSource
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


def require_splits(root: Path) -> None:
    """Raise DataError unless `root` has the folders train and val."""
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise DataError(
                f"no folder {root / split}; --data expects a folder with class folders train/CLASS/*.jpg and val/CLASS/*.jpg"
            )


def load_splits(
    root: Path, *, skip_unreadable: bool = False, announce: Callable[[str], None] = lambda text: None
) -> tuple[LabelledImages, LabelledImages]:
    """ROOT/train/CLASS/IMAGE and ROOT/val/CLASS/IMAGE -> (train, val), looked at as pre-training does (`scan_images`).

    skip_unreadable: decode every image and leave out those that cannot be read, with their count, in each split.
    announce: for what was left out, and for JPEGs that lack their last bytes.
    Raises DataError for a missing folder, an empty class, classes that differ, and unreadable images (named, counted).
    """
    require_splits(root)
    train, val = (ClassFolders.load(root / split) for split in ("train", "val"))
    if train.classes != val.classes:
        only = [f"only in {name}/: {', '.join(sorted(set(a.classes) - set(b.classes))) or 'none'}"
                for name, a, b in (("train", train, val), ("val", val, train))]  # fmt: skip
        raise DataError(
            f"{root}: train/ and val/ hold different classes ({'; '.join(only)}); both need the same folders"
        )
    if len(train.classes) < 2:
        raise DataError(f"{root}: a readout needs two classes or more, found only {train.classes[0]!r}")
    reports = {
        split: scan_images(folders.paths, decode=skip_unreadable) for split, folders in (("train", train), ("val", val))
    }
    advice = f"left out ({SKIP})" if skip_unreadable else leave_out(SKIP)
    unreadable = [f"{split}: {report.describe(advice=advice)}" for split, report in reports.items() if report.bad]
    if unreadable and not skip_unreadable:
        raise DataError("\n".join(unreadable))
    for text in unreadable:
        announce(text)
    for split, report in reports.items():
        if report.truncated:
            announce(f"{split}: {report.describe_truncated()}")
    train, val = _without(train, reports["train"].bad), _without(val, reports["val"].bad)
    return _labelled(root / "train", train), _labelled(root / "val", val)


def _without(folders: ClassFolders, bad: Sequence[tuple[Path | str, str]]) -> ClassFolders:
    """Less the unreadable files. Raises DataError for a class of which nothing is left."""
    dropped = {path for path, _ in bad}
    kept = [(path, label) for path, label in zip(folders.paths, folders.labels, strict=True) if path not in dropped]
    labels = {label for _, label in kept}
    for label, name in enumerate(folders.classes):
        if label not in labels:
            raise DataError(f"class {name!r}: none of its images can be read, for instance {next(iter(dropped))}")
    return ClassFolders(folders.classes, tuple(path for path, _ in kept), tuple(label for _, label in kept))


def few_per_class(images: LabelledImages, count: int | float, *, seed: int) -> LabelledImages:
    """`count` images of every class (all of a smaller one; a float is a share), drawn by `seed`, in the order of `images`."""
    chosen = some_of_each_class(images.labels.tolist(), count, seed=seed)
    names = tuple(images.source.names[index] for index in chosen)
    return LabelledImages(ImageSource(images.source.root, names), images.labels[chosen], images.classes)


def _labelled(root: Path, folders: ClassFolders) -> LabelledImages:
    names = tuple(path.relative_to(root).as_posix() for path in folders.paths)
    return LabelledImages(ImageSource(root, names), torch.tensor(folders.labels), folders.classes)


class TowerEncoders(nn.Module):
    """The encoders of a method with several towers: each sees its channels of an image, their features are joined."""

    def __init__(self, encoders: Mapping[str, ResNetEncoder], contract: InputContract) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.contract = contract
        first = next(iter(encoders.values()))
        self.arch = f"{first.arch} ({' + '.join(encoders)})"
        self.feature_dim = sum(encoder.feature_dim for encoder in encoders.values())

    def forward(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, 3, S, S) -> (B, feature_dim)."""
        return torch.cat([encoder(self.pixels(images, tower)) for tower, encoder in self.encoders.items()], dim=1)

    def pixels(self, images: Tensor, tower: str) -> Tensor:
        """What a tower sees of the images, normalised."""
        return channels_of(images, tower, self.contract).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder that is only read, or the two of CMC.

    module: in eval() mode, on the device of `precision`.
    contract: what its input must look like.
    precision: of its forward pass.
    sha256: of the weight file; None for random weights.
    """

    module: ResNetEncoder | TowerEncoders
    contract: InputContract
    precision: Precision
    sha256: str | None

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, 3, S, S) -> float32 (B, D) on the encoder's device."""
        images = images.to(self.precision.device, non_blocking=True)
        if not isinstance(self.module, TowerEncoders):  # which takes its channels of the bytes
            images = normalize(images, self.contract, channels_last=True)
        with self.precision.autocast():
            return self.module(images).float()


def load_frozen_encoder(weights: str, config: EncoderSettings, *, branch: str | None) -> FrozenEncoder:
    """`random:ARCH` (seeded by config.seed), `random:ARCH:FILE` (with the input and the stride of FILE), or whatever tools/convert_weights.py takes: a file of any layout and branch, a run, a
    Hugging Face folder. Also what no detector can be given: the small stem, narrow encoders, the two towers of CMC.

    Raises CheckpointError/ConfigError for what cannot be used.
    """
    device = pick_device(config.device)
    precision = choose_precision(config.precision, device)
    if weights.partition(":")[0] == "random":
        if branch is not None:
            raise ConfigError(f"--branch {branch} is for a checkpoint; random weights have no branches")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            arch, _, like = weights.removeprefix(RANDOM).partition(":")
            contract = load_encoders(Path(like)).contract if like else InputContract()
            module: ResNetEncoder | TowerEncoders = ResNetEncoder(arch, stride_in_1x1=contract.stride_in_1x1)
        sha256 = None
    else:
        encoders = load_encoders(Path(weights), branch=branch)
        contract, sha256 = encoders.contract, encoders.sha256
        module = _built(encoders, weights)
    module.requires_grad_(False).eval()
    module = module.to(device).to(memory_format=torch.channels_last)
    return FrozenEncoder(module, contract, precision, sha256)


def _built(encoders: Encoders, weights: str) -> ResNetEncoder | TowerEncoders:
    contract = encoders.contract
    modules: dict[str, ResNetEncoder] = {}
    if contract.stem not in ("basic", "small"):
        raise CheckpointError(
            f"{weights}: the readout expects a ResNet with the basic or the small stem, found stem={contract.stem!r}"
        )
    for tower, tensors in encoders.towers.items():
        modules[tower] = uninitialised_encoder(
            encoders.arch,
            stride_in_1x1=contract.stride_in_1x1,
            in_channels=NUM_CHANNELS[tower],
            stem=encoders.stem,
        )
        _fill(modules[tower], tensors, contract, weights)
        if encoders.stem == "small":
            modules[tower].arch = f"{encoders.arch}, small stem"
    return modules["RGB"] if "RGB" in modules else TowerEncoders(modules, contract)


def _fill(module: ResNetEncoder, tensors: dict[str, Tensor], contract: InputContract, weights: str) -> None:
    loaded = module.load_state_dict(tensors, strict=False)
    missing = [name for name in loaded.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or loaded.unexpected_keys:
        raise CheckpointError(
            f"{weights}: {len(missing)} backbone tensors missing ({', '.join(missing[:5])}), "
            f"{len(loaded.unexpected_keys)} not of the backbone ({', '.join(loaded.unexpected_keys[:5])})"
        )
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = contract.bn_eps


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one. Raises ConfigError for cuda without a device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device here; pass device=cpu (or device=auto)")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def state_hash(module: nn.Module) -> str:
    """sha256 over names, shapes and bytes of every parameter and buffer (counters included)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def training_recipe(config: LinearConfig | FastConfig) -> Recipe:
    """The named recipe with the configured crop."""
    return with_overrides(RECIPES[config.recipe], {"crop_scale": config.crop_scale})


@dataclass(frozen=True)
class _Batches:
    """Batches of keys, made one by one (60 epochs of ImageNet are 77 million keys); knows its length, as a loader wants."""

    make: Callable[[], Iterator[list[Key]]]
    num_batches: int

    def __iter__(self) -> Iterator[list[Key]]:
        return self.make()

    def __len__(self) -> int:
        return self.num_batches


def _encoded(
    encoder: FrozenEncoder, source: Source, recipe: Recipe, batches: _Batches, config: EncodingSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """(features (B, D), image index (B,)) of each batch of keys, in order."""
    views = ViewMaker(recipe, image_size=config.image_size, num_views=1)
    dataset = ViewDataset(source, views, seed=config.seed)
    pin_memory = encoder.precision.device.type == "cuda"
    loader = build_loader(dataset, batches, num_workers=config.num_workers, pin_memory=pin_memory)
    for batch in loader:
        yield encoder.features(batch.images[:, 0]), batch.index


def encode_in_order(
    encoder: FrozenEncoder,
    source: Source,
    recipe: Recipe,
    config: EncodingSettings,
    *,
    views: Sequence[int],
    title: str,
) -> Iterator[Tensor]:
    """Features of every image in the first of `views`, then in the next, float32 (B, D) a batch; view v draws as epoch v."""
    n = len(source)
    chunks = [list(range(start, min(start + config.batch_size, n))) for start in range(0, n, config.batch_size)]
    keys = _Batches(
        lambda: ([(view, index) for index in chunk] for view in views for chunk in chunks), len(views) * len(chunks)
    )
    with tqdm(total=len(views) * n, unit="image", desc=title) as bar:
        for features, _ in _encoded(encoder, source, recipe, keys, config):
            yield features
            bar.update(len(features))


def encode_table(
    encoder: FrozenEncoder,
    images: LabelledImages,
    recipe: Recipe,
    config: EncodingSettings,
    *,
    num_views: int,
    title: str,
) -> Tensor:
    """Features of `num_views` views of every image, float32 (V, N, D) on the encoder's device; view v draws as epoch v."""
    n = len(images)
    table = torch.empty(num_views * n, encoder.module.feature_dim, device=encoder.precision.device)
    row = 0
    for features in encode_in_order(encoder, images.source, recipe, config, views=range(num_views), title=title):
        table[row : row + len(features)] = features
        row += len(features)
    return table.view(num_views, n, -1)


def fresh_batches(
    encoder: FrozenEncoder, images: LabelledImages, config: LinearConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """The protocol: (features, labels) of every batch of every epoch, each image in a new view each epoch.

    One loader serves all epochs, so its workers live through them.
    """
    n = len(images)
    keys = _Batches(
        lambda: (
            [(epoch, index) for index in chunk]
            for epoch in range(config.epochs)
            for chunk in _index_chunks(n, config, epoch)
        ),
        config.epochs * batches_per_epoch(n, config),
    )
    for features, index in _encoded(encoder, images.source, training_recipe(config), keys, config):
        yield features, images.labels[index].to(features.device)


def cached_batches(
    views: Sequence[Tensor] | Tensor, labels: Tensor, config: TrainingSettings, *, positions: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches out of cached features, (N, D) of each of V views: epoch e takes view e mod V.

    positions: int64 (n,), images to train on, all where it is None. Batches are float32, on the device of the labels.
    """
    count = len(labels) if positions is None else len(positions)
    for epoch in range(config.epochs):
        view = views[epoch % len(views)]
        for chunk in _index_chunks(count, config, epoch):
            index = torch.tensor(chunk)
            index = index if positions is None else positions[index]
            features = view[index.to(view.device)].to(labels.device, torch.float32)
            yield features, labels[index.to(labels.device)]


@dataclass(frozen=True)
class FeatureScale:
    """Takes the mean (D,) of features away and multiplies them by factor (D,), both float32."""

    mean: Tensor
    factor: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(..., D) -> the same shape, float32."""
        return (features.float() - self.mean) * self.factor


def feature_scale(views: Sequence[Tensor] | Tensor, positions: Tensor | None = None) -> FeatureScale:
    """What brings every feature to mean 0 and deviation 1 over views (N, D) and images; a dead feature becomes 0.

    positions: int64 (n,), the images that count; all where it is None. Sums are float64, a block of rows at a time.
    """
    first = views[0]
    total = torch.zeros(2, first.shape[1], dtype=torch.float64, device=first.device)
    count = 0
    for shift in (None, True):  # the mean, then the squares around it
        mean = total[0] / count if shift else total[0]
        count = 0
        for view in views:
            rows = torch.arange(len(view)) if positions is None else positions
            for block in rows.split(SCALE_ROWS):
                values = view[block.to(view.device)].double()
                total[1 if shift else 0] += (values - mean).square().sum(0) if shift else values.sum(0)
                count += len(block)
    std = (total[1] / count).sqrt()
    factor = torch.where(std > 1e-6 * std.max().clamp_min(1e-30), 1 / std.clamp_min(1e-30), torch.zeros_like(std))
    return FeatureScale(mean.float(), factor.float())


def batches_per_epoch(num_images: int, config: BatchSettings) -> int:
    """Batches an epoch; the last one may be smaller, no image is dropped."""
    return -(-num_images // config.batch_size)


def _index_chunks(num_images: int, config: BatchSettings, epoch: int) -> list[list[int]]:
    order = epoch_permutation(num_images, seed=config.seed, epoch=epoch).tolist()
    return [order[start : start + config.batch_size] for start in range(0, num_images, config.batch_size)]
