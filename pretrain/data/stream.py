"""From a configuration to the stream of view batches of one rank."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain.base.errors import DataError
from pretrain.config import RunConfig
from pretrain.data.archives import ArchiveSource
from pretrain.data.index import LostSourceError, Source
from pretrain.data.labels import folder_labels
from pretrain.data.loader import ViewBatch, ViewDataset, build_loader
from pretrain.data.manifest import ImageSetRecord, check_image_set, refuse_small_images, write_record
from pretrain.data.order import Batches, RankBatches, ShardBatches, global_batches, require_one_batch
from pretrain.data.shards import Fetcher
from pretrain.run.ranks import Ranks
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipe_file import recipe_of
from pretrain.views.sheet import draw_sheet, save_png

SHEET_IMAGES = 6
SHOWN_CLASSES = 4
RUN_ON = (
    "put the file back as it was, or give the same command with data.skip_unreadable=true, which lets the next readable image "
    "stand in for it"
)
Report = tuple[str | None, tuple[tuple[str, str], ...]]  # what one rank says of its batch: an error, unreadable images
NOTHING: Report = (None, ())


@dataclass(frozen=True)
class ViewStream:
    """Batches of views, a pure function of (seed, step) whatever the number of workers or the point of restart.

    towers: what the method's towers see of a view (MethodConfig.towers); the views sheet shows it.
    labels: (N,) int64, the classes of the images, where the method learns from them (pretrain/data/labels.py).
    control: a process group on the CPU over which ranks tell each other of unreadable images, None for a rank alone.
    output_dir: where the first rank records them, None for no record.
    """

    dataset: ViewDataset
    record: ImageSetRecord
    batches_of_run: Batches
    ranks: Ranks
    num_workers: int
    pin_memory: bool
    announce: Callable[[str], None]
    towers: tuple[str, ...] = ("RGB",)
    output_dir: Path | None = None
    labels: torch.Tensor | None = None
    control: Any = None

    @property
    def source(self) -> Source:
        """The images."""
        return self.dataset.source

    @property
    def num_classes(self) -> int | None:
        """Of supervised training, else None."""
        return None if self.labels is None else int(self.labels.max()) + 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches an epoch; the incomplete last one is dropped."""
        return self.batches_of_run.steps_per_epoch

    def batches(self, *, from_step: int, num_steps: int) -> Iterator[ViewBatch]:
        """This rank's share of the global batches `from_step` .. `from_step + num_steps` - 1.

        Raises DataError on every rank, before the step, when one of them meets an image that cannot be read. With
        skip_unreadable that image is replaced (`ViewDataset`), reported and recorded.
        """
        sampler = RankBatches(
            self.batches_of_run,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            from_step=from_step,
            num_steps=num_steps,
        )
        loader = build_loader(self.dataset, sampler, num_workers=self.num_workers, pin_memory=self.pin_memory)
        replaced = set(self.record.replaced)
        fetcher = None
        if isinstance(self.source, ArchiveSource) and isinstance(self.batches_of_run, ShardBatches):
            fetcher = Fetcher(self.source, self.batches_of_run)
        for step in range(from_step, from_step + num_steps):
            try:
                batch = next(loader)  # the first one starts the workers
                report: Report = (None, batch.unreadable)
            except DataError as error:
                report = (self._in_words(error), ())
            if fetcher is not None:  # after that: no worker is forked while the fetcher's thread holds a lock
                fetcher.at(step)
            reports = self._exchange(report)
            for error_text, _ in reports:
                if error_text is not None:
                    raise DataError(error_text)
            found = {name: reason for _, unreadable in reports for name, reason in unreadable if name not in replaced}
            if found:
                replaced |= set(found)
                self._record(found, replaced)
            yield batch

    def _in_words(self, error: DataError) -> str:
        """With what to do, where another image may stand in for one that cannot be read, and none does yet."""
        final = self.dataset.skip_unreadable or isinstance(error, LostSourceError)
        return str(error) if final else f"{error}; {RUN_ON}"

    def _exchange(self, report: Report) -> list[Report]:
        """The reports of all ranks where one has something to say. On the CPU, so that no GPU is waited for."""
        if self.control is None:
            return [report]
        anything = torch.tensor([int(report != NOTHING)])
        dist.all_reduce(anything, op=dist.ReduceOp.MAX, group=self.control)
        if not anything.item():
            return [report]
        reports: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(reports, report, group=self.control)
        return reports

    def _record(self, found: dict[str, str], replaced: set[str]) -> None:
        for name, reason in found.items():
            self.announce(
                f"{name}: {reason}; the next readable image stands in for it (data.skip_unreadable=true; "
                f"{len(replaced)} so far)"
            )
        if self.output_dir is not None and self.ranks.is_main:
            write_record(self.output_dir, dataclasses.replace(self.record, replaced=tuple(sorted(replaced))))

    def draw_sheet(self, path: Path) -> None:
        """Originals, views (with what the towers see of them) and patches of the first images of epoch 0, as a PNG."""
        order = self.batches_of_run.batch(0)[1][:SHEET_IMAGES]
        reader = ViewDataset(self.source, self.dataset.views, seed=self.dataset.seed, skip_unreadable=True)
        images = [reader.read(int(index), [])[1] for index in order]
        samples = [
            self.dataset.views(image, seed=self.dataset.seed, epoch=0, index=int(index))
            for image, index in zip(images, order, strict=True)
        ]
        save_png(path, draw_sheet(images, samples, towers=self.towers))


