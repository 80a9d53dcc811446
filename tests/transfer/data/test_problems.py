"""Problems become notes or one refusal: counts, the first offenders, the file with all, the remedy."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from pretrain.base.errors import DataError
from transfer.data.problems import SHOWN, Problem, read_strictly

CLIPPED = [Problem("boxes over the border", f"annotations[{i}]", f"x {i}", "clipped", True) for i in range(3)]
TORN = [Problem("boxes without a box", f"annotations[{i}]", "none", "give them one", False) for i in range(SHOWN + 5)]


def reader(*found: Problem) -> Generator[Problem, None, str]:
    yield from found
    return "data"


def test_repairs_become_one_note_a_kind_with_its_count_and_first_place() -> None:
    dropped = Problem("orphans", "annotations[9]", "image_id 4", "dropped", True)
    data, notes = read_strictly(reader(CLIPPED[0], dropped, *CLIPPED[1:]), "a.json")
    assert data == "data"
    assert notes == (
        "a.json: boxes over the border: 3 (clipped), first annotations[0]: x 0",
        "a.json: orphans: 1 (dropped), first annotations[9]: image_id 4",
    )


def test_a_reader_without_problems_is_silent() -> None:
    assert read_strictly(reader(), "a.json") == ("data", ())


def test_what_is_in_doubt_refuses_with_the_first_by_name_and_a_file_with_all(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DataError) as caught:
        read_strictly(reader(*TORN, *CLIPPED), "a.json")
    said = str(caught.value)
    assert f"a.json: boxes without a box: {SHOWN + 5}" in said and "give them one" in said and "clipped" not in said
    assert f"annotations[{SHOWN - 1}]: none" in said and f"annotations[{SHOWN}]: none" not in said
    listing = Path(said.partition("all of them in ")[2].partition("\n")[0])
    assert len(listing.read_text().splitlines()) == SHOWN + 5


def test_a_refusal_reaches_the_user_where_no_file_can_be_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"(?s)5 more; no file with all of them could be written: .*give them one"):
        read_strictly(reader(*TORN), "a.json")


def test_every_kind_of_doubt_is_named() -> None:
    other = Problem("negative sizes", "annotations[7]", "-2", "correct them", False)
    with pytest.raises(DataError, match=r"(?s)without a box: 2.*give them one.*negative sizes: 1.*correct them"):
        read_strictly(reader(TORN[0], other, TORN[1]), "a.json")
