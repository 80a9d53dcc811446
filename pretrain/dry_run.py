"""What a run would be, without running it: configuration, parameters, FLOPs a step, rates, the first batch.

In: a RunConfig. Out: a text for the user. The one room of pretrain/ that uses fvcore.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import yaml
from fvcore.nn import FlopCountAnalysis

from pretrain.base.contract import InputContract
from pretrain.config import RunConfig, to_plain
from pretrain.data.loader import ViewBatch
from pretrain.data.stream import ViewStream, open_stream
from pretrain.model.encoder import ResNetEncoder
from pretrain.model.heads import NUM_PATCHES
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks, pick_device
from pretrain.train import build_state, learning_rate_of
from pretrain.views.pipeline import normalize

# A backward costs two forwards: one product for the gradient of the input, one for that of the weights.
FORWARDS_WITH_BACKWARD = 3


def encoder_flops(arch: str, size: int) -> float:
    """Floating-point operations of one forward of one `size` x `size` image (fvcore counts multiply-adds: times two)."""
    logging.getLogger("fvcore").setLevel(logging.ERROR)  # its list of uncounted additions is not news here
    encoder = ResNetEncoder(arch).eval()
    counter = FlopCountAnalysis(encoder, torch.zeros(1, 3, size, size))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return 2.0 * counter.total()


def step_flops(config: RunConfig) -> dict[str, float]:
    """FLOPs of one global step by part: query, key, patches, logits (heads and loss are dwarfed by the encoder)."""
    batch = config.optimizer.batch_size
    image = encoder_flops(config.encoder.arch, config.views.image_size)
    logits = 2.0 * batch * config.method.feature_dim * (config.method.queue_size + 1)
    parts = {
        "query": FORWARDS_WITH_BACKWARD * image * batch,
        "key": image * batch,
        "logits": 2 * logits * (2 if config.method.jigsaw else 1),
    }
    if config.method.jigsaw:
        patch = encoder_flops(config.encoder.arch, config.views.patch_size)
        parts["patches"] = FORWARDS_WITH_BACKWARD * NUM_PATCHES * patch * batch * config.method.jigsaw_fraction
    return parts


def describe(config: RunConfig) -> str:
    """The text that `tools/pretrain.py --dry-run` prints."""
    ranks = Ranks()
    stream = open_stream(config, ranks=ranks, announce=lambda text: None)
    sections = [
        ("resolved configuration", yaml.safe_dump(to_plain(config), sort_keys=False).rstrip()),
        ("data", f"{len(stream.source)} images, {stream.steps_per_epoch} steps an epoch"),
        ("parameters and first batch", _first_batch(config, stream, ranks)),
        ("operations a step", _operations(config)),
        ("learning rate", _rates(config, stream.steps_per_epoch)),
    ]
    return "\n\n".join(f"== {title}\n{text}" for title, text in sections)


def _operations(config: RunConfig) -> str:
    parts = step_flops(config)
    lines = [f"{name:8s} {value / 1e9:12.1f} GFLOP" for name, value in parts.items()]
    return "\n".join(
        [*lines, f"{'total':8s} {sum(parts.values()) / 1e9:12.1f} GFLOP, global batch {config.optimizer.batch_size}"]
    )


def _rates(config: RunConfig, steps_per_epoch: int) -> str:
    schedule = learning_rate_of(config.optimizer, steps_per_epoch)
    epochs = config.optimizer.epochs
    shown = sorted({0, *range(0, epochs, max(1, epochs // 12)), epochs - 1})
    top = max(schedule(epoch * steps_per_epoch) for epoch in shown)
    rows = []
    for epoch in shown:
        rate = schedule(epoch * steps_per_epoch)
        rows.append(f"epoch {epoch + 1:4d}  {rate:10.3g}  {'#' * round(40 * rate / top)}")
    return "\n".join(rows)


def _first_batch(config: RunConfig, stream: ViewStream, ranks: Ranks) -> str:
    contract = InputContract()
    precision = choose_precision(config.runtime.precision, pick_device(config.runtime.device, ranks))
    state = build_state(config, contract, precision=precision, ranks=ranks)
    batch = next(stream.batches(from_step=0, num_steps=1)).to(precision.device)
    with torch.no_grad(), precision.autocast():
        output = state.method.step(batch, forward=state.forward, ranks=ranks, step=0)
    trained = sum(parameter.numel() for parameter in state.method.trained.parameters())
    stored = sum(tensor.numel() for tensor in state.method.state_dict().values())
    figures: dict[str, Any] = {name: float(value) for name, value in output.figures.items()}
    lines = [
        f"trained parameters {trained:,}; numbers in a checkpoint's model {stored:,}",
        f"device {precision.device}, precision {precision.name}",
        *_pixels(batch, contract),
        *(f"{name} {value:.4f}" for name, value in figures.items()),
        f"loss of a uniform guess ln(K + 1) = {torch.tensor(config.method.queue_size + 1.0).log().item():.4f}",
    ]
    return "\n".join(lines)


def _pixels(batch: ViewBatch, contract: InputContract) -> list[str]:
    lines = []
    for name, pixels in (("views", batch.images), ("patches", batch.patches)):
        if pixels is not None:
            values = normalize(pixels, contract)
            lines.append(
                f"{name} {tuple(pixels.shape)} uint8; normalised mean {values.mean().item():.3f}, std {values.std().item():.3f}"
            )
    return lines
