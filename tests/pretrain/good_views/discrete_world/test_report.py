"""The report's lines and files; the enumerations are made small here, the command's test runs them whole."""

from __future__ import annotations

import json

import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.discrete_world import report
from pretrain.good_views.discrete_world.world import product_world


@pytest.fixture(autouse=True)
def small_enumeration(monkeypatch):
    world = product_world({"s": (0.5, 0.5), "a": (0.5, 0.5)}, label=["s"])
    monkeypatch.setattr(report, "enumerated_worlds", lambda: {"tiny": world})


def test_lines_say_what_was_counted():
    text = "\n".join(report.run(None, num_labels=4))
    # Classes of two inputs: 2 partitions each, so 4 sufficient views; per class 3 of 4 pairs have a constant.
    assert "tiny: 4 inputs, 15 views, 4 sufficient, 16 pairs, 9 of least I(v1;v2)" in text
    assert "least I(v1;v2) = 1.0000 = I(x;y) = 1.0000" in text
    assert "NOT optimal" not in text and "wrote" not in text
    assert "uwc    uwde       2.00     2.00      0.00" in text


def test_files_hold_every_pair(tmp_path):
    list(report.run(tmp_path / "new", num_labels=2))
    found = json.loads((tmp_path / "new" / "regimes.json").read_text())
    assert len(found["all_pairs"]) == 528 and found["enumerations"]["tiny"]["holds"] is True
    assert {outcome["regime"] for outcome in found["all_pairs"]} == {
        "missing information",
        "sweet spot",
        "excess noise",
    }


def test_a_failed_write_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "draw_regimes", full)
    with pytest.raises(DataError, match="No space left"):
        list(report.run(tmp_path / "new", num_labels=2))
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("num_labels", [0, 33])
def test_labels_out_of_range_are_refused_before_anything_is_made(tmp_path, num_labels):
    with pytest.raises(ConfigError, match="1 to 32"):
        list(report.run(tmp_path / "new", num_labels=num_labels))
    assert not (tmp_path / "new").exists()
