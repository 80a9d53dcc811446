"""How much information a run's two views share, read by the critic that the run has trained.

In: a checkpoint of tools/pretrain.py and a folder of held-out images. Out: a record with every bound of
pretrain/good_views/information.py.

Critic: f(v1, v2) = q . k / T with the trained query encoder and head, the key encoder and head, and the run's temperature
(docs/specification.md 3: "I_NCE as a neural proxy"). Without a key network both are the query's; of several contrasts it is the
first one, f(v1, v2) of its two towers. It was trained for InfoNCE, so info_nce is the figure to compare; the other bounds
read the same critic. Networks are in eval() mode: statistics of a batch could give a positive away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.base.record import DataRecord, Initialisation, OpenRecord, Record, find_finished
from pretrain.base.signals import ending_on_sigterm
from pretrain.base.strict import from_mapping
from pretrain.config import RunConfig, locate_generators, to_plain
from pretrain.data.index import Source
from pretrain.data.loader import ViewBatch, ViewDataset, build_loader
from pretrain.data.manifest import read_record, refuse_small_images
from pretrain.data.order import RankBatches, global_batches
from pretrain.data.source import open_source
from pretrain.good_views.information import BOUNDS, MIN_PAIRS, Estimate, estimate, in_batch, saturation_warning
from pretrain.model.contrast import Contrast, build_method, rows_of_memory
from pretrain.run.checkpoint import newest_checkpoint, pretraining_of, read_checkpoint
from pretrain.run.precision import Precision, choose_precision
from pretrain.run.ranks import Ranks, pick_device
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipe_file import recipe_of
from pretrain.views.recipes import Recipe

MAIN_BOUND = "info_nce"
METRIC = "information that two views share, InfoNCE bound, nats"


@dataclass(frozen=True)
class MeasureRequest:
    """What to measure.

    checkpoint: of tools/pretrain.py, or the folder of a run, which stands for its newest one.
    data: folder of images.
    batch_size: N pairs; a pair's negatives are the N - 1 other images of its batch, so log N is the ceiling.
    passes: times that every image is seen, each time in new views and with other images.
    seed: of the views and the batches.
    command: the exact command, for the record.
    """

    checkpoint: Path
    data: Path
    batch_size: int = 256
    passes: int = 1
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_workers: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.passes < 1 or self.seed < 0 or self.num_workers < 0:
            raise ConfigError(
                "expected a batch size of 2 or more, one pass or more, and a seed and workers of 0 or more; found "
                f"{self.batch_size}, {self.passes}, {self.seed}, {self.num_workers}"
            )


@dataclass(frozen=True)
class Critic:
    """A run's trained networks in eval() mode, and what the run was.

    start: the checkpoint as that of a measurement.
    """

    method: Contrast
    config: RunConfig
    step: int
    precision: Precision
    start: Initialisation

    @torch.no_grad()
    def embed(self, batch: ViewBatch) -> tuple[Tensor, Tensor]:
        """Query of view 1 and key of view 2: unit vectors float32 (B, D) each."""
        images = batch.to(self.precision.device).images
        with self.precision.autocast():
            query, key = self.method.embed_pair(images[:, 0], images[:, 1])
        return query.float(), key.float()


def find_checkpoint(path: Path) -> Path:
    """`path`, or the newest readable checkpoint of a run's folder. Raises CheckpointError where the folder has none."""
    if not path.is_dir():
        return path
    found = newest_checkpoint(path / "checkpoints", quarantine=False)
    if found is None:
        raise CheckpointError(
            f"{path}: expected a checkpoint or the folder of a run, found no checkpoints/step_*.pt in it"
        )
    return found[0]


def load_critic(path: Path, precision: Precision) -> Critic:
    """Read a checkpoint of tools/pretrain.py. Raises CheckpointError for any other file."""
    state = read_checkpoint(path)
    config = from_mapping(RunConfig, locate_generators(state["config"], path.parent.parent), where=str(path))
    contract = InputContract.from_dict(state["contract"])
    if config.method.memory == "labels":
        raise CheckpointError(
            f"{path}: expected a contrastive method's checkpoint, found a supervised one, which compares no views"
        )
    method = build_method(
        encoder=config.encoder,
        config=config.method,
        contract=contract,
        seed=config.seed,
        num_images=rows_of_memory(state["model"]),
    )
    method.load_state_dict(state["model"])
    method.to(precision.device).to(memory_format=torch.channels_last).eval()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    start = Initialisation(
        name=state["method"],
        source="checkpoint",
        weights=str(path),
        sha256=sha256,
        method=state["method"],
        pretraining=pretraining_of(state, sha256=sha256),
    )
    return Critic(method, config, state["progress"]["step"], precision, start)


