"""What the encoders and heads of a method make of whole images, tower by tower: for figures, not for training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pretrain.base.contract import InputContract
from pretrain.views.pipeline import normalize


def tower_outputs(method: Any, images: Tensor, contract: InputContract) -> list[tuple[Tensor, Tensor]]:
    """uint8 RGB (B, 3, S, S) on the method's device -> of each tower its features (B, F) and unit embeddings (B, D)."""
    query = method.query
    features = query.encoder(normalize(images, contract))
    return [(features, query.head(features))]
