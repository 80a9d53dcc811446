"""--verify: each thing that can be wrong with a prepared folder is named, and a sound one is found sound."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.tools.in_process import run_tool_here
from tests.transfer.data.public.miniature import jpeg
from transfer.data.public.checks import coco, voc


def rewritten(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


def without_entry(path, key, **fields):
    content = json.loads(path.read_text())
    content[key] = [entry for entry in content[key] if not fields.items() <= entry.items()]
    path.write_text(json.dumps(content))


VOC = {
    "an image is missing": (
        lambda home: (home / "JPEGImages/000001.jpg").unlink(),
        ["expected 9 files JPEGImages/*.jpg, found 8", "000001.xml: no image", "000001.jpg: missing"],
    ),
    "an image was cut": (
        lambda home: (home / "JPEGImages/000002.jpg").write_bytes(jpeg(2)[:-5]),
        ["000002.jpg: not the bytes that were unpacked"],
    ),
    "a bit of an image flipped": (
        lambda home: (home / "JPEGImages/000002.jpg").write_bytes(jpeg(2)[:-1] + b"\xd8"),
        ["000002.jpg: not the bytes that were unpacked"],
    ),
    "an image too many": (
        lambda home: (home / "JPEGImages/more.jpg").write_bytes(jpeg(3)),
        ["found 10", "more.jpg: no annotation", "more.jpg: not of the published archive"],
    ),
    "an annotation is missing": (
        lambda home: (home / "Annotations/000003.xml").unlink(),
        ["000003.jpg: no annotation", "trainval.txt: names 000003, which has no annotation", "000003.xml: missing"],
    ),
    "an annotation is no XML": (
        lambda home: rewritten(home / "Annotations/000003.xml", "</annotation>", ""),
        ["000003.xml: cannot be parsed"],
    ),
    "an annotation is another document": (
        lambda home: (home / "Annotations/000003.xml").write_text("<html></html>"),
        ["000003.xml: expected <annotation>, found <html>"],
    ),
    "an annotation has a document type": (
        lambda home: rewritten(
            home / "Annotations/000003.xml", "<annotation>", '<!DOCTYPE a [<!ENTITY x "y">]><annotation>'
        ),
        ["000003.xml: cannot be parsed"],
    ),
    "an object has no corner": (
        lambda home: rewritten(home / "Annotations/000003.xml", "<xmax>90</xmax>", "<xmax>right</xmax>"),
        ["000003.xml: an object without a name or without four corners"],
    ),
    "a split is short": (
        lambda home: rewritten(home / "ImageSets/Main/test.txt", "000008\n", ""),
        ["test.txt: expected 3 images, found 2"],
    ),
    "a split is missing": (lambda home: (home / "ImageSets/Main/val.txt").unlink(), ["val.txt: cannot be read"]),
    "an archive is damaged": (
        lambda home: (home.parent / "archives/VOCtest_06-Nov-2007.tar").write_bytes(b"x"),
        ["VOCtest_06-Nov-2007.tar: expected "],
    ),
    "all of it is gone": (lambda home: shutil.rmtree(home), ["no such folder; prepare it first"]),
}
COCO = {
    "an image is missing": (
        lambda home: (home / "val2017/000000000005.jpg").unlink(),
        ["expected 2 files *.jpg, found 1", "no image", "000000000005.jpg: missing"],
    ),
    "the file is cut": (
        lambda home: rewritten(home / "annotations/instances_val2017.json", "]}", ""),
        ["instances_val2017.json: cannot be read as COCO instances"],
    ),
    "an annotation is missing": (
        lambda home: without_entry(home / "annotations/instances_train2017.json", "annotations", id=2),
        ["instances_train2017.json: expected 4 annotations, found 3"],
    ),
    "an image is not listed": (
        lambda home: without_entry(home / "annotations/instances_train2017.json", "images", id=2),
        ["expected 4 images, found 3", "annotation 2 is of an image or category that the file does not have"],
    ),
}


@pytest.fixture
def sound(prepare):
    """Function: name, folder -> its folder, prepared."""

    def make(name, folder):
        assert prepare(name).returncode == 0
        return prepare.root / folder

    return make


def faults(done):
    return [line for line in done.stdout.splitlines() if line.startswith("problem: ")]


@pytest.mark.parametrize(
    ("name", "folder", "case"),
    [*(("voc2007", "VOC2007", case) for case in VOC), *(("coco2017", "coco", case) for case in COCO)],
)
def test_every_fault_is_named(prepare, sound, name, folder, case):
    home = sound(name, folder)
    damage, expected = (VOC if name == "voc2007" else COCO)[case]
    damage(home)
    done = prepare(name, "--verify", fetch=False)
    assert done.returncode == 1 and f"{len(faults(done))} problems in" in done.stdout
    for words in expected:
        assert any(words in line for line in faults(done)), (words, faults(done))
    assert "use:  " not in done.stdout


def test_several_faults_are_all_listed(prepare, sound):
    home = sound("voc2007", "VOC2007")
    for case in ("a split is short", "an object has no corner", "an image was cut"):
        VOC[case][0](home)
    text = prepare("voc2007", "--verify", fetch=False).stdout
    assert all(words in text for words in ("expected 3 images", "four corners", "000002.jpg: not the bytes"))


def test_a_folder_laid_out_by_hand_is_verified_by_its_image_headers(prepare, sound):
    home = sound("voc2007", "VOC2007")
    shutil.rmtree(prepare.root / "prepared")
    shutil.rmtree(prepare.root / "archives")
    assert prepare("voc2007", "--verify", fetch=False).returncode == 0
    (home / "JPEGImages" / "000004.jpg").write_bytes(b"<html>")
    done = prepare("voc2007", "--verify", fetch=False)
    assert done.returncode == 1 and len(faults(done)) == 1 and "000004.jpg" in faults(done)[0]


def test_two_data_sets_in_one_command_end_with_1_where_one_of_them_is_wrong(prepare, sound):
    sound("voc2012", "VOC2012")
    done = prepare("voc2012", "voc2007", "--verify", fetch=False)
    assert done.returncode == 1 and "voc2012: sound" in done.stdout and "VOC2007: no such folder" in done.stdout


@pytest.mark.realdata
def test_real_annotations_are_found_sound(shared_data):
    for folder in ("bccd", "coco"):
        assert (shared_data / folder).is_dir()
    splits = {path.stem: len(path.read_text().split()) for path in (shared_data / "bccd/ImageSets/Main").glob("*.txt")}
    assert list(voc("bccd", splits)(shared_data)) == []
    counts = {}
    for split in ("train2017", "val2017"):
        content = json.loads((shared_data / f"coco/annotations/instances_{split}.json").read_text())
        counts[split] = (100, len(content["annotations"]))
    assert list(coco("coco", counts)(shared_data)) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_fetched_voc_folder_is_verified_and_trained_on_by_the_printed_words(prepare, tmp_path):
    fetched = prepare("voc2007")
    assert fetched.returncode == 0 and prepare("voc2007", "--verify", fetch=False).returncode == 0
    words = next(line for line in fetched.stdout.splitlines() if "tools/train_net.py" in line).split()
    specs = words[words.index("--train-data") :]
    assert specs[::2] == ["--train-data", "--test-data"]
    tiny = ("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu")
    sizes = ("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96")
    out = tmp_path / "run"
    done = run_tool_here(
        *("train_net.py", "--config-file", "demo/R_18_FPN.yaml", "--init", "random", *specs),
        *("OUTPUT_DIR", out, "SEED", "0", *tiny, *sizes),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((out / "record.json").read_text())
    assert record["status"] == "done" and record["details"]["iterations"] == 2
    assert record["details"]["num_train_images"] == 6 and "bbox/AP50" in record["figures"]
