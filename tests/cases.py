"""Many cases of one claim in one test: for cases that take a few milliseconds, of which a test of its own costs four.

In: names and cases as `pytest.mark.parametrize` takes them, without marks. Out: one test that runs every case, also after one
that failed, and names each that did. `tmp_path` is a folder of the case's own; other fixtures are shared by the cases.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest


def each(names: str | Sequence[str], cases: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test of all `cases`. names: of the arguments that a case gives."""
    given = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = [case if len(given) > 1 else (case,) for case in cases]
    assert rows and all(len(row) == len(given) for row in rows)

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        def test(**fixtures: Any) -> None:
            failures, first = [], None
            for number, row in enumerate(rows):
                own = dict(fixtures)
                if "tmp_path" in own:
                    own["tmp_path"] = _folder(fixtures["tmp_path"], number)
                try:
                    check(**dict(zip(given, row, strict=True)), **own)
                except (Exception, pytest.fail.Exception) as error:
                    failures.append(f"case {number}, {', '.join(map(repr, row)):.300}: {type(error).__name__}: {error}")
                    first = first or error
            if failures:
                raise AssertionError(f"{len(failures)} of {len(rows)} cases failed\n" + "\n".join(failures)) from first

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        test.__dict__.update(check.__dict__)  # marks
        wanted = inspect.signature(check).parameters
        test.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for name, parameter in wanted.items()
                if name not in given
            ]
        )
        return test

    return decorate


def _folder(parent: Path, number: int) -> Path:
    folder = parent / str(number)
    folder.mkdir()
    return folder
