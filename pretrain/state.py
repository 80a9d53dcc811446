"""What a run trains, built from its configuration; and whether these ranks and this device can train it.

In: `RunConfig`, precision, ranks. Out: a `TrainState` before its first step, schedules; ConfigError for what cannot be trained, and
warnings of what can, but should not.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.config import MethodConfig, OptimizerConfig, RunConfig, to_plain
from pretrain.data.stream import ViewStream
from pretrain.model.batchnorm import synchronise_batchnorm
from pretrain.model.contrast import Contrast, batchnorm_groups, build_method
from pretrain.model.convolution import multiply_small_maps
from pretrain.model.encoder import ResNetEncoder
from pretrain.model.supervised import Supervised
from pretrain.run.optimizers import build_optimizer, load_optimizer
from pretrain.run.precision import Precision, check_patch_size, choose_precision, use_channels_last
from pretrain.run.ranks import Ranks, pick_device
from pretrain.run.schedule import LARGEST_BATCH_WITHOUT_WARMUP, LearningRate, paper_warmup_epochs

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
    return LearningRate(
        base=config.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        kind=config.schedule,
        decay=config.decay,
        milestones=config.milestones,
        warmup_epochs=min(_warmup_epochs(config), config.epochs),
        warmup_start=_warmup_start(config),
    )


def _warmup_epochs(config: OptimizerConfig) -> int:
    if config.warmup_epochs is not None:
        return config.warmup_epochs
    return paper_warmup_epochs(batch_size=config.batch_size, epochs=config.epochs, asked=False)


def _warmup_start(config: OptimizerConfig) -> float:
    """The reference's 0.01 is made for the rates of SGD; of a lower rate (of adamw) it is no start, and a tenth of that rate is."""
    unchanged = config.warmup_start == OptimizerConfig.warmup_start
    return (
        config.learning_rate / 10 if unchanged and config.warmup_start >= config.learning_rate else config.warmup_start
    )


def require_rising_warmup(config: OptimizerConfig) -> None:
    """Raise ConfigError where warm-up would begin above the rate that it leads to. Not asked of a run that goes on: it cannot
    change its rates any more."""
    if _warmup_epochs(config) > 0 and _warmup_start(config) > config.learning_rate:
        raise ConfigError(
            f"optimizer.warmup_start expected at most optimizer.learning_rate={config.learning_rate:g}, found "
            f"{config.warmup_start:g}; pass optimizer.warmup_start={config.learning_rate / 10:g}, or optimizer.warmup_epochs=0 "
            "for no warm-up"
        )


def _warn_of_rates(config: OptimizerConfig) -> None:
    if config.epochs <= _warmup_epochs(config):
        by = (
            ""
            if config.warmup_epochs is not None
            else f", which batches above {LARGEST_BATCH_WITHOUT_WARMUP} images have"
        )
        logger.warning(
            "all %d epochs are warm-up (optimizer.warmup_epochs=%d%s), which leads to where the schedule ends, not to the rate: "
            "pass optimizer.warmup_epochs=%d, or more optimizer.epochs",
            config.epochs,
            _warmup_epochs(config),
            by,
            config.epochs // 10,
        )
    if config.name == "adamw" and config.learning_rate >= LARGEST_RATE_OF_ADAMW:
        logger.warning(
            "optimizer.learning_rate=%g with adamw, whose updates have the size of the rate: rates of 1e-4 to 1e-3 are usual",
            config.learning_rate,
        )


def contract_of(config: RunConfig) -> InputContract:
    """What the encoders of a run are fed with."""
    return InputContract(stem="small" if config.encoder.stem == "small" else "basic")


def state_for(config: RunConfig, stream: ViewStream, *, precision: Precision, ranks: Ranks) -> TrainState:
    """`build_state` for the images of a run, whose steps all have the same shapes: cuDNN tries its kernels once.

    A run, the dry run and the profile begin here, so that all three time and take the same kernels.
    """
    if precision.device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    return build_state(
        config,
        contract_of(config),
        num_images=len(stream.source),
        labels=stream.labels,
        precision=precision,
        ranks=ranks,
    )


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
        method.records_keys = config.runtime.cuda_graph and torch.version.cuda is not None
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


def precision_of(config: RunConfig, ranks: Ranks) -> Precision:
    """Device and number type of this rank. Raises ConfigError for a device that is not there, or sizes that it cannot train on."""
    precision = choose_precision(config.runtime.precision, pick_device(config.runtime.device, ranks))
    if config.method.jigsaw:
        check_patch_size(precision, config.views.patch_size)
    return precision


def require_trainable(config: RunConfig, precision: Precision, ranks: Ranks) -> None:
    """Refuse what cannot be trained on these ranks and warn of what can, but should not. Raises ConfigError."""
    optimizer, method = config.optimizer, config.method
    groups = batchnorm_groups(
        method, batch_size=optimizer.batch_size, world_size=ranks.world_size, accumulate=optimizer.accumulate
    )
    if method.shuffle_over == "node" and ranks.world_size % ranks.local_world_size:
        raise ConfigError(
            f"method.shuffle_over=node expects equally many ranks on every machine, found {ranks.local_world_size} of "
            f"{ranks.world_size} on this one; pass method.shuffle_over=world"
        )
    if not ranks.is_main:
        return
    if method.memory == "queue" and groups * ranks.world_size == 1:
        _warn_of_shared_statistics(method, optimizer.batch_size // optimizer.accumulate)
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
    _warn_of_rates(optimizer)
    if method.batchnorm == "synchronised" and precision.device.type == "cpu" and ranks.world_size > 1:
        logger.warning(
            "method.batchnorm=synchronised on the CPU: a substitute for torch's SyncBatchNorm, which needs a GPU; two small "
            "reductions over ranks a layer, equal results, slow"
        )
