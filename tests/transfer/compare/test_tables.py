"""Tables: mean and spread with n, paired differences, published figures with their marks and their comparability."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.base.figures import Spread
from transfer.compare.published import load_published
from transfer.compare.results import read_detection, read_linear
from transfer.compare.statistics import group_detection, group_readouts, paired_difference
from transfer.compare.tables import (
    UNVERIFIED_MARK,
    detection_headline,
    detection_tables,
    format_difference,
    format_spread,
    published_detection_table,
    published_readout_table,
    readout_headline,
    readout_tables,
)

SCORES = {"random": [20.0, 22.0, 21.0], "infomin": [26.0, 27.0, 31.0]}
VOC_DATA = load_published().detection[0].data
VOC = {"train_data": VOC_DATA[0], "test_data": VOC_DATA[1], "iterations": 24_000, "num_train_images": 16_551}


@pytest.fixture
def group_of(make_detection, tmp_path):
    def make(scores=SCORES, **over):
        runs = []
        for init, values in scores.items():
            for seed, ap50 in enumerate(values):
                path = tmp_path / "runs" / "detect" / f"{init}{seed}"
                runs.append(read_detection(make_detection(path, init=init, seed=seed, ap50=ap50, **over)))
        (group,) = group_detection(runs)
        return group

    return make


@pytest.fixture
def readout_of(make_linear, tmp_path):
    def make(scores, **over):
        paths = [
            make_linear(tmp_path / f"{init}{seed}", init=init, seed=seed, top1=top1, **over)
            for init, values in scores.items()
            for seed, top1 in enumerate(values)
        ]
        (group,) = group_readouts([read_linear(path) for path in paths])
        return group

    return make


def cells(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_ap_by_initialisation_shows_mean_deviation_and_n(group_of):
    table = cells(detection_tables(group_of())[0])
    for init, values in SCORES.items():
        assert table[init]["n"] == "3"
        assert table[init]["box AP50"] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
        assert table[init]["mask AP50"] == f"{np.mean(values) - 2:.1f} ± {np.std(values, ddof=1):.1f}"


def test_one_seed_shows_no_deviation_and_no_interval(group_of):
    ap, difference = detection_tables(group_of({"random": [20.0], "infomin": [26.0]}))
    assert cells(ap)["random"]["box AP50"] == "20.0" and cells(ap)["random"]["n"] == "1"
    row = next(row for row in difference.rows if row[1] == "box AP50")
    assert row == ("infomin", "box AP50", "+6.0", "1/1", "n/a (one seed)")


def test_differences_are_paired_by_seed(group_of):
    _, difference = detection_tables(group_of())
    row = next(row for row in difference.rows if row[1] == "box AP50")
    assert row[2:4] == ("+7.0", "3/3")
    expected = paired_difference(dict(enumerate(SCORES["infomin"])), dict(enumerate(SCORES["random"])))
    assert row[2:] == format_difference(expected)


def test_without_a_random_row_there_is_no_difference_and_no_detection_headline(group_of):
    group = group_of({"infomin": [26.0], "supervised": [28.0]})
    assert len(detection_tables(group)) == 1 and detection_headline(group) is None


def test_n_is_a_range_where_a_metric_lacks_a_seed(group_of, make_detection, tmp_path):
    runs = [
        read_detection(make_detection(tmp_path / "x" / str(seed), init="random", seed=seed, ap50=20.0, **over))
        for seed, over in enumerate([{}, {"metrics": {"bbox": {"AP50": 30.0, "AP": None}}}])
    ]
    (group,) = group_detection(runs)
    row = cells(detection_tables(group)[0])["random"]
    assert row["n"] == "1-2" and row["box AP50"].startswith("25.0") and row["box AP"] == "11.0"


def test_a_repeated_run_is_said_to_be_left_out(make_detection, tmp_path):
    paths = [make_detection(tmp_path / "x" / name, init="random", seed=0, ap50=20.0) for name in ("a", "b")]
    (group,) = group_detection([read_detection(path) for path in paths])
    assert any("repeats a run" in note and str(paths[1]) in note for note in detection_tables(group)[0].notes)


def test_the_headline_says_who_won_in_how_many_seeds(group_of):
    assert detection_headline(group_of()) == (
        "demo/R_18_FPN_small, box AP50: random 21.0 ± 1.0 (n = 3); infomin 28.0 ± 2.6 (n = 3, above random in 3 of 3 seeds)."
    )


def test_published_figures_stand_beside_ours_and_recalled_ones_are_marked(group_of):
    group = group_of(config_file="transfer/configs/voc/R_50_C4_24k_infomin.yaml", **VOC)
    table = published_detection_table(group)
    rows = cells(table)
    assert rows["supervised"]["box AP50"] == "81.3" and rows["infomin"]["box AP50"] == f"82.7{UNVERIFIED_MARK}"
    assert rows["ours: infomin (n = 3)"]["box AP50"] == "28.0 ± 2.6"
    assert any("UNVERIFIED" in note for note in table.notes)
    assert not any("NOT COMPARABLE" in note for note in table.notes)


def test_every_cell_of_an_unverified_figure_carries_the_mark(group_of):
    group = group_of(config_file="transfer/configs/coco/R_50_FPN_1x_infomin.yaml")
    rows = cells(published_detection_table(group))
    assert rows["infomin"]["box AP"] == "40.6" and rows["infomin"]["box AP50"] == f"60.6{UNVERIFIED_MARK}"


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"iterations": 300}, "the published runs took 24,000 iterations"),
        ({"train_data": "voc:bccd:train"}, "unless these are the same images"),
        ({"test_data": "voc:bccd:test"}, "unless these are the same images"),
    ],
)
def test_runs_that_differ_from_the_published_ones_are_not_called_comparable(group_of, over, words):
    group = group_of(config_file="x/voc/R_50_C4_24k_infomin.yaml", **{**VOC, **over})
    assert any("NOT COMPARABLE" in note and words in note for note in published_detection_table(group).notes)


def test_own_configurations_have_no_published_table(group_of):
    assert published_detection_table(group_of()) is None


def test_readout_table_shows_mean_deviation_n_and_protocol(readout_of):
    tables = readout_tables(readout_of({"random": [31.0, 33.0], "infomin": [55.0, 58.0]}))
    row = cells(tables[0])["infomin"]
    assert (row["n"], row["top-1"]) == ("2", f"56.5 ± {np.std([55, 58], ddof=1):.1f}")
    assert any("not the paper's protocol: image_size=64" in note for note in tables[0].notes)
    assert tables[1].rows[0][2:4] == ("+24.5", "2/2")


def test_the_readouts_headline_names_every_row(readout_of):
    group = readout_of({"random": [31.0, 33.0], "infomin": [55.0, 58.0]})
    assert readout_headline(group) == "Readout top-1: random 32.0 ± 1.4 % (n = 2); infomin 56.5 ± 2.1 % (n = 2)."


def test_top5_of_few_classes_is_named_for_what_it_is(readout_of):
    table = readout_tables(
        readout_of({"random": [31.0]}, classes=["a", "b", "c"], protocol={"name": "p", "top5_k": 3})
    )[0]
    assert table.columns[-1] == "top-5 (here top-3)"


def test_imagenet_readouts_of_a_resnet50_stand_beside_the_published_ones(readout_of):
    classes = [str(i) for i in range(1000)]
    group = readout_of({"infomin": [70.0]}, arch="resnet50", classes=classes)
    rows = cells(published_readout_table(group))
    assert rows["InfoMin, 200 epochs"]["top-1"] == "70.1" and rows["ours: infomin (n = 1)"]["top-1"] == "70.0"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "n/a"), (Spread(36.24, None, 1), "36.2"), (Spread(36.24, 0.449, 3), "36.2 ± 0.4")]
)
def test_spreads_as_text(value, text):
    assert format_spread(value) == text
