"""What may be averaged: one experiment by its hash, one row by label and weights, one figure a seed; and the baseline."""

from __future__ import annotations

import pytest

from pretrain.base.errors import ConfigError
from pretrain.base.record import Initialisation, Record
from tests.cases import each
from tests.transfer.compare.old_runs import write_old_detection
from tests.transfer.conftest import split, write_record
from transfer.compare.experiments import Behind, group_runs, metric_label
from transfer.compare.results import read_run

RANDOM = {"init": "random", "seed": 0, "ap50": 20.0}
INFOMIN = {"init": "infomin", "seed": 0, "ap50": 30.0}


def test_rows_are_initialisations_in_the_literatures_order_and_seeds_sorted(detections):
    specs = [
        {"init": init, "seed": seed, "ap50": 20 + seed}
        for seed in (2, 0)
        for init in ("infomin", "mine", "supervised", "random")
    ]
    (experiment,) = detections(*specs)
    assert list(experiment.rows) == ["random", "supervised", "infomin", "mine"]
    assert experiment.figures("mine", "bbox/AP50") == {0: 20, 2: 22}


# --- one experiment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "over",
    [
        {"settings": {"SOLVER.BASE_LR": 0.02}},
        {"settings": {"SOLVER.IMS_PER_BATCH": 8}},
        {"settings": {"INPUT.MIN_SIZE_TRAIN": [128]}},
        {"settings": {"SOLVER.MAX_ITER": 300}},
        {"train": split("coco:a:b", 200)},
        {"test": split("coco:a:b", 50)},
        {"metric": "VOC AP, area under the curve"},
        {"classes": ["leaf", "cup", "<b>bolt</b>"]},
    ],
    ids=["learning rate", "batch", "image size", "length", "training data", "test data", "metric", "class order"],
)
def test_runs_of_another_experiment_do_not_enter_the_average(detections, over):
    alike = [{**RANDOM, "seed": seed} for seed in (0, 1)]
    experiments = detections(*alike, {**RANDOM, "seed": 2, "ap50": 90.0, **over})
    assert [one.figures("random", "bbox/AP50") for one in experiments] == [{0: 20, 1: 20}, {2: 90}]
    for words in ("title", "name", "short"):
        assert len({getattr(one, words) for one in experiments}) == 2


def test_control_seed_output_and_initialisation_alone_are_one_experiment(detections):
    (experiment,) = detections(RANDOM, {**RANDOM, "seed": 1}, INFOMIN)
    assert list(experiment.rows) == ["random", "infomin"] and experiment.notes == ()


def test_near_experiments_say_key_by_key_what_differs(detections):
    near, other = detections(RANDOM, {**RANDOM, "settings": {"SOLVER.BASE_LR": 0.02, "SOLVER.IMS_PER_BATCH": 8}})
    assert near.notes == (
        f"Not averaged with experiment {other.short}, which differs in SOLVER.BASE_LR: 0.02 there, 0.01 here; "
        "SOLVER.IMS_PER_BATCH: 8 there, 4 here.",
    )
    assert f"experiment {near.short}" in other.notes[0] and "SOLVER.BASE_LR: 0.01 there, 0.02 here" in other.notes[0]


def test_of_many_near_experiments_the_nearest_are_named_and_the_others_counted(detections):
    settings = [{}, *({"SOLVER.BASE_LR": 0.01 * i, "SOLVER.STEPS": [i]} for i in range(2, 6)), {"SOLVER.MAX_ITER": 300}]
    first = detections(*({**RANDOM, "settings": values} for values in settings))[0]
    assert "SOLVER.MAX_ITER: 300 there, 600 here" in first.notes[0] and "STEPS" not in first.notes[0]
    assert len(first.notes) == 4 and first.notes[-1] == "Nor with 2 more experiments on the same data."


def test_the_experiment_of_most_runs_comes_first(detections):
    stray = {**RANDOM, "settings": {"SOLVER.MAX_ITER": 2}}
    assert [len(one.rows) for one in detections(stray, RANDOM, INFOMIN)] == [2, 1]


def test_experiments_on_other_data_are_not_called_near(detections):
    for one in detections(RANDOM, {**RANDOM, "train": split("coco:a:b", 100)}):
        assert one.notes == ()


def test_runs_that_are_not_done_enter_no_experiment(detections):
    (experiment,) = detections(RANDOM, {**RANDOM, "seed": 1, "status": "failed"})
    assert experiment.figures("random", "bbox/AP50") == {0: 20.0}


@each(
    "over",
    [
        {"iterations": 300},
        {"train_data": "coco:a:b"},
        {"test_data": "coco:a:b"},
        {"num_train_images": 5},
        {"config_file": "transfer/configs/voc/R_50_C4_24k.yaml"},
    ],
)
def test_old_runs_of_another_experiment_do_not_enter_the_average(tmp_path, over):
    specs = [{**RANDOM, "seed": 0}, {**RANDOM, "seed": 1}, {**RANDOM, "seed": 2, "ap50": 90.0, **over}]
    runs = [read_run(write_old_detection(tmp_path / "x" / str(i), **spec)) for i, spec in enumerate(specs)]
    assert [one.figures("random", "bbox/AP50") for one in group_runs(runs)] == [{0: 20, 1: 20}, {2: 90}]


