"""Training of one cell of the table: contrastive with a sharing, or supervised for one task.

Out: trained networks and the history of what was raised or lowered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from pretrain.base.errors import UserError
from pretrain.good_views.information import Estimate
from pretrain.good_views.moving_mnist.config import MovingMnistConfig
from pretrain.good_views.moving_mnist.encoders import build_encoders
from pretrain.good_views.moving_mnist.factors import SHARINGS, Sharing
from pretrain.good_views.moving_mnist.pairs import PairBatch, PairMaker
from pretrain.good_views.moving_mnist.probing import TASKS, answers
from pretrain.good_views.pairs import PairEncoders, held_out_information, train_pair
from pretrain.run.descend import at_once, descend


@dataclass(frozen=True)
class Contrast:
    """history: the symmetric InfoNCE before every step, nats.
    information: I_NCE of held-out pairs.
    """

    networks: PairEncoders
    history: list[float]
    information: Estimate


def train_contrast(
    train: PairMaker,
    held_out: PairMaker,
    sharing: Sharing,
    config: MovingMnistConfig,
    *,
    seed: int,
    device: torch.device,
) -> Contrast:
    """InfoNCE between sequence and image. Raises UserError where it diverges."""
    training = config.training
    networks = build_encoders(config.encoder, config.scene, seed=seed).to(device)
    pairs = train.batches(sharing, split="train", num_batches=training.steps, batch_size=training.batch_size)
    title = f"{sharing.name}, seed {seed}"
    history = train_pair(
        networks,
        _views(tqdm(pairs, total=training.steps, desc=title, unit="step", disable=None), device),
        learning_rate=training.learning_rate,
        temperature=training.temperature,
        num_steps=training.steps,
    )
    return Contrast(networks, history, measure_information(networks, held_out, sharing, config, device=device))


def measure_information(
    networks: PairEncoders, held_out: PairMaker, sharing: Sharing, config: MovingMnistConfig, *, device: torch.device
) -> Estimate:
    """I_NCE between the views of held-out pairs that share `sharing`, with batches of the size trained with."""
    pairs = held_out.batches(
        sharing,
        split="held_out",
        num_batches=config.probe.information_batches,
        batch_size=config.training.batch_size,
    )
    return held_out_information(networks, _views(pairs, device), temperature=config.training.temperature)


def _views(pairs: Iterator[PairBatch], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in pairs:
        yield batch.view_1.to(device), batch.view_2.to(device)


class SupervisedTask(nn.Module):
    """Both encoders of a seed with a linear head each, for one task of TASKS."""

    def __init__(self, config: MovingMnistConfig, *, num_outputs: int, seed: int) -> None:
        super().__init__()
        self.networks = build_encoders(config.encoder, config.scene, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(nn.Linear(config.encoder.feature_dim, num_outputs) for _ in range(2))

    def forward(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, num_outputs) for each view: logits, or a position as a share of the canvas from its middle."""
        return self.heads[0](self.networks.encoder_1(view_1)), self.heads[1](self.networks.encoder_2(view_2))


def train_supervised(
    train: PairMaker, task: str, config: MovingMnistConfig, *, seed: int, device: torch.device
) -> tuple[SupervisedTask, list[float]]:
    """End to end for `task`, both encoders at once on their own views (they share no weight, so neither helps the other).

    Cross-entropy for classes, smooth L1 for the position. Returns the model and the loss before every step. Raises UserError
    where loss or gradient is not finite.
    """
    training, world = config.training, train.world
    num_outputs = {
        "digit": len(world.digits.classes),
        "position": 2,
        "background": len(world.backgrounds.classes),
    }[task]
    model = SupervisedTask(config, num_outputs=num_outputs, seed=seed).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    # Views of one pair are both labelled examples; sharing one factor leaves the other labels independent.
    pairs = train.batches(
        SHARINGS[0], split="train", num_batches=training.supervised_steps, batch_size=training.batch_size
    )
    history = []
    bar = tqdm(
        pairs, total=training.supervised_steps, desc=f"supervised {task}, seed {seed}", unit="step", disable=None
    )
    for step, batch in enumerate(bar):
        optimizer.param_groups[0]["lr"] = (
            training.learning_rate * 0.5 * (1 + math.cos(math.pi * step / training.supervised_steps))
        )
        outputs = model(batch.view_1.to(device), batch.view_2.to(device))
        targets = (answers(batch.factors_1, task), answers(batch.factors_2, task))
        loss = sum(
            (
                _loss(output, target.to(device), task, canvas=config.scene.canvas)
                for output, target in zip(outputs, targets, strict=True)
            ),
            start=torch.zeros((), device=device),
        )
        descend(optimizer, loss, check=at_once(partial(_diverged, task, step, training.learning_rate)))
        history.append(float(loss.detach()))
    return model, history


def _diverged(task: str, step: int, learning_rate: float, loss: float, norm: float) -> UserError:
    return UserError(
        f"supervised training for the {task} diverged at step {step} (loss {loss:g}, gradient {norm:g}); expected finite "
        f"figures. Pass training.learning_rate={learning_rate / 3:g}"
    )


@torch.no_grad()
def supervised_errors(
    model: SupervisedTask, held_out: PairMaker, task: str, config: MovingMnistConfig, *, device: torch.device
) -> tuple[float, float]:
    """(sequence encoder, image encoder) on the scenes that judge the probes: error in percent, or pixels for the position."""
    assert task in TASKS
    model.eval()
    totals, count = [0.0, 0.0], 0
    size = config.training.batch_size
    for start in range(0, config.probe.num_test, size):
        batch = held_out(SHARINGS[0], split="probe_test", start=start, count=min(size, config.probe.num_test - start))
        outputs = model(batch.view_1.to(device), batch.view_2.to(device))
        for view, factors in enumerate((batch.factors_1, batch.factors_2)):
            target = answers(factors, task).to(device)
            if task == "position":
                found = (outputs[view] + 0.5) * config.scene.canvas
                totals[view] += torch.linalg.vector_norm(found - target, dim=1).sum().item()
            else:
                totals[view] += 100 * (outputs[view].argmax(1) != target).sum().item()
        count += len(batch)
    return totals[0] / count, totals[1] / count


def _loss(output: Tensor, target: Tensor, task: str, *, canvas: int) -> Tensor:
    if task == "position":
        return functional.smooth_l1_loss(output, target / canvas - 0.5, beta=0.05)
    return functional.cross_entropy(output, target)
