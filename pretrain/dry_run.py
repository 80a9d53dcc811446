"""What a run would be, seen in one real step: configuration, sizes, operations, rates, memory, time."""

from __future__ import annotations

import time

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from pretrain.base.contract import InputContract
from pretrain.config import RunConfig, method_label, to_plain
from pretrain.data.loader import ViewBatch
from pretrain.data.stream import ViewStream
from pretrain.model.contrast import StepOutput
from pretrain.run.descend import descend
from pretrain.run.ranks import Ranks
from pretrain.train import build_state, contract_of, learning_rate_of, precision_of
from pretrain.views.pipeline import normalize

CPU_IMAGES = 32  # a whole batch of the paper's would take a CPU minutes and tens of gigabytes


def describe(config: RunConfig, stream: ViewStream) -> str:
    """The text that `tools/pretrain.py --dry-run` prints."""
    sections = [
        ("resolved configuration", yaml.safe_dump(to_plain(config), sort_keys=False).rstrip()),
        ("data", f"{len(stream.source)} images, {stream.steps_per_epoch} steps an epoch"),
        ("one step", _one_step(config, stream)),
        ("learning rate", _rates(config, stream.steps_per_epoch)),
    ]
    return "\n\n".join(f"== {title}\n{text}" for title, text in sections)


def _one_step(config: RunConfig, stream: ViewStream) -> str:
    """Forward, backward and SGD on the first batch: once counted, once timed; the key encoder and the queue stay as they are."""
    ranks, contract = Ranks(), contract_of(config)
    precision = precision_of(config, ranks)
    state = build_state(config, contract, precision=precision, ranks=ranks)
    whole = next(stream.batches(from_step=0, num_steps=1))
    batch = whole.map(lambda rows: rows[:CPU_IMAGES]) if precision.device.type == "cpu" else whole
    num_images, batch_size = len(batch.index), len(whole.index)

    def step() -> StepOutput:
        with precision.autocast():
            output = state.method.step(batch.to(precision.device), forward=state.forward, ranks=ranks, step=0)
        descend(state.optimizer, output.loss, check=lambda loss, norm: None, scaler=state.scaler)
        output.loss.item()  # waits for the device
        return output

    with FlopCounterMode(display=False) as counter:
        output = step()
    started = time.perf_counter()
    step()
    seconds = time.perf_counter() - started
    flops = counter.get_total_flops() * batch_size / num_images
    trained = [parameter.numel() for parameter in state.method.trained.parameters()]
    momenta = [value for entry in state.optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
    stored = sum(tensor.nbytes for tensor in (*state.method.state_dict().values(), *momenta))
    part = "" if num_images == batch_size else f", on {num_images} of the batch's {batch_size} images"
    lines = [
        f"method {method_label(to_plain(config))}, encoder {config.encoder.arch}; {sum(trained):,} trained parameters",
        f"device {precision.device}, precision {precision.name}",
        *_pixels(batch, contract),
        *(f"{name} {value.item():.4f}" for name, value in output.figures.items()),
        f"loss of a uniform guess ln(K + 1) = {torch.tensor(config.method.queue_size + 1.0).log().item():.4f}",
        f"{flops / 1e9:.1f} GFLOP for the global batch of {batch_size}",
        f"{seconds:.2f} s for the second step{part}",
        f"{stored / 1e6:.0f} MB of state, the size of a checkpoint",
    ]
    if precision.device.type == "cuda":
        lines.append(f"{torch.cuda.max_memory_allocated(precision.device) / 1e9:.2f} GB of GPU memory at most")
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
