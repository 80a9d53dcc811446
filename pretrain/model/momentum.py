"""The key network: a slow copy of the query network, fed with shuffled batches [specification 1.5]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pretrain.run.ranks import Ranks, gather_rows


@torch.no_grad()
def start_key(*, query: nn.Module, key: nn.Module) -> None:
    """Make `key` a copy of `query` (parameters and buffers) that takes no gradient."""
    own = query.state_dict()
    key.load_state_dict({name: own[name] for name in key.state_dict()})
    key.requires_grad_(False)


@torch.no_grad()
def update_key(*, query: nn.Module, key: nn.Module, momentum: float) -> None:
    """key <- momentum * key + (1 - momentum) * query, parameters only.

    BatchNorm buffers are not averaged: the key network runs in training mode on its own (shuffled) batches and keeps its
    own running statistics. Those are never read while training; converting the key branch uses them.
    """
    source = dict(query.named_parameters())
    names = [name for name, _ in key.named_parameters()]
    keys = [parameter.data for _, parameter in key.named_parameters()]
    torch._foreach_lerp_(keys, [source[name].data for name in names], 1.0 - momentum)


@torch.no_grad()
def shuffled_forward(
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    ranks: Ranks,
    seed: int,
    step: int,
    over: Literal["world", "node"] = "world",
) -> Tensor:
    """Keys of `images` (B, ...), each computed in a batch mixed over ranks (ShuffleBN), returned in own order (B, D).

    BatchNorm statistics would otherwise tell query and key that they belong together (pretrain/model/batchnorm.py). The
    permutation is drawn from (seed, step), so it is equal on all ranks. With one rank it mixes the groups of that rank's
    batch. over: "world" mixes over all ranks, as MoCo does; "node" over those of a machine, as the reference: no image
    then leaves its machine, and all machines use the same permutation.
    """
    members = ranks.ranks_of_node if over == "node" else range(ranks.world_size)
    place = members.index(ranks.rank)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    everyone = gather_rows(images, ranks, over=over)
    permutation = torch.randperm(everyone.shape[0], generator=generator)
    if images.is_cuda:  # only from page-locked memory does a copy not wait for the device
        permutation = permutation.pin_memory()
    permutation = permutation.to(images.device, non_blocking=True)
    mine = permutation.view(len(members), -1)[place]
    shuffled_keys = gather_rows(encode(everyone[mine]), ranks, over=over)
    inverse = torch.argsort(permutation)
    return shuffled_keys[inverse.view(len(members), -1)[place]]
