"""One game: a generator that lowers the information between its two views against an estimator that raises it.

Source: docs/specification.md 4.

    (1) the estimator raises I(g(x1)_1 ; g(x2)_2:3), the generator fixed
    (2) the generator, and the classifiers with it, lower  w I + c (CE(c1(g(x)_1), y) + CE(c2(g(x)_2:3), y)), the estimator fixed

x1 and x2 are two crops of one image, x and y labelled images; a view never holds a channel of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.good_views.encoders import VIEW_CHANNELS, build_view_encoder
from pretrain.good_views.view_learning.config import GameConfig, GameOptimizerConfig
from pretrain.good_views.view_learning.estimator import Estimator, gradient_penalty
from pretrain.run.descend import at_once, descend
from pretrain.views.generator import Generator, split_views

Views = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class GameBatch:
    """first, second: (B, 3, S, S) two crops an image, RGB in [0, 1].
    index: (B,) which images.
    labelled, labels: (L, 3, S, S), (L,); L = 0 where the game has no classifiers.
    """

    first: Tensor
    second: Tensor
    index: Tensor
    labelled: Tensor
    labels: Tensor


class Diverged(Exception):
    """A game that has gone wrong: what was found. The networks are as before the step that found it."""


class Classifier(nn.Module):
    """One view (B, C, S, S) -> logits (B, num_classes)."""

    def __init__(self, encoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(int(encoder.feature_dim), num_classes)  # type: ignore[arg-type]

    def forward(self, view: Tensor) -> Tensor:
        return self.linear(self.encoder(view))


class Game:
    """Networks, optimisers and the number of steps done. All of it is in `state_dict`; nothing else is random or kept."""

    def __init__(
        self, config: GameConfig, *, num_images: int, num_classes: int, steps_per_epoch: int, seed: int, device: torch.device
    ) -> None:  # fmt: skip
        """num_images: unlabelled ones. num_classes: 0 for an unsupervised game. Initial weights depend on `seed` alone."""
        self.config, self.steps_per_epoch, self.step_count = config, steps_per_epoch, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = Generator(config.generator).to(device)
            self.estimator = Estimator(config.estimator, num_images=num_images, seed=seed).to(device)
            self.classifiers = nn.ModuleList(
                Classifier(build_view_encoder(config.classifier, channels), num_classes)
                for channels in (VIEW_CHANNELS if config.uses_labels else ())
            ).to(device)
        options: dict[str, Any] = {"betas": config.optimizer.betas, "weight_decay": 0.0}
        rate = config.optimizer.learning_rate
        self._estimator_optimizer = torch.optim.Adam(self.estimator.parameters(), lr=rate, **options)
        self._optimizer = torch.optim.Adam(
            [*self.generator.parameters(), *self.classifiers.parameters()], lr=rate, **options
        )

    def step(self, batch: GameBatch) -> dict[str, Tensor]:
        """Both moves on one batch. Returns 0-d figures; raises Diverged, with that move not made."""
        rate = learning_rate(self.config.optimizer, self.step_count // self.steps_per_epoch)
        self._estimator_optimizer.param_groups[0]["lr"] = rate
        self._optimizer.param_groups[0]["lr"] = rate * self.config.optimizer.generator_factor
        sizes = (len(batch.first), len(batch.second), len(batch.labelled))
        values = self.generator.prepare(torch.cat((batch.first, batch.second, batch.labelled)))
        learned, log_determinant = self.generator.with_log_determinant(values)
        first, second, labelled = learned.split(sizes)
        views = split_views(first, second)
        figures = self.statistics(learned.detach())
        self._require_spread(figures)
        self.estimator_move((views[0].detach(), views[1].detach()), batch)
        figures |= self.generator_move(views, split_views(labelled, labelled), batch)
        figures["log_determinant"] = log_determinant.detach().mean() / values[0].numel()
        self.step_count += 1
        return figures

    def estimator_move(self, views: Views, batch: GameBatch) -> None:
        """(1) Raise the bound; `views` carry no gradient of the generator."""
        weight = self.config.estimator.gradient_penalty
        if weight > 0:
            views = (views[0].requires_grad_(), views[1].requires_grad_())
        embeddings = self.estimator.embed(*views)
        scores = self.estimator.scores(embeddings, index=batch.index, step=self.step_count)
        information = self.estimator.information(scores)
        loss = -information
        if weight > 0:
            loss = loss + weight * gradient_penalty(scores[0].positive, views)
        self._require_plausible(information)
        self._descend(self._estimator_optimizer, loss, "estimator")
        self.estimator.remember((embeddings[0].detach(), embeddings[1].detach()), index=batch.index)

    def generator_move(self, views: Views, labelled: Views, batch: GameBatch) -> dict[str, Tensor]:
        """(2) Lower weight x bound + weight x cross-entropies; the estimator's weights take no gradient."""
        config = self.config
        weight = config.effective_information_weight
        self.estimator.requires_grad_(False)
        with torch.set_grad_enabled(weight > 0):
            information = self.estimator(*views, index=batch.index, step=self.step_count)
        self.estimator.requires_grad_(True)
        loss = weight * information
        figures = {"information": information.detach()}
        for number, (classifier, view) in enumerate(zip(self.classifiers, labelled, strict=False), 1):
            logits = classifier(view)
            cross_entropy = functional.cross_entropy(logits, batch.labels)
            loss = loss + config.classification_weight * cross_entropy
            figures[f"cross_entropy_{number}"] = cross_entropy.detach()
            figures[f"accuracy_{number}"] = 100 * (logits.detach().argmax(1) == batch.labels).float().mean()
        self._descend(self._optimizer, loss, "generator")
        return {"objective": loss.detach(), **figures}

    @staticmethod
    @torch.no_grad()
    def statistics(learned: Tensor) -> dict[str, Tensor]:
        """Mean and deviation of each learned channel over a batch (B, 3, H, W)."""
        mean, std = learned.mean((0, 2, 3)), learned.std((0, 2, 3))
        return {
            f"{name}_{channel + 1}": values[channel]
            for channel in range(3)
            for name, values in (("mean", mean), ("std", std))
        }

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor, who: str) -> None:
        if loss.requires_grad:  # not so in an unsupervised game of weight 0, whose generator has nothing to do
            failed = at_once(lambda nats, norm: Diverged(f"the {who}'s loss is {nats:g} and its gradient {norm:g}"))
            descend(optimizer, loss, check=failed)

    def _require_spread(self, figures: dict[str, Tensor]) -> None:
        health = self.config.health
        for channel in (1, 2, 3):
            deviation = float(figures[f"std_{channel}"])
            if not health.min_deviation <= deviation <= health.max_deviation:
                raise Diverged(
                    f"learned channel {channel} has a deviation of {deviation:.3g} over a batch, outside "
                    f"[{health.min_deviation:g}, {health.max_deviation:g}]"
                )

    def _require_plausible(self, information: Tensor) -> None:
        nats, most = float(information.detach()), self.config.health.max_information
        if not abs(nats) <= most:
            raise Diverged(f"the estimate is {nats:.3g} nats, beyond {most:g}")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step_count,
            "generator": self.generator.state_dict(),
            "estimator": self.estimator.state_dict(),
            "classifiers": self.classifiers.state_dict(),
            "estimator_optimizer": self._estimator_optimizer.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.step_count = state["step"]
        self.generator.load_state_dict(state["generator"])
        self.estimator.load_state_dict(state["estimator"])
        self.classifiers.load_state_dict(state["classifiers"])
        self._estimator_optimizer.load_state_dict(state["estimator_optimizer"])
        self._optimizer.load_state_dict(state["optimizer"])


def learning_rate(config: GameOptimizerConfig, epoch: int) -> float:
    """The estimator's rate in an epoch counted from 0: 100 epochs with milestones 60 and 80 have 60 at full rate."""
    return config.learning_rate * config.decay ** sum(epoch >= milestone for milestone in config.milestones)
