"""From a configuration to the stream of view batches of one rank.

In: RunConfig and Ranks. Out: `ViewStream`: steps an epoch, batches from any step on, the views sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.image_files import read_image
from pretrain.config import RunConfig
from pretrain.data.loader import ViewBatch, ViewDataset, build_loader
from pretrain.data.manifest import ImageSetRecord, check_image_set, refuse_small_images
from pretrain.data.order import GlobalBatches, RankBatches
from pretrain.data.source import ImageSource
from pretrain.run.ranks import Ranks
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipe_file import recipe_of
from pretrain.views.sheet import draw_sheet, save_png

SHEET_IMAGES = 6


@dataclass(frozen=True)
class ViewStream:
    """Batches of views, a pure function of (seed, step) whatever the number of workers or the point of restart."""

    source: ImageSource
    record: ImageSetRecord
    views: ViewMaker
    batches_of_run: GlobalBatches
    ranks: Ranks
    seed: int
    num_workers: int
    pin_memory: bool

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches an epoch; the incomplete last one is dropped."""
        return self.batches_of_run.steps_per_epoch

    def batches(self, *, from_step: int, num_steps: int) -> Iterator[ViewBatch]:
        """This rank's share of the global batches `from_step` .. `from_step + num_steps` - 1."""
        sampler = RankBatches(
            self.batches_of_run,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            from_step=from_step,
            num_steps=num_steps,
        )
        dataset = ViewDataset(self.source, self.views, seed=self.seed)
        return iter(build_loader(dataset, sampler, num_workers=self.num_workers, pin_memory=self.pin_memory))

    def draw_sheet(self, path: Path) -> None:
        """Originals, both views and the nine patches of the first images of epoch 0, as a PNG."""
        order = self.batches_of_run.batch(0)[1][:SHEET_IMAGES]
        images = [read_image(self.source[int(index)]) for index in order]
        samples = [
            self.views(image, seed=self.seed, epoch=0, index=int(index))
            for image, index in zip(images, order, strict=True)
        ]
        save_png(path, draw_sheet(images, samples))


def open_stream(
    config: RunConfig,
    *,
    ranks: Ranks,
    announce: Callable[[str], None],
    recorded: ImageSetRecord | None = None,
) -> ViewStream:
    """List and check the images, then build the stream. Raises DataError/ConfigError before any step is taken.

    recorded: what an earlier start of the same run found; the folder must still be that, and is not decoded again.
    """
    recipe = recipe_of(config.views.recipe, config.views.overrides)
    views = ViewMaker(
        recipe,
        image_size=config.views.image_size,
        patch_size=config.views.patch_size if config.method.jigsaw else None,
    )
    source, record = check_image_set(
        config.data.root,
        skip_unreadable=config.data.skip_unreadable,
        recorded=recorded,
        ranks=ranks,
        announce=announce,
    )
    if recipe.smallest_side > 1 and recorded is None:
        refuse_small_images(source, recipe.smallest_side, ranks)
    batches = GlobalBatches(len(source), config.optimizer.batch_size, seed=config.seed)
    announce(f"{len(source)} images, {batches.steps_per_epoch} steps of {config.optimizer.batch_size} an epoch")
    return ViewStream(
        source=source,
        record=record,
        views=views,
        batches_of_run=batches,
        ranks=ranks,
        seed=config.seed,
        num_workers=config.data.num_workers,
        pin_memory=config.runtime.device != "cpu",
    )
