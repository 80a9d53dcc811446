"""A world small enough to enumerate: exact information between views, label and codes, and Proposition 3.1 by brute force.

Views are deterministic functions of the N inputs x, written as N integers. Source: docs/specification.md 3 (Tian et al. 2020,
Proposition 3.1 and its appendix).

What can be reached, when both views are computed from one x. Let t(x) be the class of p(y | x), the least statistic of x
that is sufficient for y. A view with I(v;y) = I(x;y) determines t (p(y | v) = p(y | x) almost surely), so that
    I(v1;v2) = H(t) + I(v1;v2 | t) >= H(t) >= I(x;y)
for every pair of sufficient views, and for views with noise of their own too (count the noise as a part of x). The first
inequality is met whenever the views are independent given t, for which one view equal to t suffices: the world needs no
independent nuisances, though with them many more pairs meet it. The second is met only if H(t | y) = 0, that is if no y is possible
under two different t: for labels that are a function of x it always is, with t = y. With noisy labels the paper's
I(v1*;v2*) = I(x;y) and "views independent given y" are out of reach; the least shared information is then H(t), and what
is learned from its views is still the minimal sufficient statistic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain.base.errors import ConfigError

TOLERANCE = 1e-9  # nats, and differences of probabilities: what double precision leaves of equal figures
MAX_ENUMERATED = 9  # inputs: 21,147 set partitions; one more would be 115,975

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """probability: (N,) of each input, above 0, sum 1.
    label: (N, C) p(y | x).
    factors: name -> its value for each input (N,).
    """

    probability: Floats
    label: Floats
    factors: Mapping[str, Codes]

    def __post_init__(self) -> None:
        if self.probability.min() <= 0 or abs(self.probability.sum() - 1) > TOLERANCE:
            raise ConfigError("world: expected probabilities above 0 that sum to 1")
        if len(self.label) != len(self.probability) or np.abs(self.label.sum(axis=1) - 1).max() > TOLERANCE:
            raise ConfigError("world: expected one distribution over labels for each input")

    @property
    def inputs(self) -> Codes:
        """x itself as a view."""
        return np.arange(len(self.probability))


def product_world(factors: Mapping[str, Sequence[float]], *, label: Sequence[str], label_noise: float = 0.0) -> World:
    """Independent factors with the given distributions; x is all of them, y the ones named in `label`.

    label_noise: probability that y is replaced by another class, all alike. A nuisance is any factor not in `label`;
    whether it is shared between the views or private to one is for the views to say.
    """
    names = list(factors)
    grids = np.meshgrid(*(np.arange(len(factors[name])) for name in names), indexing="ij")
    values: dict[str, Codes] = {name: grid.ravel() for name, grid in zip(names, grids, strict=True)}
    probability = np.ones(len(values[names[0]]))
    for name in names:
        probability = probability * np.asarray(factors[name])[values[name]]
    classes = _joined([values[name] for name in label])
    count = int(classes.max()) + 1
    one_hot = np.eye(count)[classes]
    noisy = one_hot if label_noise == 0 else one_hot * (1 - label_noise) + (1 - one_hot) * label_noise / (count - 1)
    return World(probability, noisy, values)


def view(world: World, names: Sequence[str]) -> Codes:
    """The view that sees these factors and nothing else; none of them: a constant."""
    for name in names:
        if name not in world.factors:
            raise ConfigError(f"view: expected factors among {', '.join(world.factors)}, found {name!r}")
    return _joined([np.zeros_like(world.inputs), *(world.factors[name] for name in names)])


def _joined(codes: Sequence[Codes]) -> Codes:
    """One code for each combination, counted from 0."""
    return np.unique(np.stack(codes), axis=1, return_inverse=True)[1].reshape(-1)


def entropy(probability: Floats) -> float:
    """-sum p ln p over all entries, nats."""
    positive = probability[probability > 0]
    return float(-(positive * np.log(positive)).sum())


def label_joint(world: World, codes: Codes) -> Floats:
    """p(z, y) as (Z, C)."""
    joint = np.zeros((int(codes.max()) + 1, world.label.shape[1]))
    np.add.at(joint, codes, world.probability[:, None] * world.label)
    return joint


def view_joint(world: World, first: Codes, second: Codes) -> Floats:
    """p(v1, v2) as a table."""
    joint = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    np.add.at(joint, (first, second), world.probability)
    return joint


def mutual_information(joint: Floats) -> float:
    """I of a joint table, nats."""
    return max(entropy(joint.sum(axis=0)) + entropy(joint.sum(axis=1)) - entropy(joint), 0.0)  # no -1e-16


def label_information(world: World, codes: Codes) -> float:
    """I(z;y); of `world.inputs`, I(x;y)."""
    return mutual_information(label_joint(world, codes))


def shared_information(world: World, first: Codes, second: Codes) -> float:
    """I(v1;v2)."""
    return mutual_information(view_joint(world, first, second))


def nuisance_information(world: World, codes: Codes) -> float:
    """I(z;x | y) = H(z | y), z being a function of x: what z holds that the label does not explain."""
    joint = label_joint(world, codes)
    return max(entropy(joint) - entropy(joint.sum(axis=0)), 0.0)


def minimal_sufficient(world: World, first: Codes, second: Codes) -> Codes:
    """z1 = f1(v1) for each input: values of v1 with one and the same p(v2 | v1) become one code.

    This is what contrastive learning with minimal sufficient encoders learns from v1: I(z1;v2) = I(v1;v2), and every other
    such code of v1 determines z1.
    """
    joint = view_joint(world, first, second)
    given = joint / joint.sum(axis=1, keepdims=True)
    same = (np.abs(given[:, None] - given[None]).max(axis=2) < TOLERANCE).tolist()
    merged = np.empty(len(given), dtype=np.int64)
    found: list[int] = []
    for value in range(len(given)):
        merged[value] = next((code for code, member in enumerate(found) if same[member][value]), len(found))
        if merged[value] == len(found):
            found.append(value)
    return merged[first]


def set_partitions(size: int) -> Iterator[Codes]:
    """All functions on `size` inputs up to the names of their values (Bell's number of them), as restricted growth strings."""

    def grow(prefix: list[int], blocks: int) -> Iterator[Codes]:
        if len(prefix) == size:
            yield np.array(prefix, dtype=np.int64)
            return
        for block in range(blocks + 1):
            yield from grow([*prefix, block], max(blocks, block + 1))

    yield from grow([], 0)


@dataclass(frozen=True)
class Enumeration:
    """Proposition 3.1 over all ordered pairs of views that are sufficient for y; nats.

    least_sharing, most_sharing: smallest and largest I(v1;v2) among them.
    least_nuisance: smallest I(z;x|y) of any sufficient code of x.
    minimisers_label_information, minimisers_nuisance: lowest I(z;y) and highest I(z;x|y) over both codes of every minimising pair.
    others_nuisance: control: lowest I(z;x|y) of any code of all other pairs, None if there are none.
    maximisers_nuisance: control: the same of the pairs with the largest I(v1;v2).
    """

    num_inputs: int
    num_views: int
    num_sufficient: int
    num_pairs: int
    num_minimisers: int
    task_information: float
    least_sharing: float
    most_sharing: float
    least_nuisance: float
    minimisers_label_information: float
    minimisers_nuisance: float
    others_nuisance: float | None
    maximisers_nuisance: float

    @property
    def reaches_task_information(self) -> bool:
        """I(v1*;v2*) = I(x;y)."""
        return abs(self.least_sharing - self.task_information) < TOLERANCE

    @property
    def holds(self) -> bool:
        """What is learned from every minimising pair is optimal: it knows y as well as x does, and nothing avoidable."""
        return (
            abs(self.minimisers_label_information - self.task_information) < TOLERANCE
            and abs(self.minimisers_nuisance - self.least_nuisance) < TOLERANCE
        )


def enumerate_views(world: World) -> Enumeration:
    """Try every pair of views of the world. Raises ConfigError for more than MAX_ENUMERATED inputs."""
    size = len(world.probability)
    if size > MAX_ENUMERATED:
        raise ConfigError(f"enumeration: expected at most {MAX_ENUMERATED} inputs, found {size}; take fewer factors")
    task = label_information(world, world.inputs)
    views = list(set_partitions(size))
    sufficient = [codes for codes in views if label_information(world, codes) > task - TOLERANCE]
    shared = np.array([[shared_information(world, first, second) for second in sufficient] for first in sufficient])
    least, most = float(shared.min()), float(shared.max())
    label_low, nuisance_high, others, maximisers = math.inf, 0.0, math.inf, math.inf
    for i, first in enumerate(sufficient):
        for j, second in enumerate(sufficient):
            code = minimal_sufficient(world, first, second)  # z2 of (v1, v2) is z1 of (v2, v1), which comes up too
            nuisance = nuisance_information(world, code)
            if shared[i, j] < least + TOLERANCE:
                label_low = min(label_low, label_information(world, code))
                nuisance_high = max(nuisance_high, nuisance)
            else:
                others = min(others, nuisance)
            if shared[i, j] > most - TOLERANCE:
                maximisers = min(maximisers, nuisance)
    return Enumeration(
        num_inputs=size,
        num_views=len(views),
        num_sufficient=len(sufficient),
        num_pairs=shared.size,
        num_minimisers=int((shared < least + TOLERANCE).sum()),
        task_information=task,
        least_sharing=least,
        most_sharing=most,
        least_nuisance=min(nuisance_information(world, codes) for codes in sufficient),
        minimisers_label_information=label_low,
        minimisers_nuisance=nuisance_high,
        others_nuisance=None if math.isinf(others) else others,
        maximisers_nuisance=maximisers,
    )