def test_old_configuration_files_that_differ_in_the_initialisation_are_one_experiment(tmp_path):
    runs = [
        read_run(
            write_old_detection(
                tmp_path / "x" / init, init=init, seed=0, ap50=20, config_file=f"x/demo/R_18_FPN_{init}.yaml"
            )
        )
        for init in ("random", "infomin")
    ]
    (experiment,) = group_runs(runs)
    assert list(experiment.rows) == ["random", "infomin"] and experiment.title.startswith("demo/R_18_FPN,")


def test_readouts_of_unlike_data_arch_or_protocol_are_apart(readouts):
    base = {"init": "random", "seed": 0, "top1": 30.0}
    others = [
        {"train": split("other", 5)},
        {"test": split("other", 5)},
        {"arch": "resnet50"},
        {"classes": ["a", "b"]},
        {"settings": {"image_size": 224}},
    ]
    experiments = readouts(base, {**base, "init": "infomin", "top1": 50.0}, *({**base, **over} for over in others))
    assert len(experiments) == 6
    assert list(experiments[0].rows) == ["random", "infomin"] and experiments[0].figures("infomin", "top1") == {0: 50.0}


# --- rows and seeds ---------------------------------------------------------------------------------------------------


def test_one_label_for_two_pretrainings_is_two_rows_and_seeds_of_one_pretraining_are_one(detections):
    first = [
        {**INFOMIN, "seed": s, "weights": f"a{s}.pth", "pretraining": {"seed": s, "hash": "11aa22bb"}} for s in (0, 1)
    ]
    second = {**INFOMIN, "seed": 2, "weights": "b.pth", "pretraining": {"seed": 0, "hash": "33cc44dd"}}
    (experiment,) = detections(*first, second)
    assert list(experiment.rows) == ["infomin (pre-training 11aa22)", "infomin (pre-training 33cc44)"]
    assert [list(experiment.figures(row, "bbox/AP50")) for row in experiment.rows] == [[0, 1], [2]]


def test_one_label_for_other_weights_is_two_rows_even_where_the_seeds_differ(detections):
    (experiment,) = detections(INFOMIN, {**INFOMIN, "seed": 1, "weights": "other.pth", "ap50": 90.0})
    assert len(experiment.rows) == 2 and all(row.startswith("infomin (weights ") for row in experiment.rows)


def test_equal_weights_are_one_row_wherever_they_lie_and_though_one_run_lost_their_sidecar(detections):
    known = {**INFOMIN, "pretraining": {"seed": 0, "hash": "11aa22bb"}}
    (experiment,) = detections(known, {**INFOMIN, "seed": 1})
    assert list(experiment.rows) == ["infomin"]


def test_a_seed_measured_twice_is_averaged_within_it_and_said(detections):
    (experiment,) = detections(INFOMIN, {**INFOMIN, "ap50": 90.0}, {**INFOMIN, "seed": 1, "ap50": 40.0})
    assert experiment.figures("infomin", "bbox/AP50") == {0: 60.0, 1: 40.0}
    (note,) = experiment.notes
    assert note.startswith("infomin: seed 0 was measured 2 times (") and "counted as one" in note
    assert all(str(run.path) in note for run in experiment.rows["infomin"][:2])


def test_pretraining_and_seed_are_two_factors_and_the_pretraining_is_the_unit(detections):
    specs = [
        {**INFOMIN, "seed": seed, "ap50": ap50, "weights": f"{p}.pth", "pretraining": {"seed": p, "hash": "11aa22bb"}}
        for p, seed, ap50 in ((0, 0, 10.0), (0, 0, 20.0), (0, 1, 25.0), (1, 0, 45.0), (1, 1, 35.0))
    ]
    (experiment,) = detections(*specs)
    assert experiment.cells("infomin", "bbox/AP50") == {(0, 0): 15.0, (0, 1): 25.0, (1, 0): 45.0, (1, 1): 35.0}
    assert experiment.units("infomin", "bbox/AP50") == [20.0, 40.0]
    assert experiment.figures("infomin", "bbox/AP50") == {0: 30.0, 1: 30.0}  # of seed 0 not 25, the mean of all three
    assert experiment.behind("infomin") == Behind(2, 2) and experiment.behind("infomin").cell() == "2 x 2"


def test_one_pretraining_random_weights_and_a_lost_sidecar_are_told_apart(detections):
    known = {**INFOMIN, "pretraining": {"seed": 0, "hash": "11aa22bb"}}
    (experiment,) = detections(known, {**INFOMIN, "seed": 1}, RANDOM, {**RANDOM, "seed": 1}, {**RANDOM, "seed": 2})
    assert experiment.behind("infomin") == Behind(1, 2) and experiment.behind("random") == Behind(0, 3)
    assert set(experiment.cells("infomin", "bbox/AP50")) == {(0, 0), (0, 1)}


