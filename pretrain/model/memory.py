"""Memory of past embeddings: where negatives and, with a bank, positives come from [specification 1.5].

Every pointer is a buffer, so a resumed run overwrites the right rows. A batch that is its own memory needs nothing of this.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.base.errors import ConfigError, DataError
from pretrain.config import MethodConfig, fitting_queue_size
from pretrain.views.rng import NEGATIVES_STREAM, sample_generator


class FeatureQueue(nn.Module):
    """A ring of the last K keys, `features` (K, D) [specification 1.5]. K need not be a multiple of the batch: the index wraps.

    The reference keeps the ring pointer as a plain int and loses it on resume; here it is the buffer `pointer`.
    """

    features: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, *, seed: int) -> None:
        """size K and dim D; rows start as random unit vectors drawn from `seed` (equal on every rank)."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = F.normalize(torch.randn(size, dim, generator=generator), dim=1)
        self.register_buffer("features", start)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, *, sound: Tensor | None = None) -> None:
        """Overwrite the oldest rows by `keys` (B, D) of all ranks, B <= K, and move the pointer. Raises ConfigError for B > K.

        sound: 0-d bool on the device; where it is False the rows stay as they are.
        """
        size, count = self.features.shape[0], keys.shape[0]
        if count > size:
            raise ConfigError(
                f"queue: {count} keys do not fit into {size} rows; raise method.queue_size to at least {count}"
            )
        rows = (self.pointer + torch.arange(count, device=keys.device)) % size
        keys = keys.to(self.features.dtype)
        if sound is not None:
            keys = torch.where(sound, keys, self.features[rows])
        self.features.index_copy_(0, rows, keys)
        self.pointer.copy_((self.pointer + count) % size)


class FeatureBank(nn.Module):
    """One row an image, `features` (N, D): a running mean of its embeddings [specification 1.5]."""

    features: Tensor

    def __init__(self, num_images: int, dim: int, *, momentum: float, seed: int) -> None:
        """Rows start as random unit vectors drawn from `seed` (equal on every rank)."""
        super().__init__()
        self.momentum = momentum
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("features", F.normalize(torch.randn(num_images, dim, generator=generator), dim=1))

    def update(self, embeddings: Tensor, *, index: Tensor, sound: Tensor | None = None) -> None:
        """Move the rows `index` (B,) towards `embeddings` (B, D) of all ranks (`move_rows`)."""
        move_rows(self.features, embeddings, index=index, momentum=self.momentum, sound=sound)


@torch.no_grad()
def move_rows(rows: Tensor, embeddings: Tensor, *, index: Tensor, momentum: float, sound: Tensor | None = None) -> None:
    """rows[index] <- momentum * rows[index] + (1 - momentum) * embeddings, of unit length again, in place.

    rows (N, D), embeddings (B, D), index (B,). Of an image that comes more than once its last embedding counts, on any device.
    sound: 0-d bool on the device; where it is False the rows stay as they are.
    """
    # Writes of one row in one call have no order on a GPU, so all of them write the same.
    ordered, order = torch.sort(index, stable=True)
    embeddings = embeddings[order[torch.searchsorted(ordered, index, right=True) - 1]].to(rows.dtype)
    before = rows[index]
    moved = F.normalize(momentum * before + (1 - momentum) * embeddings, dim=1)
    rows[index] = moved if sound is None else torch.where(sound, moved, before)


def draw_others(num_rows: int, count: int, *, seed: int, step: int, device: torch.device) -> Tensor:
    """`count` uniform draws with replacement from a bank of `num_rows` without one row, whichever that is: int64 in
    [0, num_rows - 1). A function of (seed, step), so equal on every rank. loss.bank_logits turns them into rows.
    """
    generator = sample_generator(seed=seed, epoch=step, index=0, stream=NEGATIVES_STREAM)
    others = torch.from_numpy(generator.integers(0, num_rows - 1, count))
    if device.type == "cuda":  # only from page-locked memory does a copy not wait for the device
        others = others.pin_memory()
    return others.to(device, non_blocking=True)


def require_enough_rows(*, num_negatives: int, num_images: int, key: str) -> None:
    """Raise DataError where a bank has fewer rows than a query takes negatives; `key` names their number in the configuration.

    They are drawn with replacement, so that any number could be; beyond the other images more draws are repetitions.
    """
    others = num_images - 1
    if num_negatives > others:
        raise DataError(
            f"{key} expected at most {others} (the memory bank has one row an image, and {num_images} images), found "
            f"{num_negatives}; pass {key}={others}, or add images"
        )


def require_memory(config: MethodConfig, *, num_images: int) -> None:
    """Raise DataError for a memory that `num_images` cannot fill sensibly (`require_enough_rows`)."""
    if config.memory == "bank":
        require_enough_rows(num_negatives=config.bank_negatives, num_images=num_images, key="method.bank_negatives")


FEW_NEGATIVES = 126  # of a batch of 64


def memory_warnings(
    config: MethodConfig, *, num_images: int, batch_size: int, accumulate: int, epochs: int, world_size: int
) -> list[str]:
    """What a user should know of a method's memory before the run. batch_size: of all ranks, a whole step."""
    warnings: list[str | None] = []
    if config.memory == "queue":
        keys_per_image = 2 if config.symmetric else 1
        warnings.append(
            warning_of_own_keys(
                queue_size=config.queue_size,
                num_images=num_images,
                batch_size=batch_size,
                keys_per_image=keys_per_image,
            )
        )
    elif config.memory == "bank" and epochs == 1:
        warnings.append(
            "method.memory=bank: the rows of the bank start at random and are first written when their image is seen, so that in "
            "a run of one epoch every positive is a random vector. Pass optimizer.epochs of 2 or more"
        )
    elif config.memory == "batch":
        batch_size //= accumulate
        negatives = 2 * batch_size - 2
        if negatives < FEW_NEGATIVES:
            warnings.append(
                f"method.memory=batch: a {'micro-' if accumulate > 1 else ''}batch of {batch_size} gives a query {negatives} negatives, so that the loss tells at most "
                f"ln({negatives + 1}) = {math.log(negatives + 1):.1f} nats of information. Pass a larger optimizer.batch_size, or a method "
                "with a queue (--method moco_v2)"
            )
        if world_size > 1 and config.batchnorm != "synchronised":
            warnings.append(
                "method.memory=batch: every rank has BatchNorm statistics of its own, which its positives share and most negatives "
                "do not. Pass method.batchnorm=synchronised"
            )
    return [warning for warning in warnings if warning is not None]


def warning_of_own_keys(*, queue_size: int, num_images: int, batch_size: int, keys_per_image: int = 1) -> str | None:
    """A message where the queue holds more keys than there are images, so that older keys of an image are among its negatives.

    Epochs are independent permutations of N images: with K <= N a share K^2 / (2 N^2) of them meets a key of its own.
    keys_per_image: keys that a step enqueues of an image; the keys in the queue are of so many times fewer images.
    """
    if queue_size <= num_images * keys_per_image:
        return None
    fitting = fitting_queue_size(num_images=num_images, batch_size=batch_size, keys_per_image=keys_per_image)
    return (
        f"method.queue_size={queue_size} holds more keys than there are images ({num_images}), so that older keys of an image "
        f"are among its negatives. Pass method.queue_size={fitting} "
        f"({50 * (fitting / keys_per_image / num_images) ** 2:.0f} % of the images then meet a key of their own)"
    )
