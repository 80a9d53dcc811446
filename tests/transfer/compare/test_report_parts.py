"""Parts of the report: AP against labels, by class and size, intervals over test images, costs, and what was tried."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from pretrain.base.record import Cost
from tests.transfer.compare.test_matches import made, pycocotools_ap
from tests.transfer.conftest import split, write_detection, write_linear, write_pretraining
from transfer.compare import image_results
from transfer.compare.accounts import cost_table, tried_table
from transfer.compare.breakdown import breakdown_table, draw_breakdown, parts_of
from transfer.compare.comparisons import compared_with
from transfer.compare.experiments import group_runs
from transfer.compare.label_curves import draw_label_curve, label_curves
from transfer.compare.results import read_runs

# --- against labels ---------------------------------------------------------------------------------------------------


def fraction(share, **over):
    return {"train": split(f"{share} of own", round(200 * share), 200), **over}


def test_experiments_that_differ_in_their_labels_alone_are_one_curve(detections):
    specs = [
        {"init": init, "seed": seed, "ap50": 20.0 + 30 * share + bonus + seed, **fraction(share)}
        for share in (0.1, 1.0, 0.3)
        for init, bonus in (("random", 0.0), ("mine", 9.0))
        for seed in range(3)
    ]
    other = {"init": "random", "seed": 0, "ap50": 1.0, **fraction(0.5), "settings": {"MODEL.DEPTH": 50}}
    experiments = detections(*specs, other)
    (curve,) = label_curves(experiments)
    assert [one.first.fraction for one in curve.experiments] == [0.1, 0.3, 1.0] and curve.schedules == ()
    picture = draw_label_curve(curve)
    assert picture is not None and "against the number of labelled images" in picture.alt


def test_a_schedule_that_follows_the_labels_is_said_and_one_size_is_no_curve(detections):
    short = {"init": "random", "seed": 0, "ap50": 9.0, **fraction(0.1), "settings": {"SOLVER.MAX_ITER": 60}}
    (curve,) = label_curves(detections({"init": "random", "seed": 0, "ap50": 20.0, **fraction(1.0)}, short))
    assert curve.schedules == ("SOLVER.MAX_ITER",) and "SOLVER.MAX_ITER" in draw_label_curve(curve).caption
    assert label_curves(detections({"init": "random", "seed": 0, "ap50": 20.0})) == ()


def test_readouts_of_few_images_a_class_are_a_curve(readouts):
    specs = [
        {"init": "random", "seed": 0, "top1": 20.0 + k, "settings": {"images_per_class": k}, "train": replace(split("own", 10 * k, 900), fingerprint="f")}
        for k in (5, 30)
    ]  # fmt: skip
    (curve,) = label_curves(readouts(*specs))
    assert len(curve.experiments) == 2


# --- by class and size ------------------------------------------------------------------------------------------------


def test_differences_by_class_and_size_are_paired_and_said_to_be_unadjusted(detections):
    def figures(seed, bonus):
        return {
            "bbox/AP50": 20.0,
            "bbox/AP-a/b": 10.0 + seed + bonus,
            "bbox/AP-cup": None,
            "bbox/APs": 5.0 + seed * bonus,
        }

    (experiment,) = detections(
        *({"init": "random", "seed": s, "ap50": 1.0, "figures": figures(s, 0.0)} for s in range(3)),
        *({"init": "mine", "seed": s, "ap50": 1.0, "figures": figures(s, 4.0)} for s in range(3)),
    )
    parts = parts_of(experiment, "mine", "random")
    assert [(part.group, part.name) for part in parts] == [("size", "small (under 32 x 32 px)"), ("class", "a/b")]
    assert parts[1].difference.mean == pytest.approx(4.0) and parts[0].difference.mean == pytest.approx(4.0)
    table = breakdown_table(parts, "mine", "random")
    assert table.rows[1][:4] == ("a/b", "class", "11.0 ± 1.0", "15.0 ± 1.0") and "not adjusted" in table.notes[0]
    assert draw_breakdown(parts, "mine", "random") is not None
    assert breakdown_table((), "mine", "random") is None and draw_breakdown((), "mine", "random") is None


# --- over test images -------------------------------------------------------------------------------------------------


def leave_detections(folder, truth, found):
    (folder / "inference").mkdir()
    (folder / "inference" / "ground_truth.json").write_text(json.dumps(truth))
    (folder / "inference" / "coco_instances_results.json").write_text(json.dumps(found))


@pytest.fixture
def detectors(tmp_path):
    """Two runs of one seed that left their detections; the second finds less."""
    truth, found = made(3)
    plain = {
        **truth,
        "annotations": [{k: v for k, v in t.items() if k != "segmentation"} for t in truth["annotations"]],
    }
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in found]
    for init, kept in (("random", boxes[::2]), ("mine", boxes)):
        values = pycocotools_ap(plain, kept, "bbox")
        figures = {"bbox/AP": float(values.mean()), "bbox/AP50": float(values[0]), "bbox/AP75": float(values[5])}
        leave_detections(write_detection(tmp_path / init, init=init, seed=0, ap50=1.0, figures=figures), plain, kept)
    return tmp_path


def test_one_seed_has_an_interval_over_its_test_images(detectors):
    (experiment,) = group_runs(read_runs([detectors]).all)
    for metric in ("bbox/AP", "bbox/AP50", "bbox/AP75"):
        (found,) = compared_with(experiment, "random", metric)
        assert found.difference.half_width is None and found.images.mean == pytest.approx(found.difference.mean)
        assert found.images.n == 24 and 0 < found.images.half_width < 60 and found.images.runs == (1, 1)


def test_detections_that_do_not_give_the_recorded_figure_give_no_interval(detectors):
    """Control: another ground truth lies there now."""
    truth = json.loads((detectors / "mine" / "inference" / "ground_truth.json").read_text())
    for thing in truth["annotations"][::3]:
        thing["bbox"][0] += 30
    (detectors / "mine" / "inference" / "ground_truth.json").write_text(json.dumps(truth))
    (experiment,) = group_runs(read_runs([detectors]).all)
    assert compared_with(experiment, "random", "bbox/AP50")[0].images is None


@pytest.mark.parametrize("content", ["[", "{}", '[{"image_id": 1}]', "[1]"])
def test_damaged_detections_cost_the_interval_alone(detectors, content):
    (detectors / "mine" / "inference" / "coco_instances_results.json").write_text(content)
    (experiment,) = group_runs(read_runs([detectors]).all)
    (found,) = compared_with(experiment, "random", "bbox/AP50")
    assert found.images is None and found.difference is not None


def test_the_readouts_interval_is_that_of_its_predictions(tmp_path):
    rng = np.random.default_rng(0)
    right = {"random": rng.random(200) < 0.5, "mine": rng.random(200) < 0.7}
    for init, values in right.items():
        folder = write_linear(
            tmp_path / init, init=init, seed=0, top1=100 * values.mean(), figures={"top1": 100 * values.mean()}
        )
        with (folder / "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("image", "label", "predicted", "in_top5"))
            writer.writerows((f"{i}.png", "a", "a" if value else "b", 1) for i, value in enumerate(values))
    (experiment,) = group_runs(read_runs([tmp_path]).all)
    (found,) = compared_with(experiment, "random", "top1")
    differences = 100.0 * (right["mine"].astype(float) - right["random"])
    assert found.images.mean == pytest.approx(differences.mean())
    standard_error = differences.std(ddof=1) / np.sqrt(200)
    assert found.images.half_width == pytest.approx(1.97 * standard_error, rel=0.1)  # of 1,000 resamples


# --- costs and what was tried -----------------------------------------------------------------------------------------


def test_a_pretraining_counts_once_for_the_row_that_starts_from_it(tmp_path):
    hours = lambda n: Cost(3600.0 * n, 1, 3600.0 * n)  # noqa: E731
    write_pretraining(tmp_path / "pretrain", cost=hours(2))
    own = read_runs([tmp_path]).all[0].record.hash
    write_pretraining(tmp_path / "pretrain_other", experiment={"config": {"method.name": "other"}}, cost=hours(7))
    for seed in range(3):
        pretraining = {"seed": 0, "hash": own}
        write_detection(
            tmp_path / f"m{seed}", init="mine", seed=seed, ap50=1.0, pretraining=pretraining, cost=hours(0.5)
        )
        write_detection(tmp_path / f"r{seed}", init="random", seed=seed, ap50=1.0, cost=hours(0.5))
    table = cost_table(read_runs([tmp_path]))
    rows = {row[0]: row[1:5] for row in table.rows}
    assert rows["mine"] == ("2 (1)", "1.5 (3)", "", "3.5") and rows["random"] == ("", "1.5 (3)", "", "1.5")
    assert rows["of no row here"][0] == "7 (1)" and rows["together"] == ("9", "3", "", "12")


def test_what_was_tried_counts_the_differences_that_are_shown(example_runs):
    runs = read_runs([example_runs])
    table = tried_table(runs, group_runs(runs.all))
    assert [row[1:] for row in table.rows] == [("2", "6", "6", "6"), ("2", "6", "2", "2")]
    assert "1 of them unfinished" in table.notes[0]
    assert "8 differences to a baseline in 8 questions" in table.notes[1] and "0.4 of these 8" in table.notes[1]


@pytest.fixture(autouse=True)
def forget():
    """What was read of earlier folders."""
    image_results._read.cache_clear()
    image_results._matches.cache_clear()
