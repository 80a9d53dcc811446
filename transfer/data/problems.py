"""What is wrong with a data set, problem by problem, and the decision what a run may do about it.

A reader yields `Problem`s one by one. What is beyond doubt it repairs and goes on; what is in doubt it yields as not repaired,
with the edit or the switch that mends it. `read_strictly` drives a reader: repairs become one note a kind with its count,
everything else a DataError that lists all offenders.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pretrain.base.errors import DataError

SHOWN = 20  # offenders that a message names; the file that it names has all
T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    kind: what it is, the same words for all of its kind, in the user's terms: "boxes extend beyond their image".
    where: the entry, and its file where the data are more than one.
    found: the value.
    remedy: what was done, of a repair ("clipped"); else what to edit or which switch to pass.
    repaired: whether the data are sound without the user's doing.
    """

    kind: str
    where: str
    found: str
    remedy: str
    repaired: bool

    def line(self) -> str:
        """For a list of offenders."""
        return f"{self.where}: {self.found}"


class Doubt(Exception):
    """Why one entry cannot be used: kind, found and remedy of a `Problem`; the reader adds where."""

    def at(self, where: str) -> Problem:
        """The problem, not repaired."""
        kind, found, remedy = self.args
        return Problem(kind, where, found, remedy, repaired=False)


Problems = Generator[Problem, None, T]  # yields what is wrong, returns what was read


@dataclass(frozen=True)
class ReadOptions:
    """What the user decides about doubtful data.

    crowd_as_objects: count regions marked iscrowd as objects.
    keep_crowds: take them for crowds, however many there are.
    skip_unreadable: leave out images that cannot be decoded.
    large_images: allow images of more than 50 megapixels.
    class_names: the classes and their order; None: those that the data name.
    """

    crowd_as_objects: bool = False
    keep_crowds: bool = False
    skip_unreadable: bool = False
    large_images: bool = False
    class_names: tuple[str, ...] | None = None


DEFAULTS = ReadOptions()


def read_strictly(problems: Problems[T], where: str) -> tuple[T, tuple[str, ...]]:
    """Run a reader to its end -> what it read, and one note for each kind of repair with its count.

    Raises DataError that lists every kind of unrepaired problem with its count, the first offenders, a file with all, and
    the remedy.
    """
    found: list[Problem] = []
    while True:
        try:
            found.append(next(problems))
        except StopIteration as end:
            result: T = end.value
            break
    open_ones = [problem for problem in found if not problem.repaired]
    if open_ones:
        raise DataError(describe_refusal(open_ones, where))
    return result, repair_notes(found, where)


def repair_notes(problems: Sequence[Problem], where: str) -> tuple[str, ...]:
    """One sentence for each kind of repair: how often, the first place, what was done."""
    return tuple(
        f"{where}: {kind}: {len(members)} ({members[0].remedy}), first {members[0].line()}"
        for kind, members in _by_kind([problem for problem in problems if problem.repaired]).items()
    )


def describe_refusal(problems: Sequence[Problem], where: str) -> str:
    """Every kind with its count, its offenders (the first ones by name, the rest in a file) and its remedy."""
    lines = []
    for kind, members in _by_kind(problems).items():
        lines.append(f"{where}: {kind}: {len(members)}")
        lines += [f"  {problem.line()}" for problem in members[:SHOWN]]
        if len(members) > SHOWN:
            lines.append(f"  ... and {len(members) - SHOWN} more; {_listing(members)}")
        lines.append(f"  {members[0].remedy}")
    return "\n".join(lines)


def _by_kind(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    return kinds


def _listing(problems: Sequence[Problem]) -> str:
    """Where every offender is written: a file that stays for the user to read, if there is room for one."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="problems_", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.writelines(f"{problem.line()}\n" for problem in problems)
    except OSError as error:
        return f"no file with all of them could be written: {error}"
    return f"all of them in {file.name}"
