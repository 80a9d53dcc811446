"""The content of a COCO annotation file, whatever its text encoding, and what is wrong with the file as a whole.

In: a path. Out: parsed JSON with the file's encoding and what it holds that JSON does not have, or a DataError; `Problem`s of
content that is no COCO instances file, with what it is instead.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.base.errors import DataError
from transfer.data.exports import recognise, recognise_json
from transfer.data.problems import Problem

MAX_BYTES = 1 << 32  # of an annotation file; the largest public ones have 1.2 GB
MARKS = {  # of a text encoding, at the start of a file; the longest first, since UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF8: "UTF-8 with a byte-order mark",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LISTS = ("images", "annotations", "categories")


def load_annotations(path: Path) -> tuple[Any, str | None, list[Problem]]:
    """The content of a JSON file, its encoding where that is not plain UTF-8, and what it holds that JSON does not have."""
    try:
        if path.exists() and not path.is_file():  # a device has no end
            raise DataError(f"cannot read the annotation file {path}: it is a folder or a device")
        if path.exists() and path.stat().st_size > MAX_BYTES:
            limit = f"an annotation file is expected below {MAX_BYTES >> 30} GiB"
            raise DataError(f"{path} has {path.stat().st_size} bytes; {limit}: give it in parts, joined by +")
        text = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no annotation file at {path}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the annotation file {path}: {error}") from None

    constants: list[str] = []
    repeated: list[str] = []

    def note_constant(constant: str) -> float:
        constants.append(constant)
        return float(constant)

    def note_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated.append(next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1))
        return found

    detected = json.detect_encoding(text)  # UTF-16 and UTF-32 without a mark too
    encoding = next((name for mark, name in MARKS.items() if text.startswith(mark)), None)
    if encoding is None and detected != "utf-8":
        encoding = detected.upper()
    try:
        content = json.loads(text.decode(detected), parse_constant=note_constant, object_pairs_hook=note_repeated)
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read the annotation file {path}: {error}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}{_told_apart(path)}") from None
    remedy = "write a number, or leave the field out"
    doubts = (
        [
            Problem(f"{value} is not a JSON number", where, f"{path}: {value}", remedy, repaired=False)
            for where, value in _not_finite(content)
        ]
        if constants
        else []
    )
    doubts += [
        Problem(
            "fields given twice in one object", "the whole file", f"{key!r:.60}", "the last one counts", repaired=True
        )
        for key in repeated
    ]
    return content, encoding, doubts


def missing_lists(content: Any) -> Iterator[Problem]:
    """Why content is no COCO instances file; nothing for one that is."""
    kind, remedy = "not a COCO instances file", "export the data as COCO, object detection or instance segmentation"
    export = recognise_json(content)
    if export is not None:
        yield Problem(kind, "the whole file", export.sentence(), export.instead, repaired=False)
        return
    if not isinstance(content, dict):
        found = f"expected an object with {', '.join(LISTS)}; found {type(content).__name__}"
        yield Problem(kind, "the whole file", found, remedy, repaired=False)
        return
    for field in LISTS:
        value = content.get(field)
        if not isinstance(value, list):
            found = f"a {type(value).__name__}" if field in content else "nothing"
            keys = ", ".join(f"{key!s:.20}" for key in list(content)[:8]) or "nothing"
            found = f"expected a list `{field}`, found {found}; the file has {keys}"
            yield Problem(kind, "the whole file", found, remedy, repaired=False)
        elif not value:
            yield Problem(
                "an empty list", "the whole file", f"`{field}` is empty", "export the data with it", repaired=False
            )


def _told_apart(path: Path) -> str:
    """What the file is, where it is another tool's."""
    export = recognise(path)
    return "" if export is None else f"; {export.sentence()}: {export.instead}"


def _not_finite(content: Any) -> Iterator[tuple[str, str]]:
    """(place, NaN or Infinity) of the numbers that JSON does not have."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield where, "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        elif isinstance(value, dict):
            waiting += [(f"{where}.{key}".lstrip("."), entry) for key, entry in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{where}[{place}]", entry) for place, entry in reversed(list(enumerate(value)))]
