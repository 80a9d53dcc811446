"""The data set on disk: layouts, determinism, reuse."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import cv2
import defusedxml.ElementTree as ElementTree
import numpy as np
import pytest
from pycocotools.coco import COCO

from pretrain.base.errors import DataError
from transfer.demo_data.config import CLASS_NAMES, SyntheticConfig
from transfer.demo_data.scenes import render_scene
from transfer.demo_data.write import is_complete, write_dataset

SMALL = SyntheticConfig(num_unlabelled=24, num_readout=8, num_train_scenes=6, num_test_scenes=2)
TINY = replace(SMALL, num_unlabelled=8, num_readout=0, num_train_scenes=1, num_test_scenes=0)
FIRST_SCENE = [
    (4, 69, 124, 65, 55, 1717),
    (6, 107, 110, 76, 52, 2669),
    (3, 25, 41, 75, 58, 980),
    (7, 50, 34, 60, 59, 2352),
]  # category, x, y, width, height, area
FIRST_MEAN = (62.93, 55.92, 60.24)  # BGR


def contents(root: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SMALL, written by this process."""
    root = tmp_path_factory.mktemp("synthetic") / "demo"
    write_dataset(SMALL, root, num_workers=0)
    return root


def load(root: Path, split: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / "coco" / "annotations" / f"instances_{split}.json"))


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(dataset: Path, tmp_path: Path) -> None:
    write_dataset(SMALL, tmp_path / "parallel", num_workers=3)
    assert contents(tmp_path / "parallel") == contents(dataset)


def test_first_scene_of_seed_0_is_what_it_was(dataset: Path) -> None:
    """Another order of random draws gives another data set under the same seed: raise FORMAT_VERSION then."""
    records = [record for record in load(dataset, "train").dataset["annotations"] if record["image_id"] == 1]
    assert [(record["category_id"], *record["bbox"], record["area"]) for record in records] == FIRST_SCENE
    pixels = cv2.imread(str(dataset / "coco" / "train" / "000000.jpg"))
    np.testing.assert_allclose(pixels.mean((0, 1)), FIRST_MEAN, atol=0.5)


def test_another_seed_gives_other_images_everywhere(dataset: Path, tmp_path: Path) -> None:
    write_dataset(replace(TINY, seed=1), tmp_path / "other", num_workers=1)
    ours, theirs = contents(dataset), contents(tmp_path / "other")
    images = [name for name in theirs if name.endswith(".jpg")]
    assert len(images) == 8 + 2
    assert all(ours[name] != theirs[name] for name in images)


