"""The loader: batches of (epoch, index) in, batches of views out, the same for any number of worker processes.

In: an image source, a ViewMaker, the order of samples. Out: ViewBatch after ViewBatch. Nothing here draws at random.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from pretrain.base.signals import GROUP_SIGNALS, signals_wait
from pretrain.data.order import Key
from pretrain.data.source import ImageSource
from pretrain.views.pipeline import SampleViews, ViewMaker

BATCH_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Sample:
    """One image's views with its position in the source."""

    index: int
    views: SampleViews


@dataclass(frozen=True)
class ViewBatch:
    """index int64 (B,); images uint8 (B, V, 3, S, S); patches uint8 (B, 9, 3, P, P) and permutation int64 (B, 9), or None."""

    index: Tensor
    images: Tensor
    patches: Tensor | None = None
    permutation: Tensor | None = None

    def _map(self, change: Callable[[Tensor], Tensor]) -> ViewBatch:
        return ViewBatch(
            change(self.index),
            change(self.images),
            None if self.patches is None else change(self.patches),
            None if self.permutation is None else change(self.permutation),
        )

    def to(self, device: torch.device) -> ViewBatch:
        """On `device`; a copy from pinned memory does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ViewBatch:
        """In page-locked memory (DataLoader calls this)."""
        return self._map(Tensor.pin_memory)


class ViewDataset(Dataset):
    """(epoch, index) -> Sample. Each image is decoded once for all its views and patches."""

    def __init__(self, source: ImageSource, views: ViewMaker, *, seed: int) -> None:
        self.source = source
        self.views = views
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample:
        """Raises DataError if the file can no longer be read."""
        epoch, index = key
        image = read_image(self.source[index])
        return Sample(index, self.views(image, seed=self.seed, epoch=epoch, index=index))


def collate(samples: Sequence[Sample]) -> ViewBatch:
    """Stack samples. All of them have patches or none has."""
    patches = [sample.views.patches for sample in samples if sample.views.patches is not None]
    orders = [sample.views.permutation for sample in samples if sample.views.permutation is not None]
    return ViewBatch(
        index=torch.tensor([sample.index for sample in samples]),
        images=torch.stack([sample.views.images for sample in samples]),
        patches=torch.stack(patches) if patches else None,
        permutation=torch.stack(orders) if orders else None,
    )


class _WholeBatches(Dataset):
    """List of keys -> ViewBatch, or the DataError it met, as a value: across processes an exception becomes a traceback."""

    def __init__(self, dataset: ViewDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, keys: list[Key]) -> ViewBatch | DataError:
        try:
            return collate([self.dataset[key] for key in keys])
        except DataError as error:
            return DataError(str(error))


@dataclass(frozen=True)
class ViewLoader:
    """Iterates the batches of one pass over `loader`; see `build_loader`."""

    loader: DataLoader
    num_batches: int

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[ViewBatch]:
        with signals_wait():
            batches = iter(self.loader)  # starts the workers
        for batch in batches:
            if isinstance(batch, DataError):
                raise batch
            yield batch


def build_loader(
    dataset: ViewDataset, batches: Iterable[list[Key]], *, num_workers: int, pin_memory: bool = False
) -> ViewLoader:
    """Batches of views in the order of `batches` (e.g. sampler.RankBatches), whatever the number of workers.

    num_workers 0 works in this process. Let `batches` span epochs: the workers then live through all of them.
    pin_memory counts only where there is a CUDA device. Iterating raises DataError for a file that can no longer be read.
    """
    loader = DataLoader(
        _WholeBatches(dataset),
        batch_size=None,  # the sampler yields whole batches
        sampler=batches,
        collate_fn=_unchanged,
        num_workers=num_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        timeout=BATCH_TIMEOUT_SECONDS if num_workers else 0,
    )
    return ViewLoader(loader, len(batches) if isinstance(batches, Sized) else 0)


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Workers outlive a signal to the process group: the main process saves first and then ends them."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
