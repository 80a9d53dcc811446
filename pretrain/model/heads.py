"""Projection heads: features to unit vectors on the hypersphere where views are compared [specification 1.3].

The paper's heads ("linear", "mlp") have no BatchNorm; "mlp_bn" is MoCo v3's (Chen et al., 2021).

Why "mlp_bn" exists: ReLU features have a large common mean, so all embeddings of a fresh network lie in a narrow cone. In runs
of a few hundred steps with InfoMin's views and the paper's head, the keys of a batch became one vector that kept away from the
older keys in the queue; without a mean there is no such direction (the log is in docs/results.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_PATCHES = 9


def projection(kind: str, in_dim: int, out_dim: int) -> nn.Module:
    """kind "linear": Linear(in, out); "mlp": Linear(in, in), ReLU, Linear(in, out); "mlp_bn": the same without biases and
    with BatchNorm after each Linear, the last one without scale and shift."""
    if kind == "linear":
        return nn.Linear(in_dim, out_dim)
    if kind == "mlp_bn":
        return nn.Sequential(
            nn.Linear(in_dim, in_dim, bias=False),
            nn.BatchNorm1d(in_dim),
            nn.ReLU(inplace=True),
            nn.Linear(in_dim, out_dim, bias=False),
            nn.BatchNorm1d(out_dim, affine=False),
        )
    assert kind == "mlp", kind
    return nn.Sequential(nn.Linear(in_dim, in_dim), nn.ReLU(inplace=True), nn.Linear(in_dim, out_dim))


class ProjectionHead(nn.Module):
    """Features (B, in_dim) -> unit embeddings (B, out_dim)."""

    def __init__(self, kind: str, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = projection(kind, in_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.layers(features), dim=1)


class JigsawHead(nn.Module):
    """Features of nine patches an image -> one unit embedding an image, whatever the order of the patches.

    Each patch is projected (own head), the nine projections of an image are permuted, concatenated (9 x out_dim) and
    mixed by one linear layer with no nonlinearity before it [specification 1.3, PIRL's branch].
    """

    def __init__(self, kind: str, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.patch_layers = projection(kind, in_dim, out_dim)
        self.mix = nn.Linear(NUM_PATCHES * out_dim, out_dim)
        self.norm = nn.BatchNorm1d(out_dim, affine=False) if kind == "mlp_bn" else nn.Identity()

    def forward(self, features: Tensor, *, permutation: Tensor) -> Tensor:
        """features (9B, in_dim), nine consecutive rows an image; permutation (B, 9), each row one of 0..8 -> (B, out_dim)."""
        patches = self.patch_layers(features)
        patches = patches.view(-1, NUM_PATCHES, patches.shape[1])
        order = permutation.unsqueeze(-1).expand_as(patches)
        shuffled = torch.gather(patches, 1, order)
        return F.normalize(self.norm(self.mix(shuffled.flatten(1))), dim=1)
