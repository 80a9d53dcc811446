"""Values in the files that runs leave: strict where they decide a figure, taken as far as they go where they decide none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from pretrain.base.errors import DataError
from transfer.detect.config_files import OLD_SUFFIX

MISSING = object()  # is of no type that is asked for
Keys = Mapping[str, type | tuple[type, ...]]


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises DataError if it is absent, damaged or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not readable JSON ({error}); remove this run from the list, or run it again"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def load_lines(path: Path, *, numbered_by: str) -> tuple[Mapping[str, Any], ...]:
    """Objects of a JSON-lines file that have a number under that key; a line cut short by a kill is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return tuple(objects(rows, numbered_by=numbered_by))


def require_keys(path: Path, values: Any, keys: Keys) -> Mapping[str, Any]:
    """`values`, which has these keys of these types. Raises DataError otherwise."""
    values = values if isinstance(values, Mapping) else {}
    wrong = [key for key, kind in keys.items() if not isinstance(values.get(key, MISSING), kind)]
    if wrong:
        raise DataError(
            f"{path}: expected the keys {', '.join(keys)}; missing or of another type: {', '.join(wrong)}; "
            "remove this run from the list, or run it again"
        )
    return values


def is_number(value: Any) -> bool:
    """A finite int or float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """{"metrics": {"bbox": {"AP": 1.0}}} or {"bbox/AP": 1.0} -> {"bbox/AP": 1.0}; what is no finite number is left out."""
    nested = row.get("metrics")
    found = {
        f"{task}/{name}": float(value)
        for task, figures in (nested.items() if isinstance(nested, Mapping) else ())
        if isinstance(figures, Mapping)
        for name, value in figures.items()
        if is_number(value)
    }
    return found | {key: float(value) for key, value in row.items() if "/" in key and is_number(value)}


def objects(values: Any, *, numbered_by: str = "") -> list[Mapping[str, Any]]:
    """The objects of a list; with `numbered_by`, those that have a number under that key."""
    if not isinstance(values, Iterable):
        return []
    rows: list[Mapping[str, Any]] = [value for value in values if isinstance(value, Mapping)]
    return [row for row in rows if is_number(row.get(numbered_by))] if numbered_by else rows


def config_family(config_file: str) -> str:
    """ ".../configs/voc/R_50_C4_24k.yaml" -> "voc/R_50_C4_24k"; names of older runs end with the initialisation, which is left out."""
    path = PurePath(config_file)
    stem = OLD_SUFFIX.sub("", path.stem)
    return f"{path.parent.name}/{stem}" if path.parent.name else stem
