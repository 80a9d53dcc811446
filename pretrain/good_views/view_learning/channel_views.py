"""Frozen views by name: the channels of a colour space, or those of a learned generator.

In: "lab", or the path of a generator.safetensors. Out: RGB in [0, 1] -> three channels, of which the first is view 1 and the
second and third are view 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.base.errors import ConfigError
from pretrain.views.colour import colour_space
from pretrain.views.generator_file import load_generator

GENERATOR_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ChannelViews:
    """name: as given. to_channels: RGB (B, 3, H, W) -> (B, 3, H, W), normalised. about: what to write beside a figure."""

    name: str
    to_channels: Callable[[Tensor], Tensor]
    about: dict[str, Any]


def load_views(spec: str) -> ChannelViews:
    """Raises ConfigError for what is neither a colour space nor a file, CheckpointError for a file that is no generator."""
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
