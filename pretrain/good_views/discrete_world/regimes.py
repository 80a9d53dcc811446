"""The three regimes of shared information, exactly: too little, just the task's, and too much, with what each costs.

Why too much costs anything. A code that holds y loses nothing for a reader with unlimited labels, whatever else it holds:
its best accuracy stays. The price of shared nuisances is paid in labels. So the reader here is the plainest one with n
labelled inputs: it answers with the most frequent label among those with the same code, ties (also: none) by lot. Every
nuisance bit in the code spreads the n labels over more codes. Its expected accuracy is summed over all outcomes, not sampled.
Source of the regimes: docs/specification.md 3 (Tian et al. 2020, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import gammaln, xlogy

from pretrain.good_views.discrete_world.world import (
    TOLERANCE,
    Codes,
    Floats,
    World,
    label_information,
    label_joint,
    minimal_sufficient,
    nuisance_information,
    product_world,
    shared_information,
    view,
)

BIT = math.log(2)  # nats
NUM_LABELS = 16
REGIMES = ("missing information", "sweet spot", "excess noise")
COLOURS = dict(zip(REGIMES, ("#b45309", "#047857", "#be123c"), strict=True))


def demonstration_world() -> World:
    """32 inputs: y is the pair of two fair bits u, w; nuisances c, d, e of 0.97, 0.88 and 0.72 bits; all independent.

    A nuisance is shared if both views see it, and private if one does.
    """
    factors = {"u": (0.5, 0.5), "w": (0.5, 0.5), "c": (0.6, 0.4), "d": (0.7, 0.3), "e": (0.8, 0.2)}
    return product_world(factors, label=("u", "w"))


@dataclass(frozen=True)
class Outcome:
    """A pair of views and the minimal sufficient code z1 of the first about the second. Information in nats.

    first, second: the factors that each view sees.
    shared: I(v1;v2).
    label, nuisance: I(z1;y), I(z1;x|y).
    regime: by I(v1;v2) against I(x;y) alone, as the paper draws it.
    optimal: z1 is sufficient for y and holds nothing else.
    best_accuracy: with unlimited labels, in [0, 1].
    accuracy: expected with `num_labels` labelled inputs, in [0, 1].
    """

    first: str
    second: str
    shared: float
    label: float
    nuisance: float
    regime: str
    optimal: bool
    best_accuracy: float
    accuracy: float
    num_labels: int

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@lru_cache(maxsize=8)
def _votes(num_classes: int, num_labels: int) -> tuple[Floats, Floats]:
    """All ways (M, C) in which up to n labels fall on the classes of one code, and each class's chance to win them (M, C)."""
    counts = np.zeros((1, 0), dtype=np.int64)
    for _ in range(num_classes):
        left = num_labels - counts.sum(axis=1)
        rows = np.repeat(np.arange(len(counts)), left + 1)
        added = np.concatenate([np.arange(most + 1) for most in left])
        counts = np.concatenate([counts[rows], added[:, None]], axis=1)
    best = counts == counts.max(axis=1, keepdims=True)
    return counts.astype(np.float64), best / best.sum(axis=1, keepdims=True)


def few_label_accuracy(world: World, codes: Codes, *, num_labels: int) -> float:
    """Expected accuracy in [0, 1] of the majority vote by code, over the draw of `num_labels` >= 0 labelled inputs."""
    joint = label_joint(world, codes)
    counts, wins = _votes(joint.shape[1], num_labels)
    elsewhere = num_labels - counts.sum(axis=1)
    ways = gammaln(num_labels + 1) - gammaln(counts + 1).sum(axis=1) - gammaln(elsewhere + 1)
    accuracy = 0.0
    for row in joint:
        rest = max(1 - float(row.sum()), 0.0)
        chance = np.exp(ways + xlogy(counts, row).sum(axis=1) + xlogy(elsewhere, rest))
        accuracy += float(chance @ (wins @ row))
    return accuracy


def best_accuracy(world: World, codes: Codes) -> float:
    """Of the best reader of z, in [0, 1]: sum over z of max p(z, y)."""
    return float(label_joint(world, codes).max(axis=1).sum())


