"""5,000 damaged files of five formats: our error or the original content, never another exception, never a wrong weight that a checksum shows."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pretrain.base.weight_files import torch_files
from tests.transfer.conversion.weight_fuzz import CHECKED, FORMATS, fuzz, is_original, mutate, seed_file
from transfer.conversion.weight_files import read_weight_file

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

EACH = 1000


@pytest.mark.parametrize("kind", FORMATS)
def test_a_thousand_damaged_files_of_each_format(tmp_path, kind):
    ours, raw = fuzz(kind, EACH, tmp_path, seed=1, control=kind in CHECKED)
    allowed = {"refused", "original"} | (set() if kind in CHECKED else {"other values"})
    assert ours.total() == EACH and set(ours) <= allowed, ours
    assert ours["refused"] > EACH / 4
    if kind in CHECKED:  # the control: torch alone reads wrong weights from files of the same kind, and throws anything
        assert raw["other values"] > EACH / 20 and len([name for name in raw if name.startswith("threw")]) >= 3, raw


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if "mended" not in kind])
def test_the_unharmed_file_is_the_original(tmp_path, kind):
    (tmp_path / "file").write_bytes(seed_file(kind))
    assert is_original(read_weight_file(tmp_path / "file"))


def test_without_the_checksums_the_rule_is_broken(tmp_path, monkeypatch):
    """The rule can fail: a reader that does not look at checksums takes wrong weights."""
    monkeypatch.setattr(torch_files, "check_records", lambda archive, names: None)
    ours, _ = fuzz("torch zip", 300, tmp_path, seed=1, control=False)
    assert ours["other values"] > 10


def test_damage_is_of_many_kinds():
    whole = seed_file("torch zip")
    rng = random.Random(0)
    sizes = Counter(len(mutate(whole, rng)) - len(whole) for _ in range(200))
    assert sizes[0] > 50 and min(sizes) < -100 and max(sizes) > 0
