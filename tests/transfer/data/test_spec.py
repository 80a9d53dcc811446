"""SPEC text, image files compared with their annotations, and the entries of Detectron2's catalogs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import DataRecord
from transfer.data.problems import ReadOptions
from transfer.data.records import DetectionData
from transfer.data.spec import (
    VOC_2007_METRIC,
    VOC_METRIC,
    DataSpec,
    parse_class_names,
    parse_spec,
    prepare_data,
    read_data,
)
from transfer.demo_data.config import CLASS_NAMES


def coco(root: Path, split: str = "train") -> DataSpec:
    return parse_spec(f"coco:{root}/coco/annotations/instances_{split}.json:{root}/coco/{split}")


def voc(root: Path, split: str = "train") -> DataSpec:
    return parse_spec(f"voc:{root}/voc:{split}")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("coco:a/b.json:images", DataSpec("coco", Path("a/b.json"), "images")),
        ("voc:C:/data:trainval", DataSpec("voc", Path("C:/data"), "trainval")),
        ("voc07:a:test", DataSpec("voc07", Path("a"), "test")),
        ("yolo:a/data.yaml:val", DataSpec("yolo", Path("a/data.yaml"), "val")),
        (
            "voc:A:trainval+voc:B:trainval+coco:c.json:d",
            DataSpec(
                "voc",
                Path("A"),
                "trainval",
                (DataSpec("voc", Path("B"), "trainval"), DataSpec("coco", Path("c.json"), "d")),
            ),
        ),
        ("voc:a+b:c+d", DataSpec("voc", Path("a+b"), "c+d")),  # a plus in a name joins nothing
        ("voc:/my+voc:x:train", DataSpec("voc", Path("/my+voc:x"), "train")),
        ("coco:a+coco.json:images+voc", DataSpec("coco", Path("a+coco.json"), "images+voc")),
    ],
)
def test_spec_is_read_and_written_alike(text: str, spec: DataSpec) -> None:
    assert parse_spec(text) == spec and str(spec) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "coco",
        "coco:a.json",
        "coco:a.json:",
        "voc::train",
        "COCO:a:b",
        "lvis:a:b",
        "a.json:b",
        "voc:a:b+voc:c",
        "+voc:a:b",
    ],
)
def test_wrong_spec_shows_all_forms(text: str) -> None:
    with pytest.raises(
        ConfigError, match="expected coco:ANNOTATIONS.json:IMAGE_DIR, voc:ROOT:SPLIT, voc07:.* or yolo:"
    ) as caught:
        parse_spec(text)
    assert "joined by +" in str(caught.value)


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


def test_data_whose_objects_were_all_dropped_say_why(damageable_scenes: Path) -> None:
    path = damageable_scenes / "coco" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry["image_id"] += 1000
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"(?s)no labelled object in 4 images\n  .*annotations of images that are not listed: \d+ "
    ):
        read_data(parse_spec(f"coco:{path}:{damageable_scenes}/coco/train"))


def test_repairs_of_training_and_test_data_are_told_apart(tmp_path: Path) -> None:
    spec = parse_spec(small_voc(tmp_path / "A", {"1": "cat"}))
    notes = prepare_data(spec, spec, options=ReadOptions(class_names=("cat", "dog"))).notes
    assert [note.partition(":")[0] for note in notes] == ["training data", "test data"]
    assert all("classes without an object: 1" in note for note in notes)


def test_voc_test_data_without_an_object_that_counts_are_refused_before_the_training(damageable_scenes: Path) -> None:
    for path in (damageable_scenes / "voc" / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    assert prepare_data(voc(damageable_scenes), None).train.num_objects  # they are trained on
    with pytest.raises(
        DataError, match=r"all \d+ objects are marked difficult, and VOC AP, area under the curve counts none"
    ):
        prepare_data(voc(damageable_scenes), voc(damageable_scenes, "test"))


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


@pytest.mark.parametrize("folder", ["VOC2007", "VOC2012", "mine"])
@pytest.mark.parametrize(("kind", "metric"), [("voc", VOC_METRIC), ("voc07", VOC_2007_METRIC)])
def test_the_metric_is_what_the_spec_asks_for_whatever_the_folder_is_called(
    damageable_scenes: Path, folder: str, kind: str, metric: str
) -> None:
    (damageable_scenes / "voc").rename(damageable_scenes / folder)
    data = prepare_data(None, parse_spec(f"{kind}:{damageable_scenes / folder}:test"))
    metadata = MetadataCatalog.get(data.test_name)
    assert (metadata.metric, metadata.evaluator_type, data.metric) == (metric, "own_voc", metric)
    told = [f"write voc07:{damageable_scenes / folder}:test" in note for note in data.notes]
    assert told == ([True] if (folder, kind) == ("VOC2007", "voc") else [])


def small_voc(root: Path, images: dict[str, str], split: str = "train") -> str:
    """A VOC folder; images: name -> class of its one object."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    size = "<size><width>40</width><height>30</height></size>"
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>21</ymax></bndbox>"
    for name, thing in images.items():
        text = f"<annotation>{size}<object><name>{thing}</name>{box}</object></annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images))
    return f"voc:{root}:{split}"


