"""The configuration of a pre-training run: typed, frozen, strict.

Order of precedence, lowest first: the defaults below, the file (its `base:` first), `--method NAME`, `key=value` overrides.
A method is a base file, configs/pretrain/methods/NAME.yaml. Its name comes with its values and cannot be set without them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.config_files import find_config, shipped_configs
from pretrain.base.errors import ConfigError
from pretrain.base.record import without
from pretrain.base.same_run import flat
from pretrain.base.strict import (
    Origin,
    from_mapping,
    load_chain,
    load_yaml,
    merge,
    merge_all,
    overridden_keys,
    parse_overrides,
    require,
)
from pretrain.views.operations import MAX_JITTER_STRENGTH
from pretrain.views.recipe_file import (
    copy_generators,
    is_recipe_file,
    load_recipe,
    located,
    portable,
    recipe_from_plain,
    recipe_to_plain,
)
from pretrain.views.recipes import OVERRIDES

LONGEST_TIMEOUT_S = 30 * 24 * 3600.0  # what waits for so long hangs; and timers take no number without end
KINDS = ("pretrain", "views")  # folders of configs/ that hold runs of tools/pretrain.py
METHOD_NAME = "method.name"
# No config.yaml of version 0.1 has them: all its methods were of one kind.
ADDED_KEYS = ("method.towers", "method.contrasts", "method.memory", "method.batchnorm")
# Set by no method's file, and with another value than this, which is the default, it is another method (`method_label`).
UNLISTED = {"method.symmetric": False, "method.momentum_end": None, "method.shuffle_over": "world"}
# What two runs of one experiment may differ in: the seed, where the images lie, how they are read and on what it runs.
NOT_EXPERIMENT = ("seed", "runtime", "monitor", "data.root", "data.num_workers", "data.skip_unreadable")


@dataclass(frozen=True)
class DataConfig:
    """The images.

    root: a folder, searched recursively (class folders are ignored); a list of files (.txt, one path a line); a zip or tar
        archive; or WebDataset shards, DIR/train-{000000..000099}.tar or http(s)://... (pretrain/data/source.py).
    num_workers: loader processes of each rank.
    skip_unreadable: leave out what cannot be read, and replace what turns out damaged during the run by the next readable
        image, both reported; False refuses to start or to continue.
    """

    root: str
    num_workers: int = 8
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, f"num_workers expected at least 0, found {self.num_workers}")


@dataclass(frozen=True)
class ViewsConfig:
    """How an image becomes views. `views.recipe=FILE.yaml` is read once, so that config.yaml and checkpoints hold the whole recipe.

    recipe: a name in pretrain/views/recipes.py, or a recipe written out as in a recipe file; a learned generator in it is a file
        beside config.yaml.
    image_size, patch_size: of a view and of a jigsaw patch, pixels.
    crop_scale: area range of RandomResizedCrop; None here and below keeps the recipe's own value.
    blur_kernel: taps of the Gaussian blur, odd.
    blur_sigma: its range, pixels. The recipes' is made for 224 px; at 64 px it leaves no texture, and a third does the same.
    jitter_strength: x makes ColorJitter (0.8 x, 0.8 x, 0.8 x, 0.2 x) with the recipe's p, the paper's scale; infomin is x = 1.
    """

    recipe: dict | str = "infomin"
    image_size: int = 224
    patch_size: int = 64
    crop_scale: tuple[float, float] | None = None
    blur_kernel: int | None = None
    blur_sigma: tuple[float, float] | None = None
    jitter_strength: float | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """What replaces the recipe's own values (`recipe_of`); None: nothing does."""
        return {key: getattr(self, key) for key in OVERRIDES}

    def __post_init__(self) -> None:
        if isinstance(self.recipe, dict):
            recipe_from_plain(self.recipe, where="views.recipe")  # says what is wrong with it
        strength = self.jitter_strength
        require(
            strength is None or 0 <= strength <= MAX_JITTER_STRENGTH,
            f"jitter_strength expected in [0, {MAX_JITTER_STRENGTH:g}] (hue shifts by at most half a turn), found {strength}",
        )
        require(
            self.image_size >= 32, f"image_size expected at least 32 (the encoder's stride), found {self.image_size}"
        )
        require(self.patch_size >= 8, f"patch_size expected at least 8, found {self.patch_size}")


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder of every tower.

    arch: a key of pretrain.base.architecture.ARCHITECTURES.
    stem: "imagenet" is the 7x7 convolution of stride 2 with max-pooling; "small" is a 3x3 of stride 1 without, as everybody
        uses for images of 32 px. A detector cannot take an encoder with the small stem.
    """

    arch: str = "resnet50"
    stem: Literal["imagenet", "small"] = "imagenet"

    def __post_init__(self) -> None:
        require(self.arch in ARCHITECTURES, f"arch expected one of {', '.join(ARCHITECTURES)}, found {self.arch!r}")


Channels = Literal["RGB", "Y", "DbDr"]  # what a tower sees of a picture
Memory = Literal["queue", "bank", "batch", "labels"]


@dataclass(frozen=True)
class ContrastConfig:
    """One term of the loss: queries of one tower against keys of one tower; towers are named by their channels."""

    query: Channels
    key: Channels
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.weight < inf, f"weight expected positive, found {self.weight}")


@dataclass(frozen=True)
class MethodConfig:
    """The contrastive method: towers x memory x contrasts. The defaults are InfoMin's.

    name: of the method's file that the run started from; `method_label` says what the run changed of it.
    towers: the channels that each tower sees; each has an encoder, a head and, with `jigsaw`, a jigsaw head of its own.
    contrasts: the terms of the loss. A jigsaw embedding is always contrasted with keys of its own tower [specification 1.5].
    memory: where negatives and keys come from. "queue": keys of the last batches, by a slow key network (MoCo). "bank": one
        row an image, no key network and one view (InstDis). "batch": the other images of the batch (SimCLR). "labels": none;
        one view is classified by the folder of its image (supervised pre-training, pretrain/model/supervised.py).
    head: "mlp" is the paper's; "mlp_bn" adds BatchNorm after both layers, for short runs (pretrain/model/heads.py).
    feature_dim: length of an embedding.
    queue_size: keys in the queue, K.
    bank_negatives: rows drawn of the bank for a step, K; with replacement, uniform.
    bank_momentum: share of the old row when an image is seen again.
    temperature: T of InfoNCE.
    momentum: of the key network.
    momentum_end: what it rises to over the run, along half a cosine (BYOL, MoCo v3); None: constant.
    symmetric: each view is once the query and once the key; the loss is the mean of both. Memory "queue" only; "batch" is
        symmetric by nature.
    batchnorm: how query and key come to have different BatchNorm statistics. "shuffled": keys are computed in batches mixed
        over ranks (ShuffleBN). "synchronised": statistics of the batch of all ranks (SyncBatchNorm): with memory "batch"
        they tell nothing, with a queue the less the larger the batch.
    shuffle_over: "world" mixes over all ranks, as MoCo does; "node" over the ranks of a machine, as the reference.
    jigsaw: whether there is the branch of nine patches.
    jigsaw_weight: beta of loss = (1 - beta) L_inst + beta L_jig.
    jigsaw_fraction: share of a batch's images that take the jigsaw branch; 1 is the paper's, less is cheaper.
    batchnorm_images: images that share BatchNorm statistics. 32 is the reference's 256 over 8 GPUs; a rank with more splits its
        batch into groups of about that size (pretrain/model/batchnorm.py).
    """

    name: str = "infomin"
    towers: tuple[Channels, ...] = ("RGB",)
    contrasts: tuple[ContrastConfig, ...] = (ContrastConfig("RGB", "RGB"),)
    memory: Memory = "queue"
    head: Literal["linear", "mlp", "mlp_bn"] = "mlp"
    feature_dim: int = 128
    queue_size: int = 65536
    bank_negatives: int = 65536
    bank_momentum: float = 0.5
    temperature: float = 0.15
    momentum: float = 0.999
    momentum_end: float | None = None
    symmetric: bool = False
    batchnorm: Literal["shuffled", "synchronised"] = "shuffled"
    shuffle_over: Literal["world", "node"] = "world"
    jigsaw: bool = True
    jigsaw_weight: float = 0.5
    jigsaw_fraction: float = 1.0
    batchnorm_images: int = 32

    @property
    def num_views(self) -> int:
        """Views that a step needs of an image."""
        return 1 if self.memory in ("bank", "labels") else 2

    def jigsaw_images(self, images: int) -> int:
        """How many of a (micro-)batch of `images` take the jigsaw branch: its first ones, since its order is random."""
        return max(1, round(self.jigsaw_fraction * images))

    @property
    def num_negatives(self) -> int | None:
        """Negatives of a query, K; None where the batch or the number of classes decides."""
        return {"queue": self.queue_size, "bank": self.bank_negatives}.get(self.memory)

    def __post_init__(self) -> None:
        require(self.batchnorm_images > 0, f"batchnorm_images expected positive, found {self.batchnorm_images}")
        require(self.feature_dim > 0 and self.queue_size > 0, "feature_dim and queue_size expected positive")
        require(self.bank_negatives > 0, f"bank_negatives expected positive, found {self.bank_negatives}")
        require(0 < self.temperature < inf, f"temperature expected positive, found {self.temperature}")
        for name in ("momentum", "bank_momentum", "jigsaw_weight"):
            require(0 <= getattr(self, name) <= 1, f"{name} expected in [0, 1], found {getattr(self, name)}")
        end = self.momentum_end
        require(
            end is None or self.momentum <= end <= 1, f"momentum_end expected in [{self.momentum:g}, 1], found {end}"
        )
        require(0 < self.jigsaw_fraction <= 1, f"jigsaw_fraction expected in (0, 1], found {self.jigsaw_fraction}")
        require(
            len(set(self.towers)) == len(self.towers) > 0, f"towers expected different channels, found {self.towers}"
        )
        require(
            "RGB" not in self.towers or len(self.towers) == 1,
            f"towers expected RGB alone, or Y and DbDr, found {self.towers}",
        )
        named = {name for term in self.contrasts for name in (term.query, term.key)}
        require(
            named == set(self.towers),
            f"contrasts expected to name each of the towers {', '.join(self.towers)} and no other, found "
            f"{', '.join(sorted(named)) or 'none'}",
        )
        idle = set(self.towers) - {term.query for term in self.contrasts}
        require(
            not idle,
            f"contrasts expected to have queries of every tower, or it learns nothing, found none of {', '.join(sorted(idle))}",
        )
        require(
            self.memory != "labels" or (len(self.towers) == 1 and not self.jigsaw),
            "memory labels (supervised) expected with one tower and jigsaw false: there is nothing to contrast",
        )
        require(
            not self.symmetric or self.memory == "queue",
            f"symmetric expected with memory queue alone, found memory {self.memory} "
            "(a batch is contrasted in both directions anyway, a bank has one view)",
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimiser over all parameters.

    name: "sgd" is the reference's; "lars" (SimCLR's, for batches of thousands) and "adamw" leave biases and BatchNorm without
        decay, as their sources do.
    batch_size: of all ranks together, a whole step.
    accumulate: micro-batches that a rank's share of a step is split into, to fit into memory; their gradients are averaged, and
        key network and memory are updated once a step. BatchNorm sees micro-batches, and with memory "batch" a query's
        negatives are those of its micro-batch.
    learning_rate: for that batch.
    schedule: "cosine" ends at learning_rate * decay^3; "step" multiplies by decay after each milestone epoch.
    warmup_epochs: None is the reference's rule (none up to batch 256, else 5, or 10 for runs over 500 epochs).
    warmup_start: rate of the first step of warm-up. The default is the reference's; a learning_rate that is not above it starts
        from its own tenth.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    batch_size: int = 256
    accumulate: int = 1
    epochs: int = 200
    learning_rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step"] = "cosine"
    decay: float = 0.1
    milestones: tuple[int, ...] = (120, 160)
    warmup_epochs: int | None = None
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        require(self.batch_size > 0 and self.epochs > 0, "batch_size and epochs expected positive")
        require(self.accumulate > 0, f"accumulate expected positive, found {self.accumulate}")
        require(0 < self.learning_rate < inf, f"learning_rate expected positive, found {self.learning_rate}")
        require(0 <= self.momentum < 1, f"momentum expected in [0, 1), found {self.momentum}")
        require(0 <= self.weight_decay < inf, f"weight_decay expected at least 0, found {self.weight_decay}")
        require(0 <= self.decay <= 1, f"decay expected in [0, 1], found {self.decay}")
        require(min(self.milestones, default=1) > 0, f"milestones expected positive, found {self.milestones}")
        require(0 <= self.warmup_start < inf, f"warmup_start expected at least 0, found {self.warmup_start}")
        require(
            self.warmup_epochs is None or self.warmup_epochs >= 0,
            f"warmup_epochs expected at least 0, or null for the reference's rule, found {self.warmup_epochs}",
        )


@dataclass(frozen=True)
class MonitorConfig:
    """What is measured of a run on its way; it changes nothing in it.

    every_epochs: how often; 0: never.
    labelled: a folder with one folder a class, for the kNN probe; None: no probe. Every fifth image of a class is asked about,
        the others are the neighbours.
    max_images: of it at most, and of the run's images for the figures that need no labels.
    neighbours: k of the probe.
    trackers: where the log also goes, beside log.jsonl and TensorBoard.
    """

    every_epochs: int = 0
    labelled: Path | None = None
    max_images: int = 2000
    neighbours: int = 20
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()

    def __post_init__(self) -> None:
        require(self.every_epochs >= 0, f"every_epochs expected at least 0, found {self.every_epochs}")
        require(self.max_images >= 10, f"max_images expected at least 10, found {self.max_images}")
        require(self.neighbours > 0, f"neighbours expected positive, found {self.neighbours}")
        require(
            self.labelled is None or self.every_epochs > 0,
            "labelled is given, but every_epochs=0 never looks at it; pass every_epochs=1 (every epoch) or more",
        )


@dataclass(frozen=True)
class RuntimeConfig:
    """How, not what: nothing here changes the mathematics of a run (precision apart), so a resumed run may change it.

    precision: "auto" is bf16 where the device computes it natively, else fp32.
    channels_last: memory format; None: by measurement, channels last but for float32 on the CPU.
    cuda_graph: on a GPU the key network is recorded once and replayed, which saves the host's time; false calls it in every step.
    compile: torch.compile of the networks on a GPU: minutes at the start, and no gain where the fused BatchNorm works (0.92 on an H200).
    checkpoint_every_steps: None is once an epoch.
    keep_every_epochs: checkpoints of these epochs are kept for good; of the others the newest two.
    timeout_s: after which a rank that does not answer ends the run.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool | None = None
    cuda_graph: bool = True
    compile: bool = False
    log_every_steps: int = 10
    checkpoint_every_steps: int | None = None
    keep_every_epochs: int = 20
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        require(
            self.log_every_steps > 0 and self.keep_every_epochs > 0,
            "log_every_steps and keep_every_epochs expected positive",
        )
        require(
            self.checkpoint_every_steps is None or self.checkpoint_every_steps > 0,
            "checkpoint_every_steps expected positive",
        )
        require(
            0 < self.timeout_s <= LONGEST_TIMEOUT_S,
            f"timeout_s expected in (0, {LONGEST_TIMEOUT_S:g}] seconds, found {self.timeout_s}",
        )