def open_stream(
    config: RunConfig,
    *,
    ranks: Ranks,
    announce: Callable[[str], None],
    recorded: ImageSetRecord | None = None,
    output_dir: Path | None = None,
    listed: Source | None = None,
) -> ViewStream:
    """List and check the images, then build the stream. Raises DataError/ConfigError before any step is taken.

    recorded: what an earlier start of the same run found; the folder must still be that, and is not looked through again.
    output_dir: where images.json lies, which records what turns out unreadable later.
    listed: the images of config.data.root, where they have been listed already.
    """
    recipe = recipe_of(config.views.recipe, config.views.overrides)
    views = ViewMaker(
        recipe,
        image_size=config.views.image_size,
        num_views=config.method.num_views,
        patch_size=config.views.patch_size if config.method.jigsaw else None,
    )
    source, record = check_image_set(
        config.data.root,
        skip_unreadable=config.data.skip_unreadable,
        recorded=recorded,
        ranks=ranks,
        announce=announce,
        listed=listed,
    )
    if recipe.smallest_side > 1 and recorded is None:
        refuse_small_images(source, recipe.smallest_side, ranks)
    require_one_batch(len(source), config.optimizer.batch_size, world_size=ranks.world_size)
    batches = global_batches(len(source), source.shard_ends, config.optimizer.batch_size, seed=config.seed)
    labels = None
    if config.method.memory == "labels":
        labels, classes = folder_labels(source)
        announce(
            f"{len(classes)} classes by folder: {', '.join(classes[:SHOWN_CLASSES])}{', ...' if len(classes) > SHOWN_CLASSES else ''}"
        )
    announce(f"{len(source)} images, {batches.steps_per_epoch} steps of {config.optimizer.batch_size} an epoch")
    micro_batch = config.optimizer.batch_size // (ranks.world_size * config.optimizer.accumulate)
    dataset = ViewDataset(
        source,
        views,
        seed=config.seed,
        skip_unreadable=config.data.skip_unreadable,
        jigsaw_images=config.method.jigsaw_images(micro_batch),
        micro_batches=config.optimizer.accumulate,
    )
    return ViewStream(
        dataset=dataset,
        record=record,
        batches_of_run=batches,
        ranks=ranks,
        num_workers=config.data.num_workers,
        pin_memory=config.runtime.device != "cpu",
        announce=announce,
        towers=config.method.towers,
        output_dir=output_dir,
        labels=labels,
        control=_control_group(ranks, config.runtime.timeout_s),
    )


def _control_group(ranks: Ranks, timeout_s: float) -> Any:
    if ranks.world_size == 1:
        return None
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s))
