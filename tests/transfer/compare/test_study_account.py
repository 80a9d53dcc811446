"""What the report shows of a study's folder beside its runs: labelled images, estimated and actual time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from tests.transfer.conftest import write_detection
from transfer.compare.page import write_report
from transfer.compare.study_account import doctor_tables, stage_times, time_table


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two fine-tunings that took 30 and 50 s where 20 were estimated, a pre-training that is not done, a finding."""
    out = tmp_path / "out"
    (out / ".stages").mkdir(parents=True)
    for name, token, seconds in (("detect-random-f1_s0", "a", 30.0), ("detect-mine-f1_s0", "b", 50.0)):
        (out / ".stages" / f"{name}.json").write_text(json.dumps({"token": token, "seconds": seconds}))
    (out / ".stages" / "pretrain-seed0.json").write_text(json.dumps({"token": "", "seconds": 0.0}))
    (out / "choices.json").write_text(json.dumps({"estimate": {"detect": 20.0, "pretrain": 9.0}}))
    sizes = {"images": 4, "objects": 5, "tiny": 0, "small": 1, "medium": 2, "large": 2, "median_size": 41.0}
    split = {"spec": "coco:a:b", "images": 4, "empty": 0, "objects": 5, "crowds": 0}
    split["classes"] = [{"name": "<b>cup</b>", **sizes}]
    finding = {
        "severity": "warning",
        "id": "data/duplicate-box",
        "where": "a.json",
        "message": "two boxes",
        "change": "",
    }
    document = {"working_size": [192, 288], "data": {"train": split}, "findings": [finding]}
    (out / "doctor.json").write_text(json.dumps(document))
    return out


def test_the_time_of_stages_that_are_done_is_set_against_their_estimate(study: Path) -> None:
    (times,) = stage_times(study)
    assert (times.kind, times.estimated, sorted(times.taken)) == ("detect", 20.0, [30.0, 50.0])
    table = time_table(study)
    assert table is not None
    assert table.rows == (("fine-tuning", "2", "40 s", "80 s", "2.00", "40 (30 to 50)"),)
    (study / "choices.json").unlink()  # a study without a budget measures nothing before it starts
    table = time_table(study)
    assert table is not None and table.rows[0][2:5] == ("not measured", "80 s", "")


def test_the_report_of_a_study_shows_its_labelled_images_and_times_and_that_of_runs_alone_does_not(
    study: Path, tmp_path: Path
) -> None:
    write_detection(study / "detect" / "random", init="random", seed=0, ap50=1.0)
    for folder, shown in ((study, True), (None, False)):
        files = write_report([study / "detect"], tmp_path / "report", study=folder)
        for text in (files.html.read_text(), files.markdown.read_text()):
            assert [word in text for word in ("data/duplicate-box", "Labelled images", "actual / estimated")] == [
                shown
            ] * 3
            assert "<b>cup</b>" not in text
    with pytest.raises(ConfigError, match="--study .*absent: no such folder"):
        write_report([study / "detect"], tmp_path / "report", study=tmp_path / "absent")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"data": 3, "findings": []}', '{"data": {"train": {}}, "findings": []}']
)
def test_a_doctor_file_that_cannot_be_read_costs_no_report(study: Path, text: str) -> None:
    (study / "doctor.json").write_text(text)
    assert doctor_tables(study) == []
