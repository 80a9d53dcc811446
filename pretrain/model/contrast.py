"""Methods: encoder + heads + memory + loss [specification 1.3 to 1.5]. The loop knows only `trained`, `step` and `after_step`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.config import EncoderConfig, MethodConfig
from pretrain.data.loader import ViewBatch
from pretrain.model.batchnorm import group_batchnorm, num_groups
from pretrain.model.encoder import ResNetEncoder
from pretrain.model.heads import NUM_PATCHES, JigsawHead, ProjectionHead
from pretrain.model.loss import info_nce
from pretrain.model.memory import FeatureQueue
from pretrain.model.momentum import shuffled_forward, start_key, update_key
from pretrain.run.ranks import Ranks, gather_rows
from pretrain.views.pipeline import normalize


class Embeddings(NamedTuple):
    """Unit vectors.

    instance: (B, D) of the images.
    jigsaw: (B', D) of the nine patches of the first B' <= B images, or None.
    """

    instance: Tensor
    jigsaw: Tensor | None


@dataclass(frozen=True)
class StepOutput:
    """What a method makes of a batch.

    loss: scalar with gradient.
    remembered: tower -> (B, D) of this rank.
    index: (B,) positions of the images.
    figures: detached scalars for the log.
    """

    loss: Tensor
    remembered: dict[str, Tensor]
    index: Tensor
    figures: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """What the loop needs of a method. The loop may wrap `trained` in DDP and hands it back as `forward`."""

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The part that takes gradient."""

    @abstractmethod
    def step(self, batch: ViewBatch, *, forward: Callable[..., Any], ranks: Ranks, step: int) -> StepOutput:
        """Loss of one batch of uint8 views on the device. `forward` calls `trained` (through DDP where there is one)."""

    @abstractmethod
    def after_step(
        self, outputs: Sequence[StepOutput], *, ranks: Ranks, momentum: float, sound: Tensor | None = None
    ) -> None:
        """What follows the optimiser step: key encoder, memory. `sound` False (0-d bool): nothing is remembered."""


class QueryNetwork(nn.Module):
    """Encoder, head and the optional jigsaw head: everything that takes gradient."""

    def __init__(self, arch: str, config: MethodConfig) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(arch)
        self.head = ProjectionHead(config.head, self.encoder.feature_dim, config.feature_dim)
        self.jigsaw_head = (
            JigsawHead(config.head, self.encoder.feature_dim, config.feature_dim) if config.jigsaw else None
        )

    def forward(self, images: Tensor, patches: Tensor | None = None, permutation: Tensor | None = None) -> Embeddings:
        """images (B, 3, S, S); patches (9B, 3, P, P) and permutation (B, 9) with the jigsaw branch.

        The patches are a forward of their own, so their BatchNorm statistics stay apart from the images'.
        """
        instance = self.head(self.encoder(images))
        if self.jigsaw_head is None or patches is None:
            return Embeddings(instance, None)
        return Embeddings(instance, self.jigsaw_head(self.encoder(patches), permutation=permutation))


class KeyNetwork(nn.Module):
    """The slow copy: encoder and main head. Always in training mode: its BatchNorm uses its own shuffled batch."""

    def __init__(self, arch: str, config: MethodConfig) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(arch)
        self.head = ProjectionHead(config.head, self.encoder.feature_dim, config.feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


class MomentumContrast(Method):
    """MoCo's query against a queue of keys. With the jigsaw branch and its recipe this is InfoMin.

    View 1 is the query, view 2 the key; the loss is not symmetrised. The jigsaw embedding is contrasted with the same
    key and the same queue: loss = (1 - beta) L_inst + beta L_jig.
    """

    def __init__(
        self, *, encoder: EncoderConfig, config: MethodConfig, contract: InputContract, seed: int, batchnorm_groups: int
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)  # the only use of the global generator: initialisation
        self.config, self.contract, self.seed = config, contract, seed
        self.query = QueryNetwork(encoder.arch, config)
        self.key = KeyNetwork(encoder.arch, config)
        self.memory = FeatureQueue(config.queue_size, config.feature_dim, seed=seed)
        start_key(query=self.query, key=self.key)
        group_batchnorm(self, groups=batchnorm_groups)

    @property
    def trained(self) -> nn.Module:
        """The query network."""
        return self.query

    def step(self, batch: ViewBatch, *, forward: Callable[..., Any], ranks: Ranks, step: int) -> StepOutput:
        config = self.config
        images = normalize(batch.images[:, 0], self.contract)
        if config.jigsaw:
            assert batch.patches is not None, "the loader was built without patches"
            assert batch.permutation is not None
            # The order of a batch is random, and so are its first images.
            count = jigsaw_images(len(images), fraction=config.jigsaw_fraction)
            patches = normalize(batch.patches[:count].flatten(0, 1), self.contract)
            embeddings = forward(images, patches, batch.permutation[:count])
        else:
            embeddings = forward(images)
        with torch.no_grad():
            keys = shuffled_forward(
                lambda views: self.key(normalize(views, self.contract)),
                batch.images[:, 1],
                ranks=ranks,
                seed=self.seed,
                step=step,
            ).float()
        contrast = {"query": embeddings.instance, "jigsaw": embeddings.jigsaw}
        outputs = {
            name: info_nce(query=q, key=keys[: len(q)], queue=self.memory.features, temperature=config.temperature)
            for name, q in contrast.items()
            if q is not None
        }
        instance, jigsaw = outputs["query"], outputs.get("jigsaw")
        figures = {"loss_instance": instance.loss, "accuracy": instance.accuracy, "positive": instance.positive}
        loss = instance.loss
        if jigsaw is not None:
            loss = (1 - config.jigsaw_weight) * instance.loss + config.jigsaw_weight * jigsaw.loss
            figures |= {"loss_jigsaw": jigsaw.loss, "accuracy_jigsaw": jigsaw.accuracy}
        # Spread of the keys over the batch: 1/sqrt(D) for uniform unit vectors, 0 when they have collapsed to a point.
        figures |= {"loss": loss, "key_std": keys.std(dim=0, unbiased=False).mean()}
        return StepOutput(loss, {"RGB": keys}, batch.index, {name: value.detach() for name, value in figures.items()})

    def after_step(
        self, outputs: Sequence[StepOutput], *, ranks: Ranks, momentum: float, sound: Tensor | None = None
    ) -> None:
        update_key(query=self.query, key=self.key, momentum=momentum)  # 1. after optimizer.step
        keys = torch.cat([output.remembered["RGB"] for output in outputs])
        self.memory.enqueue(gather_rows(keys, ranks), sound=sound)  # 2. after the logits were taken


def jigsaw_images(batch_size: int, *, fraction: float) -> int:
    """How many images of a rank's batch take the jigsaw branch."""
    return max(1, round(fraction * batch_size))


def batchnorm_groups(config: MethodConfig, *, batch_size: int, world_size: int) -> int:
    """Into how many groups a rank's share of a batch is split for BatchNorm.

    Raises ConfigError where the batch has no equal shares, or where an image would be alone in a group.
    """
    images, rest = divmod(batch_size, world_size)
    if rest:
        raise ConfigError(
            f"optimizer.batch_size {batch_size} is not divisible by {world_size} ranks; "
            f"pass optimizer.batch_size={max(images, 2) * world_size}"
        )
    if images < 2:
        raise ConfigError(
            f"optimizer.batch_size={batch_size} gives each of {world_size} rank(s) one image; BatchNorm expects at least 2: "
            f"pass optimizer.batch_size={2 * world_size} or more"
        )
    if config.batchnorm_images < 2:
        raise ConfigError(
            f"method.batchnorm_images={config.batchnorm_images}: BatchNorm expects at least 2 images a group; pass "
            "method.batchnorm_images=2 or more"
        )
    groups = num_groups(images, images_per_group=config.batchnorm_images)
    count = jigsaw_images(images, fraction=config.jigsaw_fraction)
    # The encoder sees nine patches of a jigsaw image, the head with BatchNorm one row of it.
    least = 2 * groups if config.head == "mlp_bn" else math.ceil(2 * groups / NUM_PATCHES)
    if config.jigsaw and count < least:
        raise ConfigError(
            f"method.jigsaw_fraction={config.jigsaw_fraction:g} sends {count} of a rank's {images} images through the jigsaw "
            f"branch, whose BatchNorm has {groups} group(s) (method.batchnorm_images={config.batchnorm_images}) and expects at "
            f"least {least} images; pass method.jigsaw_fraction={least / images:g} or more"
        )
    return groups


def build_method(
    *, encoder: EncoderConfig, config: MethodConfig, contract: InputContract, seed: int, batchnorm_groups: int = 1
) -> Method:
    """The method that `config` describes; equal seeds give equal weights.

    batchnorm_groups: into how many groups each batch of this rank is split for BatchNorm.
    """
    return MomentumContrast(
        encoder=encoder, config=config, contract=contract, seed=seed, batchnorm_groups=batchnorm_groups
    )
