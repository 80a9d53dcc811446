"""Which labelled images of a study are copies of others: of test images in the pool or in the training data, of each other.

In: image files. Out: `Leak`s, kept in OUT/splits, since every picture is decoded for them: compared again only where the names,
sizes or times of change of a file are others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.base.atomic import write_json
from pretrain.data.index import Source
from pretrain.data.source import ImageSource

if TYPE_CHECKING:
    from transfer.data.leakage import Leak, Split

KEPT = {"pool": "leakage.json", "training data": "leakage_train.json"}
MOST_COMPARED = 5000  # labelled images, each with each
LONG = 5000  # images, from which on progress is shown


def image_files(paths: Sequence[Path]) -> ImageSource:
    """Files wherever they lie, as a source."""
    return ImageSource(Path("/"), [str(path.absolute()).lstrip("/") for path in paths])


def find_test_images(
    split: Split, source: Source, test_files: Sequence[Path], splits: Path, *, earlier: Path | None = None
) -> list[Leak]:
    """Test images that are in `source`, also changed. splits: folder where they are kept. earlier: one where they may be already."""
    from transfer.data.leakage import Leak, find_leakage

    if not test_files:
        return []
    tested = image_files(test_files)
    compared = {"others": _state(source), "test": _state(tested)}
    for folder in (splits, *([earlier] if earlier is not None else [])):
        try:
            known = json.loads((folder / KEPT[split]).read_text(encoding="utf-8"))
            if known["compared"] == compared:
                return [Leak(**leak) for leak in known["leaks"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # damaged, or of an earlier version: compared again
    pool, train = (source, None) if split == "pool" else (None, source)
    leaks = find_leakage(pool, train, tested, show_progress=len(source) + len(tested) > LONG)
    splits.mkdir(parents=True, exist_ok=True)
    write_json(splits / KEPT[split], {"compared": compared, "leaks": [asdict(leak) for leak in leaks]})
    return leaks


def _state(source: Source) -> str:
    """Changes when an image is added, lost, renamed, resized or written again."""
    return hashlib.sha256(source.fingerprint().encode() + source.stats()[1].tobytes()).hexdigest()


def copies_among(paths: Sequence[Path]) -> list[list[int]]:
    """Groups of labelled images that are copies of each other; of a large set equal files alone."""
    from transfer.data.leakage import find_leakage
    from transfer.data.split import equal_files

    if len(paths) > MOST_COMPARED:
        return equal_files(paths)
    source = image_files(paths)
    place = {source.where(index): index for index in range(len(paths))}
    leaks = find_leakage(None, source, source)
    return [[place[leak.test], leak.position] for leak in leaks if place[leak.test] < leak.position]
