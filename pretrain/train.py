"""The pre-training loop. Read this first. What it leaves in the output directory: pretrain/run/folder.py and checkpoint.py.

A step: batch -> device -> for each micro-batch: loss under autocast -> backward; then, once: finite on every rank? -> optimiser ->
key network and memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.base.atomic import write_json
from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError, UserError, full_disk
from pretrain.base.record import DataRecord, Initialisation, Record, this_command
from pretrain.base.signals import StopFlag
from pretrain.config import MethodConfig, OptimizerConfig, RunConfig, experiment_of, to_plain
from pretrain.data.index import Source
from pretrain.data.loader import ViewBatch, on_device
from pretrain.data.manifest import check_image_set, read_record, write_record
from pretrain.data.monitored import images_to_monitor, labelled_folders
from pretrain.data.stream import ViewStream, open_stream
from pretrain.model.batchnorm import synchronise_batchnorm
from pretrain.model.contrast import Contrast, StepOutput, batchnorm_groups, build_method
from pretrain.model.convolution import multiply_small_maps
from pretrain.model.encoder import ResNetEncoder
from pretrain.model.memory import memory_warnings, require_memory
from pretrain.model.supervised import Supervised
from pretrain.run.checkpoint import (
    CHECKPOINT_DIR,
    checkpoint_path,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    warning_of_space,
    write_checkpoint,
)
from pretrain.run.descend import descend_sum
from pretrain.run.folder import RunDir
from pretrain.run.monitor import MonitorImages, Towers
from pretrain.run.observation import Observation
from pretrain.run.optimizers import build_optimizer, load_optimizer
from pretrain.run.precision import Precision, check_patch_size, choose_precision, use_channels_last
from pretrain.run.ranks import Ranks, gather_values, on_main, pick_device
from pretrain.run.schedule import LearningRate, Momentum, paper_warmup_epochs
from pretrain.run.trackers import require_trackers
from pretrain.run.watch import NotFinite, Watch, what_ended

NOT_FINITE = "nonfinite.json"  # of a run's folder
METRIC = "contrastive loss (InfoNCE) of the last steps, in training"
SUPERVISED_METRIC = "cross-entropy of the last steps, in training"

FEWEST_IMAGES_FOR_LARS = 512
LARGEST_RATE_OF_ADAMW = 0.01

logger = logging.getLogger(__name__)


@dataclass
class TrainState:
    """All that changes during a run.

    method: networks and memory.
    forward: calls `method.trained`, through DDP where there are ranks.
    optimizer, scaler: of the trained part.
    step: number of finished optimiser steps.
    """

    method: Contrast | Supervised
    forward: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0

    def state_dict(self, config: RunConfig, contract: InputContract, steps_per_epoch: int) -> dict[str, Any]:
        """The checkpoint's content (pretrain/run/checkpoint.py names the fields)."""
        return {
            "arch": config.encoder.arch,
            "method": config.method.name,
            "contract": contract.to_dict(),
            "model": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": {"step": self.step, "steps_per_epoch": steps_per_epoch},
            "config": to_plain(config),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.method.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty in a checkpoint of a run without loss scaling
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["progress"]["step"]


def learning_rate_of(config: OptimizerConfig, steps_per_epoch: int) -> LearningRate:
    """The schedule that `config` describes, warm-up rule filled in."""
    warmup = config.warmup_epochs
    if warmup is None:
        warmup = paper_warmup_epochs(batch_size=config.batch_size, epochs=config.epochs, asked=False)
    return LearningRate(
        base=config.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        kind=config.schedule,
        decay=config.decay,
        milestones=config.milestones,
        warmup_epochs=min(warmup, config.epochs),
        warmup_start=config.warmup_start,
    )


def contract_of(config: RunConfig) -> InputContract:
    """What the encoders of a run are fed with."""
    return InputContract(stem="small" if config.encoder.stem == "small" else "basic")


def build_state(
    config: RunConfig,
    contract: InputContract,
    *,
    num_images: int = 0,
    labels: Tensor | None = None,
    precision: Precision,
    ranks: Ranks,
) -> TrainState:
    """Method, DDP wrapper where there are ranks, optimiser of all parameters that take gradient, loss scaler.

    num_images: rows of a memory bank. labels: (num_images,) the images' classes, for memory "labels".
    """
    device, batch_size = precision.device, config.optimizer.batch_size
    groups = batchnorm_groups(
        config.method, batch_size=batch_size, world_size=ranks.world_size, accumulate=config.optimizer.accumulate
    )
    if config.method.memory == "queue" and groups * ranks.world_size == 1:
        _warn_of_shared_statistics(config.method, batch_size // config.optimizer.accumulate)
    method: Contrast | Supervised
    if labels is not None:
        method = Supervised(
            encoder=config.encoder, config=config.method, contract=contract, seed=config.seed, labels=labels
        )
    else:
        method = build_method(
            encoder=config.encoder,
            config=config.method,
            contract=contract,
            seed=config.seed,
            num_images=num_images,
            batchnorm_groups=groups,
        )
    method = method.to(device)
    if config.method.batchnorm == "synchronised":
        synchronise_batchnorm(method, ranks, device)
    if device.type == "cpu" and precision.dtype is torch.bfloat16:
        multiply_small_maps(method)
    if config.runtime.compile:
        compile_encoders(method)
    if use_channels_last(config.runtime.channels_last, precision):
        method = method.to(memory_format=torch.channels_last)
    method.train()
    forward: nn.Module = method.trained
    if ranks.world_size > 1:
        forward = DistributedDataParallel(forward, device_ids=[device.index] if device.type == "cuda" else None)
    return TrainState(method, forward, build_optimizer(method.trained, config.optimizer), precision.scaler())


def compile_encoders(method: nn.Module) -> None:
    """torch.compile of every encoder in place, so that no name of the state changes. Images and patches have a graph each."""
    for module in method.modules():
        if isinstance(module, ResNetEncoder):
            module.compile(dynamic=False)


def _warn_of_shared_statistics(method: MethodConfig, images: int) -> None:
    fewer = max(2, images // 4)
    shuffled = dataclasses.replace(method, batchnorm="shuffled", batchnorm_images=fewer)
    also = "" if method.batchnorm == "shuffled" else "method.batchnorm=shuffled with "
    try:
        batchnorm_groups(shuffled, batch_size=images, world_size=1)
        advice = f"{also}method.batchnorm_images={fewer}, or a larger optimizer.batch_size"
    except ConfigError:  # too few images of the batch go through the jigsaw branch for so many groups
        advice = f"a larger optimizer.batch_size, or {also}method.batchnorm_images={fewer}, method.jigsaw_fraction=1"
    logger.warning(
        "all %d images of a batch share their BatchNorm statistics, which can give the positive key away: the loss then falls "
        "without anything being learned. Pass %s",
        images,
        advice,
    )


def train_step(
    state: TrainState,
    batch: ViewBatch,
    *,
    learning_rate: float,
    momentum: float,
    precision: Precision,
    ranks: Ranks,
    watch: Watch,
    accumulate: int = 1,
    done: Callable[[str], None] = lambda part: None,
) -> dict[str, Tensor]:
    """One optimiser step -> this rank's figures. Raises UserError on every rank if a loss or gradient of any rank is not finite.

    On the CPU it raises before parameters, key encoder and queue are updated, on a GPU one step later (pretrain/run/watch.py);
    running statistics of BatchNorm have moved either way.
    accumulate: micro-batches; the gradient is the mean of theirs. momentum: of the key network. done: told the parts of the step
    as they end ("forward", "backward", "check", "optimiser", "memory").
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    outputs: list[StepOutput] = []
    step, index, sound = state.step, batch.index, None

    def losses() -> Iterator[Tensor]:
        """While the last one's gradient is taken, DDP averages the sum of all over ranks."""
        for part in batch.split(accumulate) if accumulate > 1 else [batch]:
            last = len(outputs) == accumulate - 1
            with contextlib.nullcontext() if last else _no_average(state.forward):
                with precision.autocast():
                    count = step * accumulate + len(outputs)
                    output = state.method.step(part, forward=state.forward, ranks=ranks, step=count)
                outputs.append(output)
                done("forward")
                yield output.loss if accumulate == 1 else output.loss / accumulate

    def explain(what: str | None) -> str:
        where = f"; samples of this rank: {index.tolist()[:8]}..." if what else ""
        return (
            f"the {what or 'loss or gradient of another rank'} is not finite at step {step} "
            f"(learning rate {learning_rate:g}){where}. Lower optimizer.learning_rate or lengthen optimizer.warmup_epochs (in "
            "a new output directory), or pass runtime.precision=fp32"
        )

    def check(loss: Tensor, norm: Tensor | None) -> None:
        nonlocal sound
        sound = watch.ask(loss, norm, explain=explain, samples=index)

    descend_sum(state.optimizer, losses(), check=check, scaler=state.scaler, done=done)
    state.method.after_step(outputs, ranks=ranks, momentum=momentum, sound=sound)
    done("memory")
    state.step += 1
    if accumulate == 1:
        return outputs[0].figures
    return {
        name: torch.stack([output.figures[name].float() for output in outputs]).mean(dim=0)
        for name in outputs[0].figures
    }


def _no_average(forward: Callable[..., Any]) -> contextlib.AbstractContextManager[None]:
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else contextlib.nullcontext()


def precision_of(config: RunConfig, ranks: Ranks) -> Precision:
    """Device and number type of this rank. Raises ConfigError for a device that is not there, or sizes that it cannot train on."""
    precision = choose_precision(config.runtime.precision, pick_device(config.runtime.device, ranks))
    if config.method.jigsaw:
        check_patch_size(precision, config.views.patch_size)
    return precision


def require_trainable(config: RunConfig, precision: Precision, ranks: Ranks) -> None:
    """Refuse what cannot be trained on these ranks and warn of what can, but should not. Raises ConfigError."""
    optimizer, method = config.optimizer, config.method
    batchnorm_groups(
        method, batch_size=optimizer.batch_size, world_size=ranks.world_size, accumulate=optimizer.accumulate
    )
    if method.shuffle_over == "node" and ranks.world_size % ranks.local_world_size:
        raise ConfigError(
            f"method.shuffle_over=node expects equally many ranks on every machine, found {ranks.local_world_size} of "
            f"{ranks.world_size} on this one; pass method.shuffle_over=world"
        )
    if not ranks.is_main:
        return
    if config.runtime.compile and precision.device.type == "cpu":
        logger.warning(
            "runtime.compile=true on the CPU: minutes of compilation and no faster steps; pass runtime.compile=false"
        )
    if optimizer.name == "lars" and optimizer.batch_size < FEWEST_IMAGES_FOR_LARS:
        logger.warning(
            "optimizer.name=lars with optimizer.batch_size=%d: it is made for batches of %d and more; pass optimizer.name=sgd",
            optimizer.batch_size,
            FEWEST_IMAGES_FOR_LARS,
        )
    if optimizer.name == "adamw" and optimizer.learning_rate >= LARGEST_RATE_OF_ADAMW:
        logger.warning(
            "optimizer.learning_rate=%g with adamw, whose updates have the size of the rate: rates of 1e-4 to 1e-3 are usual",
            optimizer.learning_rate,
        )
    if method.batchnorm == "synchronised" and precision.device.type == "cpu" and ranks.world_size > 1:
        logger.warning(
            "method.batchnorm=synchronised on the CPU: a substitute for torch's SyncBatchNorm, which needs a GPU; two small "
            "reductions over ranks a layer, equal results, slow"
        )


def train(
    config: RunConfig, *, output_dir: Path, resume: bool, ranks: Ranks, listed: Source | None = None
) -> dict[str, Any]:
    """Run `config` to its end in `output_dir` (continuing what is there if `resume`) -> steps, epochs, checkpoint, final figures.

    listed: the images of config.data.root, where they have been listed already.
    Raises ConfigError/DataError before the first step for what cannot start; Terminated after SIGTERM or Ctrl-C (state saved).
    """
    on_main(lambda: require_trackers(config.monitor.trackers), ranks)
    precision = precision_of(config, ranks)
    require_trainable(config, precision, ranks)
    if precision.device.type == "cuda":  # every step has the same shapes: let cuDNN try its kernels once
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        with on_main(lambda: RunDir(output_dir, config, resume=resume), ranks) or contextlib.nullcontext() as run:
            return _train_in(run, config, output_dir, precision=precision, ranks=ranks, listed=listed)
    except RuntimeError as error:
        words = what_ended(error, timeout_s=config.runtime.timeout_s)
        if words is None:
            raise
        raise UserError(f"{words}. It was before the first step; nothing was saved by this start") from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*(stop.args or ("before the first step; nothing was saved by this start",))) from None


def _train_in(
    run: RunDir | None,
    config: RunConfig,
    output_dir: Path,
    *,
    precision: Precision,
    ranks: Ranks,
    listed: Source | None,
) -> dict[str, Any]:
    contract = contract_of(config)
    done = run.result if run else None
    if any(gather_values(done is not None, ranks)):
        on_main(lambda: _require_its_images(config, output_dir), ranks)
        logger.info("%s is finished; nothing to do", output_dir)
        return done or {}
    announce = logger.info if ranks.is_main else logger.debug
    # The main rank's word: ranks that read different records would wait for each other in different places.
    recorded = gather_values(read_record(output_dir) if ranks.is_main else None, ranks)[0]
    if config.monitor.labelled is not None:  # a mistyped folder is refused before a long look at the images
        on_main(lambda: labelled_folders(config.monitor), ranks)
    stream = open_stream(
        config, ranks=ranks, announce=announce, recorded=recorded, output_dir=output_dir, listed=listed
    )
    require_memory(config.method, num_images=len(stream.source))
    with StopFlag() as stop:  # from the first record on: a run that is asked to stop says so in it
        watched = on_main(lambda: images_of_monitor(config, stream), ranks)
        on_main(lambda: _begin(run, config, stream, ranks), ranks)
        state = build_state(
            config,
            contract,
            num_images=len(stream.source),
            labels=stream.labels,
            precision=precision,
            ranks=ranks,
        )
        _resume(state, output_dir / CHECKPOINT_DIR, ranks)
        return _run_steps(config, contract, state, stream, run, watched, stop=stop, precision=precision, ranks=ranks)


def images_of_monitor(config: RunConfig, stream: ViewStream) -> MonitorImages | None:
    """What the monitor looks at, None where it is off. Raises DataError for a labelled folder that cannot serve."""
    if config.monitor.every_epochs == 0:
        return None
    return images_to_monitor(
        config.monitor, own=lambda index: stream.dataset.read(index, [])[1], num_own=len(stream.source)
    )


def monitor_encoder(precision: Precision) -> Callable[[nn.Module, Tensor], Towers]:
    """How the monitor computes features and embeddings of uint8 images."""

    def encode(network: nn.Module, images: Tensor) -> Towers:
        with precision.autocast():
            return cast(Contrast | Supervised, network).tower_outputs(images.to(precision.device))

    return encode


def _require_its_images(config: RunConfig, output_dir: Path) -> None:
    """A finished run is the answer for its own images only (or where they are gone). Raises DataError."""
    recorded = read_record(output_dir)
    if recorded is not None and Path(config.data.root).expanduser().exists():
        check_image_set(config.data.root, skip_unreadable=True, recorded=recorded, ranks=Ranks(), announce=logger.debug)


def _begin(run: RunDir | None, config: RunConfig, stream: ViewStream, ranks: Ranks) -> None:
    """What the main rank leaves in the folder once it is known that the run can start."""
    assert run is not None
    run.begin(new_record(config, stream))
    write_record(run.path, stream.record)
    stream.draw_sheet(run.path / "views.png")
    warnings = memory_warnings(
        config.method,
        num_images=len(stream.source),
        batch_size=config.optimizer.batch_size,
        accumulate=config.optimizer.accumulate,
        epochs=config.optimizer.epochs,
        world_size=ranks.world_size,
    )
    for warning in warnings:
        logger.warning(warning)


def new_record(config: RunConfig, stream: ViewStream) -> Record:
    """What is known of a run before its first step."""
    plain, fingerprint = to_plain(config), stream.record.fingerprint
    return Record(
        kind="pretraining",
        experiment={"config": experiment_of(plain), "data": {"images": fingerprint}},
        config=plain,
        seeds={"run": config.seed},
        commands=(this_command(),),
        data={"images": DataRecord(str(config.data.root), fingerprint, len(stream.source))},
        metric=SUPERVISED_METRIC if stream.labels is not None else METRIC,
        initialisation=Initialisation("random", "random", random_seed=config.seed),
    )


def _resume(state: TrainState, directory: Path, ranks: Ranks) -> None:
    """Load the newest checkpoint, the same one on every rank: the main rank chooses it and renames damaged ones.

    Raises CheckpointError on every rank when one of them cannot read it.
    """
    found = on_main(lambda: newest_checkpoint(directory, quarantine=True), ranks)
    name = gather_values(found and found[0].name, ranks)[0]
    if name is None:
        return
    problem = None
    if found is None:
        try:
            found = directory / name, read_checkpoint(directory / name)
        except CheckpointError as error:
            problem = str(error)
    problems = [text for text in gather_values(problem, ranks) if text]
    if problems:
        raise CheckpointError(
            f"a rank cannot read what the others resume from; all must see one --output-dir: {problems[0]}"
        )
    assert found is not None
    state.load_state_dict(found[1])
    logger.info("resumed from %s at step %d", name, state.step)


def _run_steps(
    config: RunConfig,
    contract: InputContract,
    state: TrainState,
    stream: ViewStream,
    run: RunDir | None,
    watched: MonitorImages | None,
    *,
    stop: StopFlag,
    precision: Precision,
    ranks: Ranks,
) -> dict[str, Any]:
    schedule = learning_rate_of(config.optimizer, stream.steps_per_epoch)
    total = config.optimizer.epochs * stream.steps_per_epoch
    momentum = Momentum(config.method.momentum, config.method.momentum_end, total)
    every = config.runtime.checkpoint_every_steps or stream.steps_per_epoch
    keep = set(range(0, total + 1, config.runtime.keep_every_epochs * stream.steps_per_epoch))
    first = saved = state.step

    def save_state(content: dict[str, Any]) -> None:
        _save(run, content, keep, images=(state.step - first) * config.optimizer.batch_size, ranks=ranks)

    def where_it_stands() -> tuple[int, str]:
        return state.step, _what_is_saved(saved, total)

    observation = Observation(
        run,
        config,
        watched,
        num_classes=stream.num_classes,
        encode=monitor_encoder(precision),
        from_step=state.step,
        steps_per_epoch=stream.steps_per_epoch,
        stop=stop,
        ranks=ranks,
    )
    with _errors_in_words(run, where_it_stands, timeout_s=config.runtime.timeout_s), observation:
        observation.monitor(state.method, state.step)  # random weights, or what a killed start left undone
        watch = Watch(stop, ranks, precision.device)
        batches = observation.timed(stream.batches(from_step=state.step, num_steps=total - state.step))
        for batch in on_device(batches, precision.device):
            rate = schedule(state.step)
            figures = train_step(
                state,
                batch,
                learning_rate=rate,
                momentum=momentum(state.step),
                precision=precision,
                ranks=ranks,
                watch=watch,
                accumulate=config.optimizer.accumulate,
            )
            save = state.step % every == 0 or state.step in keep or state.step == total or watch.stopping
            if save or observation.is_due(state.step):
                watch.settle()  # nothing that is not finite is logged or saved
            observation.record(state.step, figures, learning_rate=rate)
            if save:
                content = state.state_dict(config, contract, stream.steps_per_epoch)
                content["progress"]["images"] = stream.record.fingerprint  # the weights' identity needs it
                on_main(lambda content=content: save_state(content), ranks)  # type: ignore[misc]
                saved = state.step
            if save and watch.stopping and state.step < total:
                raise stop.terminated(f"saved at step {state.step} of {total}; give the same command again to continue")
            observation.monitor(state.method, state.step)  # after the save: a kill on the way loses no step
        observation.draw()
    details: dict[str, Any] = {
        "steps": total,
        "epochs": config.optimizer.epochs,
        "checkpoint": f"{CHECKPOINT_DIR}/{checkpoint_path(Path(), total).name}",
    }
    if observation.findings:
        details["findings"] = observation.findings
    final = observation.recorder.last
    if run is not None:
        run.record.finish(final, details=details)
    return {**details, "final": final}


@contextlib.contextmanager
def _errors_in_words(
    run: RunDir | None, where_it_stands: Callable[[], tuple[int, str]], *, timeout_s: float
) -> Iterator[None]:
    """What ends the steps becomes an error that also says which checkpoint there is.

    where_it_stands: -> (steps taken, what is saved in words).
    """
    try:
        yield
    except UserError as error:
        step, saved = where_it_stands()
        where = _write_batch(run, error.report, step) if isinstance(error, NotFinite) else ""
        raise type(error)(f"{error}{where}. {saved}") from error
    except OSError as error:
        words = full_disk(error)
        if words is None:
            raise
        raise UserError(f"{words}. {where_it_stands()[1]}") from error
    except RuntimeError as error:
        words = what_ended(error, timeout_s=timeout_s)
        if words is None:
            raise
        raise UserError(f"{words}. {where_it_stands()[1]}") from error
    except KeyboardInterrupt:
        step, saved = where_it_stands()
        raise KeyboardInterrupt(f"at step {step}. {saved}") from None


def _save(run: RunDir | None, content: dict[str, Any], keep: set[int], *, images: int, ranks: Ranks) -> None:
    """images: of this start so far, all ranks together."""
    assert run is not None
    # First the cost: killed in between, the steps since the last checkpoint are spent and will be taken again.
    run.record.update(cost=run.record.spend(images=images, devices=ranks.world_size))
    step = content["progress"]["step"]
    first = not run.checkpoints.exists()
    write_checkpoint(checkpoint_path(run.checkpoints, step), content)
    if first:  # two, and one that is being written, and those kept for good
        to_come = 2 + len([kept for kept in keep if kept > step])
        warning = warning_of_space(run.checkpoints, content, to_come=to_come)
        if warning is not None:
            logger.warning(warning)
    prune_checkpoints(run.checkpoints, keep_steps=keep)


def _write_batch(run: RunDir | None, report: list[dict[str, Any]], step: int) -> str:
    """Leave in the folder which images each rank had in the step that was not finite."""
    if run is None:
        return ""
    try:
        write_json(run.path / NOT_FINITE, {"at_or_before_step": step, "ranks": report})
    except OSError as error:  # a full disk: what is not finite counts
        return f"; the images of each rank could not be written ({error.strerror or error})"
    return f"; the images of each rank are in {run.path / NOT_FINITE}, by their number in images.json"


def _what_is_saved(step: int, total: int) -> str:
    if step == 0:
        return "No checkpoint was written yet; the same command begins again"
    return f"The newest checkpoint is that of step {step} of {total}; the same command goes on from there"
