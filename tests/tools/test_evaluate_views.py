"""tools/evaluate_views.py as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.base.record import read_record
from tests.pretrain.good_views.view_learning.tiny_game import write_classes
from tests.tools.in_process import run_tool_here as call

TINY = ["image_size=16", "encoder={kind: small, width: 4, feature_dim: 8}", "batch_size=12", "epochs=1", "device=cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_classes(root / "train", per_class=8)
    write_classes(root / "val", per_class=4, seed=1)
    return root


def test_a_colour_space_is_evaluated_over_seeds(data: Path, tmp_path: Path) -> None:
    result = call(
        "evaluate_views.py", "--views", "lab", "--data", data, "--output-dir", tmp_path / "out", "--seeds", "0,1", *TINY
    )
    assert result.returncode == 0, result.stderr
    assert "seed 1:" in result.stdout and "lab: " in result.stdout and "top-1" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"record.json", "run.lock"}
    record = read_record(tmp_path / "out" / "record.json")
    values = record.details
    assert (record.kind, record.status) == ("view-evaluation", "done")
    assert [run["seed"] for run in values["seeds"]] == [0, 1] and record.seeds == {"run": 0, "run 2": 1}
    assert values["information"]["low"] <= record.figures["info_nce"] <= values["information"]["high"]
    assert values["probe"]["low"] <= record.figures["top1"] <= values["probe"]["high"]
    assert {role: split.num_images for role, split in record.data.items()} == {"train": 24, "test": 12}
    assert record.initialisation.name == "lab" and record.config["epochs"] == 1


def test_unknown_views_end_with_code_2_and_leave_nothing(data: Path, tmp_path: Path) -> None:
    result = call("evaluate_views.py", "--views", "ydrdb", "--data", data, "--output-dir", tmp_path / "out", *TINY)
    assert result.returncode == 2 and "did you mean 'ydbdr'" in result.stderr
    assert not (tmp_path / "out").exists()
