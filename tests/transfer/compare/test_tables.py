"""Tables: mean and spread with n, paired differences to the baseline, published figures only beside like ones."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.base.figures import Spread
from tests.cases import each
from tests.transfer.conftest import split
from transfer.compare.statistics import paired_difference
from transfer.compare.tables import (
    UNVERIFIED_MARK,
    format_difference,
    format_spread,
    own_tables,
    published_note,
    published_table,
)

SCORES = {"random": [20.0, 22.0, 21.0], "infomin": [26.0, 27.0, 31.0]}
SCHEDULE = {"SOLVER.MAX_ITER": 24_000, "SOLVER.IMS_PER_BATCH": 16, "SOLVER.BASE_LR": 0.02}
VOC_CLASSES = [f"class {i}" for i in range(20)]
VOC = {
    "config_file": "transfer/configs/voc/R_50_C4_24k.yaml",
    "settings": SCHEDULE,
    "train": split("voc_2007_trainval, voc_2012_trainval", 16_551),
    "test": split("voc_2007_test", 4_952),
    "classes": VOC_CLASSES,
    "metric": "VOC AP, 11 points (2007)",
}
IMAGENET = {
    "arch": "resnet50",
    "classes": [str(i) for i in range(1000)],
    "train": split("imagenet/train", 1_281_167),
    "test": split("imagenet/val", 50_000),
    "protocol": {"name": "the paper's protocol", "is_paper": True},
}


@pytest.fixture
def experiment_of(detections):
    def make(scores=SCORES, baseline=None, **over):
        specs = [
            {"init": init, "seed": seed, "ap50": ap50, **over}
            for init, values in scores.items()
            for seed, ap50 in enumerate(values)
        ]
        (experiment,) = detections(*specs, baseline=baseline)
        return experiment

    return make


@pytest.fixture
def readout_of(readouts):
    def make(scores, **over):
        specs = [
            {"init": init, "seed": seed, "top1": top1, **over}
            for init, values in scores.items()
            for seed, top1 in enumerate(values)
        ]
        (experiment,) = readouts(*specs)
        return experiment

    return make


def cells(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def difference_of(experiment, row, metric="box AP50"):
    table = own_tables(experiment)[1]
    return next(dict(zip(table.columns, cell, strict=True)) for cell in table.rows if cell[:2] == (row, metric))


def test_ap_by_initialisation_shows_mean_deviation_and_n(experiment_of):
    table = cells(own_tables(experiment_of())[0])
    for init, values in SCORES.items():
        assert table[init]["n"] == "3"
        assert table[init]["box AP50"] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
        assert table[init]["mask AP50"] == f"{np.mean(values) - 2:.1f} ± {np.std(values, ddof=1):.1f}"


def test_one_seed_shows_no_deviation_no_interval_and_no_verdict(experiment_of):
    experiment = experiment_of({"random": [20.0], "infomin": [26.0]})
    ap = cells(own_tables(experiment)[0])
    assert ap["random"]["box AP50"] == "20.0" and ap["random"]["n"] == "1 (one seed)"
    row = difference_of(experiment, "infomin")
    assert (row["mean difference"], row["n"], row["95 % interval"], row["verdict"]) == (
        "+6.0", "1", "n/a (one seed)", "one seed"
    )  # fmt: skip
    assert any("One seed: random, infomin" in note for note in own_tables(experiment)[0].notes)


def test_differences_are_paired_by_seed_with_n_interval_and_verdict(experiment_of):
    row = difference_of(experiment_of(), "infomin")
    expected = paired_difference(dict(enumerate(SCORES["infomin"])), dict(enumerate(SCORES["random"])))
    assert tuple(row.values())[2:6] == format_difference(expected)
    assert row["exact p; Holm's"] == "0.25 (floor 0.25); 0.25" and row["over test images"] == "n/a"
    assert (row["mean difference"], row["n"], row["verdict"]) == ("+7.0", "3", "higher")


def test_several_rows_against_one_baseline_share_its_five_percent(experiment_of):
    experiment = experiment_of({**SCORES, "mine": [26.0, 27.0, 31.0]})
    table = own_tables(experiment)[1]
    assert "97.5 % interval" in table.columns and "95 % for the 2 comparisons" in table.notes[0]
    assert difference_of(experiment, "infomin")["verdict"] == "not told apart"  # alone it is higher


def test_differences_are_to_the_baseline_that_is_asked_for(experiment_of):
    experiment = experiment_of(baseline="infomin")
    assert own_tables(experiment)[1].title == "Difference to infomin"
    assert difference_of(experiment, "random")["mean difference"] == "-7.0"


def test_without_a_baseline_there_is_no_difference(experiment_of):
    experiment = experiment_of({"infomin": [26.0], "supervised": [28.0]})
    assert len(own_tables(experiment)) == 1
    assert experiment.notes == ("No differences: no row is called random; --baseline names the row to compare with.",)


def test_n_is_a_range_where_a_metric_lacks_a_seed(detections):
    base = {"init": "random", "ap50": 20.0}
    (experiment,) = detections(
        {**base, "seed": 0}, {**base, "seed": 1, "figures": {"bbox/AP50": 30.0, "bbox/AP": None}}
    )
    row = cells(own_tables(experiment)[0])["random"]
    assert row["n"] == "1-2" and row["box AP50"].startswith("25.0") and row["box AP"] == "11.0"


# --- pre-trainings ----------------------------------------------------------------------------------------------------


def test_one_pretraining_is_said_and_several_show_both_sources_of_spread(detections):
    def own(p, s):
        return {
            "init": "infomin", "seed": s, "ap50": 30.0 + 4 * p + s, "weights": f"{p}.pth", "pretraining": {"seed": p, "hash": "ab"}
        }  # fmt: skip

    random = [{"init": "random", "seed": s, "ap50": 20.0 + 2 * s} for s in range(3)]
    (once,) = detections(*random, *(own(0, s) for s in range(3)))
    assert "One pre-training stands behind infomin" in " ".join(own_tables(once)[0].notes)
    (several,) = detections(*random, *(own(p, s) for p in range(3) for s in range(3)))
    means, sources, differences = own_tables(several)
    assert not any("One pre-training stands" in note for note in means.notes)
    assert cells(means)["infomin"]["n"] == "3 x 3" and cells(means)["infomin"]["box AP50"] == "35.0 ± 4.0"
    assert cells(means)["random"]["n"] == "3"
    row = next(row for row in sources.rows if row[:2] == ("infomin", "box AP50"))
    assert row[2:] == ("3 x 3", "4.0", "1.0")  # sqrt(16 - 1 / 3)
    row = next(row for row in differences.rows if row[1] == "box AP50")
    assert row[2:4] == ("+13.0", "3 x 3") and "within" in differences.notes[0]


# --- published figures ------------------------------------------------------------------------------------------------


def test_published_figures_stand_beside_like_ones_and_recalled_ones_are_marked(experiment_of):
    experiment = experiment_of(**VOC)
    table = published_table(experiment)
    rows = cells(table)
    assert rows["supervised"]["box AP50"] == "81.3" and rows["infomin"]["box AP50"] == f"82.7{UNVERIFIED_MARK}"
    assert rows["ours: infomin (n = 3)"]["box AP50"] == "28.0 ± 2.6"
    assert any("UNVERIFIED" in note for note in table.notes) and published_note(experiment) == ""


def test_every_cell_of_an_unverified_figure_carries_the_mark(experiment_of):
    coco = {
        "config_file": "transfer/configs/coco/R_50_FPN_1x.yaml",
        "settings": {**SCHEDULE, "SOLVER.MAX_ITER": 90_000},
        "train": split("coco_2017_train", 117_266),
        "test": split("coco_2017_val", 5_000),
        "classes": [str(i) for i in range(80)],
    }
    rows = cells(published_table(experiment_of(**coco)))
    assert rows["infomin"]["box AP"] == "40.6" and rows["infomin"]["box AP50"] == f"60.6{UNVERIFIED_MARK}"


def test_the_same_images_count_wherever_they_lie_and_however_they_are_named(experiment_of):
    own = split("voc07:VOC2007:trainval+voc:VOC2012:trainval", 16_551)
    assert published_table(experiment_of(**{**VOC, "train": own})) is not None


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"settings": {**SCHEDULE, "SOLVER.MAX_ITER": 300}}, "24,000 iterations there, 300 here"),
        ({"settings": {**SCHEDULE, "SOLVER.IMS_PER_BATCH": 4}}, "batches of 16 images there, 4 here"),
        ({"settings": {**SCHEDULE, "SOLVER.BASE_LR": 0.01}}, "a learning rate of 0.02 there, 0.01 here"),
        ({"train": split("voc:bccd:train", 205)}, "(16,551 images) there, on voc:bccd:train (205 images) here"),
        ({"test": split("voc:bccd:test", 72)}, "tested on voc_2007_test (4,952 images) there"),
        ({"classes": ["a", "b"]}, "20 classes there, 2 here"),
        ({"metric": "VOC AP, area under the curve"}, "11 points there, VOC AP, area under the curve here"),
    ],
    ids=["length", "batch", "learning rate", "training data", "test data", "classes", "metric"],
)
def test_published_figures_of_another_schedule_batch_or_data_are_absent_and_one_sentence_says_why(
    experiment_of, over, words
):
    experiment = experiment_of(**{**VOC, **over})
    assert published_table(experiment) is None
    note = published_note(experiment)
    assert words in note and note.count("there") == 1 and note.startswith("Published figures (VOC07+12 trainval")


def test_own_configurations_have_no_published_table_and_no_sentence(experiment_of):
    experiment = experiment_of()
    assert published_table(experiment) is None and published_note(experiment) == ""


def test_imagenet_readouts_by_the_papers_protocol_stand_beside_the_published_ones(readout_of):
    rows = cells(published_table(readout_of({"infomin": [70.0]}, **IMAGENET)))
    assert rows["InfoMin, 200 epochs"]["top-1"] == "70.1" and rows["ours: infomin (n = 1)"]["top-1"] == "70.0"


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"protocol": {"name": "not the paper's protocol: epochs=1", "is_paper": False}}, "epochs=1"),
        ({"train": split("x", 128_116)}, "on ImageNet-1k train (1,281,167 images) there, on x (128,116 images) here"),
    ],
)
def test_other_readouts_of_a_thousand_classes_do_not(readout_of, over, words):
    experiment = readout_of({"infomin": [70.0]}, **{**IMAGENET, **over})
    assert published_table(experiment) is None and words in published_note(experiment)


# --- readouts ---------------------------------------------------------------------------------------------------------


def test_readout_table_shows_mean_deviation_n_and_protocol(readout_of):
    tables = own_tables(readout_of({"random": [31.0, 33.0], "infomin": [55.0, 58.0]}))
    row = cells(tables[0])["infomin"]
    assert (row["n"], row["top-1"]) == ("2", f"56.5 ± {np.std([55, 58], ddof=1):.1f}")
    assert any("not the paper's protocol: image_size=64" in note for note in tables[0].notes)
    assert tables[1].rows[0][2:4] == ("+24.5", "2")


def test_top5_of_few_classes_is_named_for_what_it_is(readout_of):
    table = own_tables(readout_of({"random": [31.0]}, classes=["a", "b", "c"]))[0]
    assert table.columns[-1] == "top-5 (here top-3)"


@each(("value", "text"), [(None, "n/a"), (Spread(36.24, None, 1), "36.2"), (Spread(36.24, 0.449, 3), "36.2 ± 0.4")])
def test_spreads_as_text(value, text):
    assert format_spread(value) == text
