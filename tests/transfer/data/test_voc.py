"""VOC folders: what is read, and a table of what is refused, each with file, object and field."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pretrain.base.errors import DataError
from tests.cases import each
from transfer.data.problems import ReadOptions
from transfer.data.voc import MAX_XML_BYTES, problems, read_voc

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
        path = root / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
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


def test_missing_pose_and_zero_based_corners_are_no_reason_to_stop(tmp_path: Path) -> None:
    """Detectron2's evaluator stops at the former; labelling programs write both all the time."""
    odd = thing(box=(0, 1, 10, 10)).replace("<pose>Left</pose><truncated>0</truncated>", "")
    data = read_voc(write_voc(tmp_path, {"a": annotation(odd)}), "train")
    assert data.records[0]["annotations"][0]["bbox"] == [0, 0, 10, 10]
    assert "boxes over the border of their image: 1 (clipped)" in data.notes[0]


def boxes_of(data) -> list[list[float]]:
    return [t["bbox"] for record in data.records for t in record["annotations"]]


def test_corners_with_fractions_are_edges_as_cvat_and_vott_write_them(tmp_path: Path) -> None:
    """All of the split, a box that happens to have whole corners too."""
    things = (thing(box=(5.25, 6.5, 24.75, 20)), thing(box=(0, 0, 40, 30)), thing(box=(1.5, 2, 3, 4)))
    data = read_voc(write_voc(tmp_path, {"a": annotation(*things)}), "train")
    assert boxes_of(data) == [[5.25, 6.5, 24.75, 20], [0, 0, 40, 30], [1.5, 2, 3, 4]]
    assert "boxes with fractions of a pixel: 2 (read as edges counted from 0" in data.notes[0]


def test_a_few_fractions_among_whole_corners_stay_under_the_rule_of_voc(tmp_path: Path) -> None:
    """VOC 2012 has such boxes; they are not rounded either."""
    things = (thing(box=(5.25, 6.5, 24.75, 20)), thing(), thing())
    data = read_voc(write_voc(tmp_path, {"a": annotation(*things)}), "train")
    assert boxes_of(data) == [[4.25, 5.5, 24.75, 20], [0, 0, 10, 10], [0, 0, 10, 10]] and data.notes == ()


@each("suffix", [".jpg", ".JPG", ".png", ".WebP", ".bmp", ".tif", ".TIFF", ".gif", ".ppm", ".pgm"])
def test_images_of_every_format_are_found_in_any_case(tmp_path: Path, suffix: str) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing())})
    (root / "JPEGImages" / f"a{suffix}").touch()
    data = read_voc(root, "train")
    assert data.records[0]["file_name"] == f"{root}/JPEGImages/a{suffix}" and data.notes == ()


def test_an_absent_image_is_named_as_voc_would_have_it(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing())})
    assert read_voc(root, "train").records[0]["file_name"] == f"{root}/JPEGImages/a.jpg"


def test_among_images_of_one_name_the_annotation_decides(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {name: annotation(thing()).replace("x.jpg", f"{name}.png") for name in "ab"})
    for name in ("a.jpg", "a.png", "b.webp", "b.bmp"):
        (root / "JPEGImages" / name).touch()
    with pytest.raises(DataError, match=r"images share one annotation: 1\n.*b.bmp, b.webp\n.*name it in <filename>"):
        read_voc(root, "train")
    (root / "JPEGImages" / "b.bmp").unlink()
    assert [Path(r["file_name"]).name for r in read_voc(root, "train").records] == ["a.png", "b.webp"]


@each("filename", ["x.jpg", "C:\\Users\\me\\x.jpg", "/home/me/x.jpg"])
def test_an_image_of_another_name_is_found_by_the_annotation(tmp_path: Path, filename: str) -> None:
    root = write_voc(tmp_path, {"0001": annotation(thing()).replace("x.jpg", filename)})
    (root / "JPEGImages" / "x.jpg").touch()
    data = read_voc(root, "train")
    assert Path(data.records[0]["file_name"]).name == "x.jpg" and "found by <filename> alone: 1" in data.notes[0]


def test_names_with_spaces_and_sub_folders(tmp_path: Path) -> None:
    names = ["IMG (1)", "day 1/a b", "day 2/a b", "IMG 1"]  # the last one is no class list: there is such an annotation
    root = write_voc(tmp_path, {name: annotation(thing()) for name in names})
    for name in names:
        (root / "JPEGImages" / f"{name}.jpg").parent.mkdir(exist_ok=True)
        (root / "JPEGImages" / f"{name}.jpg").touch()
    data = read_voc(root, "train")
    assert [record["image_id"] for record in data.records] == names and data.notes == ()
    assert [record["file_name"] for record in data.records] == [f"{root}/JPEGImages/{name}.jpg" for name in names]


