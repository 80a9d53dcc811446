"""SPEC text, image files compared with their annotations, and the entries of Detectron2's catalogs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.base.errors import ConfigError, DataError
from transfer.data.spec import DataSpec, parse_spec, prepare_data, read_data
from transfer.demo_data.config import CLASS_NAMES


def coco(root: Path, split: str = "train") -> DataSpec:
    return parse_spec(f"coco:{root}/coco/annotations/instances_{split}.json:{root}/coco/{split}")


def voc(root: Path, split: str = "train") -> DataSpec:
    return parse_spec(f"voc:{root}/voc:{split}")


def test_spec_is_read_and_written_alike() -> None:
    spec = parse_spec("coco:a/b.json:images")
    assert spec == DataSpec("coco", Path("a/b.json"), "images") and str(spec) == "coco:a/b.json:images"
    assert parse_spec("voc:C:/data:trainval") == DataSpec("voc", Path("C:/data"), "trainval")


@pytest.mark.parametrize(
    "text", ["", "coco", "coco:a.json", "coco:a.json:", "voc::train", "COCO:a:b", "lvis:a:b", "a.json:b"]
)
def test_wrong_spec_shows_both_forms(text: str) -> None:
    with pytest.raises(ConfigError, match="expected coco:ANNOTATIONS.json:IMAGE_DIR or voc:ROOT:SPLIT"):
        parse_spec(text)


def test_both_layouts_hold_the_same_objects(demo_scenes: Path) -> None:
    one, other = read_data(coco(demo_scenes)), read_data(voc(demo_scenes))
    assert one.num_objects == other.num_objects > 0 and len(one.records) == len(other.records) == 4
    assert (one.masks, other.masks) == ("all", "none")


def test_absent_folders_are_named(demo_scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no image folder at {tmp_path}/absent"):
        read_data(parse_spec(f"coco:{demo_scenes}/coco/annotations/instances_train.json:{tmp_path}/absent"))
    with pytest.raises(DataError, match=f"no folder at {tmp_path}/absent"):
        read_data(parse_spec(f"voc:{tmp_path}/absent:train"))


def test_data_without_any_object_are_refused(damageable_scenes: Path) -> None:
    for path in (damageable_scenes / "voc" / "Annotations").iterdir():
        path.write_text("<annotation><size><width>192</width><height>192</height></size></annotation>")
    with pytest.raises(DataError, match="no labelled object in 4 images"):
        read_data(voc(damageable_scenes))


def test_registered_names_carry_classes_and_records(demo_scenes: Path) -> None:
    data = prepare_data(coco(demo_scenes), coco(demo_scenes, "test"))
    assert data.class_names == CLASS_NAMES and data.train_name != data.test_name
    for name, split in ((data.train_name, data.train), (data.test_name, data.test)):
        assert tuple(MetadataCatalog.get(name).thing_classes) == CLASS_NAMES
        assert len(DatasetCatalog.get(name)) == len(split.records)
    metadata = MetadataCatalog.get(data.test_name)
    assert metadata.json_file.endswith("instances_test.json") and metadata.can_evaluate_masks
    assert metadata.thing_dataset_id_to_contiguous_id == {index + 1: index for index in range(8)}


def test_the_same_data_can_be_prepared_twice_in_one_process(demo_scenes: Path) -> None:
    first, second = (prepare_data(coco(demo_scenes), None) for _ in range(2))
    assert first.train_name == second.train_name and first.test_name is None


def test_test_classes_follow_the_training_order(damageable_scenes: Path) -> None:
    """COCO ids given the other way round in the test file: the names decide, and the file is not evaluated against as it is."""
    path = damageable_scenes / "coco" / "annotations" / "instances_test.json"
    content = json.loads(path.read_text())
    for entry in content["categories"]:
        entry["id"] = 9 - entry["id"]
    for entry in content["annotations"]:
        entry["category_id"] = 9 - entry["category_id"]
    path.write_text(json.dumps(content))
    data = prepare_data(coco(damageable_scenes), coco(damageable_scenes, "test"))
    straight = read_data(voc(damageable_scenes, "test"))
    here = [CLASS_NAMES[thing["category_id"]] for record in data.test.records for thing in record["annotations"]]
    there = [straight.class_names[t["category_id"]] for record in straight.records for t in record["annotations"]]
    assert sorted(here) == sorted(there)
    assert MetadataCatalog.get(data.test_name).get("json_file") is None


def test_classes_of_the_detector_order_test_data_that_come_alone(demo_scenes: Path) -> None:
    names = tuple(reversed(CLASS_NAMES))
    data = prepare_data(None, voc(demo_scenes, "test"), names)
    assert data.class_names == names == tuple(MetadataCatalog.get(data.test_name).thing_classes)
    with pytest.raises(DataError, match="not among those trained on, which are ant, bee"):
        prepare_data(None, voc(demo_scenes, "test"), ("ant", "bee"))


@pytest.mark.parametrize(("folder", "year"), [("VOC2007", 2007), ("VOC2012", 2012), ("mine", 2012)])
def test_eleven_points_belong_to_voc_2007_alone(damageable_scenes: Path, folder: str, year: int) -> None:
    (damageable_scenes / "voc").rename(damageable_scenes / folder)
    data = prepare_data(None, parse_spec(f"voc:{damageable_scenes / folder}:test"))
    metadata = MetadataCatalog.get(data.test_name)
    assert (metadata.year, metadata.evaluator_type) == (year, "own_voc")


@pytest.mark.realdata
def test_real_sets_pass_and_a_missing_photograph_is_named(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "coco"
    annotations = root / "annotations" / "instances_val2017.json"
    assert len(read_data(DataSpec("coco", annotations, str(root / "val2017"))).records) == 100
    assert len(read_data(DataSpec("voc", shared_data / "bccd", "test")).records) > 50
    images = Path(shutil.copytree(root / "val2017", tmp_path / "val2017"))
    gone = sorted(images.iterdir())[5]
    gone.unlink()
    with pytest.raises(DataError, match=rf"images are missing: 1\n  {gone}"):
        read_data(DataSpec("coco", annotations, str(images)))
