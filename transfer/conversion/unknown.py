"""The general rule for a file of no known layout: a prefix under which every tensor of a ResNet stands.

In: the dictionaries of a weight file. Out: `Candidate`s, one for every place where something like a ResNet was found, with how
much of it fits. `only_complete` accepts one alone. Source of the rule: docs/specification.md 6.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.base.errors import CheckpointError, ConfigError
from transfer.conversion.containers import Containers
from transfer.conversion.fitting import BACKBONE_SEGMENTS, COUNTER, Fit, fit, reason
from transfer.conversion.names import HUGGING_FACE, SEQUENTIAL, TORCHVISION, Naming

SEARCHED = (TORCHVISION, SEQUENTIAL, HUGGING_FACE)
RIVAL = 0.25  # an incomplete copy with this share of its tensors is a damaged encoder, not a coincidence


@dataclass(frozen=True)
class Candidate:
    """name: "container/prefix", what --branch takes. tensors: torchvision's names, the backbone's alone. why: what is wrong
    with it, "" when nothing is. ignored: other tensors under the prefix (heads, classifiers)."""

    name: str
    naming: str
    fit: Fit
    tensors: dict[str, Tensor]
    ignored: tuple[str, ...]
    why: str

    @property
    def complete(self) -> bool:
        """Whether a detector can be given exactly this."""
        return not self.why


def find_candidates(containers: Containers) -> list[Candidate]:
    """Everything in a file that looks like a ResNet, in the file's order."""
    return [
        _candidate(place, prefix, naming, tensors)
        for place, tensors in containers.items()
        for naming in SEARCHED
        for prefix in _prefixes(tensors, naming)
    ]


def _prefixes(tensors: Mapping[str, Tensor], naming: Naming) -> Iterator[str]:
    assert naming.body is not None
    found = (re.search(naming.body, name) for name in tensors)
    yield from dict.fromkeys(match.string[: match.start("at")] for match in found if match is not None)


def _candidate(place: tuple[str, ...], prefix: str, naming: Naming, tensors: Mapping[str, Tensor]) -> Candidate:
    backbone: dict[str, Tensor] = {}
    ignored: list[str] = []
    under = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    for name, tensor in under.items():
        if name.endswith(COUNTER):
            continue
        if (ours := naming.torchvision(name)) is not None:
            backbone[ours] = tensor
        elif BACKBONE_SEGMENTS.match(name) or (naming is not TORCHVISION and re.search(naming.body or "", name)):
            backbone[name] = tensor  # in the encoder's own place, but nothing of a ResNet: it must not be dropped
        else:
            ignored.append(prefix + name)
    found = fit(backbone)
    why = "" if found.complete else (reason({**backbone, **_others(under, backbone)}) or str(found))
    name = "/".join((*place, prefix.rstrip("."))).strip("/") or "backbone"
    return Candidate(name, naming.name, found, backbone, tuple(ignored), why)


def _others(under: Mapping[str, Tensor], backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in under.items() if name not in backbone}


def only_complete(candidates: list[Candidate], path: Path, branch: str | None) -> Candidate:
    """The one complete candidate, or the one that `branch` names.

    Raises ConfigError for a branch that is not there, CheckpointError when no candidate is complete, when several different
    ones are, and when one is complete beside a damaged one.
    """
    if branch is not None:
        named = [candidate for candidate in candidates if candidate.name == branch]
        if not named:
            raise ConfigError(f"--branch {branch}: {path} holds {_names(candidates) or 'no ResNet'}; pass one of these")
        if not named[0].complete:
            raise CheckpointError(f"{path} ({branch}): {named[0].why}")
        return named[0]
    complete = _different([candidate for candidate in candidates if candidate.complete])
    rivals = [c for c in candidates if not c.complete and c.fit.placed >= RIVAL * c.fit.expected]
    if len(complete) == 1 and not rivals:
        return complete[0]
    if len(complete) > 1:
        raise CheckpointError(
            f"{path} is of no known layout and holds {len(complete)} complete copies of an encoder ({_names(complete)}); "
            "pass --branch and one of them"
        )
    if complete:
        raise CheckpointError(
            f"{path} is of no known layout; {complete[0].name} is complete, but {rivals[0].name} is not ({rivals[0].why}); "
            f"pass --branch {complete[0].name} if that is the one you mean"
        )
    raise CheckpointError(f"{path}: {best_reason(candidates)}")


def best_reason(candidates: list[Candidate]) -> str:
    """What is wrong with the candidate that is nearest to complete."""
    nearest = max(candidates, key=lambda candidate: candidate.fit.placed / candidate.fit.expected)
    return f"is of no known layout; nearest is {nearest.name}: {nearest.why}"


def _different(candidates: list[Candidate]) -> list[Candidate]:
    """`candidates` without those that hold the same values as an earlier one: one encoder, saved twice."""
    kept: list[Candidate] = []
    for candidate in candidates:
        if not any(_equal(candidate.tensors, other.tensors) for other in kept):
            kept.append(candidate)
    return kept


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _names(candidates: list[Candidate]) -> str:
    return ", ".join(candidate.name for candidate in candidates)
