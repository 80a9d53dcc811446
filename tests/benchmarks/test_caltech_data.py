"""The data of the Caltech-101 study: a split that is the same everywhere, and a study that takes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.source import list_images
from tests.benchmarks.caltech_data import LABELS, TESTED, main, one_category, split_classes
from transfer.compare.study_config import load_study

STUDIES = Path(__file__).parents[2] / "configs" / "study"


def photos(root: Path, **counts: int) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"image_{number:04d}.jpg")
    return root


def test_the_photos_of_a_class_are_dealt_out_once_and_by_their_names_alone(tmp_path):
    pool = photos(tmp_path / "pool", ant=60, rare=35)
    for again in ("first", "second"):
        split_classes(pool, tmp_path / again)
    found = {
        split: sorted(
            path.relative_to(tmp_path / "first" / split).as_posix() for path in list_images(tmp_path / "first" / split)
        )
        for split in ("train", "val")
    }
    assert not set(found["train"]) & set(found["val"])
    assert [sum(name.startswith(kind) for name in found[split]) for split in found for kind in ("ant", "rare")] == [
        LABELS, LABELS, TESTED, 5,
    ]  # fmt: skip
    assert [path.name for path in list_images(tmp_path / "second" / "val")] == [
        path.name for path in list_images(tmp_path / "first" / "val")
    ]


def test_one_category_keeps_its_objects_and_the_images_that_show_them():
    given = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 7, "name": "person"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7},
            {"id": 2, "image_id": 1, "category_id": 9},
            {"id": 3, "image_id": 2, "category_id": 9},
        ],
    }
    kept = one_category(given, "person")
    assert [image["id"] for image in kept["images"]] == [1] and [thing["id"] for thing in kept["annotations"]] == [1]
    assert [category["name"] for category in kept["categories"]] == ["person"] and len(given["images"]) == 2


@pytest.mark.parametrize("name", ["caltech_bccd", "caltech_coco"])
def test_the_studies_have_four_rows_of_three_pretrainings_and_three_fine_tunings(name):
    config = load_study(STUDIES / f"{name}.yaml")
    assert [init.name for init in config.inits] == ["random", "infomin", "moco_v2", "supervised"]
    assert all(len(part.seeds) == 3 for part in config.pretrainings.values()) and len(config.detect.seeds) == 3


@pytest.mark.realdata
@pytest.mark.slow
def test_the_shared_folder_gives_the_study_s_data(shared_data, tmp_path):
    assert main(["--shared", str(shared_data), "--output", str(tmp_path)]) == 0
    assert len(list_images(tmp_path / "caltech101")) == 8709
