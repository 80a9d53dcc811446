"""One order of a labelled set, of which every beginning is a stratified draw; and the division into training and test images.

In: the classes of each image and its name, a seed. Out: positions of images. A pure function of the names, the classes and the
seed: the order in which the images are given does not count.

Because a smaller draw is the beginning of a larger one, fractions are nested: the 10 % are among the 30 %, and a fraction that
is added later leaves the others as they were. The order begins with a few images that show every class once (the rarest class
is served first); the others follow stratum by stratum in proportion. An image's stratum is the rarest of its classes; images
without an object are a stratum of their own.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pretrain.base.errors import DataError
from pretrain.views.rng import ORDER_STREAM, sample_generator
from transfer.data.records import DetectionData

SMALLEST = 2  # images to split
Classes = frozenset[int]


def classes_of(data: DetectionData) -> list[Classes]:
    """The classes of the objects of each image; crowd regions left out."""
    return [
        frozenset(int(thing["category_id"]) for thing in record["annotations"] if not thing.get("iscrowd", 0))
        for record in data.records
    ]


def stratified_order(classes: Sequence[Classes], names: Sequence[str], *, seed: int) -> list[int]:
    """All positions, in the order of the module's text. names: different ones."""
    assert len(classes) == len(names) == len(set(names))
    by_name = sorted(range(len(names)), key=names.__getitem__)
    generator = sample_generator(seed=seed, epoch=0, index=0, stream=ORDER_STREAM)
    shuffled = [by_name[place] for place in generator.permutation(len(by_name))]
    frequency = Counter(label for own in classes for label in own)
    rarest_first = sorted(frequency, key=lambda label: (frequency[label], label))
    covering: list[int] = []
    seen: set[int] = set()
    for label in rarest_first:
        if label not in seen:
            first = next(position for position in shuffled if label in classes[position])
            covering.append(first)
            seen |= classes[first]
    strata: dict[int, list[int]] = {}
    covers = set(covering)
    for position in (*covering, *(other for other in shuffled if other not in covers)):
        own = classes[position]
        stratum = min(own, key=lambda label: (frequency[label], label)) if own else -1
        strata.setdefault(stratum, []).append(position)
    keys: dict[int, float] = {}
    for stratum in sorted(strata):
        offset = float(generator.random())  # else every stratum's first image would come first
        members = strata[stratum]
        keys |= {position: (rank + offset) / len(members) for rank, position in enumerate(members)}
    rest = sorted(set(range(len(names))) - covers, key=lambda position: (keys[position], names[position]))
    return [*covering, *rest]


def fraction_size(count: int, fraction: float) -> int:
    """Images in a fraction: rounded, at least 1."""
    return max(1, round(count * fraction))


def split_images(
    classes: Sequence[Classes],
    names: Sequence[str],
    *,
    test_fraction: float,
    seed: int,
    together: Iterable[Sequence[int]] = (),
) -> tuple[list[int], list[int]]:
    """(training, test) positions, ascending. together: groups of positions that must not be parted (copies of one photo).

    Training keeps an image of every class; the test images show every class that is left over. Raises DataError for fewer than
    SMALLEST images or groups.
    """
    units = _units(len(names), together)
    if len(units) < SMALLEST:
        raise DataError(
            f"{len(names)} labelled images make {len(units)} group of different ones, which cannot be split into training and "
            "test; label more images, or give --test SPEC"
        )
    unit_classes = [frozenset().union(*(classes[position] for position in unit)) for unit in units]
    unit_names = [min(names[position] for position in unit) for unit in units]
    order = stratified_order(unit_classes, unit_names, seed=seed)
    reserved: list[int] = []
    seen: set[int] = set()
    for unit in order:  # its covering beginning, which training keeps
        if not unit_classes[unit] <= seen:
            reserved.append(unit)
            seen |= unit_classes[unit]
    free = sorted(set(range(len(units))) - set(reserved)) or [reserved.pop()]
    within = stratified_order([unit_classes[unit] for unit in free], [unit_names[unit] for unit in free], seed=seed)
    wanted = min(fraction_size(len(names), test_fraction), len(names) - 1)
    test: list[int] = []
    for place in within:
        members = units[free[place]]
        if test and len(test) + len(members) > wanted:
            continue
        test += members
        if len(test) >= wanted:
            break
    return sorted(set(range(len(names))) - set(test)), sorted(test)


def _units(count: int, together: Iterable[Sequence[int]]) -> list[list[int]]:
    """Groups, and every other position alone; groups that share a position are one."""
    parent = list(range(count))

    def root(position: int) -> int:
        while parent[position] != position:
            position = parent[position]
        return position

    for group in together:
        for position in group:
            parent[max(root(position), root(group[0]))] = min(root(position), root(group[0]))
    units: dict[int, list[int]] = {}
    for position in range(count):
        units.setdefault(root(position), []).append(position)
    return list(units.values())


def equal_files(paths: Sequence[Path]) -> list[list[int]]:
    """Positions of files of the same content, by groups of two or more. Files of a size that no other has are not read."""
    by_size: dict[int, list[int]] = {}
    for position, path in enumerate(paths):
        by_size.setdefault(os.stat(path).st_size, []).append(position)  # noqa: PTH116  a hundred thousand times
    groups: dict[str, list[int]] = {}
    for positions in by_size.values():
        for position in positions if len(positions) > 1 else ():
            digest = hashlib.sha256(paths[position].read_bytes()).hexdigest()
            groups.setdefault(digest, []).append(position)
    return [group for group in groups.values() if len(group) > 1]
