"""The labelled images of a study are looked at as tools/doctor.py looks at them, once for the same files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.base.errors import DataError
from transfer.compare.study_config import DetectConfig, InitConfig, StudyConfig
from transfer.compare.study_data import prepare_data
from transfer.compare.study_doctor import examine_study


def write_split(root: Path, name: str, *, count: int = 4, seed: int = 0) -> dict:
    """count images of 64 x 48 px below root/name with a box each -> content of root/name.json."""
    (root / name).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images, things = [], []
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 48})
        box = {"bbox": [2, 3, 56, 42], "area": 2352, "iscrowd": 0}
        things.append({"id": i + 1, "image_id": i + 1, "category_id": 1 + i % 2, **box})
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "leaf"}]
    content = {"images": images, "annotations": things, "categories": categories}
    (root / f"{name}.json").write_text(json.dumps(content))
    return content


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    write_split(tmp_path, "train")
    write_split(tmp_path, "test", seed=1)
    specs = [f"coco:{tmp_path}/{name}.json:{tmp_path}/{name}" for name in ("train", "test")]
    detect = DetectConfig(*specs, config_file="demo/R_18_FPN.yaml")
    return StudyConfig(inits=(InitConfig("random", "none"),), detect=detect)


def looked_at(study: StudyConfig, out: Path) -> list[str]:
    examined = examine_study(study.detect, out)
    assert examined is not None
    return list(examined.conclude(study, leaks=prepare_data(study, out).leaks, place=out))


def test_every_error_of_both_splits_is_named_by_file_and_object_and_nothing_is_written(
    study: StudyConfig, tmp_path: Path
) -> None:
    content = write_split(tmp_path, "bad")
    content["annotations"][0]["bbox"] = [2, 3, float("nan"), 42]
    content["annotations"][2]["category_id"] = 9
    for name in ("train", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as found:
        examine_study(study.detect, tmp_path / "out")
    text = str(found.value)
    for name in ("train", "test"):
        lines = [line for line in text.splitlines() if f"{tmp_path / name}.json" in line]
        assert {line.split()[1] for line in lines} == {"data/not-finite", "data/unknown-class"}
    assert "annotations[0]" in text and "annotations[2]" in text and "nothing was run" in text
    assert "python tools/doctor.py --train-data" not in text  # all of them are shown
    assert not (tmp_path / "out").exists()


def test_warnings_are_shown_with_what_each_split_holds_and_kept_for_the_report(
    study: StudyConfig, tmp_path: Path
) -> None:
    path = tmp_path / "train.json"
    content = json.loads(path.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 99})  # the same box twice
    path.write_text(json.dumps(content))
    shutil.copy(tmp_path / "train" / "0.png", tmp_path / "test" / "0.png")  # a test image in the training data
    lines = looked_at(study, tmp_path / "out")
    text = "\n".join(lines)
    assert lines[0] == "train data: 4 images, 5 objects (cup 3, leaf 2)" and "warning  data/duplicate-box" in text
    assert "warning  leakage/exact" in text and "test/0.png" in text
    assert lines[-1].startswith("doctor: 0 errors, 2 warnings, ")
    document = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert document["counts"]["warning"] == 2 and document["data"]["test"]["objects"] == 4
    assert document["working_size"] == [192, 288]  # the family's: what small objects are is decided there


@pytest.mark.parametrize("changed", ["", "image", "annotations", "new image"])
def test_a_study_that_goes_on_looks_again_only_where_a_file_changed(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    first = looked_at(study, tmp_path / "out")
    looks: list[str] = []
    from transfer.compare import study_doctor
    from transfer.data import leakage

    diagnose, find = study_doctor.diagnose_splits, leakage.find_leakage
    monkeypatch.setattr(study_doctor, "diagnose_splits", lambda *words: looks.append("doctor") or diagnose(*words))
    monkeypatch.setattr(leakage, "find_leakage", lambda *w, **more: looks.append("pictures") or find(*w, **more))
    if changed == "image":
        os.utime(tmp_path / "train" / "0.png", ns=(1, 1))
    elif changed == "annotations":
        (tmp_path / "test.json").write_text((tmp_path / "test.json").read_text() + "\n")
    elif changed:
        Image.new("RGB", (64, 48)).save(tmp_path / "train" / "unlisted.png")
    wanted = {"": [], "image": ["doctor", "pictures"]}
    again = looked_at(study, tmp_path / "out")
    assert looks == wanted.get(changed, ["doctor"])
    assert (again == first) is (changed != "new image")
