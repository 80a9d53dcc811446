"""The data doctor: each of many bad annotation files gets its finding, sound ones none that is an error, and nothing raises."""

from __future__ import annotations

import ast
import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.base.errors import ConfigError
from tests.transfer.data import annotation_fuzz, exporters
from transfer.data import coco, coco_json, coco_masks, doctor, image_checks, records, voc, yolo
from transfer.data.doctor import compare_splits, diagnose_data, listed_images
from transfer.data.drawing import BOX_COLOURS
from transfer.data.findings import Finding, worst
from transfer.data.problems import ReadOptions
from transfer.data.sample_picture import SAMPLE, draw_samples

KINDS = {kind.name: kind for kind in exporters.KINDS}
XML = "Annotations/1.xml"
LABELS = "labels/train/1.txt"


@dataclass(frozen=True)
class Bad:
    """A bad file: `change` edits the folder of a sound data set of kind `base`; `spec` may replace its SPEC ({root})."""

    name: str
    base: str
    change: Callable[[Path], None]
    expected: str
    where: str = ""
    spec: str = ""


BAD: list[Bad] = []


def edit_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        (path,) = root.rglob("*.json")
        content = json.loads(path.read_text())
        replaced = change(content)
        path.write_text(json.dumps(content if replaced is None else replaced))

    return edit


def in_coco(name: str, expected: str, change: Callable[[dict[str, Any]], Any], where: str = "", base: str = "coco_official") -> None:  # fmt: skip
    BAD.append(Bad(f"coco: {name}", base, edit_json(change), expected, where))