def test_a_measurement_is_paired_by_the_seed_of_the_pretraining_that_it_measures(tmp_path):
    runs = []
    for label in ("infomin", "moco"):
        for seed in (0, 1):
            record = Record(
                kind="measurement",
                experiment={"config": {"batch_size": 512}},
                config={},
                seeds={"run": 5, "pretraining": seed},
                status="done",
                initialisation=Initialisation(
                    label, "asked", "step.pt", sha256=f"{label}{seed}", pretraining={"seed": seed, "hash": label}
                ),
                figures={"info_nce": 1.0 + seed},
            )
            runs.append(read_run(write_record(tmp_path / f"{label}{seed}", record)))
    (experiment,) = group_runs(runs, baseline="moco")
    assert experiment.figures("infomin", "info_nce") == {0: 1.0, 1: 2.0} and experiment.digits == 2


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_stand_in_the_order_of_the_metric(detections):
    (coco,) = detections(RANDOM)
    assert coco.metrics[:4] == ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP")
    (voc,) = detections(
        {
            **RANDOM,
            "metric": "VOC AP, 11 points (2007)",
            "figures": {"bbox/AP": 1.0, "bbox/AP50": 2.0, "bbox/AP75": 0.5, "bbox/AP-cup": 3.0},
        }
    )
    assert voc.metrics == ("bbox/AP50", "bbox/AP", "bbox/AP75") and "11 points" in voc.title


def test_a_figure_that_is_null_is_missing_not_zero(detections):
    figures = {"bbox/AP": None, "bbox/AP50": 3.0}
    (experiment,) = detections({**RANDOM, "ap50": 9.0}, {**RANDOM, "seed": 1, "figures": figures})
    assert set(experiment.figures("random", "bbox/AP")) == {0} and experiment.figures("random", "bbox/AP50")[1] == 3.0


def test_labels_are_words():
    names = ("bbox/AP50", "segm/AP", "keypoints/AP", "top1", "info_nce", "loss")
    assert [metric_label(name) for name in names] == [
        "box AP50",
        "mask AP",
        "keypoint AP",
        "top-1",
        "I_NCE (nats)",
        "loss",
    ]


# --- the baseline -----------------------------------------------------------------------------------------------------


def test_the_baseline_is_random_where_it_is_there_and_the_row_that_is_asked_for(detections):
    specs = [RANDOM, INFOMIN, {**RANDOM, "init": "supervised"}]
    assert detections(*specs)[0].baseline == "random"
    (asked,) = detections(*specs, baseline="supervised")
    assert asked.baseline == "supervised" and asked.others == ("random", "infomin")
    assert detections(INFOMIN)[0].baseline is None


def test_a_baseline_that_no_row_has_is_refused_with_the_nearest(detections):
    with pytest.raises(ConfigError, match="--baseline infomni: no row has this name; did you mean infomin.*random"):
        detections(RANDOM, INFOMIN, baseline="infomni")


def test_a_baseline_that_only_one_of_two_experiments_has_counts_there(detections):
    one, other = detections(RANDOM, INFOMIN, {**RANDOM, "settings": {"SOLVER.MAX_ITER": 300}}, baseline="infomin")
    assert (one.baseline, other.baseline) == ("infomin", None)
    assert other.notes[-1] == "No row infomin here: no differences." and len(one.notes) == len(other.notes) - 1


def test_a_baseline_that_stands_for_several_rows_is_refused_and_one_of_them_can_be_named(detections):
    specs = [RANDOM, INFOMIN, {**INFOMIN, "weights": "other.pth"}]
    with pytest.raises(ConfigError, match="several rows start from other weights"):
        detections(*specs, baseline="infomin")
    row = list(detections(*specs)[0].rows)[1]
    assert detections(*specs, baseline=row)[0].baseline == row


def test_a_default_baseline_that_stands_for_several_rows_is_said_and_compares_nothing(detections):
    (experiment,) = detections(RANDOM, {**RANDOM, "seed": 1, "weights": "trained.pth"}, INFOMIN)
    assert (
        experiment.baseline is None
        and "several rows start from other weights under the name random" in experiment.notes[-1]
    )


def test_a_baseline_counts_where_it_is_one_row_and_is_explained_where_it_is_two(detections):
    long = {"settings": {"SOLVER.MAX_ITER": 900}}
    specs = [RANDOM, INFOMIN, {**RANDOM, **long}, {**INFOMIN, **long}, {**INFOMIN, **long, "weights": "other.pth"}]
    two, one = detections(*specs, baseline="infomin")
    assert (one.baseline, two.baseline) == ("infomin", None) and "several rows" in two.notes[-1]
