"""Stratified orders, splits and fractions: nested, in proportion, every class present, a function of the seed alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.base.errors import DataError
from transfer.data.coco import read_coco
from transfer.data.fingerprint import fingerprint
from transfer.data.fractions import draw_path, read_draw, write_fraction, write_part
from transfer.data.problems import ReadOptions
from transfer.data.spec import parse_spec, prepare_data, read_data
from transfer.data.split import equal_files, fraction_size, split_images, stratified_order

RANDOM_SETS = range(25)


def random_set(seed: int) -> tuple[list[frozenset[int]], list[str]]:
    """Images with 0 to 3 of up to 12 classes, some of them rare; names in no order."""
    rng = np.random.default_rng(seed)
    num_images, num_classes = int(rng.integers(2, 300)), int(rng.integers(1, 13))
    weights = rng.dirichlet(np.full(num_classes, 0.4))
    classes = [
        frozenset(rng.choice(num_classes, int(rng.integers(0, 4)), p=weights).tolist()) for _ in range(num_images)
    ]
    return classes, [f"{name:05d}.jpg" for name in rng.permutation(num_images)]


def strata_of(classes: list[frozenset[int]]) -> list[int]:
    """The rarest class of each image, by its definition."""
    frequency = Counter(label for own in classes for label in own)
    return [min(own, key=lambda label: (frequency[label], label)) if own else -1 for own in classes]


@pytest.mark.parametrize("seed", RANDOM_SETS)
def test_an_order_is_stratified_shows_every_class_first_and_depends_on_nothing_but_names_and_seed(seed: int) -> None:
    classes, names = random_set(seed)
    order = stratified_order(classes, names, seed=seed)
    assert sorted(order) == list(range(len(names)))
    # Every class within as many images as there are classes: any fraction of that size shows all of them.
    every = frozenset().union(*classes)
    covering = next(
        (size for size in range(len(order)) if every == frozenset().union(*(classes[i] for i in order[:size]))),
        len(order),
    )
    assert covering <= len(every)
    # In proportion: each stratum has its share of every beginning, but for rounding and the images that show a class first.
    strata = strata_of(classes)
    size_of, met = Counter(strata), Counter[int]()
    for taken, position in enumerate(order, 1):
        met[strata[position]] += 1
        for stratum, size in size_of.items():
            assert abs(met[stratum] - size * taken / len(order)) <= len(every) + 2
    shuffled = np.random.default_rng(seed + 1).permutation(len(names)).tolist()
    again = stratified_order([classes[i] for i in shuffled], [names[i] for i in shuffled], seed=seed)
    assert [names[shuffled[i]] for i in again] == [names[i] for i in order]


def test_a_plain_shuffle_would_fail_the_test_of_proportion() -> None:
    """The control: 200 images of class 0 and 4 of class 1, of which a random half often has none or all."""
    classes = [frozenset([0])] * 200 + [frozenset([1])] * 4
    names = [f"{i:03d}" for i in range(204)]

    def rare(order: list[int]) -> int:
        return sum(position >= 200 for position in order[:102])

    found = {rare(stratified_order(classes, names, seed=seed)) for seed in range(40)}
    assert found <= {2, 3}
    assert {rare(np.random.default_rng(seed).permutation(204).tolist()) for seed in range(40)} - {2, 3}


def test_another_seed_is_another_draw() -> None:
    classes, names = [frozenset([0])] * 50, [f"{i}" for i in range(50)]
    draws = {tuple(sorted(stratified_order(classes, names, seed=seed)[:5])) for seed in range(5)}
    assert len(draws) == 5


@pytest.mark.parametrize("seed", RANDOM_SETS)
def test_a_split_parts_no_group_and_training_keeps_every_class(seed: int) -> None:
    classes, names = random_set(seed)
    rng = np.random.default_rng(seed)
    groups = [rng.choice(len(names), 2, replace=False).tolist() for _ in range(len(names) // 10)]
    train, test = split_images(classes, names, test_fraction=0.25, seed=seed, together=groups)
    assert sorted(train + test) == list(range(len(names))) and train and test
    assert all(len({position in test for position in group}) == 1 for group in groups)
    in_train = frozenset().union(*(classes[i] for i in train))
    assert in_train == frozenset().union(*classes) or len(train) == 1
    assert len(test) <= max(fraction_size(len(names), 0.25), max([len(names) // 2, *map(len, groups)]))


def test_a_class_of_two_images_is_in_both_parts_and_one_of_a_single_image_is_trained_on() -> None:
    classes = [frozenset([0])] * 40 + [frozenset([1])] * 2 + [frozenset([2])]
    for seed in range(20):
        train, test = split_images(classes, [f"{i:02d}" for i in range(43)], test_fraction=0.25, seed=seed)
        assert len({40, 41} & set(test)) == 1 and 42 in train and len(test) == 11


def test_too_few_images_to_split_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match="give --test SPEC"):
        split_images([frozenset([0])] * 3, ["a", "b", "c"], test_fraction=0.3, seed=0, together=[[0, 1, 2]])


def test_equal_files_are_found_by_content(tmp_path: Path) -> None:
    for name, content in {"a": b"1234", "b": b"1235", "c": b"1234", "d": b"12345", "e": b"1234"}.items():
        (tmp_path / name).write_bytes(content)
    assert equal_files([tmp_path / name for name in "abcde"]) == [[0, 2, 4]]


# --- files --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Twenty images in two folders, two classes, boxes with fractions, masks and a crowd."""
    annotations = []
    for i in range(20):
        box = [1.1 + i / 7, 2.3, 10.0003, 7.77]
        polygon = [[box[0], box[1], box[0] + 9, box[1], box[0], box[1] + 7]]
        annotations.append(
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": 7 if i % 5 else 3,
                "bbox": box,
                "segmentation": polygon,
                "area": 35.0,
                "iscrowd": 0,
            }
        )
        (tmp_path / "images" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (i, 0, 0)).save(tmp_path / "images" / f"{i % 2}" / f"{i}.png")
    annotations.append(
        {
            "id": 99,
            "image_id": 2,
            "category_id": 7,
            "bbox": [0, 0, 20, 20],
            "area": 400,
            "iscrowd": 1,
            "segmentation": {"size": [30, 40], "counts": [0, 600, 600]},
        }
    )
    images = [{"id": i + 1, "file_name": f"{i % 2}/{i}.png", "width": 40, "height": 30} for i in range(20)]
    categories = [{"id": 3, "name": "cup"}, {"id": 7, "name": "leaf"}]
    (tmp_path / "all.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return f"coco:{tmp_path}/all.json:{tmp_path}/images"


def test_a_part_that_is_the_whole_has_the_content_of_the_whole(spec: str, tmp_path: Path) -> None:
    data = read_data(parse_spec(spec))
    written = parse_spec(write_part(data, range(20), tmp_path / "out" / "part.json"))
    again = read_coco(written.source, Path(written.detail))
    assert fingerprint(again.records, again.class_names) == fingerprint(data.records, data.class_names)


def test_fractions_are_nested_files_and_those_of_two_seeds_are_one_experiment(spec: str, tmp_path: Path) -> None:
    data = read_data(parse_spec(spec))
    names: dict[tuple[float, int], set[str]] = {}
    records = {}
    for fraction in (0.1, 0.3, 0.6):
        for seed in (0, 1):
            part = write_fraction(data, tmp_path / f"f{fraction}_s{seed}.json", fraction=fraction, seed=seed)
            prepared = prepare_data(parse_spec(part), parse_spec(spec), options=ReadOptions(keep_crowds=True))
            assert prepared.train is not None
            names[fraction, seed] = {record["file_name"] for record in prepared.train.records}
            records[fraction, seed] = prepared.data_records["train"]
            assert prepared.class_names == ("cup", "leaf")
            things = {thing["category_id"] for record in prepared.train.records for thing in record["annotations"]}
            assert things == {0, 1}  # two images show both
    for seed in (0, 1):
        assert names[0.1, seed] < names[0.3, seed] < names[0.6, seed]
    assert names[0.3, 0] != names[0.3, 1]
    assert (records[0.3, 0].num_images, records[0.3, 0].num_available) == (6, 20)
    assert records[0.3, 0].fingerprint == records[0.3, 1].fingerprint != records[0.6, 0].fingerprint


def test_an_edited_fraction_is_known_by_its_own_content(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    part = write_fraction(read_data(parse_spec(spec)), path, fraction=0.5, seed=0)
    before = prepare_data(parse_spec(part), None).data_records["train"]
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(content))
    after = prepare_data(parse_spec(part), None).data_records["train"]
    assert before.num_available == 20 and after.num_available is None and after.fingerprint != before.fingerprint
    draw_path(path).write_text("{")
    assert read_draw(path, "x") is None
    write_fraction(read_data(parse_spec(spec)), path, fraction=0.5, seed=0)  # written anew, damaged or edited
    assert prepare_data(parse_spec(part), None).data_records["train"] == before