def test_suffixes_and_backslashes_in_the_split_are_understood_and_counted(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing()), "sub/b": annotation(thing())}, listing="a.JPG\nsub\\b.png\n")
    data = read_voc(root, "train")
    assert [record["image_id"] for record in data.records] == ["a", "sub/b"]
    assert "image names in the split have a suffix or backslashes: 2 (taken for 'a' and the like)" in data.notes[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_split_files_of_every_editor(tmp_path: Path, encoding: str, ending: str) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing()), "é": annotation(thing())})
    listing = root / "ImageSets" / "Main" / "train.txt"
    listing.write_bytes(f"a{ending}{ending}é  {ending}".encode(encoding))
    data = read_voc(root, "train")
    assert [record["image_id"] for record in data.records] == ["a", "é"] and data.notes == ()


def test_split_files_of_another_encoding_are_refused(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing())})
    for content in ("é".encode("latin-1"), "a".encode("utf-16-le")):
        (root / "ImageSets" / "Main" / "train.txt").write_bytes(content)
        with pytest.raises(DataError, match="train.txt is not text in UTF-8 or UTF-16 .*; save it as UTF-8"):
            read_voc(root, "train")


@each("size", ["", "<size><width/><height/></size>", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_read_from_the_image(tmp_path: Path, size: str) -> None:
    text = f"<annotation>{size}{thing()}</annotation>"
    root = write_voc(tmp_path, {"a": text, "b": annotation(thing())})
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: upright it is 40 x 30
    Image.new("RGB", (30, 40)).save(root / "JPEGImages" / "a.jpg", exif=exif)
    data = read_voc(root, "train")
    assert [(r["width"], r["height"]) for r in data.records] == [(40, 30), (40, 30)]
    assert "annotations without the size of their image: 1 (read from the image)" in data.notes[0]


@each(
    ("text", "value", "noted"),
    [
        ("", 0, True),
        (" ", 0, True),
        ("False", 0, True),
        ("true", 1, True),
        ("0", 0, False),
        ("1", 1, False),
        ("1.0", 1, False),
    ],
)
def test_difficult_empty_or_in_words(tmp_path: Path, text: str, value: int, noted: bool) -> None:
    data = read_voc(write_voc(tmp_path, {"a": annotation(thing(difficult=text))}), "train")
    assert data.records[0]["annotations"][0]["difficult"] == value
    assert [("in words: 1 (read as 0 or 1)" in note) for note in data.notes] == [True] * noted


def test_given_classes_make_a_low_shot_split_trainable(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing("dog"))})
    data = read_voc(root, "train", ReadOptions(class_names=("owl", "dog", "cat")))
    assert data.class_names == ("owl", "dog", "cat") and data.records[0]["annotations"][0]["category_id"] == 1
    assert "classes without an object: 2 (kept as classes), first owl" in data.notes[0]


def test_objects_of_a_class_that_was_not_given_are_refused_by_name(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing("dog"), thing("dgo"))})
    with pytest.raises(
        DataError, match=r"does not name: 1\n.*a.xml: object 1: 'dgo'\n.*add them to --classes \(now dog\)"
    ):
        read_voc(root, "train", ReadOptions(class_names=("dog",)))


def test_problems_come_one_by_one_and_all_of_them(tmp_path: Path) -> None:
    root = write_voc(
        tmp_path,
        {
            "a": annotation(thing(difficult="no"), thing(box=(1, 1, "x", 2)), thing()),
            "b": "no xml",
            "c": annotation(thing(), size=(-1, 2)),
            "d": annotation(thing(box=(30, 20, 90, 90))),
        },
        listing="a\nb\nc\nd\nghost",
    )
    found = list(problems(root, "train", options=ReadOptions()))
    assert [(problem.repaired, problem.where.rpartition("/")[2]) for problem in found] == [
        (False, "train.txt:5"),
        (False, "a.xml: object 0"),
        (False, "a.xml: object 1"),
        (False, "b.xml"),
        (False, "c.xml"),
        (True, "d.xml: object 0"),
    ]
    with pytest.raises(DataError) as caught:
        read_voc(root, "train")
    assert all(problem.line() in str(caught.value) for problem in found if not problem.repaired)


