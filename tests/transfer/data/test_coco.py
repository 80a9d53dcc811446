"""COCO files: what is read and repaired, and a table of what is refused, each with its place, what was expected and found.

What many tools write, and how it is evaluated: test_coco_exports.py."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from pathlib import Path

import pycocotools.mask
import pytest

from pretrain.base.errors import DataError
from transfer.data.coco import problems, read_coco
from transfer.data.ground_truth import ground_truth_json
from transfer.data.problems import ReadOptions
from transfer.data.records import DetectionData

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


def read(path: Path, image_dir: Path, **options) -> DetectionData:
    """One of the three objects of GOOD is a crowd: more than a file may have without a question."""
    return read_coco(path, image_dir, ReadOptions(**{"keep_crowds": True} | options))


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
    data = read(write(tmp_path, GOOD), tmp_path / "images")
    assert data.class_names == ("bike", "dog")
    assert [thing["category_id"] for record in data.records for thing in record["annotations"]] == [1, 0, 0]


def test_records_equal_those_of_detectron2(tmp_path: Path) -> None:
    from detectron2.data.datasets import load_coco_json
    from detectron2.structures import BoxMode

    path = write(tmp_path, GOOD)
    ours = {record["image_id"]: record for record in read(path, tmp_path).records}
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
    data = read(path, tmp_path)
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
    assert read(write(tmp_path, changed(path, value)), tmp_path).complete_coco is None


def test_missing_masks_are_noticed(tmp_path: Path) -> None:
    some = read(write(tmp_path, changed("annotations.0.segmentation", [])), tmp_path)
    assert (some.masks, some.can_evaluate_masks) == ("some", False)
    content = copy.deepcopy(GOOD)
    for entry in content["annotations"]:
        del entry["segmentation"]
    assert read(write(tmp_path, content), tmp_path).masks == "none"


def test_run_lengths_of_a_solid_object_ask_for_bitmasks(tmp_path: Path) -> None:
    data = read(write(tmp_path, changed("annotations.1.iscrowd", 0)), tmp_path)
    assert data.bitmask
    mask = pycocotools.mask.decode(data.records[0]["annotations"][1]["segmentation"])
    assert mask.shape == (10, 20) and mask.sum() == 9


def test_image_without_annotations_is_kept(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    del content["annotations"][2]
    assert [len(record["annotations"]) for record in read(write(tmp_path, content), tmp_path).records] == [2, 0]


BAD = [
    ("images", DELETE, "expected a list `images`, found nothing; the file has categories, annotations"),
    ("annotations", {}, "expected a list `annotations`, found a dict"),
    ("categories", [], "`categories` is empty"),
    ("images.0", "a.jpg", r"images\[0\]: expected an object"),
    ("images.0.id", DELETE, r"images\[0\] \(a.jpg\): id is missing"),
    ("images.0.id", "", r"images\[0\] \(a.jpg\): id expected a whole number, found ''"),
    ("images.0.id", 7.5, r"images\[0\] \(a.jpg\): id expected a whole number, found 7.5"),
    ("images.0.id", 2**70, r"images\[0\] \(a.jpg\): id expected a whole number"),
    ("images.0.id", 3, r"images\[1\] \(sub/b.jpg\): id 3 is given twice, first at images\[0\] \(a.jpg\)"),
    ("images.0.file_name", "../../secret.jpg", "lead out of the image folder"),
    ("images.0.file_name", "/etc/passwd", "lead out of the image folder"),
    ("images.0.file_name", "", "file_name expected a path in the image folder"),
    ("images.0.file_name", 7, "file_name expected a path in the image folder, found 7"),
    ("images.0.file_name", "\ud800", "names that no file can have"),
    ("images.0.width", 0, "positive numbers, found 0 x 10"),
    ("images.0.width", 20.5, "width expected a whole number"),
    ("images.0.width", DELETE, r"no width and height, and .*a.jpg: no such file"),
    ("images.0.width", 10**9, "images of more than 50 megapixels: 1.*correct width and height"),
    ("images.0.width", 10**7, "images of more than 50 megapixels: 1.*pass --large-images"),
    ("categories.0.name", None, r"categories\[0\]: name expected text"),
    ("categories.0.name", "\ud800", r"categories\[0\]: name expected text"),
    (
        "categories.0.name",
        "bike",
        "several categories of one name: 1.*'bike' is given twice, as ids 2, 18.*different names",
    ),
    ("categories.0.id", 2, "id 2: 'dog' and 'bike'"),
    ("categories.0.id", True, "id expected a whole number"),
    ("annotations.0.id", 2, r"annotations\[1\] \(a.jpg\): id 2 is given twice"),
    ("annotations.0.image_id", DELETE, r"annotations\[0\]: image_id is missing"),
    ("annotations.0.category_id", 1, r"category_id 1 is not among the categories.*those of the file are \[2, 18\]"),
    ("annotations.0.category_id", "dog", r"category_id expected a whole number, found 'dog'"),
    ("annotations.0.bbox", DELETE, "bbox expected four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3], "bbox expected four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3, "4"], "bbox expected four finite numbers"),
    ("annotations.0.bbox", [10**400, 2, 3, 4], "bbox expected four finite numbers"),
    ("annotations.0.bbox", [5, 5, -2, 2], r"boxes with a negative width or height: 1.*annotations\[0\] \(a.jpg\)"),
    ("annotations.0.iscrowd", 2, "iscrowd expected 0 or 1"),
    ("annotations.0.iscrowd", [1], "iscrowd expected 0 or 1"),
    ("annotations.0.area", "big", "area 'big'"),
    ("annotations.0.segmentation", "polygon", "expected polygons or run lengths"),
    ("annotations.0.segmentation", [[1, 2, 3]], r"segmentation\[0\] expected an even list"),
    ("annotations.0.segmentation", [[1, 2, 3, None]], r"segmentation\[0\] expected an even list"),
    ("annotations.0.segmentation", [[0, 0, 1e9, 0, 5, 5]], "polygons far outside their image"),
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
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        read(file, tmp_path)
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
        read(write(tmp_path, text), tmp_path)


def test_absent_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation file at"):
        read(tmp_path / "absent.json", tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read the annotation file"):
        read(tmp_path / "binary.json", tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"images": "caf\xe9"}')
    with pytest.raises(DataError, match="cannot read the annotation file .* save it as UTF-8"):
        read(tmp_path / "latin.json", tmp_path)


def test_a_float_size_never_reaches_the_c_code(tmp_path: Path) -> None:
    content = changed("annotations.1.segmentation", {"size": [10.0, 20.0], "counts": [100, 9, 91]})
    coded = read(write(tmp_path, content), tmp_path).records[0]["annotations"][1]["segmentation"]
    assert coded["size"] == [10, 20] and all(type(side) is int for side in coded["size"])


def test_problems_go_on_after_the_first_and_repairs_are_told_apart(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["annotations"][0]["bbox"] = [1, 2, -5, 4]
    content["annotations"][1]["category_id"] = 77
    content["annotations"][2]["bbox"] = [2.5, 2.5, 30, 3]
    found = list(problems(content, annotations=tmp_path / "a.json", image_dir=tmp_path, options=ReadOptions()))
    assert [(problem.kind, problem.repaired) for problem in found] == [
        ("boxes with a negative width or height", False),
        ("annotations of a category that is not listed", False),
        ("boxes over the border of their image", True),
        ("classes without an object", True),
    ]


def test_a_refusal_names_twenty_offenders_by_their_image_and_a_file_with_all(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = copy.deepcopy(GOOD)
    content["annotations"] = [{"id": i, "image_id": 7, "category_id": 2, "bbox": [1, 1, -1, 1]} for i in range(1, 31)]
    with pytest.raises(DataError, match=r"negative width or height: 30\n") as caught:
        read(write(tmp_path, content), tmp_path)
    assert str(caught.value).count("(a.jpg)") == 20 and "10 more" in str(caught.value)


def test_mutated_files_end_in_data_or_a_data_error(tmp_path: Path) -> None:
    """Whatever a field holds. (100,000 of them were tried once.)"""
    rng = random.Random(0)
    refused = sum(_mutant_is_refused(rng, tmp_path) for _ in range(1500))
    assert 300 < refused < 1450  # the control: some mutants are harmless, and most are not


def _mutant_is_refused(rng: random.Random, folder: Path) -> bool:
    values = [
        None,
        True,
        0,
        -1,
        1,
        7,
        3,
        2.0,
        1e308,
        10**30,
        "",
        "7",
        "a.jpg",
        "../a",
        "\ud800",
        "\0",
        [],
        {},
        [[]],
        [1, 2, 3, 4],
    ]
    values += [[[1, 2, 3, 4, 5, 6]], {"size": [10, 20]}, {"size": [10, 20], "counts": "o1"}, [None], "x" * 300]
    content = copy.deepcopy(GOOD)
    for _ in range(rng.randint(1, 3)):
        node, key = content, rng.choice(sorted(content))
        while isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.85:
            node = node[key]
            key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if rng.random() < 0.15:
            del node[key]
        else:
            node[key] = copy.deepcopy(rng.choice(values))
        if not all(content.get(key) for key in GOOD) or not all(isinstance(content[key], (list, dict)) for key in GOOD):
            break
    options = ReadOptions(keep_crowds=rng.random() < 0.5, crowd_as_objects=rng.random() < 0.5)
    reading = problems(
        json.loads(json.dumps(content)), annotations=folder / "a.json", image_dir=folder, options=options
    )
    found = []
    while True:
        try:
            found.append(next(reading))
        except StopIteration as end:
            data = end.value
            break
    if all(problem.repaired for problem in found):
        for record in data.records:
            for thing in record["annotations"]:
                x1, y1, x2, y2 = thing["bbox"]
                assert 0 <= x1 < x2 <= record["width"] and 0 <= y1 < y2 <= record["height"]
                assert 0 <= thing["category_id"] < len(data.class_names) and 0 < thing["area"] <= 1e10
        json.dumps(ground_truth_json(data)).encode()
    return not all(problem.repaired for problem in found)


@pytest.mark.realdata
def test_the_official_layout_of_coco_needs_no_repair(shared_data: Path) -> None:
    root = shared_data / "coco"
    for split in ("train2017", "val2017"):
        data = read_coco(root / "annotations" / f"instances_{split}.json", root / split)
        assert len(data.records) == 100 and len(data.class_names) == 80
        kinds = [
            note.removeprefix(f"{root}/annotations/instances_{split}.json: ").partition(":")[0] for note in data.notes
        ]
        assert kinds == ["regions marked iscrowd", "classes without an object"]
        assert data.complete_coco is not None and data.masks == "all" and not data.bitmask