def objects(data: DetectionData) -> list[tuple[str, str]]:
    return [
        (Path(r["file_name"]).stem, data.class_names[t["category_id"]]) for r in data.records for t in r["annotations"]
    ]


def test_joined_parts_are_merged_by_class_name(tmp_path: Path) -> None:
    """VOC07+12: the second part names its classes in another order and lacks one."""
    text = (
        f"{small_voc(tmp_path / 'A', {'1': 'cat', '2': 'dog'})}+{small_voc(tmp_path / 'B', {'3': 'owl', '4': 'dog'})}"
    )
    data = read_data(parse_spec(text))
    assert data.class_names == ("cat", "dog", "owl")
    assert objects(data) == [("1", "cat"), ("2", "dog"), ("3", "owl"), ("4", "dog")]
    assert [record["image_id"] for record in data.records] == ["1", "2", "3", "4"]
    assert ["does not name owl" in data.notes[0], "does not name cat" in data.notes[1]] == [True, True]


def test_image_ids_that_occur_in_two_parts_become_numbers(tmp_path: Path) -> None:
    text = f"{small_voc(tmp_path / 'A', {'1': 'cat', '2': 'cat'})}+{small_voc(tmp_path / 'B', {'1': 'cat'})}"
    assert [record["image_id"] for record in read_data(parse_spec(text)).records] == [1, 2, 3]


def test_an_image_in_two_parts_and_names_alike_but_for_case_are_refused(tmp_path: Path) -> None:
    one, other = small_voc(tmp_path / "A", {"1": "cat"}), small_voc(tmp_path / "B", {"2": "Cat"})
    with pytest.raises(DataError, match="differ in case alone: 'cat' and 'Cat'; write them alike"):
        read_data(parse_spec(f"{one}+{other}"))
    small_voc(tmp_path / "A", {"1": "cat"}, "val")
    with pytest.raises(DataError, match=f"1 images are in two parts, first {tmp_path}/A/JPEGImages/1.jpg"):
        read_data(parse_spec(f"{one}+voc:{tmp_path}/A:val"))


def test_names_alike_but_for_case_within_one_folder_are_two_classes_only_where_both_are_given(tmp_path: Path) -> None:
    spec = parse_spec(small_voc(tmp_path / "A", {"1": "cat", "2": "Cat"}))
    with pytest.raises(DataError, match="differ in case alone: 'Cat' and 'cat'") as caught:
        read_data(spec)
    names = str(caught.value).partition("pass --classes '")[2].partition("'")[0]
    assert read_data(spec, ReadOptions(class_names=parse_class_names(names))).class_names == ("Cat", "cat")


def test_joined_parts_of_several_kinds(demo_scenes: Path) -> None:
    assert read_data(parse_spec(f"{coco(demo_scenes)}+{coco(demo_scenes, 'test')}")).masks == "all"
    data = read_data(parse_spec(f"{coco(demo_scenes)}+{voc(demo_scenes, 'test')}"))
    assert data.class_names == CLASS_NAMES and data.masks == "some" and len(data.records) == 6
    assert (
        data.num_objects == read_data(coco(demo_scenes)).num_objects + read_data(voc(demo_scenes, "test")).num_objects
    )