def test_no_image_repeats_and_classes_are_balanced(dataset: Path) -> None:
    for split, total in (("train", 24), ("val", 8)):
        folders = sorted((dataset / "unlabelled" / split).iterdir())
        assert tuple(folder.name for folder in folders) == CLASS_NAMES
        assert {len(list(folder.glob("*.jpg"))) for folder in folders} == {total // 8}
    hashes = [sha for name, sha in contents(dataset / "unlabelled").items()]
    hashes += [sha for name, sha in contents(dataset / "coco").items() if name.endswith(".jpg")]
    assert len(hashes) == len(set(hashes)) == 24 + 8 + 6 + 2


def test_annotations_of_fewer_classes_name_no_other_one(tmp_path: Path) -> None:
    write_dataset(replace(TINY, num_scene_classes=2), tmp_path / "two", num_workers=0)
    names = list(CLASS_NAMES[:2])
    assert len(list((tmp_path / "two" / "unlabelled" / "train").iterdir())) == 8
    assert [category["name"] for category in load(tmp_path / "two", "train").dataset["categories"]] == names


def test_coco_boxes_and_areas_are_those_of_the_decoded_masks(dataset: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        coco = load(dataset, split)
        assert len(coco.getImgIds()) == count
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASS_NAMES)
        for record in coco.loadAnns(coco.getAnnIds()):
            mask = coco.annToMask(record).astype(bool)
            rows, columns = np.nonzero(mask)
            assert record["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert record["area"] == mask.sum() > 0
            assert record["iscrowd"] == 0 and isinstance(record["segmentation"]["counts"], str)
        for image in coco.loadImgs(coco.getImgIds()):
            pixels = cv2.imread(str(dataset / "coco" / split / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3)


def test_coco_masks_are_the_rendered_ones(dataset: Path) -> None:
    coco = load(dataset, "train")
    for image_id in coco.getImgIds():
        _, objects = render_scene(SMALL, SMALL.seed, image_id - 1)
        records = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(records) == len(objects)
        for record, thing in zip(records, objects, strict=True):
            assert (coco.annToMask(record) == thing.mask).all()
            assert CLASS_NAMES[thing.class_index] == coco.cats[record["category_id"]]["name"]
            assert record["occluded"] == (thing.visible < 0.95)


def test_voc_is_the_coco_scenes_with_boxes_counted_from_one(dataset: Path) -> None:
    for split in ("train", "test"):
        coco = load(dataset, split)
        names = (dataset / "voc" / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        assert len(names) == len(coco.getImgIds())
        for image_id, name in zip(coco.getImgIds(), names, strict=True):
            tree = ElementTree.parse(dataset / "voc" / "Annotations" / f"{name}.xml")
            picture = dataset / "voc" / "JPEGImages" / tree.findtext("filename")
            assert picture.stem == name
            twin = dataset / "coco" / split / coco.imgs[image_id]["file_name"]
            assert picture.read_bytes() == twin.read_bytes()
            found = [
                (
                    thing.findtext("name"),
                    *(int(thing.findtext(f"bndbox/{end}")) for end in ("xmin", "ymin", "xmax", "ymax")),
                    int(thing.findtext("occluded")),
                )
                for thing in tree.findall("object")
            ]
            records = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
            expected = [
                (
                    coco.cats[r["category_id"]]["name"],
                    r["bbox"][0] + 1,
                    r["bbox"][1] + 1,
                    r["bbox"][0] + r["bbox"][2],
                    r["bbox"][1] + r["bbox"][3],
                    r["occluded"],
                )
                for r in records
            ]
            assert found == expected
            assert all(thing.findtext("difficult") == "0" for thing in tree.findall("object"))


def test_second_run_reuses_and_another_configuration_does_not(dataset: Path) -> None:
    assert is_complete(dataset, SMALL)
    before = (dataset / "dataset.json").stat().st_mtime_ns
    write_dataset(SMALL, dataset, num_workers=0, progress=lambda done, total: pytest.fail("rendered again"))
    assert (dataset / "dataset.json").stat().st_mtime_ns == before
    assert not is_complete(dataset, replace(SMALL, seed=1))
    with pytest.raises(DataError, match="other content"):
        write_dataset(replace(SMALL, seed=1), dataset, num_workers=0)


def test_missing_or_cut_file_is_not_complete(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    write_dataset(TINY, root, num_workers=0)
    assert is_complete(root, TINY)
    victim = root / "unlabelled" / "train" / "fish" / "000002.jpg"
    data = victim.read_bytes()
    victim.write_bytes(data[:-5])
    assert not is_complete(root, TINY)
    victim.unlink()
    assert not is_complete(root, TINY)
    victim.write_bytes(data)
    assert is_complete(root, TINY)
    record = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**record, "version": 0}))
    assert not is_complete(root, TINY)


def test_folder_with_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="other content"):
        write_dataset(SMALL, tmp_path, num_workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_failure_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(TINY, tmp_path / "demo", num_workers=0, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_parent_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can be written"):
        write_dataset(SMALL, tmp_path / "file" / "demo", num_workers=0)


def test_progress_ends_at_the_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr("transfer.demo_data.write._CHUNK", 6)
    write_dataset(TINY, tmp_path / "demo", num_workers=0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(6, 9), (8, 9), (9, 9)]


def test_folder_has_the_mode_that_the_umask_gives(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    assert dataset.stat().st_mode == (tmp_path / "usual").stat().st_mode
