"""Signs in a run's log that it learns nothing, in words and with what to change.

In: the entries of the log so far (pretrain/run/recorder.py) and a few facts of the run. Out: findings, each said once.
Every rule is a function (entries, facts) -> Finding or None. Limits were measured on ResNet-18 of half width at 32 px on CIFAR-10
(batch 64, D = 128: a uniform spread is 0.088): a run that collapsed had a spread of 0.015 after 50 steps and 0.007 after 200, and
its embeddings' effective rank fell from 35 to 4.6 and 2.1; one that learned kept 0.087, and 30 to 36. docs/results.md has runs of
64 px that collapsed to 0.014 within 90 steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from pretrain.run.representation import information_ceiling

FIRST_STEP = 30  # before it, a slow start and a queue of random rows say little
COLLAPSED_SPREAD = 0.2  # of the uniform one
COLLAPSED_RANK = 0.2  # of the random network's
POINT_RANK = 2.0
# In evaluation the BatchNorm statistics lag behind fast first steps: a SimCLR run that went on well had a rank of 5.7 of 30 after
# 24 steps, and 48 later.
FIRST_RANK_STEP = 50
FLAT_LOSS = 0.98  # of a uniform guess's
FALLING_LOSS = 0.97  # of that of some sixty entries before
FLAT_STEPS = 200
LEAK_ACCURACY, LEAK_NEGATIVES, LEAK_EPOCHS = 0.98, 500, 3
RECENT = 3  # entries that a rule looks at together: one batch is no sign

Entry = Mapping[str, float]


@dataclass(frozen=True)
class RunFacts:
    """Of a run, what the rules need.

    num_negatives, feature_dim: K and D. memory: queue, bank or batch. keys_per_step: that a step adds to it.
    momentum: of a queue's key network.
    asked: images that the kNN probe asks about, 0 without one.
    """

    num_negatives: int
    feature_dim: int
    memory: str
    keys_per_step: int
    steps_per_epoch: int
    head: str
    learning_rate: float
    momentum: float
    batchnorm_images: int
    asked: int = 0

    @property
    def filled(self) -> float:
        """Steps until no random row of the start is left in the memory."""
        if self.memory == "bank":
            return self.steps_per_epoch
        return self.num_negatives / self.keys_per_step if self.memory == "queue" else 0


@dataclass(frozen=True)
class Finding:
    """name: of the rule. words: what was seen, with the figure and what it should be. advice: what to change."""

    name: str
    words: str
    advice: str

    def __str__(self) -> str:
        return f"{self.words}. {self.advice}"


def keys_collapsed(entries: Sequence[Entry], facts: RunFacts) -> Finding | None:
    """The keys of a batch are almost one point, and were not wider apart at the last look."""
    seen = [entry for entry in entries if "key_std" in entry]
    if len(seen) < RECENT or seen[-1]["step"] < FIRST_STEP:
        return None
    uniform = 1 / math.sqrt(facts.feature_dim)
    now = median(entry["key_std"] for entry in seen[-RECENT:])
    # A fresh network may start in a narrow cone and leave it.
    if now > COLLAPSED_SPREAD * uniform or now > seen[0]["key_std"]:
        return None
    return Finding(
        "keys_collapsed",
        f"step {seen[-1]['step']:.0f}: the embeddings are collapsing: the keys of a batch have a spread of {now:.3f}, "
        f"{uniform:.3f} is uniform, 0 is one point for all images",
        _against_collapse(facts),
    )


def embeddings_collapsed(entries: Sequence[Entry], facts: RunFacts) -> Finding | None:
    """The embeddings of different images, or their features, span few directions."""
    seen = [entry for entry in entries if "effective_rank_embedding" in entry]
    if not seen or seen[-1]["step"] < FIRST_RANK_STEP:
        return None
    first, last = seen[0], seen[-1]
    at = f"step {last['step']:.0f}"
    if last["effective_rank"] < POINT_RANK:
        return Finding(
            "features_collapsed",
            f"{at}: the features have collapsed: their effective rank is {last['effective_rank']:.1f}, 1 is one vector for all "
            "images",
            _against_collapse(facts),
        )
    before = first["effective_rank_embedding"] if first["step"] == 0 else 0.0
    if last["effective_rank_embedding"] >= max(POINT_RANK, COLLAPSED_RANK * before):
        return None
    compared = f", {before:.1f} with random weights" if before else ""
    return Finding(
        "embeddings_collapsed",
        f"{at}: the embeddings are collapsing: their effective rank is {last['effective_rank_embedding']:.1f} of "
        f"{facts.feature_dim} directions{compared}",
        _against_collapse(facts),
    )


def loss_flat(entries: Sequence[Entry], facts: RunFacts) -> Finding | None:
    """An epoch and 200 steps after the memory was filled the loss is a uniform guess's or more, and does not fall."""
    seen = [entry for entry in entries if "loss_instance" in entry]
    if len(seen) < RECENT or seen[-1]["step"] < facts.filled + max(FLAT_STEPS, facts.steps_per_epoch):
        return None
    guess = information_ceiling(facts.num_negatives)
    now = fmean(entry["loss_instance"] for entry in seen[-RECENT:])
    before = fmean(entry["loss_instance"] for entry in [e for e in seen if e["step"] > facts.filled][:RECENT])
    if now < FLAT_LOSS * guess or now < FALLING_LOSS * before:
        return None
    rate = facts.learning_rate
    return Finding(
        "loss_flat",
        f"step {seen[-1]['step']:.0f}: nothing has been learned yet: the loss is {now:.2f} and does not fall, a uniform "
        f"guess has ln(K + 1) = {guess:.2f}",
        f"Try another optimizer.learning_rate ({rate * 3:g} and {rate / 3:g}; it is {rate:g}), weaker views "
        f"(views.crop_scale=[0.3,1.0]){', method.head=mlp_bn' if facts.head != 'mlp_bn' else ''} or, for short runs, fewer "
        "negatives",
    )


