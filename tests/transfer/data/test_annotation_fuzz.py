"""Mutated annotation files end in sound data or a UserError; the same at 100,000: tests/benchmarks/fuzz_annotations.py."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest

from tests.benchmarks.fuzz_annotations import planted_reader
from tests.transfer.data.annotation_fuzz import BASES, fuzz, mutate, read_spec, write_bases
from transfer.data.records import DetectionData


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASES)
def test_mutated_files_are_sound_data_or_a_user_error(tmp_path: Path, kind: str) -> None:
    bases = write_bases(tmp_path, [kind])
    outcomes, findings = fuzz(bases, range(500), seed=0)
    assert findings == []
    accepted, refused = (
        sum(n for name, n in outcomes.items() if name.endswith(end)) for end in ("accepted", "refused")
    )
    assert accepted + refused == 500 and min(accepted, refused) > 40  # mutations are neither harmless nor hopeless


@pytest.mark.slow
def test_a_case_is_the_same_whatever_ran_before(tmp_path: Path) -> None:
    bases = write_bases(tmp_path, list(BASES))
    before = [mutate(bases, case, seed=3)[2] for case in range(20)]
    fuzz(bases, range(100), seed=1)
    assert [mutate(bases, case, seed=3)[2] for case in range(20)] == before
    assert all(path.read_bytes() == content for base in bases for path, content in base.files.items())


@pytest.mark.slow
def test_a_reader_with_a_key_error_is_found(tmp_path: Path) -> None:
    """The control of the first test."""
    _, findings = fuzz(write_bases(tmp_path, ["coco"]), range(300), seed=0, read=planted_reader)
    assert findings and {finding.outcome for finding in findings} == {"other exception: KeyError"}


def test_a_reader_that_hangs_or_lets_a_wrong_box_through_is_found(tmp_path: Path) -> None:
    bases = write_bases(tmp_path, ["coco"])[:1]
    sound = read_spec(bases[0].spec)

    def slow(spec: str) -> DetectionData:
        time.sleep(2)
        return sound

    def careless(spec: str) -> DetectionData:
        data = copy.deepcopy(sound)
        data.records[0]["annotations"][0]["bbox"][2] = 1e9
        return data

    for read, outcome in ((slow, "hang"), (careless, "unsound data")):
        _, findings = fuzz(bases, range(1), seed=0, read=read, hang_seconds=0.1)
        assert [finding.outcome for finding in findings] == [outcome]
