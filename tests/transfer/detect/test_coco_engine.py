"""hotcoco's figures are pycocotools' own on random and on real COCO files; where they would not be, pycocotools runs."""

from __future__ import annotations

import copy
import functools
import json
import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks

from tests.transfer.detect.coco_cases import SIZES, Case, random_case, reference
from transfer.detect import coco_engine
from transfer.detect.coco_engine import (
    COMPARED,
    HOTCOCO,
    PYCOCOTOOLS,
    Engine,
    encode_masks,
    evaluate_detections,
)

ROOT = Path(__file__).resolve().parents[3]
TASKS = ("bbox", "segm", "keypoints")
EQUAL = 1e-12


def table_of(found: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[d["image_id"], *d["bbox"], d["score"], d["category_id"]] for d in found], dtype=np.float64)


def by_hotcoco(case: Case, task: str) -> list[dict[str, np.ndarray]]:
    """Figures of entries and, of boxes, of a table; computed by hotcoco for certain."""
    answers = []
    for found in (case.found, table_of(case.found)) if task == "bbox" else (case.found,):
        evaluation = evaluate_detections(case.truth, found, task=task, oks_sigmas=case.sigmas)
        assert evaluation.engine == Engine(HOTCOCO, COMPARED), evaluation.engine
        answers.append({"stats": evaluation.stats, **evaluation.eval})
    return answers


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(ours[name] - values).max()) for name, values in theirs.items())


# --- equality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("first", [0, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_figure_equals_pycocotools_on_random_sets(task: str, first: int) -> None:
    for seed in range(first, first + (50 if first else 6)):
        case = random_case(seed, task)
        before = copy.deepcopy(case)
        theirs = reference(case, task)
        for ours in by_hotcoco(case, task):
            assert largest_difference(ours, theirs) <= EQUAL, f"seed {seed}"
        assert case == before  # what is evaluated stays as it is


def test_the_random_sets_hold_what_decides_at_an_edge() -> None:
    seen: Counter[str] = Counter()
    for task in TASKS:
        for seed in range(12):
            case = random_case(seed, task)
            objects, found = case.truth["annotations"], case.found
            with_objects = {thing["image_id"] for thing in objects}
            per_image_and_class = Counter((entry["image_id"], entry["category_id"]) for entry in found)
            size = case.truth["images"][0]
            seen += Counter(
                crowd=any(thing["iscrowd"] for thing in objects),
                equal_scores=len({entry["score"] for entry in found}) < len(found) / 2,
                image_without_objects=len(with_objects) < len(case.truth["images"]),
                image_without_detections=len({entry["image_id"] for entry in found}) < len(case.truth["images"]),
                class_without_objects=len({thing["category_id"] for thing in objects}) < len(case.truth["categories"]),
                size_at_an_edge=any(thing["area"] in SIZES for thing in objects),
                more_than_a_hundred=max(per_image_and_class.values()) > 100,
                large_ids=max(with_objects) > 2**32,
                across_a_border=any(thing["bbox"][0] < 0 for thing in objects),
                at_a_border=any(thing["bbox"][0] + thing["bbox"][2] > size["width"] for thing in objects),
                without_width=any(thing["bbox"][2] == 0 for thing in objects),
            )
            if task == "segm":
                shapes = {type(thing["segmentation"]) for thing in objects}
                plain = [t["segmentation"] for t in objects if isinstance(t["segmentation"], dict)]
                seen += Counter(
                    polygons=list in shapes,
                    run_lengths=any(isinstance(shape["counts"], str) for shape in plain),
                    plain_run_lengths=any(isinstance(shape["counts"], list) for shape in plain),
                    crowd_with_mask=any(thing["iscrowd"] for thing in objects),
                )
            if task == "keypoints":
                seen += Counter(
                    none_visible=any(t["num_keypoints"] == 0 for t in objects), own_sigmas=bool(case.sigmas)
                )
    assert len(seen) == 17 and min(seen.values()) >= 2, seen


def higher_scores_in_one_image(case: Case) -> None:
    image_id = case.found[0]["image_id"]
    for entry in case.found:
        entry["score"] += entry["image_id"] == image_id


@functools.cache
def unperturbed(seed: int) -> dict[str, np.ndarray]:
    return reference(random_case(seed, "bbox"), "bbox")