def measure_views(request: MeasureRequest, *, output: Path | None = None, announce: Callable[[str], None]) -> Record:
    """All bounds on the held-out pairs: a record, written to the file `output` if there is one.

    A finished equal measurement in `output` is returned as it is. Raises ConfigError for that of another one, and CheckpointError/DataError for a checkpoint or images that cannot be used: no image, fewer than one batch, smaller
    than the views need.
    """
    precision = choose_precision(request.precision, pick_device(request.device, Ranks()))
    checkpoint = find_checkpoint(request.checkpoint)
    critic = load_critic(checkpoint, precision)
    recipe = recipe_of(critic.config.views.recipe, critic.config.views.overrides)
    source = open_source(request.data)
    _check_enough(request, len(source))
    if recipe.smallest_side > 1:
        refuse_small_images(source, recipe.smallest_side, Ranks())
    fingerprint, trained_images = source.fingerprint(), read_record(checkpoint.parent.parent)
    trained_on = trained_images is not None and trained_images.fingerprint == fingerprint
    if trained_on:
        announce(f"{request.data} holds the images that this run was trained on: the figures are not held-out ones")
    begun = Record(
        kind="measurement",
        experiment={
            "config": {"batch_size": request.batch_size, "passes": request.passes},
            "precision": precision.name,
            "data": {"images": fingerprint},
        },
        config=to_plain(request),
        seeds={"run": request.seed, "pretraining": critic.config.seed},
        commands=(request.command,),
        data={"images": DataRecord(str(request.data), fingerprint, len(source))},
        metric=METRIC,
        initialisation=critic.start,
        details={
            "step": critic.step,
            "recipe": recipe.name,
            "same_as_training": trained_on,
            "temperature": critic.config.method.temperature,
        },
    )
    finished = None if output is None else find_finished(output, begun)
    if finished is not None:
        announce(f"{output} is finished already; nothing to do")
        return finished
    with ending_on_sigterm(), OpenRecord(output, begun) as record:
        estimates = _estimates(request, critic, source, recipe, announce=announce)
        bounds = {bound: entry.to_plain() for bound, entry in estimates.items()}
        found = {
            "information": bounds[MAIN_BOUND],
            "bounds": bounds,
            "warning": saturation_warning(estimates[MAIN_BOUND]),
        }
        return record.finish(
            {bound: entry.nats for bound, entry in estimates.items()},
            details={**begun.details, **found},
        )


def _estimates(
    request: MeasureRequest, critic: Critic, source: Source, recipe: Recipe, *, announce: Callable[[str], None]
) -> dict[str, Estimate]:
    """Every bound, by name."""
    views = ViewMaker(recipe, image_size=critic.config.views.image_size)
    batches = global_batches(len(source), source.shard_ends, request.batch_size, seed=request.seed)
    num_batches = request.passes * batches.steps_per_epoch
    used = batches.steps_per_epoch * request.batch_size
    announce(
        f"{used} of {len(source)} images, {num_batches} batches of {request.batch_size} pairs, recipe {recipe.name}"
    )
    loader = build_loader(
        ViewDataset(source, views, seed=request.seed),
        RankBatches(batches, rank=0, world_size=1, from_step=0, num_steps=num_batches),
        num_workers=request.num_workers,
        pin_memory=critic.precision.device.type != "cpu",
    )
    embedded = [critic.embed(batch) for batch in tqdm(loader, total=num_batches, unit="batch", desc="measuring")]
    temperature = critic.config.method.temperature
    return {
        bound: estimate(bound, (in_batch(query @ key.T / temperature) for query, key in embedded)) for bound in BOUNDS
    }


def _check_enough(request: MeasureRequest, num_images: int) -> None:
    if num_images < request.batch_size:
        raise DataError(
            f"{request.data}: {num_images} images do not fill one batch of {request.batch_size} pairs; add images, or pass "
            f"--batch-size {max(2, num_images)} (the ceiling of I_NCE is then the logarithm of that)"
        )
    num_pairs = request.passes * (num_images // request.batch_size) * request.batch_size
    if num_pairs < MIN_PAIRS:
        raise DataError(
            f"{request.data}: {num_images} images make {num_pairs} pairs in whole batches of {request.batch_size}; expected "
            f"{MIN_PAIRS} pairs or more: add images"
        )


def describe(record: Record) -> str:
    """The figures for people, one bound a line, and the warning if there is one."""
    lines = []
    for values in record.details["bounds"].values():
        figure = Estimate(**values)
        ceiling = "no ceiling" if figure.ceiling is None else f"ceiling {figure.ceiling:.2f}"
        mark = ", SATURATED" if figure.saturated else ""
        lines.append(
            f"{figure.bound:17s} {figure.nats:7.3f} nats (95 % {figure.low:.3f} to {figure.high:.3f}), {ceiling}{mark}; "
            f"{figure.num_pairs} pairs, {figure.num_negatives} negatives"
        )
    warning = record.details["warning"]
    return "\n".join([*lines, *([warning] if warning else [])])
