"""What may be averaged: equal experiments only, one row an initialisation, one figure a seed."""

from __future__ import annotations

from transfer.compare.groups import group_detection, group_readouts, metric_label
from transfer.compare.runs import read_detection, read_linear


def detection(make_detection, tmp_path, specs):
    paths = [make_detection(tmp_path / "runs" / "detect" / str(i), **spec) for i, spec in enumerate(specs)]
    return group_detection([read_detection(path) for path in paths])


def test_rows_are_initialisations_in_the_literatures_order_and_seeds_sorted(make_detection, tmp_path):
    specs = [
        {"init": init, "seed": seed, "ap50": 20 + seed}
        for seed in (2, 0)
        for init in ("infomin", "mine", "supervised", "random")
    ]
    (group,) = detection(make_detection, tmp_path, specs)
    assert list(group.runs) == ["random", "supervised", "infomin", "mine"]
    assert group.figures("mine", "bbox/AP50") == {0: 20, 2: 22} and list(group.runs["mine"]) == [0, 2]


def test_unlike_experiments_are_never_one_group(make_detection, tmp_path):
    base = {"init": "random", "seed": 0, "ap50": 20}
    others = [
        {"iterations": 300},
        {"train_data": "coco:a:b"},
        {"test_data": "coco:a:b"},
        {"num_train_images": 5},
        {"config_file": "transfer/configs/voc/R_50_C4_24k_random.yaml"},
    ]
    groups = detection(make_detection, tmp_path, [base, *({**base, **other} for other in others)])
    assert len(groups) == 6 and all(len(group.runs["random"]) == 1 for group in groups)


def test_configuration_files_that_differ_in_the_initialisation_are_one_experiment(make_detection, tmp_path):
    specs = [
        {"init": init, "seed": 0, "ap50": 20, "config_file": f"x/demo/R_18_FPN_{init}.yaml"}
        for init in ("random", "infomin")
    ]
    (group,) = detection(make_detection, tmp_path, specs)
    assert list(group.runs) == ["random", "infomin"] and group.title.startswith("demo/R_18_FPN,")


def test_a_repeated_run_is_set_apart_and_other_weights_become_another_row(make_detection, tmp_path):
    same = {"init": "infomin", "seed": 0, "ap50": 20}
    (group,) = detection(make_detection, tmp_path / "a", [same, {**same, "ap50": 90}])
    assert group.figures("infomin", "bbox/AP50") == {0: 20} and len(group.repeated) == 1
    (group,) = detection(make_detection, tmp_path / "b", [same, {**same, "weights": "other.pth"}])
    assert list(group.runs) == ["infomin (other.pth)", "infomin (runs/weights/pretrained.pth)"] and not group.repeated


def test_metrics_stand_in_the_order_of_the_data_set(make_detection, tmp_path):
    spec = {"init": "random", "seed": 0, "ap50": 20}
    (coco,) = detection(make_detection, tmp_path / "coco", [spec])
    assert coco.metrics[:3] == ("bbox/AP", "bbox/AP50", "bbox/AP75") and coco.metrics[3] == "segm/AP"
    voc_metrics = {"bbox": {"AP": 1.0, "AP50": 2.0, "AP75": 0.5}}
    (voc,) = detection(make_detection, tmp_path / "voc", [{**spec, "test_data": "voc:r:test", "metrics": voc_metrics}])
    assert voc.metrics == ("bbox/AP50", "bbox/AP", "bbox/AP75")


def test_a_figure_that_is_null_is_missing_not_zero(make_detection, tmp_path):
    metrics = {"bbox": {"AP": None, "AP50": 3.0}}
    (group,) = detection(
        make_detection,
        tmp_path,
        [{"init": "random", "seed": 0, "ap50": 9}, {"init": "random", "seed": 1, "ap50": 1, "metrics": metrics}],
    )
    assert set(group.figures("random", "bbox/AP")) == {0} and group.figures("random", "bbox/AP50")[1] == 3.0


def test_readouts_of_unlike_data_or_protocol_are_apart(make_linear, tmp_path):
    base = {"init": "random", "seed": 0, "top1": 30.0}
    others = [
        {"num_train": 5},
        {"num_val": 5},
        {"arch": "resnet50"},
        {"classes": ["a", "b"]},
        {"protocol": {"name": "x"}},
    ]
    paths = [make_linear(tmp_path / str(i), **{**base, **over}) for i, over in enumerate([{}, *others])]
    paths.append(make_linear(tmp_path / "infomin", **{**base, "init": "infomin", "top1": 50.0}))
    groups = group_readouts([read_linear(path) for path in paths])
    assert len(groups) == 6
    assert list(groups[0].runs) == ["random", "infomin"] and groups[0].figures("infomin", "top1") == {0: 50.0}


def test_labels_are_words():
    assert [metric_label(m) for m in ("bbox/AP50", "segm/AP", "top1")] == ["box AP50", "mask AP", "top-1"]