PERTURBATIONS: dict[str, Callable[[Case], Any]] = {
    "crowds are objects": lambda case: [thing.update(iscrowd=0) for thing in case.truth["annotations"]],
    "equal scores in another order": lambda case: case.found.reverse(),
    "one image's scores are higher": higher_scores_in_one_image,
    "sizes a thousandth larger": lambda case: [t.update(area=t["area"] + 1e-3) for t in case.truth["annotations"]],
    "boxes counted with their last pixel": lambda case: [
        entry.update(bbox=[*entry["bbox"][:2], entry["bbox"][2] + 1, entry["bbox"][3] + 1]) for entry in case.found
    ],
}


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_control_a_perturbed_evaluator_is_caught(name: str) -> None:
    caught = 0
    for seed in range(5):
        other = random_case(seed, "bbox")
        PERTURBATIONS[name](other)
        caught += largest_difference(by_hotcoco(other, "bbox")[0], unperturbed(seed)) > EQUAL
    assert caught


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_every_figure_equals_pycocotools_on_coco(shared_data: Path, task: str) -> None:
    """Noisy copies of the objects, crowds included, as detections; with equal scores."""
    truth = json.loads((shared_data / "coco/annotations/instances_val2017.json").read_text())
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    rng = np.random.default_rng(0)
    found = []
    for thing in truth["annotations"]:
        for _ in range(2):
            x, y, width, height = np.array(thing["bbox"]) * rng.normal(1, 0.1, 4)
            outline = [x, y, x + width, y, x + 0.9 * width, y + height, x, y + height]
            rows, columns = sizes[thing["image_id"]]
            (run_lengths,) = masks.frPyObjects([outline], rows, columns)
            run_lengths["counts"] = run_lengths["counts"].decode()
            category = thing["category_id"] if rng.random() < 0.8 else 1
            found.append(
                {"image_id": thing["image_id"], "category_id": category, "bbox": [x, y, width, height],
                 "segmentation": run_lengths, "score": round(float(rng.random()), 2)}
            )  # fmt: skip
    case = Case(truth, found)
    theirs = reference(case, task)
    assert 0.02 < theirs["stats"][0] < 0.9
    for ours in by_hotcoco(case, task):
        assert largest_difference(ours, theirs) <= EQUAL


