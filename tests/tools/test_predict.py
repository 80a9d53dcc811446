"""The commands as they are typed, right and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tools.in_process import run_tool_here
from tests.transfer.detect.tiny_detector import write_photo, write_run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "masks")


def test_predict_names_what_it_wrote_and_ends_with_2_for_a_damaged_image(run: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "in" / "a.png", 0)
    done = run_tool_here("predict.py", run, tmp_path / "in", "--output-dir", tmp_path / "out", "--threshold", "0")
    assert done.returncode == 0 and "6 detections on 1 images" in done.stdout, done.stderr
    assert len(json.loads((tmp_path / "out" / "coco_results.json").read_text())) == 6
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    done = run_tool_here(
        "predict.py", run, tmp_path / "in", "--output-dir", tmp_path / "out2", "--opts", "MODEL.DEVICE", "cpu"
    )
    assert done.returncode == 2 and "1 of 2 images could not be read:" in done.stderr and "b.jpg" in done.stderr
    assert (tmp_path / "out2" / "predictions.json").is_file()


def test_wrong_words_end_with_one_line(run: Path, tmp_path: Path) -> None:
    for words, expected in (
        (("predict.py", run, "nowhere.jpg", "--output-dir", tmp_path / "o"), "found nothing at nowhere.jpg"),
        (("predict.py", tmp_path / "no.pth", run, "--output-dir", tmp_path / "o"), "no image in this folder"),
        (
            ("export_detector.py", run, "--format", "onnx", "--output", "x.onnx", "--images", "nowhere"),
            "found nothing at",
        ),
    ):
        done = run_tool_here(*words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and expected in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_export_says_how_well_the_file_agrees(run: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "in" / "a.png", 0)
    output = tmp_path / "new" / "mine.pt"
    done = run_tool_here(
        "export_detector.py", run, "--format", "torchscript", "--output", output, "--images", tmp_path / "in"
    )
    assert done.returncode == 0 and "mine.pt agrees with the detector on" in done.stdout, done.stderr
    assert sorted(path.name for path in output.parent.iterdir()) == ["mine.pt", "mine.pt.json"]