def examine(world: World, first: Sequence[str], second: Sequence[str], *, num_labels: int = NUM_LABELS) -> Outcome:
    """The pair of views that see the named factors."""
    views = view(world, first), view(world, second)
    code = minimal_sufficient(world, *views)
    task = label_information(world, world.inputs)
    shared, label, nuisance = (
        shared_information(world, *views),
        label_information(world, code),
        nuisance_information(world, code),
    )
    regime = REGIMES[1 if abs(shared - task) < TOLERANCE else 0 if shared < task else 2]
    return Outcome(
        first="".join(first) or "-",
        second="".join(second) or "-",
        shared=shared,
        label=label,
        nuisance=nuisance,
        regime=regime,
        optimal=abs(label - task) < TOLERANCE and nuisance < TOLERANCE,
        best_accuracy=best_accuracy(world, code),
        accuracy=few_label_accuracy(world, code, num_labels=num_labels),
        num_labels=num_labels,
    )


def examine_all(world: World, *, num_labels: int = NUM_LABELS) -> list[Outcome]:
    """Every unordered pair of views that see a subset of the factors."""
    names = list(world.factors)
    subsets = list(chain.from_iterable(combinations(names, count) for count in range(len(names) + 1)))
    return [
        examine(world, first, second, num_labels=num_labels)
        for i, first in enumerate(subsets)
        for second in subsets[i:]
    ]


def envelope(
    outcomes: Sequence[Outcome], task_information: float, *, unlimited: bool = False
) -> list[tuple[float, float]]:
    """(I(v1;v2), accuracy, or best_accuracy if `unlimited`): the lowest curve above all outcomes that does not fall before
    I(x;y) and does not rise after it."""
    best: dict[float, float] = {}
    for outcome in outcomes:
        shared = round(outcome.shared, 9)
        best[shared] = max(best.get(shared, 0.0), outcome.best_accuracy if unlimited else outcome.accuracy)
    points = sorted(best.items())
    return [
        (shared, max(a for s, a in points if (s <= shared if shared <= task_information + TOLERANCE else s >= shared)))
        for shared, _ in points
    ]


def draw_regimes(path: Path, world: World, outcomes: Sequence[Outcome]) -> None:
    """Write the picture (PNG, atomically): accuracy, and what the code holds, over the information that the views share."""
    from matplotlib.figure import Figure  # not for the table alone: half a second

    from pretrain.base.plot_style import QUIET, plot_style, save_figure

    task = label_information(world, world.inputs)
    with plot_style():
        figure = Figure(figsize=(10.4, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for regime in REGIMES:
            of_regime = [outcome for outcome in outcomes if outcome.regime == regime]
            shared = [outcome.shared / BIT for outcome in of_regime]
            left.scatter(
                shared, [o.accuracy for o in of_regime], s=16, alpha=0.6, color=COLOURS[regime], label=regime, zorder=3
            )
            right.scatter(
                [o.label / BIT for o in of_regime],
                [o.nuisance / BIT for o in of_regime],
                s=18,
                alpha=0.6,
                color=COLOURS[regime],
                zorder=3,
            )
        labels = outcomes[0].num_labels
        for unlimited, line in ((True, {"color": QUIET, "linestyle": "--"}), (False, {"color": "#374151"})):
            curve = [(s / BIT, a) for s, a in envelope(outcomes, task, unlimited=unlimited)]
            name = "envelope, unlimited labels" if unlimited else f"envelope, {labels} labels"
            left.plot(*zip(*curve, strict=True), linewidth=1.2, label=name, **line)
        left.axvline(task / BIT, color=QUIET, linestyle=":", linewidth=1)
        left.set(
            title=f"Exact expected accuracy with {labels} labels",
            xlabel="I(v1;v2), bits",
            ylabel="accuracy",
            ylim=(0, 1.04),
        )
        left.annotate("I(x;y)", (task / BIT, 0.02), xytext=(3, 0), textcoords="offset points", color="#6b7280")
        figure.legend(loc="outside lower center", ncols=5)
        right.set(
            title="What the learned code z1 holds",
            xlabel="I(z1;y), bits: the task",
            ylabel="I(z1;x|y), bits: nuisance",
        )
        right.annotate(
            "optimal",
            (task / BIT, 0),
            xytext=(-60, 18),
            textcoords="offset points",
            arrowprops={"arrowstyle": "->", "color": "#374151"},
        )
        save_figure(path, figure)
