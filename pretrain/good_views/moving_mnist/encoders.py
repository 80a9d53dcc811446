"""Encoders of the two views: a sequence of frames and a single image. Both see uint8 and look at one frame alike.

In: view 1 uint8 (B, T, 3, H, W) or view 2 uint8 (B, 3, H, W). Out: features (B, feature_dim), which the probes read.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from pretrain.good_views.encoders import SmallEncoder
from pretrain.good_views.moving_mnist.config import EncoderConfig, SceneConfig
from pretrain.good_views.pairs import PairEncoders

# Of natural images in general; InfoNCE needs no better.
MEAN, DEVIATION = 0.45 * 255, 0.25 * 255


class ImageEncoder(nn.Module):
    """The convolutions of SmallEncoder; then, instead of the mean over the image, what and where: the largest value of each
    channel anywhere, and num_points places.

    A mean over the image would lose where the digit is. A flattened map keeps it, but must learn each digit anew in every
    place: supervised for 300 steps, the digit's cross-entropy was 1.5 with a flattened map and 0.9 with this (two cores).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.feature_dim = config.feature_dim
        self.input_pixels = config.input_pixels
        channels = 4 * config.width
        self.layers = SmallEncoder(3, width=config.width, feature_dim=channels).layers
        self.points = nn.Conv2d(channels, config.num_points, kernel_size=1)
        # Places start out in a far narrower range than values: without BatchNorm positions were not found in 200 steps.
        self.norm = nn.BatchNorm1d(channels + 2 * config.num_points)
        self.project = nn.Linear(channels + 2 * config.num_points, config.feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """images uint8 (B, 3, H, W), H and W multiples of input_pixels -> (B, feature_dim)."""
        frames = average_cells(images.float(), images.shape[-1] // self.input_pixels)
        cells = self.layers(frames * (1 / DEVIATION) - MEAN / DEVIATION)
        what = torch.amax(cells, dim=(2, 3))
        where = expected_places(self.points(cells))
        return self.project(self.norm(torch.cat((what, torch.flatten(where, 1)), dim=1)))


def expected_places(maps: Tensor) -> Tensor:
    """maps (B, K, H, W) -> (B, K, 2): mean x and y under the softmax of each map, in [-1, 1] from edge to edge.

    Source: spatial soft-argmax (Finn et al. 2016).
    """
    weights = maps.flatten(2).softmax(dim=2).view_as(maps)
    across, down = (torch.linspace(-1, 1, size, device=maps.device) for size in (maps.shape[3], maps.shape[2]))
    return torch.stack((weights.sum(2) @ across, weights.sum(3) @ down), dim=2)


def average_cells(images: Tensor, factor: int) -> Tensor:
    """(..., H, W) -> (..., H / factor, W / factor), means of squares: on a CPU a third of avg_pool2d's time."""
    if factor == 1:
        return images
    rows = functools.reduce(torch.add, [images[..., row::factor, :] for row in range(factor)])
    return functools.reduce(torch.add, [rows[..., column::factor] for column in range(factor)]) / factor**2


class SequenceEncoder(nn.Module):
    """An ImageEncoder on every frame, then two temporal convolutions and a linear layer over all times.

    The last layer sees which frame is which: a motion that goes on is a linear function of positions in order.
    """

    def __init__(self, config: EncoderConfig, *, num_frames: int) -> None:
        super().__init__()
        self.feature_dim = config.feature_dim
        self.frames = ImageEncoder(config)
        self.temporal = nn.Sequential(
            nn.Conv1d(config.feature_dim, config.feature_dim, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm1d(config.feature_dim),
            nn.ReLU(inplace=True),
            nn.Conv1d(config.feature_dim, config.feature_dim, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm1d(config.feature_dim),
            nn.ReLU(inplace=True),
        )
        self.project = nn.Linear(config.feature_dim * num_frames, config.feature_dim)

    def forward(self, sequences: Tensor) -> Tensor:
        """sequences uint8 (B, T, 3, H, W), T = num_frames -> (B, feature_dim)."""
        count, num_frames = sequences.shape[:2]
        features = self.frames(sequences.flatten(0, 1)).view(count, num_frames, -1)
        return self.project(torch.flatten(self.temporal(features.transpose(1, 2)), 1))


def build_encoders(config: EncoderConfig, scene: SceneConfig, *, seed: int) -> PairEncoders:
    """Fresh networks, a function of the seed alone: the sharings of a seed start from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PairEncoders(
            SequenceEncoder(config, num_frames=scene.num_frames),
            ImageEncoder(config),
            embedding_dim=config.head_dim,
            head=config.head,
        )
