"""The loader: batches of (epoch, index) in, batches of views out, the same for any number of worker processes.

Nothing here draws at random.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.util
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Protocol, TypeVar, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pretrain.base.errors import DataError, UserError
from pretrain.base.image_files import decode_image
from pretrain.base.signals import GROUP_SIGNALS, signals_wait
from pretrain.data.index import LostSourceError, Source
from pretrain.data.order import Key
from pretrain.views.jigsaw import NUM_PATCHES
from pretrain.views.pipeline import ViewMaker

BATCH_TIMEOUT_SECONDS = 600
# Images that are decoded before the first view of them is made: code and tables of each stage then stay in the processor's caches
# for the next image. One by one takes 1.20 times as long as 64 together, 8 together 1.09 times (photographs of 500 px); large
# images are fewer, so that they do not fill the memory.
GROUP_IMAGES, GROUP_BYTES = 64, 32_000_000
CLOSE_SECONDS = 1.0  # that workers have to end by themselves


@dataclass(frozen=True)
class ViewBatch:
    """Views of B images, on one device.

    index: int64 (B,), the images' positions in the source.
    images: uint8 (B, V, 3, S, S).
    patches: uint8 (B', 9, 3, P, P) of the first B' <= B images (of every micro-batch, see `ViewDataset`), or None.
    permutation: int64 (B', 9), or None.
    unreadable: (name, reason) of images that others stand in for, see `ViewDataset`.
    """

    index: Tensor
    images: Tensor
    patches: Tensor | None = None
    permutation: Tensor | None = None
    unreadable: tuple[tuple[str, str], ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> ViewBatch:
        """`change` applied to every tensor."""
        return replace(
            self,
            index=change(self.index),
            images=change(self.images),
            patches=None if self.patches is None else change(self.patches),
            permutation=None if self.permutation is None else change(self.permutation),
        )

    def split(self, count: int) -> list[ViewBatch]:
        """Micro-batches of equal size, in order; `unreadable` goes with the first. Raises ValueError for unequal shares."""
        if len(self.index) % count or (self.patches is not None and len(self.patches) % count):
            patches = "" if self.patches is None else f" and {len(self.patches)} images' patches"
            raise ValueError(f"{len(self.index)} images{patches} cannot be split into {count} equal micro-batches")
        shares = zip(
            self.index.chunk(count),
            self.images.chunk(count),
            [None] * count if self.patches is None else self.patches.chunk(count),
            [None] * count if self.permutation is None else self.permutation.chunk(count),
            (self.unreadable, *[()] * (count - 1)),
            strict=True,
        )
        return [ViewBatch(*share) for share in shares]

    def to(self, device: torch.device) -> ViewBatch:
        """On `device`; a copy from pinned memory does not wait."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ViewBatch:
        """In page-locked memory (DataLoader calls this)."""
        return self.map(Tensor.pin_memory)


class ViewDataset(Dataset):
    """A batch's keys -> ViewBatch. Each image is decoded once for all its views and patches, which are written where they stay.

    skip_unreadable: an image that cannot be decoded is replaced by the next one of the source that can (the first one follows
    the last), in the views that the missing image would have had. So a batch depends on keys and files alone.
    jigsaw_images: how many images get patches, the first ones of a batch (its order is random); None: all of them.
    micro_batches: equal shares that a batch will be split into, each with `jigsaw_images` of its own.
    """

    def __init__(
        self,
        source: Source,
        views: ViewMaker,
        *,
        seed: int,
        skip_unreadable: bool = False,
        jigsaw_images: int | None = None,
        micro_batches: int = 1,
    ) -> None:
        self.source = source
        self.views = views
        self.seed = seed
        self.skip_unreadable = skip_unreadable
        self.jigsaw_images = jigsaw_images
        self.micro_batches = micro_batches

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, keys: list[Key]) -> ViewBatch | DataError:
        """The DataError of a file that cannot be read is a value: an exception would reach the main process as a traceback."""
        unreadable: list[tuple[str, str]] = []
        positions: list[int] = []
        images = _empty(torch.uint8, len(keys), *self.views.views_shape)
        patches, permutation = None, None
        takes_patches = [False] * len(keys)
        if self.views.patches_shape is not None:
            takes_patches = self._takes_patches(len(keys))
            patches = _empty(torch.uint8, sum(takes_patches), *self.views.patches_shape)
            permutation = _empty(torch.int64, sum(takes_patches), NUM_PATCHES)
        try:
            for group in self._groups(keys, unreadable):
                first, last = len(positions), len(positions) + len(group)
                positions += [position for position, _ in group]
                pixels = [image for _, image in group]
                self.views.write(pixels, images[first:last].numpy(), seed=self.seed, keys=keys[first:last])
                if patches is not None and permutation is not None and any(takes_patches[first:last]):
                    rows = slice(sum(takes_patches[:first]), sum(takes_patches[:last]))
                    self.views.write_patches(
                        list(compress(pixels, takes_patches[first:last])),
                        patches[rows].numpy(),
                        permutation[rows].numpy(),
                        seed=self.seed,
                        keys=list(compress(keys[first:last], takes_patches[first:last])),
                    )
        except DataError as error:
            return (LostSourceError if isinstance(error, LostSourceError) else DataError)(str(error))
        return ViewBatch(torch.tensor(positions), images, patches, permutation, tuple(unreadable))

    def _takes_patches(self, batch_size: int) -> list[bool]:
        """Whether the image at each place of a batch gets patches."""
        share = -(-batch_size // self.micro_batches)
        count = share if self.jigsaw_images is None else self.jigsaw_images
        return [place % share < count for place in range(batch_size)]

    def _groups(self, keys: Sequence[Key], unreadable: list[tuple[str, str]]) -> Iterator[list[tuple[int, np.ndarray]]]:
        """What `read` gives for the images of a batch, some at a time."""
        group: list[tuple[int, np.ndarray]] = []
        held = 0  # bytes
        for _, index in keys:
            position, image = self.read(index, unreadable)
            group.append((position, image))
            held += image.nbytes
            if len(group) == GROUP_IMAGES or held >= GROUP_BYTES:
                yield group
                group, held = [], 0
        if group:
            yield group

    def read(self, index: int, unreadable: list[tuple[str, str]]) -> tuple[int, np.ndarray]:
        """(position, pixels) of the image at `index`, or of the one that stands in for it; what is wrong joins `unreadable`.

        Raises DataError for a file that cannot be read, unless `skip_unreadable` and another one can.
        """
        for step in range(len(self.source)):
            position = (index + step) % len(self.source)
            where = self.source.where(position)
            try:
                return position, decode_image(self.source.read(position), name=where)
            except DataError as error:
                if not self.skip_unreadable or isinstance(error, LostSourceError):
                    raise
                unreadable.append((self.source.name(position), str(error).removeprefix(f"{where}: ")))
        raise DataError(f"{self.source.root}: none of the {len(self.source)} images can be read")


AKey = TypeVar("AKey")
ABatch = TypeVar("ABatch", covariant=True)


class BatchSource(Protocol[AKey, ABatch]):
    """Keys -> a batch, or the DataError of what it could not read as a value: an exception would arrive as a traceback."""

    def __getitem__(self, keys: list[AKey], /) -> ABatch | DataError: ...


def build_loader(
    dataset: BatchSource[AKey, ABatch], batches: Iterable[list[AKey]], *, num_workers: int, pin_memory: bool = False
) -> Iterator[ABatch]:
    """What `dataset` makes of `batches` (e.g. order.RankBatches), in their order, whatever the number of workers.

    num_workers 0 works in this process. Let `batches` span epochs: the workers then live through all of them.
    pin_memory counts only where there is a CUDA device. Raises DataError for a file that cannot be read.
    """
    loader = DataLoader(
        cast(Any, dataset),  # torch's Dataset has one item a key
        batch_size=None,  # the sampler yields whole batches
        sampler=batches,
        collate_fn=_unchanged,
        num_workers=num_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=start_worker,
    )
    others = set(multiprocessing.active_children())
    with signals_wait():
        loaded: Any = iter(loader)  # starts the workers
    workers = set(multiprocessing.active_children()) - others
    # At its end multiprocessing sends SIGTERM, which the workers ignore, and waits for them: kill them before that.
    at_exit = multiprocessing.util.Finalize(None, _kill_at_exit, args=(workers,), exitpriority=0)
    try:
        while True:
            try:
                batch = _next_in_time(loaded, workers)
            except StopIteration:
                return
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        if workers:
            _shut_down(loaded, workers)
        _kill(workers)
        at_exit.cancel()


def _shut_down(loaded: Any, workers: Collection[Any]) -> None:
    """torch asks the workers to end and would wait 10 s for each that is busy or hangs. They hold nothing: kill them sooner."""
    clock = threading.Timer(CLOSE_SECONDS, _kill, [workers])
    clock.daemon = True
    clock.start()
    # torch's handler of SIGCHLD raises for a worker that was killed here, or just before because it hung: what ended the run
    # must not be replaced by that.
    # In a thread: a worker that was killed may have held a lock of its queues, for which torch would wait for ever.
    ending = threading.Thread(target=_end_workers, args=(loaded,), daemon=True)
    ending.start()
    deadline = time.monotonic() + 2 * CLOSE_SECONDS + 5
    while ending.is_alive() and time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError):
            ending.join(0.1)
    clock.cancel()


def _end_workers(loaded: Any) -> None:
    with contextlib.suppress(RuntimeError):
        loaded._shutdown_workers()


def _kill(workers: Collection[Any]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _kill_at_exit(workers: Collection[Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise for each
    _kill(workers)


def _next_in_time(loaded: Iterator[Any], workers: Collection[Any]) -> Any:
    """The next batch. Raises UserError when none comes in time, RuntimeError ("DataLoader worker ...") when a worker is gone.

    DataLoader's own timeout does not count while it fetches the memory of a batch from a worker that hangs. So the workers are
    killed here, which wakes it; they hear no other signal, and this process would wait for them at its end.
    """
    if not workers:
        return next(loaded)
    late = threading.Event()

    def end() -> None:
        late.set()
        for worker in workers:
            worker.kill()

    clock = threading.Timer(BATCH_TIMEOUT_SECONDS, end)
    clock.daemon = True
    clock.start()
    try:
        return next(loaded)
    except (RuntimeError, EOFError, OSError) as error:
        if late.is_set():
            raise UserError(
                f"no batch came from the {len(workers)} loader processes in {BATCH_TIMEOUT_SECONDS} s: the disk or network of the "
                "images does not answer, or is far too slow; the same command goes on"
            ) from error
        if any(not worker.is_alive() for worker in workers):
            raise RuntimeError(f"DataLoader worker is gone: {error}") from error
        raise
    finally:
        clock.cancel()


def on_device(
    batches: Iterable[ViewBatch],
    device: torch.device,
    *,
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Iterator[ViewBatch]:
    """`batches` on `device`. On a GPU each is copied by a stream of its own, while the step before it is still being computed.

    The host asks for a batch as soon as it has handed out the step before it (nothing in a step waits for the device), so the
    copy is one step ahead of the device and no batch is read ahead of what a stop or a checkpoint would see.
    around: a context for each copy, entered in its stream (pretrain/profile.py).
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    for batch in batches:
        computing = torch.cuda.current_stream(device)
        with torch.cuda.stream(copying), around():
            moved = batch.to(device)
        computing.wait_stream(copying)
        moved.map(lambda tensor, computing=computing: tensor.record_stream(computing) or tensor)  # type: ignore[func-returns-value,misc]
        yield moved


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    """Uninitialised; in a worker process in memory shared with the main one, so that nothing is copied on the way there."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    storage = torch.UntypedStorage._new_shared(size, device="cpu")  # as torch's own collate does
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(dtype).view(shape)


def _unchanged(batch: Any) -> Any:
    return batch


def start_worker(worker: int) -> None:
    """Workers outlive a signal to the process group: the main process saves first and then ends them."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
