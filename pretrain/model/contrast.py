"""The contrastive method: towers x memory x contrasts, as a MethodConfig says [specification 1.3 to 1.5].

The loop knows `trained`, `step` and `after_step`. A step:

    uint8 views -> channels of each tower -> query networks -> q, and q_jig of nine patches
    keys:  queue    key networks of view 2 (ShuffleBN); negatives: the queue
           bank     the image's own row; negatives: other rows. One view, no key network
           batch    q of view 2, with gradient; negatives: both views of the other images of all ranks
    loss = sum over contrasts (query tower, key tower, weight):  (1 - beta) L(q, key tower) + beta L(q_jig, its own tower)

A jigsaw embedding has the weight of its tower's queries. Two towers with a jigsaw branch: patches are contrasted with their own
tower, whatever the images are contrasted with, as the reference does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.config import EncoderConfig, MethodConfig
from pretrain.data.loader import ViewBatch
from pretrain.model.batchnorm import group_batchnorm, num_groups
from pretrain.model.channels import NUM_CHANNELS, channels_of
from pretrain.model.cuda_graph import Replayed
from pretrain.model.encoder import ResNetEncoder
from pretrain.model.heads import NUM_PATCHES, JigsawHead, ProjectionHead
from pretrain.model.loss import ContrastOutput, bank_nce, batch_nce, full_precision, info_nce, mean_output
from pretrain.model.memory import FeatureBank, FeatureQueue, draw_others, require_memory
from pretrain.model.momentum import shuffled_forward, start_key, update_key
from pretrain.run.ranks import Ranks, gather_rows, gather_rows_with_gradient

Network = TypeVar("Network", bound=nn.Module)


class Embeddings(NamedTuple):
    """Unit vectors.

    instance: (B, D) of the images.
    jigsaw: (B', D) of the nine patches of the first B' <= B images, or None.
    """

    instance: Tensor
    jigsaw: Tensor | None


@dataclass(frozen=True)
class StepOutput:
    """What a method makes of a (micro-)batch.

    loss: scalar with gradient.
    remembered: tower -> (B, D) of this rank, to be remembered; with a symmetric loss (2B, D).
    index: (B,), the images' positions in the source.
    figures: detached scalars for the log, the same for every method: loss and loss_instance (and loss_jigsaw, accuracy_jigsaw),
        accuracy, positive, all of them means over the contrasts; key_std, the spread of the keys over the batch: 1/sqrt(D) for
        uniform unit vectors, 0 when they have collapsed to a point.
    """

    loss: Tensor
    remembered: dict[str, Tensor]
    index: Tensor
    figures: dict[str, Tensor] = field(default_factory=dict)


class QueryNetwork(nn.Module):
    """Encoder, head and the optional jigsaw head of a tower: everything that takes gradient."""

    def __init__(self, encoder: EncoderConfig, config: MethodConfig, *, tower: str) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, tower=tower)
        self.head = ProjectionHead(config.head, self.encoder.feature_dim, config.feature_dim)
        self.jigsaw_head = (
            JigsawHead(config.head, self.encoder.feature_dim, config.feature_dim) if config.jigsaw else None
        )

    def forward(self, images: Tensor, patches: Tensor | None = None, permutation: Tensor | None = None) -> Embeddings:
        """images (B, C, S, S); patches (9B', C, P, P) and permutation (B', 9) with the jigsaw branch.

        The patches are a forward of their own, so their BatchNorm statistics stay apart from the images'.
        """
        instance = self.head(self.encoder(images))
        if self.jigsaw_head is None or patches is None:
            return Embeddings(instance, None)
        return Embeddings(instance, self.jigsaw_head(self.encoder(patches), permutation=permutation))


class KeyNetwork(nn.Module):
    """A tower's slow copy: encoder and main head. Always in training mode: its BatchNorm uses its own shuffled batch."""

    def __init__(self, encoder: EncoderConfig, config: MethodConfig, *, tower: str) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder, tower=tower)
        self.head = ProjectionHead(config.head, self.encoder.feature_dim, config.feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


class Towers(nn.Module):
    """The query networks of all towers, run in one call: what takes gradient, and what DDP wraps."""

    def __init__(self, networks: Mapping[str, QueryNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(
        self,
        views: Mapping[str, Sequence[Tensor]],
        patches: Mapping[str, Tensor] | None = None,
        permutation: Tensor | None = None,
    ) -> dict[str, list[Embeddings]]:
        """Tower -> its views and its patches, as QueryNetwork takes them; every view is a forward of its own.

        Returns tower -> embeddings of each view, those of the patches with the first.
        """
        embedded = {}
        for tower, network in self.networks.items():
            first, *rest = views[tower]
            own = None if patches is None else patches[tower]
            embedded[tower] = [network(first, own, permutation), *(network(view) for view in rest)]
        return embedded


def build_encoder(config: EncoderConfig, *, tower: str) -> ResNetEncoder:
    """A tower's encoder, for as many channels as it sees."""
    return ResNetEncoder(config.arch, in_channels=NUM_CHANNELS[tower], stem=config.stem)


class Scored(NamedTuple):
    """What one memory makes of a batch.

    contrasts: one a contrast of the configuration.
    jigsaw: one a tower; empty without the branch.
    keys: tower -> embeddings to be remembered.
    """

    contrasts: list[ContrastOutput]
    jigsaw: list[ContrastOutput]
    keys: dict[str, Tensor]


class Contrast(nn.Module):
    """A MethodConfig at work.

    query, key, memory: networks and memory of the only tower, or a ModuleDict of them by the tower's name; None where the method
        has none. query_networks, key_networks, memories: the same by name in any case.
    trained: what takes gradient; the loop may wrap it in DDP and hands it back as `forward`.
    records_keys: on a GPU the forward of the key networks becomes a CUDA graph.
    """

    records_keys = True
    query: nn.Module
    key: nn.Module | None
    memory: nn.Module | None

    def __init__(
        self,
        *,
        encoder: EncoderConfig,
        config: MethodConfig,
        contract: InputContract,
        seed: int,
        num_images: int,
        batchnorm_groups: int,
    ) -> None:
        super().__init__()
        require_memory(config, num_images=num_images)
        torch.manual_seed(seed)  # the only use of the global generator: initialisation
        self.config, self.contract, self.seed = config, contract, seed
        self.query_networks: dict[str, QueryNetwork] = {
            tower: QueryNetwork(encoder, config, tower=tower) for tower in config.towers
        }
        self.query = _alone_or_by_name(self.query_networks)
        self.key_networks: dict[str, KeyNetwork] = {}
        if config.memory == "queue":
            self.key_networks = {tower: KeyNetwork(encoder, config, tower=tower) for tower in config.towers}
            for tower, network in self.key_networks.items():
                start_key(query=self.query_networks[tower], key=network)
            self.key = _alone_or_by_name(self.key_networks)
        else:
            self.key = None
        self.memories: dict[str, FeatureQueue | FeatureBank] = {
            tower: memory
            for position, tower in enumerate(config.towers)
            if (memory := _build_memory(config, num_images=num_images, seed=seed + position)) is not None
        }
        self.memory = _alone_or_by_name(self.memories) if self.memories else None
        group_batchnorm(self, groups=batchnorm_groups)
        self._replay = Replayed()
        self._trained = [Towers(self.query_networks)]  # in a list: its parameters are the query's, and saved as those

    @property
    def trained(self) -> Towers:
        """The query networks."""
        return self._trained[0]

    def step(self, batch: ViewBatch, *, forward: Callable[..., Any], ranks: Ranks, step: int) -> StepOutput:
        """Loss of one batch of uint8 views on the device. `forward` calls `trained` (through DDP where there is one).

        step: counts the micro-batches of the whole run; ShuffleBN and the bank's draws are functions of it.
        """
        config = self.config
        embedded: dict[str, list[Embeddings]] = forward(*self._inputs(batch))
        scored = {"queue": self._with_queue, "bank": self._with_bank, "batch": self._with_batch}[config.memory](
            embedded, batch, ranks, step
        )
        weights = [term.weight for term in config.contrasts]
        instance = mean_output(scored.contrasts, weights)
        figures = {"loss_instance": instance.loss, "accuracy": instance.accuracy, "positive": instance.positive}
        loss = instance.loss
        if scored.jigsaw:
            own = [sum(term.weight for term in config.contrasts if term.query == tower) for tower in config.towers]
            jigsaw = mean_output(scored.jigsaw, own)
            loss = (1 - config.jigsaw_weight) * instance.loss + config.jigsaw_weight * jigsaw.loss
            figures |= {"loss_jigsaw": jigsaw.loss, "accuracy_jigsaw": jigsaw.accuracy}
        spreads = torch.stack([keys.std(dim=0, unbiased=False).mean() for keys in scored.keys.values()])
        figures |= {"loss": loss, "key_std": spreads.mean()}
        detached = {name: value.detach() for name, value in figures.items()}
        # The reference adds contrasts up for the gradient too, and logs their mean.
        return StepOutput(loss * sum(weights), scored.keys, batch.index, detached)

    @torch.no_grad()
    def after_step(
        self, outputs: Sequence[StepOutput], *, ranks: Ranks, momentum: float, sound: Tensor | None = None
    ) -> None:
        """What follows an optimiser step: key networks, then the memory. outputs: of all micro-batches of the step, in order.

        momentum: of the key networks. sound False (0-d bool on the device): nothing is remembered.
        """
        for tower, network in self.key_networks.items():
            update_key(query=self.query_networks[tower], key=network, momentum=momentum)  # 1. after optimizer.step
        for tower, memory in self.memories.items():  # 2. after the logits were taken
            rows = gather_rows(torch.cat([output.remembered[tower] for output in outputs]), ranks)
            if isinstance(memory, FeatureQueue):
                memory.enqueue(rows, sound=sound)
            else:
                index = gather_rows(torch.cat([output.index for output in outputs]), ranks)
                memory.update(rows, index=index, sound=sound)

    def embed_pair(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of one view and keys of the other, uint8 (B, 3, S, S) each, in the first contrast: unit vectors (B, D).

        Where the method has no key network the query's stands in for it.
        """
        term = self.config.contrasts[0]
        query = self.query_networks[term.query](self._channels(first, term.query)).instance
        second = self._channels(second, term.key)
        if term.key in self.key_networks:
            return query, self.key_networks[term.key](second)
        return query, self.query_networks[term.key](second).instance

    def tower_outputs(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """uint8 (B, 3, S, S) -> of each tower its query encoder's features and its head's embeddings (B, D)."""
        outputs = []
        for tower, network in self.query_networks.items():
            features = network.encoder(self._channels(images, tower))
            outputs.append((features, network.head(features)))
        return outputs

    def _inputs(self, batch: ViewBatch) -> tuple[Any, ...]:
        """Arguments of `Towers.forward`."""
        config = self.config
        if config.memory == "batch":  # both views in one forward, so that they share their BatchNorm statistics
            views = [batch.images[:, :2].transpose(0, 1).flatten(0, 1)]
        else:
            views = [batch.images[:, view] for view in range(2 if config.symmetric else 1)]
        inputs = {tower: [self._channels(view, tower) for view in views] for tower in config.towers}
        if not config.jigsaw:
            return (inputs,)
        assert batch.patches is not None, "the loader was built without patches"
        assert batch.permutation is not None
        count = config.jigsaw_images(len(batch.images))
        patches = batch.patches[:count].flatten(0, 1)
        return inputs, {tower: self._channels(patches, tower) for tower in config.towers}, batch.permutation[:count]

    def _channels(self, images: Tensor, tower: str) -> Tensor:
        return channels_of(images, tower, self.contract, dtype=next(self.query.parameters()).dtype)

    def _with_queue(self, embedded: dict[str, list[Embeddings]], batch: ViewBatch, ranks: Ranks, step: int) -> Scored:
        config = self.config
        directions = ((0, 1), (1, 0)) if config.symmetric else ((0, 1),)  # views of query and key
        keys = {view: self._keys(batch.images[:, view], ranks, step) for _, view in directions}

        def against(query: Tensor | None, tower: str, view: int) -> ContrastOutput:
            assert query is not None
            return info_nce(
                query=query,
                key=keys[view][tower][: len(query)],
                queue=self.memories[tower].features,
                temperature=config.temperature,
            )

        contrasts = [
            mean_output([against(embedded[term.query][own].instance, term.key, other) for own, other in directions])
            for term in config.contrasts
        ]
        jigsaw = [
            mean_output([against(embedded[tower][0].jigsaw, tower, other) for _, other in directions])
            for tower in (config.towers if config.jigsaw else ())
        ]
        # Image by image, so that the order in the queue does not depend on the number of ranks or of micro-batches.
        remembered: dict[str, Tensor] = {
            tower: torch.stack([keys[view][tower] for _, view in directions], dim=1).flatten(0, 1)
            for tower in config.towers
        }
        return Scored(contrasts, jigsaw, remembered)

    @torch.no_grad()
    def _keys(self, images: Tensor, ranks: Ranks, step: int) -> dict[str, Tensor]:
        """Tower -> keys (B, D) of one view, uint8 (B, 3, S, S)."""

        config = self.config
        if (
            config.batchnorm == "synchronised"
        ):  # it talks to the other ranks on the way, which a recording cannot hold in general
            keys = self._encode_keys(images)
        else:
            encode = self._encode_keys
            if images.is_cuda and self.records_keys:
                encode = functools.partial(self._replay, self._encode_keys)
            keys = shuffled_forward(encode, images, ranks=ranks, seed=self.seed, step=step, over=config.shuffle_over)
        return dict(zip(self.key_networks, full_precision(keys).split(config.feature_dim, dim=1), strict=True))

    def _encode_keys(self, views: Tensor) -> Tensor:
        """Keys of all towers side by side, (B, towers x D), so that they are shuffled and gathered once."""
        return torch.cat([network(self._channels(views, tower)) for tower, network in self.key_networks.items()], dim=1)

    def _with_bank(self, embedded: dict[str, list[Embeddings]], batch: ViewBatch, ranks: Ranks, step: int) -> Scored:
        config, index = self.config, batch.index
        num_images = len(next(iter(self.memories.values())).features)
        # One set of draws for all towers and for the jigsaw branch.
        others = draw_others(num_images, config.bank_negatives, seed=self.seed, step=step, device=index.device)

        def against(query: Tensor | None, tower: str) -> ContrastOutput:
            assert query is not None
            return bank_nce(
                query=query,
                bank=self.memories[tower].features,
                index=index[: len(query)],
                others=others,
                temperature=config.temperature,
            )

        return Scored(
            [against(embedded[term.query][0].instance, term.key) for term in config.contrasts],
            [against(embedded[tower][0].jigsaw, tower) for tower in (config.towers if config.jigsaw else ())],
            {tower: full_precision(embedded[tower][0].instance.detach()) for tower in config.towers},
        )

    def _with_batch(self, embedded: dict[str, list[Embeddings]], batch: ViewBatch, ranks: Ranks, step: int) -> Scored:
        config, index = self.config, batch.index
        both = {tower: full_precision(embedded[tower][0].instance) for tower in config.towers}
        own = {tower: rows.view(2, len(index), -1) for tower, rows in both.items()}  # view, image, dimension
        everyone = {
            tower: gather_rows_with_gradient(rows, ranks).view(ranks.world_size, *own[tower].shape).transpose(0, 1)
            for tower, rows in both.items()
        }
        candidate_index = gather_rows(index, ranks).repeat(2)

        def against(query: Tensor, key: Tensor, candidates: tuple[Tensor, Tensor]) -> ContrastOutput:
            return batch_nce(
                query=query,
                key=key[: len(query)],
                index=index[: len(query)],
                candidates=torch.cat([view.flatten(0, 1) for view in candidates]),
                candidate_index=candidate_index,
                temperature=config.temperature,
            )

        contrasts = []
        for term in config.contrasts:
            one, two = own[term.query][0], own[term.key][1]
            candidates = everyone[term.query][0], everyone[term.key][1]
            contrasts.append(mean_output([against(one, two, candidates), against(two, one, candidates)]))
        jigsaw = []
        for tower in config.towers if config.jigsaw else ():
            query = embedded[tower][0].jigsaw
            assert query is not None
            jigsaw.append(against(query, own[tower][1], (everyone[tower][0], everyone[tower][1])))
        return Scored(contrasts, jigsaw, {tower: rows[1].detach() for tower, rows in own.items()})


def _alone_or_by_name(networks: Mapping[str, nn.Module]) -> nn.Module:
    """One tower's network itself, so that its state keeps the names of a method without towers."""
    return next(iter(networks.values())) if len(networks) == 1 else nn.ModuleDict(networks)


def _build_memory(config: MethodConfig, *, num_images: int, seed: int) -> FeatureQueue | FeatureBank | None:
    if config.memory == "queue":
        return FeatureQueue(config.queue_size, config.feature_dim, seed=seed)
    if config.memory == "bank":
        return FeatureBank(num_images, config.feature_dim, momentum=config.bank_momentum, seed=seed)
    return None


def batchnorm_groups(config: MethodConfig, *, batch_size: int, world_size: int, accumulate: int = 1) -> int:
    """Into how many groups a rank's share of a batch, or each of its micro-batches, is split for BatchNorm.

    Raises ConfigError where the batch has no equal shares, or where an image would be alone in a group.
    """
    shares = world_size * accumulate
    images, rest = divmod(batch_size, shares)
    if rest:
        by = f"{world_size} ranks" + (f" x {accumulate} micro-batches (optimizer.accumulate)" if accumulate > 1 else "")
        raise ConfigError(
            f"optimizer.batch_size {batch_size} is not divisible by {by}; "
            f"pass optimizer.batch_size={max(images, 2) * shares}"
        )
    if images < 2:
        each = f"each of {accumulate} micro-batches of " if accumulate > 1 else "each of "
        raise ConfigError(
            f"optimizer.batch_size={batch_size} gives {each}{world_size} rank(s) one image; BatchNorm expects at least 2: "
            f"pass optimizer.batch_size={2 * shares} or more"
            + (", or a smaller optimizer.accumulate" if accumulate > 1 else "")
        )
    if config.batchnorm_images < 2:
        raise ConfigError(
            f"method.batchnorm_images={config.batchnorm_images}: BatchNorm expects at least 2 images a group; pass "
            "method.batchnorm_images=2 or more"
        )
    # In a batch that is its own memory, groups would give the positive away: it is in its query's group, most negatives are not.
    together = config.memory in ("batch", "labels") or config.batchnorm == "synchronised"
    groups = 1 if together else num_groups(images, images_per_group=config.batchnorm_images)
    count = config.jigsaw_images(images)
    # The encoder sees nine patches of a jigsaw image, the head with BatchNorm one row of it.
    least = 2 * groups if config.head == "mlp_bn" else math.ceil(2 * groups / NUM_PATCHES)
    if config.jigsaw and count < least:
        raise ConfigError(
            f"method.jigsaw_fraction={config.jigsaw_fraction:g} sends {count} of a rank's {images} images through the jigsaw "
            f"branch, whose BatchNorm has {groups} group(s) (method.batchnorm_images={config.batchnorm_images}) and expects at "
            f"least {least} images; pass method.jigsaw_fraction={least / images:g} or more"
        )
    return groups


def rows_of_memory(state: Mapping[str, Tensor]) -> int:
    """Rows of the memory that a method's state holds: `num_images` to build a method with a bank again. 0 without a memory."""
    return max((len(rows) for name, rows in state.items() if name.endswith("features")), default=0)


def build_method(
    *,
    encoder: EncoderConfig,
    config: MethodConfig,
    contract: InputContract,
    seed: int,
    num_images: int = 0,
    batchnorm_groups: int = 1,
) -> Contrast:
    """The method that `config` describes; equal seeds give equal weights. Raises DataError for a bank of too few images.

    num_images: rows of a memory bank. batchnorm_groups: into how many groups each batch of this rank is split for BatchNorm.
    """
    return Contrast(
        encoder=encoder,
        config=config,
        contract=contract,
        seed=seed,
        num_images=num_images,
        batchnorm_groups=batchnorm_groups,
    )
