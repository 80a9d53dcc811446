"""COCO files: what is read, and a table of what is refused, each with its place, what was expected and what was found."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest

from pretrain.base.errors import DataError
from transfer.data.coco import decode_counts, read_coco

GOOD = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 20, "height": 10},
        {"id": 3, "file_name": "sub/b.jpg", "width": 8, "height": 8},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "bike"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 5, 4], "area": 20, "iscrowd": 0}
        | {"segmentation": [[1, 2, 6, 2, 6, 6, 1, 6]]},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 20, 10], "area": 9, "iscrowd": 1}
        | {"segmentation": {"size": [10, 20], "counts": [100, 9, 91]}},
        {"id": 5, "image_id": 3, "category_id": 2, "bbox": [2.5, 2.5, 3, 3], "area": 9, "iscrowd": 0}
        | {"segmentation": [[2.5, 2.5, 5.5, 2.5, 5.5, 5.5]]},
    ],
}


def write(folder: Path, content) -> Path:
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(path: str, value) -> dict:
    """GOOD with the entry at a path like `annotations.0.bbox` replaced; DELETE removes it."""
    content = copy.deepcopy(GOOD)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node = content
    for part in parents:
        node = node[part]
    if value is DELETE:
        del node[last]
    else:
        node[last] = value
    return content


DELETE = object()


def test_classes_follow_category_ids_as_detectron2_orders_them(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, GOOD), tmp_path / "images")
    assert data.class_names == ("bike", "dog")
    assert [thing["category_id"] for record in data.records for thing in record["annotations"]] == [1, 0, 0]


def test_records_equal_those_of_detectron2(tmp_path: Path) -> None:
    from detectron2.data.datasets import load_coco_json
    from detectron2.structures import BoxMode

    path = write(tmp_path, GOOD)
    ours = {record["image_id"]: record for record in read_coco(path, tmp_path).records}
    theirs = load_coco_json(str(path), str(tmp_path), "records_of_the_parity_test")
    assert len(ours) == len(theirs)
    for record in theirs:
        mine = ours[record["image_id"]]
        assert all(mine[key] == record[key] for key in ("file_name", "width", "height"))
        for here, there in zip(mine["annotations"], record["annotations"], strict=True):
            box = BoxMode.convert(there["bbox"], there["bbox_mode"], BoxMode.XYXY_ABS)
            assert here["bbox"] == box and here["bbox_mode"] == BoxMode.XYXY_ABS
            assert (here["category_id"], here["iscrowd"]) == (there["category_id"], there["iscrowd"])
            assert here["segmentation"] == there["segmentation"]


def test_complete_file_is_evaluated_against_directly(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    data = read_coco(path, tmp_path)
    assert data.complete_coco == (path, (2, 18))
    assert (data.masks, data.bitmask, data.can_evaluate_masks) == ("all", False, True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("annotations.0.area", DELETE),
        ("annotations.0.iscrowd", DELETE),
        ("annotations.0.id", 0),  # pycocotools takes id 0 for "no match"
        ("annotations.0.segmentation", [[1, 2, 6, 2], [1, 2, 6, 2, 6, 6]]),  # it takes four numbers for a box
    ],
)
def test_file_that_pycocotools_misreads_is_not_evaluated_against_directly(tmp_path: Path, path, value) -> None:
    assert read_coco(write(tmp_path, changed(path, value)), tmp_path).complete_coco is None


def test_missing_masks_are_noticed(tmp_path: Path) -> None:
    some = read_coco(write(tmp_path, changed("annotations.0.segmentation", [])), tmp_path)
    assert (some.masks, some.can_evaluate_masks) == ("some", False)
    content = copy.deepcopy(GOOD)
    for entry in content["annotations"]:
        del entry["segmentation"]
    assert read_coco(write(tmp_path, content), tmp_path).masks == "none"


def test_run_lengths_of_a_solid_object_ask_for_bitmasks(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, changed("annotations.1.iscrowd", 0)), tmp_path)
    assert data.bitmask
    mask = pycocotools.mask.decode(data.records[0]["annotations"][1]["segmentation"])
    assert mask.shape == (10, 20) and mask.sum() == 9


def test_image_without_annotations_is_kept(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    del content["annotations"][2]
    assert [len(record["annotations"]) for record in read_coco(write(tmp_path, content), tmp_path).records] == [2, 0]


BAD = [
    ("images", DELETE, "expected a list `images`, found nothing"),
    ("annotations", {}, "expected a list `annotations`, found dict"),
    ("categories", [], "`categories` is empty"),
    ("images.0", "a.jpg", r"images\[0\]: expected an object"),
    ("images.0.id", DELETE, r"images\[0\]: id is missing"),
    ("images.0.id", "7", r"images\[0\]: id expected a whole number, found '7'"),
    ("images.0.id", 2**70, r"images\[0\]: id expected a whole number"),
    ("images.0.id", 3, r"images\[1\]: id 3 is given twice"),
    ("images.0.file_name", "../../secret.jpg", "leaves the image folder"),
    ("images.0.file_name", "/etc/passwd", "leaves the image folder"),
    ("images.0.file_name", "", "file_name expected a relative path"),
    ("images.0.width", 0, "positive numbers, found 0 x 10"),
    ("images.0.width", 20.5, "width expected a whole number"),
    ("images.0.width", 10**9, "pixels, expected at most"),
    ("categories.0.name", None, r"categories\[0\]: name expected text"),
    ("categories.0.name", "bike", "given twice"),
    ("categories.0.id", 2, "given twice"),
    ("categories.0.id", True, "id expected a whole number"),
    ("annotations.0.id", 2, r"annotations\[1\]: id 2 is given twice"),
    ("annotations.0.image_id", 8, r"annotations\[0\]: image_id 8 is not among the images"),
    ("annotations.0.category_id", 1, r"category_id 1 is not among the categories \[2, 18\]"),
    ("annotations.0.bbox", DELETE, "bbox expected four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3], "bbox expected four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3, "4"], "bbox expected four finite numbers"),
    ("annotations.0.bbox", [10**400, 2, 3, 4], "bbox expected four finite numbers"),
    ("annotations.0.bbox", [5, 5, -2, 2], "negative width or height"),
    ("annotations.0.bbox", [5, 5, 30, 2], "leaves its image of 20 x 10"),
    ("annotations.0.bbox", [5, 5, 0, 2], r"1 of 3 objects cannot be used .* has no area"),
    ("annotations.0.iscrowd", 2, "iscrowd expected 0 or 1"),
    ("annotations.0.area", "big", "area expected a finite number"),
    ("annotations.0.segmentation", "polygon", "expected polygons or run lengths"),
    ("annotations.0.segmentation", [[1, 2, 3]], r"segmentation\[0\] expected an even list"),
    ("annotations.0.segmentation", [[1, 2, 3, None]], r"segmentation\[0\] expected an even list"),
    ("annotations.0.segmentation", [[0, 0, 1e9, 0, 5, 5]], "far outside its image"),
    ("annotations.0.segmentation", [[1, 2, 3, 4]], "no polygon of 3 points"),
    ("annotations.1.segmentation", {"size": [20, 10], "counts": [200]}, r"size expected \[10, 20\]"),
    ("annotations.1.segmentation", {"size": [10, 20], "counts": [100, 9]}, "sum to 109, expected height x width = 200"),
    ("annotations.1.segmentation", {"size": [10, 20], "counts": [300, -100]}, "expected run lengths"),
    ("annotations.1.segmentation", {"size": [10, 20], "counts": "~~~"}, "not a COCO run-length string"),
    ("annotations.1.segmentation", {"size": [10, 20], "counts": "P"}, "ends in the middle of a number"),
    ("annotations.1.segmentation", {"size": [10, 20]}, "expected run lengths"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    BAD,
    ids=[f"{path}={'absent' if value is DELETE else repr(value)[:30]}" for path, value, _ in BAD],
)
def test_bad_entry_is_refused_with_its_place(tmp_path: Path, path, value, message) -> None:
    file = write(tmp_path, changed(path, value))
    with pytest.raises(DataError, match=message) as caught:
        read_coco(file, tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        (json.dumps(GOOD)[:-30], "is not JSON"),
        ("[1, 2]", "found list"),
        (json.dumps(GOOD).replace("[1, 2, 5, 4]", "[NaN, 2, 5, 4]"), "NaN is not a JSON number"),
        (json.dumps(GOOD).replace("[1, 2, 5, 4]", "[1e999, 2, 5, 4]"), "four finite numbers"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=["empty", "truncated", "list", "nan", "infinite", "deep"],
)
def test_file_that_is_no_annotation_file_is_refused(tmp_path: Path, text, message) -> None:
    with pytest.raises(DataError, match=message):
        read_coco(write(tmp_path, text), tmp_path)


def test_absent_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation file at"):
        read_coco(tmp_path / "absent.json", tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read the annotation file"):
        read_coco(tmp_path / "binary.json", tmp_path)


def test_a_float_size_never_reaches_the_c_code(tmp_path: Path) -> None:
    content = changed("annotations.1.segmentation", {"size": [10.0, 20.0], "counts": [100, 9, 91]})
    coded = read_coco(write(tmp_path, content), tmp_path).records[0]["annotations"][1]["segmentation"]
    assert coded["size"] == [10, 20] and all(type(side) is int for side in coded["size"])


def test_decoded_run_lengths_equal_pycocotools_on_random_masks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 60, 2)
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        text = pycocotools.mask.encode(np.asfortranarray(mask))["counts"].decode()
        runs = decode_counts(text, "mask")
        values = np.repeat(np.arange(len(runs)) % 2, runs)
        assert np.array_equal(values.reshape(width, height).T, mask)


@pytest.mark.realdata
def test_the_official_layout_of_coco_is_read_without_a_word(shared_data: Path) -> None:
    root = shared_data / "coco"
    for split in ("train2017", "val2017"):
        data = read_coco(root / "annotations" / f"instances_{split}.json", root / split)
        assert len(data.records) == 100 and len(data.class_names) == 80 and data.notes == ()
        assert data.complete_coco is not None and data.masks == "all" and not data.bitmask
