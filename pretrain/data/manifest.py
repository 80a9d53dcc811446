"""The image set of a run: checked before step one, recorded in the run directory, compared with when the run continues.

A view is a function of the image's position in the listing, so a run that continued with an image more or less would train on
other pixels from there on unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from pretrain.base.atomic import write_json
from pretrain.base.errors import DataError
from pretrain.base.image_files import read_size
from pretrain.data.source import SKIP, ImageSource, ScanReport, scan_images
from pretrain.run.ranks import Ranks, gather_values

FILE_NAME = "images.json"
SIZE_THREADS = 8


@dataclass(frozen=True)
class ImageSetRecord:
    """What a run began with, and what it found.

    num_files: listed, readable or not.
    fingerprint: of that listing, names and sizes.
    unreadable: names left out at the start.
    replaced: names that kept their place and turned out unreadable during the run, each replaced by the next readable image.
    """

    num_files: int
    fingerprint: str
    unreadable: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def read_record(output_dir: Path) -> ImageSetRecord | None:
    """What an earlier start of the run in `output_dir` recorded, None where nothing is recorded."""
    try:
        values = json.loads((output_dir / FILE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return ImageSetRecord(
        values["num_files"], values["fingerprint"], tuple(values["unreadable"]), tuple(values.get("replaced", ()))
    )


def write_record(output_dir: Path, record: ImageSetRecord) -> None:
    """Record the image set of the run in `output_dir`, atomically."""
    write_json(output_dir / FILE_NAME, asdict(record))


def check_image_set(
    root: Path,
    *,
    skip_unreadable: bool,
    recorded: ImageSetRecord | None,
    ranks: Ranks,
    announce: Callable[[str], None],
) -> tuple[ImageSource, ImageSetRecord]:
    """List `root` and leave out what cannot be read, looking at each file's header unless `recorded` knows the listing.

    Each rank looks at its share; JPEGs that lack their last bytes are announced. Raises DataError on every rank: for
    unreadable files (named and counted) unless `skip_unreadable`, for ranks that see different folders, for a listing that is
    not the recorded one.
    """
    source = ImageSource(root)
    fingerprint = source.fingerprint()
    _refuse_other_folders(root, len(source), fingerprint, ranks)
    if recorded is not None:
        if (recorded.num_files, recorded.fingerprint) != (len(source), fingerprint):
            raise DataError(
                f"{root}: the images are not those that this run began with ({recorded.num_files} files then, {len(source)} "
                "now, or other names or sizes); restore them, or start a run with another --output-dir"
            )
        return _without(source, recorded.unreadable), recorded
    share = source.paths[ranks.rank :: ranks.world_size]
    reports = gather_values(scan_images(share, show_progress=ranks.is_main), ranks)
    bad = sorted(entry for report in reports for entry in report.bad)
    truncated = sorted(entry for report in reports for entry in report.truncated)
    whole = ScanReport(num_ok=len(source) - len(bad), bad=tuple(bad), truncated=tuple(truncated))
    if bad and not skip_unreadable:
        raise DataError(whole.describe())
    if bad:
        announce(whole.describe(advice=f"left out ({SKIP})"))
    if truncated:
        announce(whole.describe_truncated())
    names = tuple(path.relative_to(source.root).as_posix() for path, _ in bad)
    return _without(source, names), ImageSetRecord(len(source), fingerprint, names)


def refuse_small_images(source: ImageSource, side: int, ranks: Ranks) -> None:
    """Raise DataError, on every rank, unless the shorter side of every image has `side` pixels (headers are read)."""
    share = source.paths[ranks.rank :: ranks.world_size]
    with ThreadPoolExecutor(SIZE_THREADS) as pool:
        sizes = list(pool.map(read_size, share))
    small = [(min(size), size, path) for path, size in zip(share, sizes, strict=True) if min(size) < side]
    found = sorted(entry for entries in gather_values(small, ranks) for entry in entries)
    if found:
        shortest, (height, width), path = found[0]
        raise DataError(
            f"{source.root}: these views need images whose shorter side has {side} px or more; {len(found)} of {len(source)} "
            f"are smaller, down to {shortest} px ({path}: {height} x {width}); use larger images, or a smaller distance or patch"
        )


def _refuse_other_folders(root: Path, num_files: int, fingerprint: str, ranks: Ranks) -> None:
    seen = gather_values((num_files, fingerprint), ranks)
    for rank, other in enumerate(seen):
        if other != seen[0]:
            raise DataError(
                f"{root}: rank {rank} lists {other[0]} images, rank 0 lists {seen[0][0]}, or their names or sizes differ; "
                "every rank must see the same folder"
            )


def _without(source: ImageSource, names: tuple[str, ...]) -> ImageSource:
    return source.without(source.root / name for name in names) if names else source
