"""YOLO data: the layouts that are read, boxes and polygons to the pixel, and a table of what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from pretrain.base.errors import DataError
from transfer.data.problems import ReadOptions
from transfer.data.spec import parse_spec, prepare_data
from transfer.data.yolo import problems, read_yolo

WIDTH, HEIGHT = 40, 30
BOX = "0 0.5 0.5 0.5 0.4"  # (10, 9, 30, 21)
POLYGON = "1 0.25 0.3 0.75 0.3 0.75 0.7 0.25 0.7"  # the same as corners
NAMES = "names: [cat, dog]\n"


def write_yolo(
    root: Path,
    labels: dict[str, str | None],
    *,
    images: str = "images/train",
    text: str = f"train: images/train\n{NAMES}",
) -> Path:
    """data.yaml, images in `images`, labels beside them in labels/...; labels: name -> lines, None for no file."""
    folder = root / images
    for name, lines in labels.items():
        image = folder / f"{name}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(image)
        if lines is not None:
            label = root / images.replace("images", "labels") / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(lines)
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def test_boxes_and_polygons_are_read_to_the_pixel(tmp_path: Path) -> None:
    data = read_yolo(write_yolo(tmp_path, {"a": f"{BOX}\n{POLYGON}\n", "b": BOX}), "train")
    first = data.records[0]
    assert (first["width"], first["height"], first["image_id"]) == (WIDTH, HEIGHT, 1)
    box, polygon = first["annotations"]
    assert box["bbox"] == pytest.approx([10, 9, 30, 21]) and box["area"] == pytest.approx(240)
    assert polygon["bbox"] == pytest.approx([10, 9, 30, 21]) and polygon["area"] == pytest.approx(240)
    assert polygon["segmentation"] == [pytest.approx([10, 9, 30, 9, 30, 21, 10, 21])] and "segmentation" not in box
    assert (box["category_id"], polygon["category_id"]) == (0, 1) and data.class_names == ("cat", "dog")
    assert data.masks == "some" and data.notes == ()


def test_the_area_of_a_polygon_over_the_border_is_at_most_that_of_its_clipped_box(tmp_path: Path) -> None:
    text = "1 -0.5 0.3 0.5 0.3 0.5 0.7 -0.5 0.7"  # half of it lies left of the image
    (thing,) = read_yolo(write_yolo(tmp_path, {"a": text}), "train").records[0]["annotations"]
    assert thing["bbox"] == pytest.approx([0, 9, 20, 21]) and thing["area"] == pytest.approx(240)


def test_a_polygon_fills_as_many_pixels_as_its_area(tmp_path: Path) -> None:
    text = "0 0.1 0.1 0.9 0.2 0.6 0.5 0.8 0.9 0.2 0.7"
    thing = read_yolo(write_yolo(tmp_path, {"a": text}), "train").records[0]["annotations"][0]
    filled = coco_mask.area(coco_mask.frPyObjects(thing["segmentation"], HEIGHT, WIDTH)).sum()
    assert abs(int(filled) - thing["area"]) < 0.06 * thing["area"] and thing["area"] > 200


# layout: images' folder, the YAML file; split asked for
LAYOUTS = {
    "folder": ("images/train", f"path: .\ntrain: images/train\n{NAMES}", "train"),
    "names by number": ("images/train", "train: images/train\nnames:\n  0: cat\n  1: dog\n", "train"),
    "list of folders": ("images/val2017", f"val: [images/val2017]\nnc: 2\n{NAMES}", "val"),
    "folder above images": ("train/images", f"train: train\n{NAMES}", "train"),
    "roboflow": ("train/images", f"train: ../train/images\nval: ../valid/images\nnc: 2\n{NAMES}", "train"),
    "path of another machine": ("images/train", f"path: /content/datasets/x\ntrain: images/train\n{NAMES}", "train"),
    "absolute of another machine": ("train/images", f"train: /content/x/train/images\n{NAMES}", "train"),
    "own name": ("images/test-2", f"holdout: images/test-2\n{NAMES}", "holdout"),
    "backslashes": ("images/train", f"train: images\\train\n{NAMES}", "train"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    images, text, split = LAYOUTS[layout]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "train.cache").write_bytes(b"\x80\x05not to be read")
    data = read_yolo(write_yolo(tmp_path, {"a": BOX, "sub/b c": BOX}, images=images, text=text), split)
    assert [record["file_name"] for record in data.records] == [
        f"{tmp_path}/{images}/{n}.jpg" for n in ("a", "sub/b c")
    ]
    assert data.num_objects == 2 and data.class_names == ("cat", "dog")
    assert any("paths of the YAML file lead elsewhere: 1" in n for n in data.notes) == (
        layout in ("roboflow", "path of another machine", "absolute of another machine")
    )


def test_path_lies_elsewhere_and_is_relative_to_the_file(tmp_path: Path) -> None:
    write_yolo(tmp_path / "data", {"a": BOX})
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "x.yaml").write_text(f"path: ../data\ntrain: images/train\n{NAMES}")
    assert read_yolo(tmp_path / "config" / "x.yaml", "train").num_objects == 1


@pytest.mark.parametrize(
    "line", ["images/train/{}.jpg", "./images/train/{}.jpg", "images\\train\\{}.jpg", "/old/pc/images/train/{}.jpg"]
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_text_file_lists_the_images(tmp_path: Path, line: str, encoding: str) -> None:
    file = write_yolo(tmp_path, {"a": BOX, "b": BOX, "c": BOX}, text=f"train: train.txt\n{NAMES}")
    (tmp_path / "train.txt").write_bytes("".join(f"{line.format(name)}\r\n" for name in "ca").encode(encoding))
    data = read_yolo(file, "train")
    assert [Path(record["file_name"]).name for record in data.records] == ["a.jpg", "c.jpg"]
    assert any("image names lead elsewhere: 2" in note for note in data.notes) == (
        ("./" not in line and "\\" in line) or "old" in line
    )


def test_darknet_has_labels_beside_images_and_a_data_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "obj").mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "obj" / f"{name}.jpg")
        (tmp_path / "obj" / f"{name}.txt").write_text(BOX)
    (tmp_path / "train.txt").write_text("obj/a.jpg\nobj/b.jpg\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = train.txt\nnames = obj.names\nbackup = backup/\n")
    data = read_yolo(tmp_path / "obj.data", "train")
    assert data.num_objects == 2 and data.class_names == ("cat", "dog")


def test_cvat_puts_data_before_every_path(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": BOX}, images="obj_train_data")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj_train_data" / "a.txt").write_text(BOX)
    file = tmp_path / "obj.data"
    file.write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    data = read_yolo(file, "train")
    assert data.num_objects == 1 and data.class_names == ("cat", "dog")
    assert (
        "paths of the YAML file lead elsewhere: 2" in data.notes[0] and "image names lead elsewhere: 1" in data.notes[1]
    )


def test_images_without_labels_are_background_and_counted(tmp_path: Path) -> None:
    data = read_yolo(write_yolo(tmp_path, {"a": BOX, "b": None, "c": "", "d": "\n \n"}), "train")
    assert len(data.records) == 4 and data.num_objects == 1
    assert ["images without a label file: 1 (kept as background)" in note for note in data.notes] == [True, False]


def test_label_files_without_an_image_and_repeated_lines_are_counted(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"a": f"{BOX}\n{POLYGON}\n{BOX}\n"})
    (tmp_path / "labels/train/ghost.txt").write_text(BOX)
    (tmp_path / "labels/train/classes.txt").write_text("cat\n")
    data = read_yolo(file, "train")
    assert data.num_objects == 2
    assert "label files without an image: 1 (not used)" in data.notes[0] and "given twice: 1" in data.notes[1]


def test_labels_over_the_border_are_clipped_and_counted_but_for_rounding(tmp_path: Path) -> None:
    lines = {"a": "0 0.9 0.5 0.4 1.000001", "b": "0 0.5 0.5 1.00001 0.99999", "c": "1 -0.1 0.2 0.5 0.2 0.5 0.8"}
    data = read_yolo(write_yolo(tmp_path, lines), "train")
    boxes = [record["annotations"][0]["bbox"] for record in data.records]
    assert boxes[0] == pytest.approx([28, 0, 40, 30]) and boxes[1] == pytest.approx([0, 0, 40, 30], abs=1e-3)
    assert boxes[2] == pytest.approx([0, 6, 20, 24])
    assert len(data.notes) == 1 and "over the border of their image: 2 (clipped)" in data.notes[0]


def test_a_box_without_area_is_dropped_and_counted(tmp_path: Path) -> None:
    data = read_yolo(write_yolo(tmp_path, {"a": f"0 0.5 0.5 0 0.4\n{BOX}\n{POLYGON}"}), "train")
    assert data.num_objects == 2 and "without width or height: 1 (dropped)" in data.notes[0]


def test_class_names_stay_text(tmp_path: Path) -> None:
    """YAML would read these as False, a number, a date and nothing."""
    text = "train: images/train\nnames: [no, 1e3, 2020-01-01, null]\n"
    data = read_yolo(write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2"}, text=text), "train")
    assert data.class_names == ("no", "1e3", "2020-01-01", "null")


def test_given_classes_decide_the_order(tmp_path: Path) -> None:
    data = read_yolo(write_yolo(tmp_path, {"a": POLYGON}), "train", ReadOptions(class_names=("dog", "owl")))
    assert data.class_names == ("dog", "owl") and data.records[0]["annotations"][0]["category_id"] == 0
    with pytest.raises(DataError, match=r"--classes does not name: 1\n.*a.txt:1: 'dog'"):
        read_yolo(tmp_path / "data.yaml", "train", ReadOptions(class_names=("owl",)))


BAD_LINES = [
    ("0 0.5 0.5 0.5", "wrong number of values: 1\n.*a.txt:1: 4 values"),
    ("0 0.5 0.5 0.5 0.4 0.93", "wrong number of values.*six values are a prediction with its confidence"),
    ("0 .1 .1 .9 .1", None),
    ("0 .1 .1 .9 .1 .5 .9 .7", "wrong number of values: 1\n.*8 values"),
    ("2 0.5 0.5 0.5 0.4", "of a class that names does not have: 1\n.*a.txt:1: class 2.*names has the classes 0 to 1"),
    ("-1 0.5 0.5 0.5 0.4", "of a class that names does not have"),
    ("0.5 0.5 0.5 0.5 0.4", "of a class that names does not have"),
    ("0 20 15 20 12", "no fractions of the image: 1\n.*are these pixels"),
    ("0 0.5 0.5 -0.5 0.4", "negative width or height"),
    ("0 nan 0.5 0.5 0.4", "something else than numbers"),
    ("cat 0.5 0.5 0.5 0.4", "something else than numbers: 1\n.*'cat 0.5"),
    ("0,0.5,0.5,0.5,0.4", "something else than numbers"),
    ("0 0.5 0.5 0.5 1e999", "something else than numbers"),
]


@pytest.mark.parametrize(("line", "message"), [entry for entry in BAD_LINES if entry[1]])
def test_bad_lines_are_refused_with_their_place(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        read_yolo(write_yolo(tmp_path, {"a": line, "b": BOX}), "train")


BAD_FILES = [
    ("", "is not a YOLO data file; write a YAML file beside images/ and labels/"),
    ("[1, 2]", "is not a YOLO data file; write a YAML file beside images/ and labels/"),
    ("a: [", "is not plain YAML"),
    ("[" * 20_000, "is not plain YAML"),
    ("? [a]\n: b\n", "is not plain YAML"),
    (NAMES, r"no split 'train' in .* \(there are: none\)"),
    (f"trian: images/train\n{NAMES}", r"no split 'train' in .*did you mean trian"),
    (f"train: images/absent\n{NAMES}", "images/absent does not exist .*set path to the folder"),
    (f"train: {{a: b}}\n{NAMES}", "no split 'train'"),
    (f"train: /dev/zero\n{NAMES}", "/dev/zero is a folder or a device, not a text file"),
    (f"train: [[a]]\n{NAMES}", "expected a folder, a text file or a list"),
    (f"path: [a]\ntrain: images/train\n{NAMES}", "path expected the data's folder"),
    ("train: images/train\n", "names expected a list of class names; add it, or pass --classes"),
    ("train: images/train\nnames: absent.names\n", "names expected a list of class names or a file"),
    ("train: images/train\nnames: {0: a, 2: b}\n", "names expected the numbers 0 to 1"),
    ("train: images/train\nnames: [a, a]\n", "the class 'a' is named twice"),
    ("train: images/train\nnames: [[a]]\n", "names expected a list of class names"),
    (f"train: images/train\nnc: 3\n{NAMES}", "nc says '3' classes, names has 2: 'cat, dog'"),
    (f"train: images/train\nkpt_shape: [17, 3]\n{NAMES}", "describes keypoints"),
    ("train: !!python/object/apply:os.system ['touch hacked']\n" + NAMES, "touch hacked does not exist"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=[message[:30] for _, message in BAD_FILES])
def test_bad_data_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_yolo(write_yolo(tmp_path, {"a": BOX}, text=text), "train")
    assert not Path("hacked").exists()


def test_corners_instead_of_centre_and_size_are_in_doubt(tmp_path: Path) -> None:
    lines = "\n".join(f"0 .2 .{i} .9 .9" for i in range(1, 5))
    with pytest.raises(DataError, match="may be corners instead of a point and a size: 5"):
        read_yolo(write_yolo(tmp_path / "A", {"a": f"{lines}\n0 .3 .1 .9 .9"}), "train")
    data = read_yolo(write_yolo(tmp_path / "B", {"a": f"{lines}\n0 .9 .1 .2 .2"}), "train")  # the control
    assert data.num_objects == 5 and "boxes over the border of their image: 4 (clipped)" in data.notes[0]


def test_the_end_of_a_foreign_path_is_found_by_two_names_and_not_by_one(tmp_path: Path) -> None:
    names = "names: [cat, dog]\n"
    data = read_yolo(write_yolo(tmp_path / "A", {"a": BOX}, text=f"train: /home/me/images/train\n{names}"), "train")
    assert len(data.records) == 1 and "paths of the YAML file lead elsewhere: 1" in data.notes[0]
    with pytest.raises(DataError, match="/home/me/images does not exist"):
        read_yolo(write_yolo(tmp_path / "B", {"a": BOX}, text=f"train: /home/me/images\n{names}"), "train")


def test_a_folder_names_the_yaml_file_in_it_or_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no YAML file; write a YAML file beside images/ and labels/"):
        read_yolo(tmp_path, "train")
    file = write_yolo(tmp_path, {"a": BOX})
    with pytest.raises(DataError, match=f"is a folder; pass its YAML file: {file}"):
        read_yolo(file.parent, "train")


def test_labels_that_are_nowhere_are_said_with_their_expected_place(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of 2 images has a label file; expected for example .*/labels/train/a.txt"
    ):
        read_yolo(write_yolo(tmp_path, {"a": None, "b": None}), "train")


def test_linked_images_keep_their_labels(tmp_path: Path) -> None:
    """Images on another disk, the labels here."""
    file = write_yolo(tmp_path, {"a": BOX})
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "list.txt").write_text("images/train/a.jpg\n")
    file.write_text(f"train: images/train\nval: list.txt\n{NAMES}")
    assert [read_yolo(file, split).num_objects for split in ("train", "val")] == [1, 1]


def test_unreadable_images_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"a": BOX, "b": BOX})
    (tmp_path / "images/train/a.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match="a.jpg: a page of HTML"):
        read_yolo(file, "train")
    data = read_yolo(file, "train", ReadOptions(skip_unreadable=True))
    assert [Path(record["file_name"]).stem for record in data.records] == ["b"] and "left out" in data.notes[0]


def test_an_image_listed_twice_is_read_once_and_counted(tmp_path: Path) -> None:
    data = read_yolo(write_yolo(tmp_path, {"a": BOX}, text=f"train: [images/train, images]\n{NAMES}"), "train")
    assert len(data.records) == 1 and "images listed twice: 1 (read once)" in data.notes[0]


def test_images_with_one_label_file_are_refused(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"a": BOX})
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/train/a.png")
    with pytest.raises(DataError, match=r"images share one label file: 1"):
        read_yolo(file, "train")


def test_listed_images_stay_below_the_data(tmp_path: Path) -> None:
    file = write_yolo(tmp_path / "data", {"a": BOX}, text=f"train: train.txt\n{NAMES}")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "outside.jpg")
    (tmp_path / "data" / "train.txt").write_text(f"images/train/a.jpg\n../outside.jpg\n{tmp_path}/outside.jpg\n")
    with pytest.raises(DataError, match=r"image names leave the folder of the data: 2\n.*train.txt:2"):
        read_yolo(file, "train")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"a": f"{BOX}\n9 0 0 1 1\n", "b": "0 1 1\n", "c": BOX})
    (tmp_path / "images/train/c.jpg").write_bytes(b"<html>")
    found = list(problems(file, "train", options=ReadOptions()))
    assert [(problem.repaired, Path(problem.where).name) for problem in found if not problem.repaired] == [
        (False, "a.txt:2"),
        (False, "b.txt:1"),
        (False, "c.jpg"),
    ]


def test_perfect_predictions_score_one_hundred_for_boxes_and_masks(tmp_path: Path) -> None:
    """Through the evaluator that a run uses, fractions of a pixel and all."""
    import torch
    from detectron2.structures import Boxes, Instances

    from transfer.detect.config import load_detector_config
    from transfer.detect.trainer import DetectionTrainer

    rng = np.random.default_rng(0)
    lines = {}
    for name in "abc":
        rows = []
        for number in range(3):
            x, y = 0.05 + 0.3 * number + 0.05 * rng.random(), 0.1 + 0.3 * rng.random()
            w, h = 0.2 + 0.04 * rng.random(), 0.3 + 0.2 * rng.random()
            rows.append(f"{number % 2} {x:.6f} {y:.6f} {x + w:.6f} {y:.6f} {x + w:.6f} {y + h:.6f} {x:.6f} {y + h:.6f}")
        lines[name] = "\n".join(rows)
    name = prepare_data(None, parse_spec(f"yolo:{write_yolo(tmp_path, lines)}:train")).test_name
    config = load_detector_config(Path("transfer/configs/demo/R_18_FPN.yaml"), ["OUTPUT_DIR", str(tmp_path / "out")])
    evaluator = DetectionTrainer.build_evaluator(config, name)
    evaluator.reset()
    for entry in DatasetCatalog.get(name):
        instances = Instances((HEIGHT, WIDTH))
        things = entry["annotations"]
        instances.pred_boxes = Boxes(torch.tensor([thing["bbox"] for thing in things]))
        instances.scores = torch.linspace(0.9, 0.8, len(things))
        instances.pred_classes = torch.tensor([thing["category_id"] for thing in things])
        masks = [
            coco_mask.decode(coco_mask.frPyObjects(thing["segmentation"], HEIGHT, WIDTH))[..., 0] for thing in things
        ]
        instances.pred_masks = torch.tensor(np.stack(masks)).bool()
        evaluator.process([{"image_id": entry["image_id"]}], [{"instances": instances}])
    figures = evaluator.evaluate()
    assert MetadataCatalog.get(name).metric == "COCO AP, IoU .50:.95"
    assert figures["bbox"]["AP"] == pytest.approx(100) and figures["segm"]["AP"] == pytest.approx(100)


def test_a_yaml_file_of_brackets_is_refused_at_once(tmp_path: Path) -> None:
    """PyYAML would take minutes."""
    (tmp_path / "data.yaml").write_text("train: " + "[" * 50_000)
    with pytest.raises(DataError, match="50000 opening brackets"):
        read_yolo(tmp_path / "data.yaml", "train")
