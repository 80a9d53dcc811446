"""Three linear probes on frozen encoders: digit class, digit position, background class.

Which of the two the paper's table probes is not known here; both are measured. Every sharing is probed on the same scenes, whose
two views share nothing but the digit of which each view has its own label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from pretrain.good_views.moving_mnist.config import MovingMnistConfig
from pretrain.good_views.moving_mnist.factors import SHARINGS
from pretrain.good_views.moving_mnist.pairs import Factors, PairMaker
from pretrain.good_views.pairs import PairEncoders
from pretrain.good_views.probe import fit_classifier, fit_regressor

TASKS = ("digit", "position", "background")
VIEWS = ("sequence", "image")
PROBED_TOGETHER = 128


@dataclass(frozen=True)
class Errors:
    """digit, background: held-out class error, percent.
    position: mean distance from the digit's centre, pixels, in the frame that view 2 shows (for view 1 a few frames ahead).
    """

    digit: float
    position: float
    background: float

    def to_plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """One encoder's features float32 (N, D) and the answers: digit (N,), position (N, 2), background (N,). On the CPU."""

    features: Tensor
    digit: Tensor
    position: Tensor
    background: Tensor


def answers(factors: Factors, task: str) -> Tensor:
    """digit or background (B,), or position (B, 2)."""
    assert task in TASKS
    return getattr(factors, task)


def probe_encoders(
    networks: PairEncoders, train: PairMaker, held_out: PairMaker, config: MovingMnistConfig, *, device: torch.device
) -> dict[str, Errors]:
    """VIEWS -> Errors. The networks are put into evaluation mode and not changed."""
    networks.eval()
    return _probe_both((networks.encoder_1, networks.encoder_2), train, held_out, config, device)


def constant_predictor(train: PairMaker, held_out: PairMaker, config: MovingMnistConfig) -> dict[str, Errors]:
    """What one gets without looking: the most frequent class and the mean position of the training scenes."""
    return _probe_both((_Constant(), _Constant()), train, held_out, config, torch.device("cpu"))


def _probe_both(
    encoders: tuple[nn.Module, nn.Module],
    train: PairMaker,
    held_out: PairMaker,
    config: MovingMnistConfig,
    device: torch.device,
) -> dict[str, Errors]:
    seen = encode(encoders, train, split="probe_train", num=config.probe.num_train, device=device)
    unseen = encode(encoders, held_out, split="probe_test", num=config.probe.num_test, device=device)
    return {
        view: probe(seen[number], unseen[number], train, weight_decay=config.probe.weight_decay)
        for number, view in enumerate(VIEWS)
    }


@torch.no_grad()
def encode(
    encoders: tuple[nn.Module, nn.Module], maker: PairMaker, *, split: str, num: int, device: torch.device
) -> tuple[Table, Table]:
    """Tables of the first `num` scenes of a split: encoders[0] on view 1, encoders[1] on view 2."""
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    factors: tuple[list[Factors], list[Factors]] = ([], [])
    for start in range(0, num, PROBED_TOGETHER):
        batch = maker(SHARINGS[0], split=split, start=start, count=min(PROBED_TOGETHER, num - start))
        for number, view in enumerate((batch.view_1, batch.view_2)):
            features[number].append(encoders[number](view.to(device)).float().cpu())
        factors[0].append(batch.factors_1)
        factors[1].append(batch.factors_2)
    first, second = (_table(features[number], factors[number]) for number in range(2))
    return first, second


def probe(seen: Table, unseen: Table, maker: PairMaker, *, weight_decay: float) -> Errors:
    """Fit on `seen`, judge on `unseen`."""

    def class_error(choose: Callable[[Table], Tensor], num_classes: int) -> float:
        fitted = fit_classifier(seen.features, choose(seen), num_classes=num_classes, weight_decay=weight_decay)
        return 100 - fitted.accuracy(unseen.features, choose(unseen))

    regressor = fit_regressor(seen.features, seen.position, weight_decay=weight_decay)
    return Errors(
        digit=class_error(lambda table: table.digit, len(maker.world.digits.classes)),
        position=regressor.mean_distance(unseen.features, unseen.position),
        background=class_error(lambda table: table.background, len(maker.world.backgrounds.classes)),
    )


def _table(features: list[Tensor], factors: list[Factors]) -> Table:
    columns = (torch.cat([answers(entry, task) for entry in factors]) for task in TASKS)
    return Table(torch.cat(features), *columns)


class _Constant(nn.Module):
    """One feature that never changes: a probe of it can only learn frequencies and means."""

    def forward(self, view: Tensor) -> Tensor:
        return torch.zeros(len(view), 1, device=view.device)
