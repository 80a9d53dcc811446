"""VOC folders: what is read, and a table of what is refused, each with file, object and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.base.errors import DataError
from transfer.data.voc import MAX_XML_BYTES, read_voc

OBJECT = (
    "<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
)


def thing(name="cat", box=(1, 1, 10, 10), difficult=0) -> str:
    return OBJECT.format(name=name, difficult=difficult, **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)))


def annotation(*things: str, size=(40, 30)) -> str:
    width, height = size
    parts = f"<filename>x.jpg</filename><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{parts}{''.join(things)}</annotation>"


def write_voc(root: Path, annotations: dict[str, str], *, listing: str | None = None) -> Path:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in annotations.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(annotations) if listing is None else listing)
    return root


def test_classes_are_the_names_found_sorted(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing("dog"), thing("cat")), "b": annotation(thing("ant"))})
    data = read_voc(root, "train")
    assert data.class_names == ("ant", "cat", "dog")
    assert [[t["category_id"] for t in record["annotations"]] for record in data.records] == [[2, 1], [0]]


def test_records_equal_those_of_detectron2(tmp_path: Path) -> None:
    from detectron2.data.datasets.pascal_voc import load_voc_instances
    from detectron2.structures import BoxMode

    root = write_voc(tmp_path, {"a": annotation(thing("dog", (3, 4, 40, 30)), thing()), "b": annotation(thing("ant"))})
    data = read_voc(root, "train")
    for mine, theirs in zip(data.records, load_voc_instances(str(root), "train", data.class_names), strict=True):
        assert all(mine[key] == theirs[key] for key in ("file_name", "image_id", "width", "height"))
        for here, there in zip(mine["annotations"], theirs["annotations"], strict=True):
            assert here["bbox"] == there["bbox"] and here["category_id"] == there["category_id"]
            assert here["bbox_mode"] == there["bbox_mode"] == BoxMode.XYXY_ABS


def test_a_box_over_the_whole_image_is_the_whole_image(tmp_path: Path) -> None:
    """VOC's corners count pixels from 1 and include the last one."""
    data = read_voc(write_voc(tmp_path, {"a": annotation(thing(box=(1, 1, 40, 30)))}), "train")
    assert data.records[0]["annotations"][0]["bbox"] == [0, 0, 40, 30] and data.notes == ()


def test_difficult_objects_are_kept_and_marked(tmp_path: Path) -> None:
    plain = thing().replace("<difficult>0</difficult>", "")
    data = read_voc(write_voc(tmp_path, {"a": annotation(thing(difficult=1), plain)}), "train")
    assert [t["difficult"] for t in data.records[0]["annotations"]] == [1, 0]


def test_missing_pose_fractions_and_zero_based_corners_are_no_reason_to_stop(tmp_path: Path) -> None:
    """Detectron2's evaluator stops at each of them; labelling programs write them all the time."""
    odd = thing(box=(0, 0.5, 10.5, 10)).replace("<pose>Left</pose><truncated>0</truncated>", "")
    data = read_voc(write_voc(tmp_path, {"a": annotation(odd)}), "train")
    assert data.records[0]["annotations"][0]["bbox"] == [0, 0, 10.5, 10]
    assert "boxes over the border of their image: 1 (clipped)" in data.notes[0]


def test_images_of_another_suffix_are_found(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing()), "b": annotation(thing())})
    (root / "JPEGImages" / "a.PNG").touch()
    names = [Path(record["file_name"]).name for record in read_voc(root, "train").records]
    assert names == ["a.PNG", "b.jpg"]  # the absent one under its usual name, for the message


BAD = [
    ("not xml", "is not XML"),
    ("", "is not XML"),
    (annotation(thing())[:-9], "is not XML"),
    ("<annotation/>", r"size/width is missing"),
    (annotation(thing(), size=(0, 30)), "positive numbers, found 0 x 30"),
    (annotation(thing(), size=("wide", 30)), "size/width expected a finite number, found 'wide'"),
    (annotation(thing(), size=(40.5, 30)), "size/width expected a whole number"),
    (annotation(thing(name=" ")), "object 0: name is missing or empty"),
    (annotation(thing(), thing(box=("nan", 1, 2, 2))), "object 1: bndbox/xmin expected a finite number, found 'nan'"),
    (annotation(thing(box=(1, 1, "", 5))), "bndbox/xmax is missing or empty"),
    (annotation(thing().replace("bndbox", "box")), "bndbox/xmin is missing"),
    (annotation(thing(box=(20, 1, 5, 5))), "exchanged corners"),
    (annotation(thing(difficult="yes")), "difficult expected a finite number"),
    ('<?xml version="1.0" encoding="klingon"?>' + annotation(), "is not XML"),
    ('<!DOCTYPE a [<!ENTITY b "c">]>' + annotation(thing(name="&b;")), "declares a document type"),
    ('<!DOCTYPE a SYSTEM "file:///etc/hostname">' + annotation(), "declares a document type"),
    (annotation(thing()) + " " * MAX_XML_BYTES, "expected below"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_annotation_is_refused_with_its_place(tmp_path: Path, text, message) -> None:
    root = write_voc(tmp_path, {"good": annotation(thing()), "bad": text})
    with pytest.raises(DataError, match=message) as caught:
        read_voc(root, "train")
    assert str(root) in str(caught.value)


def test_deeply_nested_annotation_ends_in_an_error_of_ours(tmp_path: Path) -> None:
    text = "<annotation>" * 80_000
    with pytest.raises(DataError, match="is not XML"):
        read_voc(write_voc(tmp_path, {"a": text}), "train")


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("", "train.txt is empty"),
        ("\n \n", "train.txt is empty"),
        ("a\n../a", r"train.txt:2: '\.\./a' leaves the folder"),
        ("..", "leaves the folder"),
        ("a -1", "name a split, not a class list"),
        ("a\na", "1 image names are given twice"),
        ("a\nghost", r"no annotation at .*ghost\.xml, which the split names"),
    ],
)
def test_bad_split_is_refused(tmp_path: Path, listing, message) -> None:
    with pytest.raises(DataError, match=message):
        read_voc(write_voc(tmp_path, {"a": annotation(thing())}, listing=listing), "train")


def test_unknown_split_names_the_nearest_one(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing())})
    with pytest.raises(DataError, match=r"no split 'trian' .*did you mean train\? \(there are: train\)"):
        read_voc(root, "trian")


def test_split_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"a": annotation(thing())})
    (tmp_path / "voc" / "ImageSets" / "out.txt").write_text("a")
    with pytest.raises(DataError, match="no split"):
        read_voc(root, "../out")


@pytest.mark.parametrize("folder", ["Annotations", "ImageSets/Main", "JPEGImages"])
def test_folder_that_is_no_voc_folder_says_what_is_missing(tmp_path: Path, folder) -> None:
    root = write_voc(tmp_path, {})
    (root / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"not a VOC folder: {folder}/ is missing"):
        read_voc(root, "train")


@pytest.mark.realdata
def test_blood_cells_are_read(shared_data: Path) -> None:
    data = read_voc(shared_data / "bccd", "trainval")
    assert data.class_names == ("Platelets", "RBC", "WBC") and data.num_objects > 3000
