"""The image set of a run: checked before step one, recorded in the run directory, compared with when the run continues.

A view is a function of the image's position in the listing, so a run that continued with an image more or less would train on
other pixels from there on unnoticed.

The check looks at the header and the end of every image once (with a progress bar) and keeps what it found, the manifest: size of
the upright image, mode, problems. The next run on the same images takes it from there for every image whose name, size in bytes
and time of change are the same, and looks at the others. Manifests lie in the cache (pretrain/data/cache.py), never beside the
data; fewer than MIN_KEPT images are looked at faster than that is worth.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pretrain.base.atomic import write_json
from pretrain.base.errors import DataError
from pretrain.data.cache import keep_arrays, kept_arrays
from pretrain.data.index import LostSourceError, Names, Source, fingerprint_of, in_threads
from pretrain.data.source import SKIP, ScanReport, look_at, open_source
from pretrain.run.ranks import Ranks, gather_values

FILE_NAME = "images.json"
MIN_KEPT = 1000
CHUNK = 256  # images that a thread looks at in one go
VERSION = 1  # of the manifest; another one is made anew


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


@dataclass(frozen=True)
class Manifest:
    """What a look at the header and the end of each image found; arrays by position.

    bytes, modified: size in bytes and time of change, the signs by which an image counts as the same.
    height, width: of the upright image, 0 where it cannot be read. mode: number in `modes`.
    unreadable, truncated: position -> reason, or what is missing.
    """

    bytes: np.ndarray
    modified: np.ndarray
    height: np.ndarray
    width: np.ndarray
    mode: np.ndarray
    modes: tuple[str, ...]
    unreadable: dict[int, str]
    truncated: dict[int, str]


def check_image_set(
    root: Path | str,
    *,
    skip_unreadable: bool,
    recorded: ImageSetRecord | None,
    ranks: Ranks,
    announce: Callable[[str], None],
    listed: Source | None = None,
) -> tuple[Source, ImageSetRecord]:
    """List `root` (unless `listed` is that already) and leave out what cannot be read, looking at each file's header unless `recorded` knows the listing.

    Each rank looks at its share; JPEGs that lack their last bytes are announced. Raises DataError on every rank: for
    unreadable files (named and counted) unless `skip_unreadable`, for ranks that see different folders, for a listing that is
    not the recorded one.
    """
    source = _open_on_all(root, ranks, listed)
    sizes, modified = source.stats()
    fingerprint = fingerprint_of(source.names, sizes)
    _refuse_other_folders(root, len(source), fingerprint, ranks)
    if recorded is not None:
        if (recorded.num_files, recorded.fingerprint) != (len(source), fingerprint):
            raise DataError(
                f"{root}: the images are not those that this run began with ({recorded.num_files} files then, {len(source)} "
                "now, or other names or sizes); restore them, or start a run with another --output-dir"
            )
        return source.less(recorded.unreadable), recorded
    for note in source.notes:
        announce(note)
    if not source.scanned:
        return source, ImageSetRecord(len(source), fingerprint)
    manifest = look_through(source, sizes, modified, ranks=ranks)
    bad = tuple((source.where(index), reason) for index, reason in sorted(manifest.unreadable.items()))
    truncated = tuple((source.where(index), lacking) for index, lacking in sorted(manifest.truncated.items()))
    whole = ScanReport(num_ok=len(source) - len(bad), bad=bad, truncated=truncated)
    if bad and not skip_unreadable:
        raise DataError(whole.describe())
    if bad:
        announce(whole.describe(advice=f"left out ({SKIP})"))
    if truncated:
        announce(whole.describe_truncated())
    names = tuple(source.name(index) for index in sorted(manifest.unreadable))
    return source.less(names), ImageSetRecord(len(source), fingerprint, names)


def look_through(source: Source, sizes: np.ndarray, modified: np.ndarray, *, ranks: Ranks) -> Manifest:
    """The manifest of `source`, from the kept one as far as that is still true; the main rank reads and keeps it.

    sizes, modified: `source.stats()`. Raises LostSourceError on every rank.
    """
    key = os.path.abspath(source.root)  # noqa: PTH100  # links are part of the name
    state = _still_true(key, source.names, sizes, modified) if ranks.is_main else None
    first = gather_values(state, ranks)[0]
    assert first is not None
    manifest, known = first
    new = np.flatnonzero(~known)
    share = new[ranks.rank :: ranks.world_size]
    found, lost = list[Seen](), None
    try:
        found = _look(source, share, show_progress=ranks.is_main)
    except LostSourceError as error:  # told to all ranks: the others would wait for what this one found
        lost = str(error)
    problems = [text for text in gather_values(lost, ranks) if text]
    if problems:
        raise LostSourceError(problems[0])
    modes = list(manifest.modes)
    for positions, results in gather_values((share, found), ranks):
        for position, seen in zip(positions.tolist(), results, strict=True):
            if isinstance(seen, str):
                manifest.unreadable[position] = seen
                continue
            height, width, mode, lacking = seen
            if mode not in modes:
                modes.append(mode)
            manifest.height[position], manifest.width[position] = height, width
            manifest.mode[position] = modes.index(mode)
            if lacking is not None:
                manifest.truncated[position] = lacking
    manifest = replace(manifest, modes=tuple(modes))
    if ranks.is_main and len(source) >= MIN_KEPT and len(new):
        _keep(key, source.names, manifest)
    return manifest


def refuse_small_images(source: Source, side: int, ranks: Ranks) -> None:
    """Raise DataError, on every rank, unless the shorter side of every image has `side` pixels.

    Not where a look at the headers would fetch every image from a server.
    """
    if not source.scanned:
        return
    manifest = look_through(source, *source.stats(), ranks=ranks)
    if manifest.unreadable:
        bad = tuple((source.where(index), reason) for index, reason in sorted(manifest.unreadable.items()))
        raise DataError(ScanReport(len(source) - len(bad), bad).describe())
    shorter = np.minimum(manifest.height, manifest.width)
    small = np.flatnonzero(shorter < side)
    if len(small):
        first = int(small[np.argmin(shorter[small])])
        raise DataError(
            f"{source.root}: these views need images whose shorter side has {side} px or more; {len(small)} of {len(source)} "
            f"are smaller, down to {shorter[first]} px ({source.where(first)}: {manifest.height[first]} x "
            f"{manifest.width[first]}); use larger images, or a smaller distance or patch"
        )


Seen = tuple[int, int, str, str | None] | str  # height, width, mode, what is missing; or why it cannot be read


def _look(source: Source, positions: np.ndarray, *, show_progress: bool) -> list[Seen]:
    def look(start: int) -> list[Seen]:
        return [_seen(source, index) for index in positions[start : start + CHUNK].tolist()]

    starts = range(0, len(positions), CHUNK)
    what = f"checking {len(positions)} images"
    parts = in_threads(look, starts, what=what, unit=f"x{CHUNK}", show_progress=show_progress)
    return [seen for part in parts for seen in part]


def _seen(source: Source, index: int) -> Seen:
    found = look_at(source, index)
    return found if isinstance(found, str) else (found.height, found.width, found.mode, found.incomplete)


def _still_true(key: str, names: Names, sizes: np.ndarray, modified: np.ndarray) -> tuple[Manifest, np.ndarray]:
    """The kept manifest moved to these positions, and at which of them it holds."""
    count = len(names)
    empty = Manifest(
        sizes,
        modified,
        height=np.zeros(count, np.uint32),
        width=np.zeros(count, np.uint32),
        mode=np.zeros(count, np.uint8),
        modes=(),
        unreadable={},
        truncated={},
    )
    kept = _load(key) if count >= MIN_KEPT else None
    if kept is None:
        return empty, np.zeros(count, bool)
    old_names, old = kept
    if old_names != names:
        old = _moved(old, old_names, names)
    same = (sizes >= 0) & (old.bytes == sizes) & (old.modified == modified)
    same[list(old.unreadable)] = False  # what could not be read may be readable now: rights and disks change no file
    for mine, theirs in ((empty.height, old.height), (empty.width, old.width), (empty.mode, old.mode)):
        np.copyto(mine, theirs, where=same)
    empty.truncated.update({index: lacking for index, lacking in old.truncated.items() if same[index]})
    return replace(empty, modes=old.modes), same


def _moved(old: Manifest, old_names: Names, names: Names) -> Manifest:
    """What `old` says of images that stand elsewhere now; sizes of -2 for those that it does not know."""
    position = {name: index for index, name in enumerate(old_names)}
    before = np.fromiter((position.get(name, -1) for name in names), np.int64, len(names))
    now = {index: place for place, index in enumerate(before.tolist()) if index >= 0}
    arrays = {field: getattr(old, field)[before] for field in _ARRAYS}
    arrays["bytes"][before < 0] = -2
    return replace(
        old,
        **arrays,
        unreadable={now[index]: reason for index, reason in old.unreadable.items() if index in now},
        truncated={now[index]: lacking for index, lacking in old.truncated.items() if index in now},
    )


def _keep(key: str, names: Names, manifest: Manifest) -> None:
    blob, ends = names.arrays
    words = {"version": VERSION, "modes": manifest.modes}
    for field in ("unreadable", "truncated"):
        words[field] = list(getattr(manifest, field).items())
    arrays = {field: getattr(manifest, field) for field in _ARRAYS}
    text = np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)
    keep_arrays("manifests", key, blob=blob, ends=ends, words=text, **arrays)


_ARRAYS = ("bytes", "modified", "height", "width", "mode")


def _load(key: str) -> tuple[Names, Manifest] | None:
    """None for a manifest that is not there, is of another version, or is damaged."""
    arrays = kept_arrays("manifests", key)
    if arrays is None:
        return None
    try:
        words = json.loads(arrays["words"].tobytes())
        names = Names.from_arrays(arrays["blob"], arrays["ends"])
        if words["version"] != VERSION or any(len(arrays[field]) != len(names) for field in _ARRAYS):
            return None
        return names, Manifest(
            **{field: arrays[field] for field in _ARRAYS},
            modes=tuple(words["modes"]),
            unreadable=dict(words["unreadable"]),
            truncated=dict(words["truncated"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _open_on_all(root: Path | str, ranks: Ranks, listed: Source | None) -> Source:
    """The main rank first: what it finds out about archives is kept for the others. Raises DataError on every rank."""
    source = problem = None
    for turn in (True, False):
        if ranks.is_main == turn:
            try:
                source = open_source(root) if listed is None else listed
            except DataError as error:
                problem = str(error)
        problems = [text for text in gather_values(problem, ranks) if text]
        if problems:
            raise DataError(problems[0])
    assert source is not None
    return source


def _refuse_other_folders(root: Path | str, num_files: int, fingerprint: str, ranks: Ranks) -> None:
    seen = gather_values((num_files, fingerprint), ranks)
    for rank, other in enumerate(seen):
        if other != seen[0]:
            raise DataError(
                f"{root}: rank {rank} lists {other[0]} images, rank 0 lists {seen[0][0]}, or their names or sizes differ; "
                "every rank must see the same folder"
            )