def test_a_test_split_has_one_metric(tmp_path: Path) -> None:
    one, other = small_voc(tmp_path / "A", {"1": "cat"}), small_voc(tmp_path / "B", {"2": "cat"})
    mixed = parse_spec(f"{one}+{other.replace('voc:', 'voc07:')}")
    with pytest.raises(ConfigError, match="its parts ask for several metrics .*11 points.*area under the curve"):
        prepare_data(None, mixed)
    assert prepare_data(mixed, parse_spec(one)).metric == VOC_METRIC  # of training data nobody asks


def test_low_shot_training_data_take_the_classes_that_are_given(tmp_path: Path) -> None:
    """The message of the refusal is the command that works."""
    train, test = (
        parse_spec(small_voc(tmp_path / "A", images, split))
        for split, images in (("train", {"1": "cat"}), ("test", {"2": "dog", "3": "cat"}))
    )
    with pytest.raises(DataError, match="the classes dog are not among those trained on, which are cat") as caught:
        prepare_data(train, test)
    names = str(caught.value).partition("pass --classes '")[2].partition("'")[0]
    data = prepare_data(train, test, options=ReadOptions(class_names=parse_class_names(names)))
    assert data.class_names == ("cat", "dog") == data.train.class_names == data.test.class_names
    assert objects(data.test) == [("2", "dog"), ("3", "cat")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_class_names_are_given_as_words_or_as_a_file(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("hot dog\r\n\r\ncat, big\r\n".encode(encoding))
    assert parse_class_names(str(path)) == ("hot dog", "cat, big")
    assert parse_class_names("dog, hot cat") == ("dog", "hot cat") and parse_class_names("dog") == ("dog",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected names with commas"),
        ("cat,,dog", "expected names with commas"),
        ("cat,cat", "'cat' is named twice"),
        ("absent.txt", "no such file"),
        ("a/b", "no such file"),
    ],
)
def test_bad_class_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_class_names(text)


def test_the_record_of_a_split_is_its_content_wherever_it_lies(damageable_scenes: Path, demo_scenes: Path) -> None:
    """Moved: the same. A box, a class, a name, an image changed: another (one change at a time)."""

    def record_of(text: str, **options) -> DataRecord:
        return prepare_data(parse_spec(text), None, options=ReadOptions(**options)).data_records["train"]

    original, copy = record_of(f"voc:{demo_scenes}/voc:train"), f"voc:{damageable_scenes}/voc:train"
    assert record_of(copy).fingerprint == original.fingerprint and original.num_images == 4
    assert record_of(copy, class_names=tuple(reversed(CLASS_NAMES))).fingerprint == original.fingerprint
    found = {original.fingerprint, record_of(f"voc:{demo_scenes}/voc:test").fingerprint}
    listing = damageable_scenes / "voc" / "ImageSets" / "Main" / "train.txt"
    path = damageable_scenes / "voc" / "Annotations" / f"{listing.read_text().split()[0]}.xml"
    text = path.read_text()
    changes = [
        re.sub(r"<xmin>(\d+)", lambda match: f"<xmin>{int(match[1]) + 1}", text, count=1),
        text.replace("<name>", "<name>another ", 1),
        text.replace("<difficult>0", "<difficult>1", 1),
    ]
    for changed in changes:
        assert changed != text
        path.write_text(changed)
        found.add(record_of(copy).fingerprint)
    path.write_text(text)
    listing.write_text("\n".join(reversed(listing.read_text().split())))
    assert record_of(copy).fingerprint == original.fingerprint  # the order of the images is no content
    listing.write_text("\n".join(listing.read_text().split()[1:]))
    found.add(record_of(copy).fingerprint)
    assert len(found) == 6


def test_the_fingerprint_of_joined_parts_does_not_depend_on_their_order(tmp_path: Path) -> None:
    one, other = small_voc(tmp_path / "A", {"1": "cat"}), small_voc(tmp_path / "B", {"2": "cat"})
    records = [
        prepare_data(parse_spec(text), None).data_records["train"] for text in (f"{one}+{other}", f"{other}+{one}", one)
    ]
    assert records[0].fingerprint == records[1].fingerprint != records[2].fingerprint
    assert [record.num_images for record in records] == [2, 2, 1] and records[0].spec == f"{one}+{other}"


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
