"""One decoded image -> its views and patches, as bytes. Normalisation comes later, on the training device.

The same image and (seed, epoch, index) give the same views anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.views.jigsaw import NUM_PATCHES, draw_permutation
from pretrain.views.operations import Frame
from pretrain.views.pixels import planes_into
from pretrain.views.recipes import Op, Recipe
from pretrain.views.rng import PAIR_STREAM, PATCHES_STREAM, PERMUTATION_STREAM, sample_generator

# One entry an operation of the recipe: its parameters, None where it does nothing to this view.
Drawn = tuple[Any, ...]


@dataclass(frozen=True)
class SampleViews:
    """What one image became.

    images: uint8 (V, 3, S, S) RGB.
    patches: uint8 (9, 3, P, P) row by row; None where no patches are made.
    permutation: int64 (9,), the order in which the jigsaw head takes the patches; None without them.
    """

    images: Tensor
    patches: Tensor | None
    permutation: Tensor | None


class ViewMaker:
    """Makes the views of one image by a recipe. Holds settings only, so that it is picklable and free to share."""

    def __init__(self, recipe: Recipe, *, image_size: int, num_views: int = 2, patch_size: int | None = None) -> None:
        """Sizes in pixels. patch_size None: no jigsaw patches.

        Raises ConfigError for sizes below 1, for a recipe of pairs that is asked for anything but two views or for
        patches, and for what an operation cannot be prepared with (an unknown colour space, a generator file).
        """
        if image_size < 1 or num_views < 1 or (patch_size is not None and patch_size < 1):
            raise ConfigError(f"views: expected sizes of at least 1, found {image_size=}, {num_views=}, {patch_size=}")
        if recipe.is_paired and num_views != 2:
            raise ConfigError(f"recipe {recipe.name} makes pairs of views; expected 2 views, found {num_views}")
        if recipe.is_paired and patch_size is not None:
            raise ConfigError(
                f"recipe {recipe.name} makes pairs of views, and jigsaw patches would show what each of them lacks; "
                "pass method.jigsaw=false"
            )
        for op in recipe.ops:
            op.prepare()
        self.recipe = recipe
        self.image_size = image_size
        self.num_views = num_views
        self.patch_size = patch_size

    def __call__(self, image: np.ndarray, *, seed: int, epoch: int, index: int) -> SampleViews:
        """The views of one image in arrays of their own, see `write`."""
        images = torch.empty(1, *self.views_shape, dtype=torch.uint8)
        keys = [(epoch, index)]
        self.write([image], images.numpy(), seed=seed, keys=keys)
        if self.patches_shape is None:
            return SampleViews(images[0], None, None)
        patches = torch.empty(1, *self.patches_shape, dtype=torch.uint8)
        permutation = torch.empty(1, NUM_PATCHES, dtype=torch.int64)
        self.write_patches([image], patches.numpy(), permutation.numpy(), seed=seed, keys=keys)
        return SampleViews(images[0], patches[0], permutation[0])

    @property
    def views_shape(self) -> tuple[int, int, int, int]:
        """(V, 3, S, S)."""
        return (self.num_views, 3, self.image_size, self.image_size)

    @property
    def patches_shape(self) -> tuple[int, int, int, int] | None:
        """(9, 3, P, P), None where no patches are made."""
        return None if self.patch_size is None else (NUM_PATCHES, 3, self.patch_size, self.patch_size)

    def write(
        self, images: Sequence[np.ndarray], out: np.ndarray, *, seed: int, keys: Sequence[tuple[int, int]]
    ) -> None:
        """Write the views of B images, uint8 (H, W, 3) each, into `out`, uint8 (B, *views_shape). keys: their (epoch, index).

        Every view, the pair, the patches and the permutation draw from a generator of their own, so B changes no pixel; but
        of several images all parameters are drawn first, then all boxes are resized, and last each view is finished: a stage's
        code, and then a view's pixels, stay in the processor's caches.
        Raises DataError for an image that is smaller than `recipe.smallest_side`.
        """
        drawn = [
            parameters
            for image, (epoch, index) in zip(images, keys, strict=True)
            for parameters in self._draw(image, seed=seed, epoch=epoch, index=index)
        ]
        crop, *others = self.recipe.ops
        places = list(np.ndindex(len(images), self.num_views))
        boxes = [
            crop.apply(parameters[0], images[place], view)
            for (place, view), parameters in zip(places, drawn, strict=True)
        ]
        for (place, view), parameters, box in zip(places, drawn, boxes, strict=True):
            planes_into(out[place, view], apply_ops(others, parameters[1:], box, view))

    def _draw(self, image: np.ndarray, *, seed: int, epoch: int, index: int) -> list[Drawn]:
        """Parameters of each view of one image."""
        frame = Frame(image.shape[0], image.shape[1], self.image_size)
        once: Drawn = ()
        if self.recipe.is_paired:
            rng = sample_generator(seed=seed, epoch=epoch, index=index, stream=PAIR_STREAM)
            once = draw_once(self.recipe, rng, frame)
        return [
            draw_view(self.recipe, sample_generator(seed=seed, epoch=epoch, index=index, view=view), frame, once)
            for view in range(self.num_views)
        ]

    def write_patches(
        self,
        images: Sequence[np.ndarray],
        out: np.ndarray,
        permutations: np.ndarray,
        *,
        seed: int,
        keys: Sequence[tuple[int, int]],
    ) -> None:
        """Write the patches of B images into `out`, uint8 (B, *patches_shape), and their orders into `permutations` (B, 9)."""
        assert self.patch_size is not None
        spec, cuts = self.recipe.patches, []
        for image, permutation, (epoch, index) in zip(images, permutations, keys, strict=True):
            height, width = image.shape[:2]
            rng = sample_generator(seed=seed, epoch=epoch, index=index, stream=PATCHES_STREAM)
            cuts.append(spec.draw(rng, height=height, width=width, patch_size=self.patch_size))
            order = sample_generator(seed=seed, epoch=epoch, index=index, stream=PERMUTATION_STREAM)
            permutation[:] = draw_permutation(order)
        for cut, image, patches in zip(cuts, images, out, strict=True):
            spec.apply(cut, image, patches)


def draw_once(recipe: Recipe, rng: np.random.Generator, frame: Frame) -> Drawn:
    """What the two views of an image share; None for every operation that is drawn for each view."""
    return tuple(op.draw(rng, frame) if op.shared else None for op in recipe.ops)


def draw_view(recipe: Recipe, rng: np.random.Generator, frame: Frame, once: Drawn = ()) -> Drawn:
    """Parameters of one view. once: what `draw_once` gave, for a recipe of pairs."""
    return tuple(once[position] if op.shared else op.draw(rng, frame) for position, op in enumerate(recipe.ops))


def apply_ops(ops: Sequence[Op], drawn: Drawn, image: np.ndarray, view: int = 0) -> np.ndarray:
    """Apply what was drawn for `ops`, in their order: uint8 (H, W, 3) -> uint8 (H, W, 3)."""
    for op, parameters in zip(ops, drawn, strict=True):
        if parameters is not None:
            image = op.apply(parameters, image, view)
    return image


def normalize(
    images: Tensor, contract: InputContract, *, dtype: torch.dtype = torch.float32, channels_last: bool = False
) -> Tensor:
    """uint8 RGB (..., 3, H, W) on any device -> (x / 255 - mean) / std in the contract's channel order, as `dtype`.

    Computed in float32 whatever `dtype` is. channels_last: memory format of the result, for (N, 3, H, W) only.
    """
    if contract.channel_order == "BGR":
        images = images.flip(-3)
    mean, std = _constants(contract.mean, contract.std, images.device)
    values = images.to(torch.float32).div_(255).sub_(mean).div_(std).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


@functools.cache
def _constants(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each, made once a device: a copy from the host makes it wait for all that a GPU has been given to do."""
    with torch.inference_mode(False):
        one, two = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
    return one, two