def annotation(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Fields of the second annotation; ... removes one."""

    def change(content: dict[str, Any]) -> None:
        for key, value in fields.items():
            content["annotations"][1][key] = value
            if value is ...:
                del content["annotations"][1][key]

    return change


def image(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """The same of the second image."""

    def change(content: dict[str, Any]) -> None:
        for key, value in fields.items():
            content["images"][1][key] = value
            if value is ...:
                del content["images"][1][key]

    return change


SECOND, SECOND_IMAGE = "annotations[1]", "images[1]"
in_coco("box missing", "data/no-box", annotation(bbox=...), SECOND)
in_coco("box of three numbers", "data/no-box", annotation(bbox=[1, 2, 3]), SECOND)
in_coco("box of texts", "data/no-box", annotation(bbox=["1", "2", "3", "4"]), SECOND)
in_coco("box with NaN", "data/not-finite", annotation(bbox=[1, 2, float("nan"), 4]), SECOND)
in_coco("area infinite", "data/not-finite", annotation(area=float("inf")), SECOND)
in_coco("width negative", "data/box-negative", annotation(bbox=[50, 20, -40, 40]), SECOND)
in_coco("width zero", "data/box-degenerate", annotation(bbox=[50, 20, 0, 40]), SECOND)
in_coco("box outside", "data/box-outside", annotation(bbox=[150, 120, 40, 40]), SECOND)
in_coco("box over the border", "data/box-over-border", annotation(bbox=[50, 20, 55, 40]), SECOND)
in_coco("box in fractions", "data/box-convention", lambda c: [a.update(bbox=[0.1, 0.1, 0.4, 0.4]) for a in c["annotations"]] and None)  # fmt: skip
in_coco("area negative", "data/area", annotation(area=-3), SECOND)
in_coco("area a text", "data/wrong-type", annotation(area="large"), SECOND)
in_coco("area unlike the mask", "data/area-unlike-mask", annotation(area=90), "dog")
in_coco("box unlike the mask", "data/box-unlike-mask", annotation(segmentation=[[1, 1, 9, 1, 9, 9, 1, 9]]), "dog")
in_coco("category unknown", "data/unknown-class", annotation(category_id=99), SECOND)
in_coco("category missing", "data/bad-id", annotation(category_id=...), SECOND)
in_coco("image id unknown", "data/unlisted-image", annotation(image_id=99), SECOND)
in_coco("image id null", "data/bad-id", annotation(image_id=None), SECOND)
in_coco("annotation id twice", "data/duplicate-annotation", annotation(id=1), SECOND)
in_coco("annotation not an object", "data/wrong-type", lambda c: c["annotations"].__setitem__(1, 7), SECOND)
in_coco("iscrowd 7", "data/wrong-type", annotation(iscrowd=7), SECOND)
in_coco("same box twice", "data/duplicate-box", lambda c: c["annotations"].append({**c["annotations"][1], "id": 99}), "dog")  # fmt: skip
in_coco("one box, two classes", "data/box-of-two-classes", lambda c: c["annotations"].append({**c["annotations"][1], "id": 99, "category_id": 1}))  # fmt: skip
in_coco("polygon odd", "data/bad-polygon", annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), SECOND)
in_coco("polygon of two points", "data/bad-polygon", annotation(segmentation=[[1, 2, 3, 4]]), SECOND)
in_coco("polygon of texts", "data/bad-polygon", annotation(segmentation=[["1", 2, 3, 4, 5, 6]]), SECOND)
in_coco("polygon far outside", "data/bad-polygon", annotation(segmentation=[[1e6, 0, 1e6, 9, 9, 9]]), SECOND)
in_coco("segmentation a text", "data/bad-polygon", annotation(segmentation="mask.png"), SECOND)
for words, mask in {
    "counts do not sum to h * w": {"size": [80, 100], "counts": [10, 20, 30]},
    "counts negative": {"size": [80, 100], "counts": [-8000, 16000]},
    "counts of the wrong size": {"size": [100, 80], "counts": [4000, 4000]},
    "counts far too long": {"size": [80, 100], "counts": [0, 2**40]},
    "counts no run-length text": {"size": [80, 100], "counts": "\u20ac!"},
    "counts text that ends early": {"size": [80, 100], "counts": "ooooo"},
    "size absent": {"counts": [4000, 4000]},
}.items():
    in_coco(words, "data/bad-rle", annotation(segmentation=mask), SECOND, base="darwin_coco_masks")
in_coco("image id twice", "data/duplicate-image", image(id=1), SECOND_IMAGE)
in_coco("image listed twice", "data/duplicate-image", lambda c: c["images"].append(dict(c["images"][1])), SECOND_IMAGE)
in_coco("image without a name", "data/no-image-name", image(file_name=...), SECOND_IMAGE)
in_coco("image of no size", "data/no-image-size", image(width=0), SECOND_IMAGE)
in_coco("image of another size", "data/image-size", image(width=65), "000000000002.jpg")
in_coco("width and height exchanged", "data/image-size-exchanged", image(width=96, height=64))
in_coco("image of a gigapixel", "data/image-too-large", image(width=40000, height=40000), SECOND_IMAGE)
in_coco("width a text", "data/wrong-type", image(width="sixty"), SECOND_IMAGE)
in_coco("name climbs out", "data/path-escape", image(file_name="../../../etc/hosts"), SECOND_IMAGE)
in_coco("name absolute", "data/path-escape", image(file_name="/etc/hosts"), SECOND_IMAGE)
in_coco("name of another drive", "data/path-escape", image(file_name="C:\\data\\1.jpg"), SECOND_IMAGE)
in_coco("name with a zero byte", "data/image-ambiguous", image(file_name="a\0b.jpg"), SECOND_IMAGE)
in_coco("image absent", "data/image-missing", image(file_name="7.jpg"), "7.jpg")
in_coco("category id twice", "data/duplicate-category", lambda c: c["categories"][1].update(id=1), "categories[1]")
in_coco("category without a name", "data/missing-field", lambda c: c["categories"][1].pop("name") and None, "categories[1]")  # fmt: skip
in_coco("categories of one name", "data/duplicate-category", lambda c: c["categories"][1].update(name="cat"))
in_coco("names differ in case", "data/class-variants", lambda c: c["categories"][1].update(name="Cat"))
in_coco(
    "names differ in a space",
    "data/class-variants",
    lambda c: (
        [entry.update(name=name) for entry, name in zip(c["categories"], ("big cat", "big_cat"), strict=True)] and None
    ),
)
in_coco("a class without objects", "data/class-without-object", lambda c: c["categories"].append({"id": 9, "name": "rabbit"}))  # fmt: skip
in_coco("no annotations", "data/no-objects", lambda c: c["annotations"].clear())
in_coco("lists missing", "data/other-tool", lambda c: c.pop("images") and None)
in_coco("panoptic COCO", "data/other-tool", lambda c: c["annotations"][0].update(segments_info=[]) or (c.pop("categories") and None))  # fmt: skip
in_coco("everything crowd", "data/crowds", lambda c: [a.update(iscrowd=1) for a in c["annotations"]] and None)
in_coco("most images empty", "data/empty-images", lambda c: c["annotations"].__setitem__(slice(1, None), []))
in_coco("objects of two pixels", "data/tiny-objects", annotation(bbox=[50, 20, 0.4, 0.4], area=0.16, segmentation=[]))


def in_file(name: str, base: str, path: str, expected: str, old: str, new: str, where: str = "") -> None:
    """Text of one file replaced; old "" replaces all of it."""

    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert not old or old in text
        (root / path).write_text(text.replace(old, new, 1) if old else new)

    BAD.append(Bad(name, base, change, expected, where))


def in_bytes(name: str, base: str, path: str, expected: str, content: bytes | None, where: str = "") -> None:
    """A file replaced; None removes it."""

    def change(root: Path) -> None:
        if content is None:
            (root / path).unlink()
        else:
            (root / path).write_bytes(content)

    BAD.append(Bad(name, base, change, expected, where))


INSTANCES = "annotations/instances_train2017.json"
in_bytes("coco: not JSON", "coco_official", INSTANCES, "data/not-json", b'{"images": [')
in_bytes("coco: JSON 100,000 deep", "coco_official", INSTANCES, "data/not-json", b"[" * 100_000)
in_bytes("coco: bytes of no encoding", "coco_official", INSTANCES, "data/encoding", b'{"a": "\xff\xfe\xfd"}')
in_bytes("coco: file absent", "coco_official", INSTANCES, "data/no-file", None)
in_file("coco: a field twice", "coco_official", INSTANCES, "data/repeated-field", '"id": 1,', '"id": 1, "id": 1,')

VOC = "voc_official"
in_file("voc: name missing", VOC, XML, "data/missing-field", "<name>cat</name>", "", "object 0")
in_file("voc: corner missing", VOC, XML, "data/missing-field", "<xmin>11</xmin>", "", "object 0")
in_file("voc: corner a word", VOC, XML, "data/wrong-type", "<xmin>11</xmin>", "<xmin>left</xmin>", "object 0")
in_file("voc: corner NaN", VOC, XML, "data/not-finite", "<xmin>11</xmin>", "<xmin>nan</xmin>", "object 0")
in_file("voc: corners exchanged", VOC, XML, "data/box-negative", "<xmin>11</xmin>", "<xmin>70</xmin>", "object 0")
in_file("voc: box outside", VOC, XML, "data/box-outside", "<xmin>11</xmin><ymin>13</ymin><xmax>40</xmax>", "<xmin>311</xmin><ymin>13</ymin><xmax>340</xmax>", "object 0")  # fmt: skip
in_file("voc: difficult 5", VOC, XML, "data/wrong-type", "<difficult>0<", "<difficult>5<", "object 0")
in_file("voc: size a word", VOC, XML, "data/wrong-type", "<width>100<", "<width>wide<", "1.xml")
in_file("voc: size absent", VOC, XML, "data/no-image-size", "<size><width>100</width><height>80</height><depth>3</depth></size>", "")  # fmt: skip
in_file("voc: another size", VOC, XML, "data/image-size", "<width>100<", "<width>300<", "1.jpg")
in_file("voc: torn", VOC, XML, "data/not-xml", "</annotation>", "", "1.xml")
in_file("voc: CVAT for images", VOC, XML, "data/other-tool", "", "<annotations><version>1.1</version><meta/><image id='0'/></annotations>", "1.xml")  # fmt: skip
LAUGHS = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
in_file("voc: billion laughs", VOC, XML, "data/xml-entity", "<annotation>", f'<!DOCTYPE x [<!ENTITY a0 "lol">{LAUGHS}]><annotation><x>&a9;</x>', "1.xml")  # fmt: skip
in_file("voc: external entity", VOC, XML, "data/xml-entity", "<annotation>", '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hosts">]><annotation><x>&e;</x>', "1.xml")  # fmt: skip
in_bytes("voc: 2 MiB of XML", VOC, XML, "data/too-large-file", b"<annotation>" + b" " * (2 << 20) + b"</annotation>", "1.xml")  # fmt: skip
in_bytes("voc: annotation absent", VOC, XML, "data/annotation-missing", None, "train.txt:1")
in_bytes("voc: image absent", VOC, "JPEGImages/1.jpg", "data/image-missing", None, "1.jpg")
in_bytes("voc: image empty", VOC, "JPEGImages/1.jpg", "data/image-unreadable", b"", "1.jpg")
in_bytes("voc: image a web page", VOC, "JPEGImages/1.jpg", "data/image-unreadable", b"<html>404</html>", "1.jpg")
in_bytes("voc: image torn", VOC, "JPEGImages/1.jpg", "data/image-unreadable", exporters.image_bytes((100, 80))[:900])
in_bytes("voc: image lacks its end", VOC, "JPEGImages/1.jpg", "data/image-truncated", exporters.image_bytes((100, 80))[:-20])  # fmt: skip
in_file("voc: split climbs out", VOC, "ImageSets/Main/train.txt", "data/path-escape", "1\n", "../../1\n", "train.txt:1")
in_file("voc: split names one twice", VOC, "ImageSets/Main/train.txt", "data/duplicate-image", "2\n", "1\n", "train.txt:2")  # fmt: skip
in_bytes("voc: split empty", VOC, "ImageSets/Main/train.txt", "data/no-split", b"")
in_bytes("voc: split absent", VOC, "ImageSets/Main/train.txt", "data/no-split", None)

YOLO = "ultralytics_yolo"
in_file("yolo: class unknown", YOLO, LABELS, "data/unknown-class", "0 0.25", "7 0.25", "1.txt:1")
in_file("yolo: class a word", YOLO, LABELS, "data/wrong-type", "0 0.25", "cat 0.25", "1.txt:1")
in_file("yolo: NaN", YOLO, LABELS, "data/not-finite", "0 0.2500000000", "0 nan", "1.txt:1")
in_file("yolo: four values", YOLO, LABELS, "data/missing-field", "0 0.25", "0.25", "1.txt:1")
in_file("yolo: pixels", YOLO, LABELS, "data/box-convention", "0 0.2500000000", "0 25", "1.txt:1")
in_file("yolo: width negative", YOLO, LABELS, "data/box-negative", "0.3000000000", "-0.3", "1.txt:1")
in_file("yolo: width zero", YOLO, LABELS, "data/box-degenerate", "0.3000000000", "0", "1.txt:1")
in_file("yolo: polygon of an odd number", "ultralytics_yolo_polygons", LABELS, "data/missing-field", " 0.6250000000 0.1000000000 0.6250000000", "", "1.txt:1")  # fmt: skip
in_bytes("yolo: labels binary", YOLO, LABELS, "data/encoding", b"\xff\xfe\xfd\xfc\x80", "1.txt")
in_bytes("yolo: image absent", YOLO, "images/train/1.jpg", "data/labels-unused", None, "1.txt")
in_file("yolo: nc wrong", YOLO, "data.yaml", "data/classes-unreadable", "path: .", "path: .\nnc: 5")
in_file("yolo: names absent", YOLO, "data.yaml", "data/classes-unreadable", "names:\n  0: cat\n  1: dog\n", "")
in_file("yolo: no such folder", YOLO, "data.yaml", "data/image-missing", "images/train", "images/trian")
in_file("yolo: keypoints", YOLO, "data.yaml", "data/other-tool", "path: .", "path: .\nkpt_shape: [17, 3]")
in_file("yolo: 50,000 brackets", YOLO, "data.yaml", "data/layout", "path: .", "path: " + "[" * 50_000)
in_bytes("yolo: data file absent", YOLO, "data.yaml", "data/no-file", None)


def other(name: str, content: Any, words: str) -> None:
    """A file of another tool in place of the COCO file; `words` must be in what to do."""
    text = content if isinstance(content, str) else json.dumps(content)
    in_bytes(f"other: {name}", "coco_official", INSTANCES, "data/other-tool", text.encode(), words)


BOX = {"x": 1, "y": 2, "width": 3, "height": 4}
other("labelme", {"version": "5", "flags": {}, "shapes": [], "imagePath": "1.jpg", "imageData": None}, "labelme2coco")
other("Label Studio JSON", [{"id": 1, "annotations": [{"result": []}], "data": {"image": "/x"}}], "Export > COCO")
other("Label Studio JSON-MIN", [{"id": 1, "image": "/x", "label": [{**BOX, "rectanglelabels": ["cat"]}]}], "Export > COCO")  # fmt: skip
other("CVAT for images", "<?xml version='1.0'?><annotations><version>1.1</version><meta/><image/></annotations>", "COCO 1.0")  # fmt: skip
other("CVAT for video", "<annotations><track id='0'/></annotations>", "COCO 1.0")
other("Roboflow CreateML", [{"image": "1.jpg", "annotations": [{"label": "cat", "coordinates": BOX}]}], "Download Dataset")  # fmt: skip
other("Roboflow CSV", "filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,1,1,cat,0,0,1,1\n", "Download Dataset")
other("VIA project", {"_via_settings": {}, "_via_img_metadata": {}}, "COCO format")
other("COCO results", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "annotation file")
other("Supervisely", {"description": "", "size": {"height": 1, "width": 1}, "objects": []}, "Export to COCO")
other("Datumaro", {"info": {}, "categories": {"label": {"labels": []}}, "items": []}, "coco_instances")
other("one VOC annotation", "<annotation><object><name>cat</name><bndbox/></object></annotation>", "voc:ROOT:SPLIT")
BAD.append(
    Bad(
        "other: a Roboflow folder",
        "coco_official",
        lambda root: (root / "_annotations.coco.json").write_text("{}"),
        "data/other-tool",
        "_annotations.coco.json",
        "coco:{root}:{root}",
    )
)
BAD.append(
    Bad("other: a YOLO folder", YOLO, lambda root: None, "data/other-tool", "yolo:", "coco:{root}:{root}/images")
)


def errors(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def write(root: Path, bad: Bad) -> str:
    """The bad data set -> its SPEC."""
    spec = KINDS[bad.base].write(root)
    bad.change(root)
    return bad.spec.format(root=root) or spec


def test_a_bad_file_gets_its_finding_by_file_and_object(tmp_path: Path) -> None:
    for bad in BAD:
        report = diagnose_data(write(folder_for(bad.name, tmp_path), bad))
        found = [finding for finding in report.findings if finding.id == bad.expected]
        assert found, (bad.name, [(finding.id, finding.message) for finding in report.findings])
        said = [f"{finding.where} {finding.message} {finding.change}" for finding in found]
        assert any(bad.where in text for text in said), (bad.name, said)
        assert not any(finding.id == doctor.OTHER for finding in report.findings), bad.name
        json.dumps([report.to_dict(), [finding.to_dict() for finding in report.findings]], allow_nan=False)


def folder_for(case: str, root: Path) -> Path:
    """A new folder inside `root`."""
    folder = root / "".join(letter if letter.isalnum() else "_" for letter in case)
    folder.mkdir()
    return folder


def test_there_are_more_than_sixty_bad_files_of_all_formats() -> None:
    assert len(BAD) >= 60 and len({bad.name for bad in BAD}) == len(BAD)
    assert {bad.name.partition(":")[0] for bad in BAD} == {"coco", "voc", "yolo", "other"}


def test_sound_files_of_every_tool_give_no_error(tmp_path: Path) -> None:
    """The control of the test of bad files: what a run accepts without a word is no error here."""
    accepted = [kind for kind in exporters.KINDS if kind.outcome == "accepted"]
    assert len(accepted) >= 40
    for kind in accepted:
        report = diagnose_data(kind.write(folder_for(kind.name, tmp_path)), options=kind.options)
        assert errors(report.findings) == [], kind.name
        assert report.objects == sum(map(len, kind.boxes.values())), kind.name


def test_what_a_run_repairs_or_refuses_is_found_with_that_severity(tmp_path: Path) -> None:
    others = [kind for kind in exporters.KINDS if kind.outcome != "accepted"]
    assert len(others) >= 60
    for kind in others:
        report = diagnose_data(kind.write(folder_for(kind.name, tmp_path)), options=kind.options)
        assert report.findings and not any(finding.id == doctor.OTHER for finding in report.findings), kind.name
        assert (worst(report.findings) == "error") == (kind.outcome == "refused"), (kind.name, report.findings)


def test_all_problems_are_listed_not_the_first(tmp_path: Path) -> None:
    spec = KINDS["coco_official"].write(tmp_path)
    edit_json(lambda content: [entry.update(category_id=99) for entry in content["annotations"]] and None)(tmp_path)
    places = [finding.where for finding in diagnose_data(spec).findings if finding.id == "data/unknown-class"]
    assert [place.partition("annotations[")[2][0] for place in places] == ["0", "1", "2", "3"]


def test_every_kind_of_problem_in_the_readers_has_an_id() -> None:
    """Read off the source, so that a new kind cannot be forgotten."""
    kinds = set()
    for module in (coco, coco_json, coco_masks, voc, yolo, records, image_checks):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            name = getattr(getattr(node, "func", None), "id", getattr(getattr(node, "func", None), "attr", ""))
            if name in ("Problem", "Doubt", "_repaired"):
                kinds |= {value.value for value in node.args[:1] if isinstance(value, ast.Constant)}
    assert len(kinds) > 50
    named = {kind for kind in kinds if any(pattern.search(kind) for *_, pattern in doctor._COMPILED)}
    assert kinds - named == {"annotations with a field that cannot be read"}  # its `found` says which


def test_links_out_of_the_folder_are_named(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.jpg"
    root = tmp_path / "data"
    spec = KINDS["coco_official"].write(root)
    picture = root / "train2017" / "000000000001.jpg"
    picture.rename(outside)
    picture.symlink_to(outside)
    (found,) = [finding for finding in diagnose_data(spec).findings if finding.id == "data/link-out"]
    assert found.where == str(picture) and str(outside) in found.message


def test_images_without_an_entry_are_named(tmp_path: Path) -> None:
    for kind, folder in (("coco_official", "train2017"), ("voc_official", "JPEGImages")):
        spec = KINDS[kind].write(tmp_path / kind)
        extra = tmp_path / kind / folder / "extra.jpg"
        extra.write_bytes(exporters.image_bytes((64, 64)))
        found = [finding for finding in diagnose_data(spec).findings if finding.id == "data/image-unlisted"]
        assert [finding.where for finding in found] == [str(extra)]


@pytest.mark.parametrize(
    ("orientation", "size", "expected"),
    [(3, (100, 80), "data/exif-undecided"), (6, (80, 100), "data/exif-turned"), (6, (100, 80), "data/exif-ignored")],
)
def test_exif_orientation_is_named(tmp_path: Path, orientation: int, size: tuple[int, int], expected: str) -> None:
    """The stored picture is 100 x 80; the annotation says `size`."""
    spec = KINDS["coco_official"].write(tmp_path)
    name = "train2017/000000000001.jpg"
    (tmp_path / name).write_bytes(exporters.image_bytes((100, 80), orientation=orientation))
    edit_json(lambda content: content["images"][0].update(width=size[0], height=size[1]))(tmp_path)
    found = [finding.id for finding in diagnose_data(spec).findings if "exif" in finding.id]
    assert found == [expected]


def test_counts_and_sizes_are_those_of_the_data(tmp_path: Path) -> None:
    report = diagnose_data(KINDS["coco_official"].write(tmp_path), working_size=(80, 200))
    assert (report.images, report.objects, report.empty, report.crowds) == (3, 4, 0, 0)
    cat, dog = report.classes
    assert (cat.name, cat.objects, cat.images, dog.objects, dog.images) == ("cat", 2, 2, 2, 2)
    # at 80 px: 30 x 38 and 70 x 64 in an image of 90 px
    assert cat.median_size == pytest.approx(((30 * 38 + 70 * 64 * (80 / 90) ** 2) / 2) ** 0.5)
    assert (cat.small, cat.medium, cat.large) == (0, 2, 0)
    assert "cat" in report.table() and json.loads(json.dumps(report.to_dict()))["objects"] == 4


def test_classes_of_two_splits_are_compared(tmp_path: Path) -> None:
    train, test = (diagnose_data(KINDS["coco_official"].write(tmp_path / name)) for name in ("a", "b"))
    assert compare_splits(train, test) == []
    edit_json(lambda content: content["categories"][0].update(name="Dog "))(tmp_path / "b")
    other_test = diagnose_data(next(finding for finding in [test.spec]))
    found = {finding.id: finding for finding in compare_splits(train, other_test)}
    assert set(found) == {"data/test-class-unknown"} and "'Dog'" in found["data/test-class-unknown"].where


def test_a_spec_that_is_none_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected coco:"):
        diagnose_data(str(tmp_path))


def test_listed_images_survive_bad_objects(tmp_path: Path) -> None:
    spec = KINDS["coco_official"].write(tmp_path)
    edit_json(annotation(bbox=None))(tmp_path)
    assert [Path(path).name for path in listed_images(spec)] == [f"00000000000{i}.jpg" for i in (1, 2, 3)]


def test_samples_show_the_boxes(tmp_path: Path) -> None:
    report = diagnose_data(KINDS["coco_official"].write(tmp_path))
    assert report.data is not None
    assert draw_samples(report.data, tmp_path / "samples.png") == 3
    picture = np.asarray(Image.open(tmp_path / "samples.png").convert("RGB")).astype(int)
    colour = tuple(int(BOX_COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    scale = SAMPLE[0] / 100  # the first image is 100 px wide, its first box begins at (10, 12)
    row, column = round(30 * scale), round(10 * scale)
    assert any(np.abs(picture[row, column + step] - colour).max() < 8 for step in (-1, 0, 1))


# Fuzz


def values_swapped(content: Any, rng: random.Random) -> Any:
    """Two values of a JSON tree exchanged, wherever they are."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    content = copy.deepcopy(content)
    walk(content)
    (one, first), (two, second) = rng.sample(places, 2)
    one[first], two[second] = copy.deepcopy(two[second]), copy.deepcopy(one[first])
    return content


def test_byte_flips_and_swapped_values_end_in_findings(tmp_path: Path) -> None:
    bases = annotation_fuzz.write_bases(tmp_path, list(annotation_fuzz.BASES))
    rng = random.Random(12)
    num_errors = 0
    for _ in range(200):
        base = rng.choice(bases)
        path = rng.choice(list(base.files))
        content = bytearray(base.files[path])
        if path.suffix == ".json" and rng.random() < 0.6:
            content = bytearray(json.dumps(values_swapped(json.loads(bytes(content)), rng)).encode())
        else:
            for _ in range(rng.choice((1, 2, 8))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(7)
        path.write_bytes(bytes(content))
        try:
            report = diagnose_data(base.spec)
        finally:
            path.write_bytes(base.files[path])
        assert not any(finding.id == doctor.OTHER for finding in report.findings), report.findings
        num_errors += worst(report.findings) == "error"
    assert 40 < num_errors < 190  # mutations are neither harmless nor hopeless


@pytest.mark.slow
def test_every_mutation_of_the_readers_fuzz_ends_in_findings(tmp_path: Path) -> None:
    bases = annotation_fuzz.write_bases(tmp_path, list(annotation_fuzz.BASES))
    options = ReadOptions()
    for case in range(300):
        base, path, content = annotation_fuzz.mutate(bases, case, seed=4)
        path.write_bytes(content)
        report = diagnose_data(base.spec, options=options)
        path.write_bytes(base.files[path])
        assert not any(finding.id == doctor.OTHER for finding in report.findings), (case, report.findings)


# Real data


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("coco_float_small", set()),
        ("cvat_rle_crowd_some", {"data/crowds"}),
        ("ls_backslash", set()),
        ("orphan", set()),
        ("over_many", set()),
        ("roboflow_samename", set()),
        ("voc_fewshot", set()),
        ("voc_frac_8", set()),
        ("voc_spaces", set()),
        ("voc_split_bom", set()),
        ("voc_webp", set()),
        ("wh_swapped", {"data/image-size-exchanged"}),
        ("zero_w", set()),
    ],
)
def test_files_of_other_tools_give_the_errors_that_they_have(shared_data: Path, case: str, expected: set[str]) -> None:
    folder = shared_data / "cases" / case
    spec = f"voc:{folder}:train" if case.startswith("voc") else f"coco:{folder}/a.json:{folder}/images"
    assert {finding.id for finding in errors(diagnose_data(spec).findings)} == expected


@pytest.mark.realdata
@pytest.mark.slow
def test_real_data_give_no_error_and_few_warnings(shared_data: Path) -> None:
    """COCO's masks here are made from its panoptic annotations: two of 1,500 objects have another area or box than their mask."""
    for spec in (
        f"coco:{shared_data}/coco/annotations/instances_val2017.json:{shared_data}/coco/val2017",
        f"voc:{shared_data}/bccd:test",
    ):
        findings = diagnose_data(spec).findings
        assert errors(findings) == []
        assert sum(finding.severity == "warning" for finding in findings) <= 3