@dataclass(frozen=True)
class RunConfig:
    """One pre-training run."""

    data: DataConfig
    seed: int = 0
    views: ViewsConfig = field(default_factory=ViewsConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, f"seed expected in [0, 2^31), found {self.seed}")
        keys = self.optimizer.batch_size * (2 if self.method.symmetric else 1)
        require(
            self.method.memory != "queue" or self.method.queue_size >= keys,
            f"method.queue_size {self.method.queue_size} expected at least optimizer.batch_size {self.optimizer.batch_size}"
            + (", twice with method.symmetric" if self.method.symmetric else ""),
        )


def fitting_queue_size(*, num_images: int, batch_size: int, keys_per_image: int = 1) -> int:
    """Keys of about a quarter of the images, in whole batches: some 3 % of the images then meet an older key of their own."""
    return max(num_images // 4 // batch_size, 1) * batch_size * keys_per_image


def load_run_config(path: Path, overrides: Sequence[str] = (), *, method: str | None = None) -> RunConfig:
    """Read `path` (as given, or a shipped file), put `method`'s values over it, apply `overrides`.

    Raises ConfigError naming the file or the override, and the key.
    """
    file = find_config(path, *KINDS)
    chain = load_chain(file, *KINDS)
    for source, own in chain:
        _refuse_bare_name(own, source, alone=len(chain) == 1)
    values = merge_all(locate_generators(own, source.parent) for source, own in chain)
    if method is not None:
        values = merge(values, method_values(method, where="--method"))
    given = parse_overrides(overrides)
    if METHOD_NAME in flat(given):
        raise ConfigError(
            f"command line: {METHOD_NAME} cannot be overridden: a method is its views, head and temperature, not its name alone; "
            f"pass --method {flat(given)[METHOD_NAME]}"
        )
    values = merge(values, locate_generators(given, Path()))
    recipe = values["views"].get("recipe") if isinstance(values.get("views"), dict) else None
    if isinstance(recipe, str) and is_recipe_file(recipe):
        values = merge(values, {"views": {"recipe": recipe_to_plain(load_recipe(Path(recipe).expanduser()))}})
    return from_mapping(RunConfig, values, where=Origin(str(path), overridden_keys(overrides)))


def method_names() -> tuple[str, ...]:
    """The shipped methods."""
    return tuple(path.stem for path in sorted((shipped_configs() / "pretrain" / "methods").glob("*.yaml")))


def method_values(name: Any, *, where: str = METHOD_NAME) -> dict[str, Any]:
    """What the method's name stands for: nested values, the name among them. Raises ConfigError for an unknown one."""
    if name not in method_names():
        raise ConfigError(f"{where}: expected one of {', '.join(method_names())}, found {name!r}")
    return load_yaml(shipped_configs() / "pretrain" / "methods" / f"{name}.yaml")


def _refuse_bare_name(own: Mapping[str, Any], source: Path, *, alone: bool) -> None:
    """A file that sets the name must itself set all that it stands for, as a method's file and a run's config.yaml do.

    alone: the file has no base, as a config.yaml; one of an older version lacks the keys that did not exist then.
    """
    given = flat(own)
    if METHOD_NAME not in given:
        return
    name = given[METHOD_NAME]
    standard = flat(method_values(name, where=f"{source}: `{METHOD_NAME}`"))
    missing = [key for key in standard if key not in given]
    if alone:
        default = flat({"method": to_plain(MethodConfig())})
        missing = [key for key in missing if key not in ADDED_KEYS or default[key] != standard[key]]
    if "views.recipe" in missing and any(key.startswith("views.recipe.") for key in given):
        missing.remove("views.recipe")  # a recipe that is written out
    if missing:
        raise ConfigError(
            f"{source}: `{METHOD_NAME}: {name}` without its values ({', '.join(missing)}); "
            f"write `base: methods/{name}.yaml` instead of the name"
        )


def method_label(values: Mapping[str, Any]) -> str:
    """The method as a report may call it: its name and, where the run departs from it, the keys that it changed.

    values: nested plain values of a run (`to_plain`, or a config.yaml); what is not among them counts as unchanged. A name that we do not ship is returned as it is.
    """
    given = flat(values)
    name = given.get(METHOD_NAME)
    if name not in method_names():
        return str(name)
    standard = flat(method_values(name))
    changed = [
        key
        for key, value in standard.items()
        if given.get(key, value) != value or any(other.startswith(f"{key}.") for other in given)  # a recipe written out
    ]
    changed += [key for key, value in UNLISTED.items() if given.get(key, value) != value]
    changed += [f"views.{key}" for key in OVERRIDES if given.get(f"views.{key}") is not None]
    return f"{name} (changed: {', '.join(changed)})" if changed else str(name)


def experiment_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's plain values (`to_plain`, or the config of a checkpoint) what decides its result, as {"group.key": value}.

    The images belong to the experiment too; their fingerprint is not in the configuration.
    """
    return without(values, NOT_EXPERIMENT)


def locate_generators(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Values of a run's file in `folder` with the absolute paths of the generators that its recipe refers to."""
    views = values.get("views")
    recipe = views.get("recipe") if isinstance(views, Mapping) else None
    return merge(values, {"views": {"recipe": located(recipe, folder)}} if isinstance(recipe, Mapping) else {})


def keep_generators(config: Any, folder: Path) -> None:
    """Copy the generators that a run's recipe refers to into `folder`, where its config.yaml names them."""
    if isinstance(config, RunConfig) and isinstance(config.views.recipe, dict):
        copy_generators(config.views.recipe, folder)


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration dataclass as nested plain values (JSON- and YAML-ready); `from_mapping` reads it back.

    A run's recipe names its generators relative to the run's folder (`keep_generators`, `locate_generators`).
    """
    values: dict[str, Any] = _plain(config)
    if isinstance(config, RunConfig) and isinstance(config.views.recipe, dict):
        values["views"]["recipe"] = portable(values["views"]["recipe"])
    return values


def default_values(config: Any) -> dict[str, Any]:
    """The plain values that a configuration of this type has where nothing is given; keys that must be given are absent."""
    values = {}
    for entry in dataclasses.fields(config):
        if entry.default is not dataclasses.MISSING:
            values[entry.name] = _plain(entry.default)
        elif entry.default_factory is not dataclasses.MISSING:
            values[entry.name] = _plain(entry.default_factory())
        elif dataclasses.is_dataclass(getattr(config, entry.name)):  # a group with a key that must be given
            values[entry.name] = default_values(getattr(config, entry.name))
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
