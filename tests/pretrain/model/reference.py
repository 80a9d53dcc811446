"""Every method written out slowly in NumPy float64: heads, logits, losses, gradients, memories [specification 1.3 to 1.5].

A method is a list of `Term`s over named rows: which row is a query, which its key, which its negatives. Everything else here, the
softmax and its gradient, follows from the list and is the same for all methods. Encoders are not written out: their features come in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrain.views.rng import NEGATIVES_STREAM, sample_generator

Row = tuple  # ("view", tower, which of the two, image) | ("jigsaw", tower, image) | ("key", tower, view, image) | ("memory", tower, row)


@dataclass(frozen=True)
class Term:
    """share: of this term in the total loss. branch: "instance" or "jigsaw"."""

    branch: str
    share: float
    query: Row
    key: Row
    negatives: list[Row]


def unit(rows):
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))


def batchnorm(rows):
    return (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)


def project(weights, kind, rows):
    """weights: name -> array of `heads.projection`'s state. Statistics are those of these rows."""
    if kind == "linear":
        return rows @ weights["weight"].T + weights["bias"]
    if kind == "mlp":
        hidden = np.maximum(rows @ weights["0.weight"].T + weights["0.bias"], 0)
        return hidden @ weights["2.weight"].T + weights["2.bias"]
    hidden = batchnorm(rows @ weights["0.weight"].T) * weights["1.weight"] + weights["1.bias"]
    return batchnorm(np.maximum(hidden, 0) @ weights["3.weight"].T)


def jigsaw(weights, kind, features, permutation):
    """Features of nine patches an image, (9B', F), and the order in which the head takes them, (B', 9)."""
    own = {name.removeprefix("patch_layers."): value for name, value in weights.items()}
    patches = project(own, kind, features)
    rows = []
    for image, order in enumerate(permutation):
        nine = np.concatenate([patches[9 * image + patch] for patch in order])
        rows.append(weights["mix.weight"] @ nine + weights["mix.bias"])
    rows = np.stack(rows)
    return unit(batchnorm(rows) if kind == "mlp_bn" else rows)


def directions(config):
    """(view of the query, view of the key), counted from 0."""
    return [(0, 1), (1, 0)] if config.symmetric else [(0, 1)]


def terms_of(config, index, num_jigsaw, *, rows_of_memory, seed, step):
    """The method as a list. index: the images of the batch. num_jigsaw: how many of them have patches."""
    beta = config.jigsaw_weight if config.jigsaw else 0.0
    size, found = len(index), []
    draws = []
    if config.memory == "bank":
        generator = sample_generator(seed=seed, epoch=step, index=0, stream=NEGATIVES_STREAM)
        draws = generator.integers(0, rows_of_memory - 1, config.bank_negatives).tolist()

    def against(tower, image, view):
        """(key, negatives) of an image in a queue or bank of a tower."""
        if config.memory == "queue":
            return ("key", tower, view, image), [("memory", tower, row) for row in range(rows_of_memory)]
        others = [row for row in range(rows_of_memory) if row != index[image]]
        return ("memory", tower, index[image]), [("memory", tower, others[draw]) for draw in draws]

    def rest_of_batch(image, *views):
        return [("view", tower, view, j) for tower, view in views for j in range(size) if index[j] != index[image]]

    for contrast in config.contrasts:
        for image in range(size):
            if config.memory == "batch":
                one, two = (contrast.query, 0), (contrast.key, 1)
                for query, key in ((one, two), (two, one)):
                    negatives = rest_of_batch(image, one, two)
                    share = contrast.weight * (1 - beta) / (2 * size)
                    found.append(Term("instance", share, ("view", *query, image), ("view", *key, image), negatives))
                continue
            for own, other in directions(config):
                share = contrast.weight * (1 - beta) / (len(directions(config)) * size)
                query = ("view", contrast.query, own, image)
                found.append(Term("instance", share, query, *against(contrast.key, image, other)))
    for tower in config.towers if config.jigsaw else ():
        weight = sum(contrast.weight for contrast in config.contrasts if contrast.query == tower)
        for image in range(num_jigsaw):
            if config.memory == "batch":
                negatives = rest_of_batch(image, (tower, 0), (tower, 1))
                share, key = weight * beta / num_jigsaw, ("view", tower, 1, image)
                found.append(Term("jigsaw", share, ("jigsaw", tower, image), key, negatives))
                continue
            for _, other in directions(config):
                share = weight * beta / (len(directions(config)) * num_jigsaw)
                found.append(Term("jigsaw", share, ("jigsaw", tower, image), *against(tower, image, other)))
    return found


@dataclass
class Result:
    """loss: of the step. logits: one row a term, the positive first. gradients: by row. figures: as in the log."""

    loss: float
    logits: list[np.ndarray]
    gradients: dict[Row, np.ndarray]
    figures: dict[str, float]


def evaluate(terms, rows, *, temperature, weight):
    """rows: name -> vector. weight: sum of the contrasts' weights, by which the figures are divided."""
    loss, logits, gradients = 0.0, [], {}
    means = {branch: [] for branch in ("instance", "jigsaw")}
    for term in terms:
        candidates = [term.key, *term.negatives]
        query = rows[term.query]
        values = np.array([query @ rows[name] for name in candidates]) / temperature
        chances = np.exp(values - values.max())
        chances /= chances.sum()
        own_loss = -np.log(chances[0])
        loss += term.share * own_loss
        means[term.branch].append((term.share, own_loss, float(values[0] > values[1:].max()), values[0] * temperature))
        slope = chances.copy()
        slope[0] -= 1
        slope *= term.share / temperature
        gradients[term.query] = gradients.get(term.query, 0) + sum(
            s * rows[name] for s, name in zip(slope, candidates, strict=True)
        )
        for s, name in zip(slope, candidates, strict=True):
            gradients[name] = gradients.get(name, 0) + s * query
        logits.append(values)
    figures = {"loss": loss / weight}
    for branch, values in means.items():
        if values:
            shares, losses, hits, cosines = np.array(values).T
            figures[f"loss_{branch}"] = shares @ losses / shares.sum()
            figures["accuracy" if branch == "instance" else "accuracy_jigsaw"] = shares @ hits / shares.sum()
            if branch == "instance":
                figures["positive"] = shares @ cosines / shares.sum()
    return Result(loss, logits, gradients, figures)


def enqueue(queue, pointer, keys):
    """(queue, pointer) after the keys have taken the oldest rows, one by one."""
    queue = queue.copy()
    for key in keys:
        queue[pointer] = key
        pointer = (pointer + 1) % len(queue)
    return queue, pointer


def move_bank(bank, index, embeddings, momentum):
    """The bank after a step; of an image that comes twice the last embedding counts."""
    moved = bank.copy()
    for image, embedding in zip(index, embeddings, strict=True):
        moved[image] = unit(momentum * bank[image] + (1 - momentum) * embedding)
    return moved
