"""Memory of past keys: the negatives. Every pointer is a buffer, so a resumed run overwrites the right rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.base.errors import ConfigError


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


def warning_of_own_keys(*, queue_size: int, num_images: int, batch_size: int) -> str | None:
    """A message where the queue holds more keys than there are images, so that older keys of an image are among its negatives.

    Epochs are independent permutations of N images: with K <= N a share K^2 / (2 N^2) of them meets a key of its own.
    """
    if queue_size <= num_images:
        return None
    fitting = max(num_images // 4 // batch_size, 1) * batch_size
    return (
        f"method.queue_size={queue_size} holds more keys than there are images ({num_images}), so that older keys of an image "
        f"are among its negatives. Pass method.queue_size={fitting} ({50 * (fitting / num_images) ** 2:.0f} % of the images "
        "then meet a key of their own)"
    )
