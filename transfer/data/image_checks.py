"""The image files of a data set, compared with what the annotations say of them.

In: `DetectionData` whose image files were only named. Out: the same data, or without the images that cannot be read where the
user leaves them out; every `Problem` on the way. Headers and last bytes are read, in threads; pixels only where those leave a
doubt (decoding all would read the whole set twice), or where unreadable images are to be left out.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pretrain.base.errors import DataError
from pretrain.base.image_files import MAX_LARGE_PIXELS, MAX_PIXELS, SUFFIXES, CheckedImage, TooLargeError, check_image
from pretrain.data.index import in_threads
from pretrain.data.source import TRUNCATED, UNREADABLE, USED_AS_IT_IS, leave_out
from transfer.data.problems import Problem, Problems, ReadOptions
from transfer.data.records import DetectionData

SKIP = "--skip-unreadable"
MISSING = "images are missing"
MAX_FOLDERS = 1000  # looked into for a missing image


Looks = Sequence[CheckedImage | DataError]


def look_at_images(data: DetectionData, options: ReadOptions) -> Looks:
    """What `check_image` finds in the image file of every record, or its refusal."""
    check = partial(_check, max_pixels=pixel_limit(options), decode=options.skip_unreadable)
    return in_threads(check, [Path(record["file_name"]) for record in data.records], show_progress=True)


def check_images(
    data: DetectionData, where: str, options: ReadOptions, *, looks: Looks | None = None
) -> Problems[DetectionData]:
    """Compare every record with its image file; the data without the images that are left out.

    looks: of `look_at_images`, where they were taken already. Not repaired: files that are missing, too large, of another size than annotated, or unreadable without
    options.skip_unreadable. Data that lost an image are no longer those of the user's own annotation file.
    """
    paths = [Path(record["file_name"]) for record in data.records]
    looks = look_at_images(data, options) if looks is None else looks
    kept, missing = [], False
    for record, path, found in zip(data.records, paths, looks, strict=True):
        if isinstance(found, CheckedImage):
            problem = _size_problem(record, found)
            if found.incomplete is not None:
                yield Problem(TRUNCATED, str(path), found.incomplete, USED_AS_IT_IS, repaired=True)
        else:
            problem = file_problem(path, found, options)
        if problem is not None and problem.kind == MISSING and not missing:
            missing = True  # where one is, the others are
            problem = replace(problem, remedy=f"{problem.remedy}{_found_elsewhere(path)}")
        if problem is None or not problem.repaired:
            kept.append(record)
        if problem is not None:
            yield problem
    if not kept:
        yield Problem(f"no image is left: {UNREADABLE}", where, f"all {len(paths)}", leave_out(SKIP), repaired=False)
    if len(kept) == len(data.records):
        return data
    return replace(data, records=tuple(kept), complete_coco=None)


def pixel_limit(options: ReadOptions) -> int:
    """How many pixels an image may have."""
    return MAX_LARGE_PIXELS if options.large_images else MAX_PIXELS


def _check(path: Path, *, max_pixels: int, decode: bool) -> CheckedImage | DataError:
    try:
        return check_image(path, max_pixels=max_pixels, decode=decode)
    except DataError as error:
        return error


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; a name that none can have (too long, a null byte) is no error."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def file_problem(path: Path, error: DataError, options: ReadOptions) -> Problem:
    """Of a file that `check_image` refuses."""
    reason = str(error).removeprefix(f"{path}: ")
    if not is_there(path):
        remedy = (
            "put the files where the annotations name them, give the folder that holds them, or remove their entries"
        )
        return Problem(MISSING, str(path), "no such file", remedy, repaired=False)
    if isinstance(error, TooLargeError):
        limit = f"images have more than {pixel_limit(options) // 1_000_000} megapixels"
        remedy = "cut them into smaller ones" if options.large_images else "shrink them, or pass --large-images"
        return Problem(limit, str(path), reason, remedy, repaired=False)
    remedy = f"left out ({SKIP})" if options.skip_unreadable else leave_out(SKIP)
    return Problem(UNREADABLE, str(path), reason, remedy, repaired=options.skip_unreadable)


def _found_elsewhere(path: Path) -> str:
    """For the remedy of a missing image: where near its folder a file of its name is, or what has its name with another suffix."""
    folder = path.parent
    below = itertools.islice((Path(parent) for parent, _, _ in os.walk(folder)), MAX_FOLDERS)
    same_stem = (file for file in folder.glob(f"{glob.escape(path.stem)}.*") if file.suffix.lower() in SUFFIXES)
    beside = itertools.islice(folder.parent.glob("*/"), MAX_FOLDERS)
    for file in itertools.chain(
        (place / path.name for place in below), same_stem, (place / path.name for place in beside)
    ):
        if is_there(file):
            return f" (there is {file})"
    return ""


def _size_problem(record: Mapping[str, Any], image: CheckedImage) -> Problem | None:
    """Of an image whose size is not the annotated one; None where it is."""
    expected, found = (record["height"], record["width"]), (image.height, image.width)
    if expected == found:
        return None
    path = record["file_name"]
    sizes = f"is {found[1]} x {found[0]} when upright, its annotation says {expected[1]} x {expected[0]}"
    if expected != found[::-1]:
        kind = "images have another size than their annotation says"
        remedy = (
            "use the images that were annotated, or correct the annotations (boxes too, where the image was resized)"
        )
    elif image.turned:
        kind = "width and height are exchanged: the annotations ignore the EXIF orientation of the images"
        remedy = (
            "the boxes are those of the image as it is stored: remove the orientation from the files "
            "(exiftool -Orientation= FILE), or annotate the images as they are shown"
        )
    else:
        kind = "width and height are exchanged in the annotations"
        remedy = "exchange them there; if the boxes are exchanged too (x and y), exchange those as well"
    return Problem(kind, path, sizes, remedy, repaired=False)