def test_encoded_masks_are_pycocotools_text(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    pixels = [np.zeros((7, 5), bool), np.ones((7, 5), bool), *(rng.random((6, 40, 30)) < rng.random((6, 1, 1)))]
    expected = [masks.encode(np.asfortranarray(one, dtype=np.uint8)) for one in pixels]
    expected = [{"size": one["size"], "counts": one["counts"].decode()} for one in expected]
    assert encode_masks(pixels) == encode_masks([one.T.copy().T for one in pixels]) == expected
    monkeypatch.setitem(sys.modules, HOTCOCO, None)
    assert encode_masks(pixels) == expected


# --- where pycocotools runs -------------------------------------------------------------------------------------------


def with_ids(key: str, number: Callable[[int], Any]) -> Callable[[Case], None]:
    """Other ids of the images or categories, everywhere."""

    def change(case: Case) -> None:
        plural = {"image_id": "images", "category_id": "categories"}[key]
        others = {entry["id"]: number(position) for position, entry in enumerate(case.truth[plural])}
        for entry in case.truth[plural]:
            entry["id"] = others[entry["id"]]
        for entry in (*case.truth["annotations"], *case.found):
            entry[key] = others[entry[key]]

    return change


def of_objects(**values: Any) -> Callable[[Case], Any]:
    return lambda case: [thing.update(values) for thing in case.truth["annotations"]]


# What hotcoco reads in another way or not at all, and pycocotools reads.
READ_BY_PYCOCOTOOLS: dict[str, tuple[str, Callable[[Case], Any], str]] = {
    "id 0": ("bbox", lambda case: case.truth["annotations"][0].update(id=0), "an object's id is not a whole number from 1"),
    "negative id": ("bbox", lambda case: case.truth["annotations"][0].update(id=-4), "an object's id is not a whole"),
    "id twice": ("segm", lambda case: of_objects(id=1)(case), "two objects have the same id"),
    "negative image": ("bbox", with_ids("image_id", lambda n: -n - 1), "the id of an image or a category is not"),
    "image ids as text": ("segm", with_ids("image_id", lambda n: f"image{n}"), "the id of an image or a category is not"),
    "image ids above 2**53": ("bbox", with_ids("image_id", lambda n: 2**53 + 2 * n + 1), "the id of an image or a categ"),
    "class ids as text": ("bbox", with_ids("category_id", lambda n: f"class{n}"), "the id of an image or a category is n"),
    "class twice": ("bbox", lambda case: case.truth["categories"].append(case.truth["categories"][0]), "two categories"),
    "score NaN": ("bbox", lambda case: case.found[0].update(score=float("nan")), "a detection's score is not a number"),
    "area NaN": ("keypoints", of_objects(area=float("nan")), "an object's area is not a number"),
    "crowd 2": ("bbox", of_objects(iscrowd=2), "an object's iscrowd is neither 0 nor 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_BY_PYCOCOTOOLS)
def test_a_file_that_hotcoco_reads_otherwise_is_evaluated_by_pycocotools(name: str) -> None:
    task, change, reason = READ_BY_PYCOCOTOOLS[name]
    case = random_case(3, task)
    change(case)
    evaluation = evaluate_detections(case.truth, case.found, task=task, oks_sigmas=case.sigmas)
    assert evaluation.engine.name == PYCOCOTOOLS and evaluation.engine.reason.startswith(reason)
    theirs = reference(case, task)
    for name, values in {"stats": evaluation.stats, **evaluation.eval}.items():
        np.testing.assert_array_equal(values, theirs[name])


# What hotcoco evaluates although pycocotools ends with an error.
REFUSED_BY_PYCOCOTOOLS: dict[str, tuple[str, Callable[[Case], Any], type[Exception]]] = {
    "no iscrowd": ("bbox", lambda case: [t.pop("iscrowd") for t in case.truth["annotations"]], KeyError),
    "no area": ("bbox", lambda case: [t.pop("area") for t in case.truth["annotations"]], KeyError),
    "no outline": ("segm", of_objects(segmentation=[]), IndexError),
    "outline of two points": ("segm", of_objects(segmentation=[[1.0, 1.0, 5.0, 5.0]]), TypeError),
    "no visible keypoints": ("keypoints", lambda case: [t.pop("num_keypoints") for t in case.truth["annotations"]], KeyError),
    "fewer keypoints": ("keypoints", lambda case: [d.update(keypoints=[1.0] * 9) for d in case.found], ValueError),
    "another set": ("bbox", lambda case: case.found[0].update(image_id=10**15 + 1), AssertionError),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_BY_PYCOCOTOOLS)
def test_what_pycocotools_refuses_has_no_figure(name: str, monkeypatch) -> None:
    task, change, error = REFUSED_BY_PYCOCOTOOLS[name]
    case = next(case for case in (random_case(seed, task) for seed in range(20)) if len(case.truth["annotations"]) > 3)
    change(case)
    with pytest.raises(error):
        evaluate_detections(case.truth, case.found, task=task, oks_sigmas=case.sigmas)
    monkeypatch.setattr(coco_engine, "difference", lambda *args, **keywords: "")  # control
    assert by_hotcoco(case, task)


@pytest.mark.parametrize("name", ["id 0", "id twice", "image ids above 2**53", "area NaN"])
def test_control_without_the_check_figures_would_differ(name: str, monkeypatch) -> None:
    monkeypatch.setattr(coco_engine, "difference", lambda *args, **keywords: "")
    task, change, _ = READ_BY_PYCOCOTOOLS[name]
    differs = 0
    for seed in range(6):
        case = random_case(seed, task)
        change(case)
        differs += largest_difference(by_hotcoco(case, task)[-1], reference(case, task)) > 1e-3
    assert differs


def test_any_failure_of_hotcoco_leaves_pycocotools_figures(monkeypatch) -> None:
    class PanicException(BaseException):
        """What Rust raises."""

    def fail(*_: Any) -> None:
        raise PanicException("index out of bounds")

    case = random_case(1, "bbox")
    import hotcoco

    monkeypatch.setattr(hotcoco, "COCOeval", fail)
    evaluation = evaluate_detections(case.truth, case.found, task="bbox")
    assert str(evaluation.engine).endswith("(hotcoco: PanicException: index out of bounds)")
    np.testing.assert_array_equal(evaluation.stats, reference(case, "bbox")["stats"])
    monkeypatch.setattr(hotcoco, "COCOeval", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate_detections(case.truth, case.found, task="bbox")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not(tmp_path) -> None:
    """hotcoco alone hangs there for good."""
    case = random_case(1, "bbox")
    by_hotcoco(case, "bbox")  # its threads run in this process now

    def work() -> None:
        signal.alarm(20)
        evaluation = evaluate_detections(case.truth, case.found, task="bbox")
        np.save(tmp_path / "stats.npy", evaluation.stats)
        (tmp_path / "engine").write_text(str(evaluation.engine))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0 and "(forked from a process in which hotcoco ran" in (tmp_path / "engine").read_text()
    np.testing.assert_array_equal(np.load(tmp_path / "stats.npy"), reference(case, "bbox")["stats"])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (None, "hotcoco is not installed"),
        (SimpleNamespace(__version__="9.9"), f"hotcoco 9.9 was not compared with pycocotools, {COMPARED} was"),
    ],
)
def test_without_the_compared_version_pycocotools_runs(monkeypatch, module: Any, reason: str) -> None:
    monkeypatch.setitem(sys.modules, HOTCOCO, module)
    case = random_case(2, "bbox")
    engine = evaluate_detections(case.truth, case.found, task="bbox").engine
    assert engine == replace(engine, name=PYCOCOTOOLS, reason=reason)


def test_a_module_that_cannot_be_imported_is_named(monkeypatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("GLIBC_2.99 not found")

    monkeypatch.setattr(coco_engine.importlib, "import_module", broken)
    assert coco_engine.import_hotcoco() == (None, "hotcoco cannot be imported: OSError: GLIBC_2.99 not found")


def test_the_compared_version_is_the_pinned_one() -> None:
    pins = re.findall(r"^hotcoco==(\S+)", (ROOT / "requirements/base.txt").read_text(), re.M)
    assert pins == [COMPARED] and f'"hotcoco=={COMPARED}"' in (ROOT / "pyproject.toml").read_text()


def test_the_summary_is_pycocotools_text() -> None:
    case = random_case(4, "bbox")
    ours, theirs = (
        evaluate_detections(case.truth, case.found, task="bbox", only_pycocotools=only) for only in (False, True)
    )
    assert ours.summary == theirs.summary and ours.summary.count("\n") == 11