BAD = [
    ("not xml", "is not XML"),
    ("", "is not XML"),
    (annotation(thing())[:-9], "is not XML"),
    ("<annotation/>", r"images are missing: 1\n.*bad.jpg: no such file"),
    (annotation(thing(), size=(0, 30)), r"images are missing: 1\n.*bad.jpg: no such file"),
    (annotation(thing(), size=(-4, 30)), "positive numbers, found -4 x 30"),
    (annotation(thing(), size=("wide", 30)), "size/width expected a finite number, found 'wide'"),
    (annotation(thing(), size=(40.5, 30)), "size/width expected a whole number"),
    (annotation(thing(name=" ")), "object 0: name is missing or empty"),
    (annotation(thing(), thing(box=("nan", 1, 2, 2))), "object 1: bndbox/xmin expected a finite number, found 'nan'"),
    (annotation(thing(box=(1, 1, "", 5))), "bndbox/xmax is missing or empty"),
    (annotation(thing().replace("bndbox", "box")), "bndbox/xmin is missing"),
    (annotation(thing(box=(20, 1, 5, 5))), "exchanged corners"),
    (annotation(thing(difficult=2)), "difficult expected 0 or 1, found '2'"),
    (annotation(thing(difficult="yes")), "difficult expected a finite number"),
    ('<?xml version="1.0" encoding="klingon"?>' + annotation(), "is not XML"),
    ('<!DOCTYPE a [<!ENTITY b "c">]>' + annotation(thing(name="&b;")), "declares a document type"),
    ('<!DOCTYPE a SYSTEM "file:///etc/hostname">' + annotation(), "declares a document type"),
    (annotation(thing()) + " " * MAX_XML_BYTES, "expected below"),
]


@each(("text", "message"), BAD)
def test_bad_annotation_is_refused_with_its_place(tmp_path: Path, text, message) -> None:
    root = write_voc(tmp_path, {"good": annotation(thing()), "bad": text})
    with pytest.raises(DataError, match=message) as caught:
        read_voc(root, "train")
    assert str(root) in str(caught.value)


def test_deeply_nested_annotation_ends_in_an_error_of_ours(tmp_path: Path) -> None:
    text = "<annotation>" * 80_000
    with pytest.raises(DataError, match="is not XML"):
        read_voc(write_voc(tmp_path, {"a": text}), "train")


@each(
    ("listing", "message"),
    [
        ("", "train.txt is empty"),
        ("\n \n", "train.txt is empty"),
        ("a\n../a", r"image names leave the folder: 1\n.*train.txt:2: '\.\./a'"),
        ("..", "leave the folder"),
        ("/a", "leave the folder"),
        ("a -1", r"found 'a -1'; train.txt is a list for one class .* not a split: write a split"),
        ("a.jpg  1", "is a list for one class"),
        ("a\nghost", r"no annotation at .*ghost\.xml, which the split names"),
    ],
)
def test_bad_split_is_refused(tmp_path: Path, listing, message) -> None:
    with pytest.raises(DataError, match=message):
        read_voc(write_voc(tmp_path, {"a": annotation(thing())}, listing=listing), "train")


def test_class_list_is_refused_with_the_split_beside_it(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing())})
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("a  1\n")
    with pytest.raises(DataError, match="cat_train.txt is a list for one class .*: name the split 'train'"):
        read_voc(root, "cat_train")


def test_unknown_split_names_the_nearest_one(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": annotation(thing())})
    with pytest.raises(DataError, match=r"no split 'trian' .*did you mean train\? \(there are: train\)"):
        read_voc(root, "trian")


def test_split_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"a": annotation(thing())})
    (tmp_path / "voc" / "ImageSets" / "out.txt").write_text("a")
    with pytest.raises(DataError, match="no split"):
        read_voc(root, "../out")


@each("folder", ["Annotations", "ImageSets/Main", "JPEGImages"])
def test_folder_that_is_no_voc_folder_says_what_is_missing(tmp_path: Path, folder) -> None:
    root = write_voc(tmp_path, {})
    (root / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"not a VOC folder: {folder}/ is missing"):
        read_voc(root, "train")


@each("given", [".", "VOCdevkit", "VOCdevkit/VOC2007/JPEGImages", "VOCdevkit/VOC2007/ImageSets/Main"])
def test_a_wrong_level_names_the_right_one(tmp_path: Path, given: str) -> None:
    root = write_voc(tmp_path / "VOCdevkit" / "VOC2007", {"a": annotation(thing())})
    with pytest.raises(DataError, match=f"did you mean {root}\\?"):
        read_voc(tmp_path / given, "train")


def test_flat_folders_of_other_exporters_are_told_where_their_files_go(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.xml").write_text(annotation(thing()))
    with pytest.raises(DataError, match="Annotations/ is missing. Put the XML files into Annotations/"):
        read_voc(tmp_path, "train")


def test_an_unreadable_image_without_a_size_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": f"<annotation>{thing()}</annotation>", "b": annotation(thing())})
    (root / "JPEGImages" / "a.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match="a.jpg: a page of HTML"):
        read_voc(root, "train")
    data = read_voc(root, "train", ReadOptions(skip_unreadable=True))
    assert [record["image_id"] for record in data.records] == ["b"] and "left out" in data.notes[0]


@pytest.mark.realdata
def test_blood_cells_are_read(shared_data: Path) -> None:
    data = read_voc(shared_data / "bccd", "trainval")
    assert data.class_names == ("Platelets", "RBC", "WBC") and data.num_objects > 3000
