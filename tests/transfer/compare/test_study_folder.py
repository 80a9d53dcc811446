"""A study's folder: command lines as a person would type them, and records that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transfer.compare.study_folder import StudyFolder, open_folder

from pretrain.base.errors import DataError
from transfer.compare.stages import Stage, checkpoint_of

STAGE = Stage(
    "convert",
    "t",
    ("{root}/tools/x.py", checkpoint_of("pretrain"), "coco:{output}/a:{output}/b"),
    folder="w",
    result="w/r",
)


def test_commands_are_short_from_the_projects_root_and_whole_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StudyFolder(tmp_path / "runs" / "s", root=tmp_path)
    monkeypatch.chdir(tmp_path)
    short = ["tools/x.py", "runs/s/pretrain/checkpoints/LAST.pt", "coco:runs/s/a:runs/s/b"]
    assert folder.command(STAGE)[1:] == short
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert folder.command(STAGE)[1:] == [f"{tmp_path}/tools/x.py", short[1].removeprefix("runs/"), "coco:s/a:s/b"]


def test_a_pre_training_result_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "result.json").write_text(json.dumps({"steps": 3}))
    with pytest.raises(DataError, match="expected the key `checkpoint`"):
        StudyFolder(tmp_path).command(STAGE)


@pytest.mark.parametrize("text", ["", "[]", '{"fingerprint": "x"}', '{"other": 1}'])
def test_a_damaged_record_means_that_the_stage_is_not_done(tmp_path: Path, text: str) -> None:
    with open_folder(tmp_path) as folder:
        folder.prepare(STAGE, folder.wanted(STAGE, {}))
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "r").touch()
        folder.finish(STAGE, folder.wanted(STAGE, {}), 1.0)
        assert folder.is_done(STAGE, {})  # the control
        folder.record_path(STAGE).write_text(text)
        assert not folder.is_done(STAGE, {})
