"""Methods of a few thousand weights in float64, and batches for them: what is compared is the method, not the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.base.contract import InputContract
from pretrain.base.strict import from_mapping, merge
from pretrain.config import EncoderConfig, MethodConfig, method_values
from pretrain.data.loader import ViewBatch
from pretrain.model import contrast

PRESETS = ("instdis", "cmc", "moco_v1", "pirl", "moco_v2", "cmc_v2", "infomin", "simclr")
SEED, NUM_IMAGES, SIDE, PATCH = 3, 23, 8, 6


class TinyEncoder(nn.Sequential):
    """Any channels -> 12 features, with a BatchNorm."""

    feature_dim = 12

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 12, 3, stride=2, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def use_tiny_encoders(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(contrast, "build_encoder", lambda config, *, tower: TinyEncoder(contrast.NUM_CHANNELS[tower]))


def preset(name: str, **over) -> MethodConfig:
    """The shipped method with small sizes. K = 10 is no multiple of a batch of 4 or 6."""
    values = merge(method_values(name)["method"], {"queue_size": 10, "bank_negatives": 15, "feature_dim": 8, **over})
    return from_mapping(MethodConfig, values, where="test")


def build(config: MethodConfig, *, seed: int = SEED) -> contrast.Contrast:
    """In float64, in training mode."""
    method = contrast.build_method(
        encoder=EncoderConfig(), config=config, contract=InputContract(), seed=seed, num_images=NUM_IMAGES
    )
    return method.double().train()


def batch_of(size: int, *, step: int, index: list[int] | None = None) -> ViewBatch:
    """A step's batch: different images, unless `index` says which."""
    rng = np.random.default_rng((SEED, step))
    chosen = rng.permutation(NUM_IMAGES)[:size] if index is None else np.array(index)

    def pixels(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))

    return ViewBatch(
        index=torch.from_numpy(chosen).long(),
        images=pixels(size, 2, 3, SIDE, SIDE),
        patches=pixels(size, 9, 3, PATCH, PATCH),
        permutation=torch.from_numpy(np.stack([rng.permutation(9) for _ in range(size)])),
    )
