"""The pre-training loop. Read this first. What it leaves in the output directory: pretrain/run/folder.py and checkpoint.py.

A step: batch -> device -> for each micro-batch: loss under autocast -> backward; then, once: finite on every rank? -> optimiser ->
key network and memory.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.base.atomic import write_json
from pretrain.base.errors import CheckpointError, UserError, full_disk
from pretrain.base.record import DataRecord, Initialisation, Record, this_command
from pretrain.base.signals import StopFlag
from pretrain.config import RunConfig, experiment_of, to_plain
from pretrain.data.index import Source
from pretrain.data.loader import ViewBatch, on_device
from pretrain.data.manifest import check_image_set, read_record, write_record
from pretrain.data.monitored import images_to_monitor, labelled_folders
from pretrain.data.stream import ViewStream, open_stream
from pretrain.model.contrast import Contrast, StepOutput
from pretrain.model.memory import memory_warnings, require_memory
from pretrain.model.supervised import Supervised
from pretrain.run.agreement import require_agreement
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
from pretrain.run.precision import Precision
from pretrain.run.ranks import Ranks, gather_values, on_main
from pretrain.run.schedule import Momentum
from pretrain.run.trackers import require_trackers
from pretrain.run.watch import NotFinite, Watch, check_loss_scale, what_ended
from pretrain.state import (
    TrainState,
    contract_of,
    learning_rate_of,
    precision_of,
    require_rising_warmup,
    require_trainable,
    state_for,
)

NOT_FINITE = "nonfinite.json"  # of a run's folder
METRIC = "contrastive loss (InfoNCE) of the last steps, in training"
SUPERVISED_METRIC = "cross-entropy of the last steps, in training"

logger = logging.getLogger(__name__)


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


def train(
    config: RunConfig, *, output_dir: Path, resume: bool, ranks: Ranks, listed: Source | None = None
) -> dict[str, Any]:
    """Run `config` to its end in `output_dir` (continuing what is there if `resume`) -> steps, epochs, checkpoint, final figures.

    listed: the images of config.data.root, where they have been listed already.
    Raises ConfigError/DataError before the first step for what cannot start; Terminated after SIGTERM or Ctrl-C (state saved).
    """
    require_agreement(config, ranks)
    on_main(lambda: require_trackers(config.monitor.trackers), ranks)
    precision = precision_of(config, ranks)
    require_trainable(config, precision, ranks)
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
    done = on_main(lambda: run.result if run else None, ranks)
    if any(gather_values(done is not None, ranks)):
        on_main(lambda: _require_its_images(config, output_dir), ranks)
        logger.info("%s is finished; nothing to do", output_dir)
        return done or {}
    announce = logger.info if ranks.is_main else logger.debug
    # The main rank's word: ranks that read different records would wait for each other in different places.
    recorded = gather_values(on_main(lambda: read_record(output_dir), ranks), ranks)[0]
    on_main(lambda: None if run and run.has_checkpoint else require_rising_warmup(config.optimizer), ranks)
    # A mistyped folder is refused before a long look at the images.
    on_main(lambda: labelled_folders(config.monitor) if config.monitor.labelled is not None else None, ranks)
    stream = open_stream(
        config, ranks=ranks, announce=announce, recorded=recorded, output_dir=output_dir, listed=listed
    )
    require_memory(config.method, num_images=len(stream.source))
    with StopFlag() as stop:  # from the first record on: a run that is asked to stop says so in it
        watched = on_main(lambda: images_of_monitor(config, stream), ranks)
        state = state_for(config, stream, precision=precision, ranks=ranks)  # what cannot be built begins no folder
        on_main(lambda: _begin(run, config, stream, ranks), ranks)
        _resume(state, output_dir / CHECKPOINT_DIR, ranks)
        return _run_steps(config, state, stream, run, watched, stop=stop, precision=precision, ranks=ranks)


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
    saves = _Saves(run, config, state, stream, keep, ranks)
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
    with _errors_in_words(run, saves.in_words, timeout_s=config.runtime.timeout_s), observation:
        if not observation.monitor(state.method, state.step):  # random weights, or what an ended start left undone
            raise stop.terminated(saves.before_a_stop())
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
                check_loss_scale(state.scaler, state.step)
            observation.record(state.step, figures, learning_rate=rate)
            if save:
                saves.save()
            # After the save: a kill on the way loses no step. The last step may stop too: its measurement is yet to be made.
            if watch.stopping or not observation.monitor(state.method, state.step):
                raise stop.terminated(saves.before_a_stop())
        observation.end()
    return _finish(run, config, observation, total)


class _Saves:
    """What is saved of the steps of this start, on every rank alike. keep: steps whose checkpoints stay for good."""

    def __init__(
        self, run: RunDir | None, config: RunConfig, state: TrainState, stream: ViewStream, keep: set[int], ranks: Ranks
    ) -> None:
        self._run, self._config, self._state, self._stream = run, config, state, stream
        self._keep, self._ranks = keep, ranks
        self._total = config.optimizer.epochs * stream.steps_per_epoch
        self._first = self._newest = state.step

    def save(self) -> None:
        """Write the checkpoint of the current step."""
        content = self._state.state_dict(self._config, contract_of(self._config), self._stream.steps_per_epoch)
        content["progress"]["images"] = self._stream.record.fingerprint  # the weights' identity needs it
        images = (self._state.step - self._first) * self._config.optimizer.batch_size
        on_main(lambda: _save(self._run, content, self._keep, images=images, ranks=self._ranks), self._ranks)
        self._newest = self._state.step

    def before_a_stop(self) -> str:
        """Save the current step unless it is saved -> where the run stops, and how it goes on."""
        if self._newest != self._state.step:
            self.save()
        if self._newest == 0:
            return "before the first step, nothing to save; give the same command again to begin"
        further = "continue" if self._newest < self._total else "finish"
        return f"saved at step {self._newest} of {self._total}; give the same command again to {further}"

    def in_words(self) -> tuple[int, str]:
        """(steps taken, which checkpoint there is)."""
        if self._newest == 0:
            return self._state.step, "No checkpoint was written yet; the same command begins again"
        newest = f"The newest checkpoint is that of step {self._newest} of {self._total}"
        return self._state.step, f"{newest}; the same command goes on from there"


def _finish(run: RunDir | None, config: RunConfig, observation: Observation, total: int) -> dict[str, Any]:
    """Complete the record of a run whose `total` steps are taken -> what `train` returns."""
    details: dict[str, Any] = {
        "steps": total,
        "epochs": config.optimizer.epochs,
        "checkpoint": f"{CHECKPOINT_DIR}/{checkpoint_path(Path(), total).name}",
    }
    if observation.findings:
        details["findings"] = observation.findings
    final = observation.recorder.final
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