def nothing_learned(entries: Sequence[Entry], facts: RunFacts) -> Finding | None:
    """At the end of a run that was too short for `loss_flat` to judge: the loss is a uniform guess's or more."""
    seen = [entry for entry in entries if "loss_instance" in entry]
    guess = information_ceiling(facts.num_negatives)
    if not seen or (now := fmean(entry["loss_instance"] for entry in seen[-RECENT:])) < FLAT_LOSS * guess:
        return None
    steps = seen[-1]["step"]
    filled = f" The memory holds random rows for {facts.filled:.0f} of them." if facts.filled > 0 else ""
    return Finding(
        "nothing_learned",
        f"the run ended after {steps:.0f} steps with the loss of a uniform guess: {now:.2f}, ln(K + 1) = {guess:.2f}; what its "
        "weights have learned does not show",
        f"Pass more optimizer.epochs, or a smaller optimizer.batch_size for more steps.{filled}",
    )


def positives_given_away(entries: Sequence[Entry], facts: RunFacts) -> Finding | None:
    """Among hundreds of negatives almost every positive is found within the first epochs, after the memory's random start."""
    seen = [entry for entry in entries if "accuracy" in entry]
    if len(seen) < RECENT or facts.num_negatives < LEAK_NEGATIVES:
        return None
    if seen[-RECENT]["step"] <= max(FIRST_STEP, facts.filled) or seen[-1]["step"] > LEAK_EPOCHS * facts.steps_per_epoch:
        return None
    now = min(entry["accuracy"] for entry in seen[-RECENT:])
    if now < LEAK_ACCURACY:
        return None
    fewer = max(2, facts.batchnorm_images // 4)
    return Finding(
        "positives_given_away",
        f"step {seen[-1]['step']:.0f}: the positive is found among {facts.num_negatives} negatives in {100 * now:.0f} % of cases "
        "after so few steps: something other than the images gives it away, as BatchNorm statistics that query and key share do, "
        "or a border or colour cast that an image keeps in all its views",
        f"Compare the kNN probe with that of random weights (monitor.labelled); pass method.batchnorm_images={fewer}, or stronger "
        "views",
    )


def worse_than_random(entries: Sequence[Entry], facts: RunFacts) -> Finding | None:
    """Twice in sequence the kNN probe is below that of the random weights, by more than chance allows."""
    seen = [entry for entry in entries if "knn" in entry]
    if len(seen) < 3 or seen[0]["step"] != 0 or not facts.asked:
        return None
    start = seen[0]["knn"]
    share = start / 100
    margin = 2 * 100 * math.sqrt(2 * share * (1 - share) / facts.asked)  # two deviations of a difference of two shares
    now = max(entry["knn"] for entry in seen[-2:])
    if now >= start - margin:
        return None
    return Finding(
        "worse_than_random",
        f"step {seen[-1]['step']:.0f}: the kNN probe is {now:.1f} %, below the {start:.1f} % of the random weights that the run "
        "began with: the features lose what tells these classes apart",
        "Check that the views keep it (tools/pretrain.py --show-views), and try weaker ones or a lower optimizer.learning_rate",
    )


def _against_collapse(facts: RunFacts) -> str:
    rate = facts.learning_rate
    steps = []
    if facts.head != "mlp_bn":
        steps.append("method.head=mlp_bn (a head with BatchNorm has no common mean to collapse to)")
    steps.append(f"optimizer.learning_rate={rate / 3:g}, with a longer optimizer.warmup_epochs")
    if facts.memory == "queue":
        age, follows = facts.num_negatives / facts.keys_per_step, 1 / max(1 - facts.momentum, 1e-9)
        if facts.momentum < 0.99:
            steps.append(f"method.momentum=0.99 or more (it is {facts.momentum:g})")
        if age > 2 * follows:
            steps.append(
                f"a smaller method.queue_size (its oldest keys are {age:.0f} steps old, and the key network changes within "
                f"{follows:.0f})"
            )
    return "Stop this run and pass, in this order: " + "; ".join(f"{n}. {step}" for n, step in enumerate(steps, 1))


RULES: tuple[Callable[[Sequence[Entry], RunFacts], Finding | None], ...] = (
    keys_collapsed,
    embeddings_collapsed,
    positives_given_away,
    worse_than_random,
    loss_flat,
)
COLLAPSE = {"keys_collapsed", "embeddings_collapsed", "features_collapsed"}  # one of them explains all that follows


class Diagnosis:
    """Looks at each entry of the log as it is written. findings: all so far."""

    def __init__(self, facts: RunFacts, earlier: Sequence[Entry] = ()) -> None:
        """earlier: what the log holds after a resume; what it shows was said then."""
        self.findings: list[Finding] = []
        self._facts = facts
        self._first: list[Entry] = []  # of each figure, its first entry
        self._recent: list[Entry] = []
        for entry in earlier:
            self.look(entry)

    def look(self, entry: Entry) -> list[Finding]:
        """The findings that `entry` brings."""
        known = {name for kept in (*self._first, *self._recent) for name in kept}
        if set(entry) - known:
            self._first.append(entry)
        else:
            self._recent = [*self._recent, entry][-20 * RECENT :]
        entries = sorted([*self._first, *self._recent], key=lambda kept: kept["step"])
        new: list[Finding] = []
        for rule in RULES:
            said = {finding.name for finding in self.findings}
            if said & COLLAPSE:
                break
            found = rule(entries, self._facts)
            if found is not None and found.name not in said:
                new.append(found)
                self.findings.append(found)
        return new

    def end(self) -> list[Finding]:
        """What only the end of the run shows, where nothing was found on the way."""
        found = None if self.findings else nothing_learned(self._recent or self._first, self._facts)
        self.findings += [found] if found is not None else []
        return self.findings if found is not None else []
