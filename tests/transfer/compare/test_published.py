"""Published figures: where each comes from, and that they belong to the configurations that are shipped."""

from __future__ import annotations

import pytest

from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping, load_yaml
from tests.transfer.conftest import split
from transfer.compare.published import FILE, FINE_TUNING, Published, load_published, published_for
from transfer.compare.tables import published_note, published_table
from transfer.detect.checks import config_value
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT

PUBLISHED = load_published()


def test_every_figure_has_a_source_and_a_recalled_one_is_never_verified():
    for table in (*PUBLISHED.detection, PUBLISHED.imagenet_readout):
        for figures in table.figures:
            assert figures.source in PUBLISHED.sources and figures.by_metric()
            assert figures.verified == ("recalled" not in figures.source)
            assert all(0 < figure.value < 100 for figure in figures.by_metric().values())


def test_no_figure_stands_twice():
    for table in (*PUBLISHED.detection, PUBLISHED.imagenet_readout):
        assert sum(map(len, table.rows.values())) == sum(len(figures.by_metric()) for figures in table.figures)


def test_a_row_may_have_figures_from_two_sources():
    row = next(table for table in PUBLISHED.detection if table.config == "coco/R_50_FPN_1x").rows["infomin"]
    assert (row["bbox/AP"].value, row["bbox/AP"].verified) == (40.6, True)
    assert (row["bbox/AP50"].value, row["bbox/AP50"].verified) == (60.6, False)


def test_box_ap50_lies_above_ap_and_ap_above_mask_ap_where_they_stand_together():
    """A figure in the wrong column would break one of these."""
    for table in PUBLISHED.detection:
        for row in table.rows.values():
            values = {metric: figure.value for metric, figure in row.items()}
            for above, below in (("bbox/AP50", "bbox/AP"), ("bbox/AP50", "bbox/AP75"), ("bbox/AP", "segm/AP")):
                assert values.get(above, 100) > values.get(below, 0)


def test_a_mistyped_key_is_refused():
    values = load_yaml(FILE)
    values["detection"][0]["figures"][0]["boxAP50"] = 1.0
    with pytest.raises(ConfigError, match="unknown key"):
        from_mapping(Published, values, where="published.yaml")


def settings_of(table):
    """What a run of the table's family records, with the data that it names."""
    config = load_detector_config(CONFIG_ROOT / f"{table.config}.yaml")
    keys = ("SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR", *FINE_TUNING)
    assert table.data.train == ", ".join(config.DATASETS.TRAIN) and table.data.test == ", ".join(config.DATASETS.TEST)
    return {key: config_value(config, key) for key in keys}


CHANGES = [
    {},
    {"SOLVER.MAX_ITER": 1000},
    {"SOLVER.IMS_PER_BATCH": 2},
    {"SOLVER.BASE_LR": 0.0025},
    {"MODEL.BACKBONE.FREEZE_AT": 2},
    {"MODEL.RESNETS.NORM": "FrozenBN"},
    {"train": 500},
    {"test": 4951},
    {"classes": 3},
]


@pytest.mark.parametrize("table", PUBLISHED.detection, ids=lambda table: table.config)
def test_published_figures_stand_beside_a_run_of_their_family_as_it_is_and_of_nothing_else(detections, table):
    data, settings = table.data, settings_of(table)
    sizes = {"train": data.num_train[0], "test": data.num_test[0], "classes": data.num_classes}

    for change in CHANGES:
        known = sizes | change
        (experiment,) = detections(
            {
                "init": "mine", "seed": 0, "ap50": 50.0, "config_file": f"{table.config}.yaml", "metric": f"AP {data.metric}",
                "settings": settings | {key: value for key, value in change.items() if "." in key},
                "train": split(data.train, known["train"]), "test": split(data.test, known["test"]),
                "classes": [str(i) for i in range(known["classes"])],
            }
        )  # fmt: skip
        assert published_for(experiment) is table, change
        assert (published_table(experiment) is None) is bool(change), change
        assert bool(published_note(experiment)) is bool(change), change  # and why not is said


def test_a_demo_detector_has_no_published_figures(detections):
    assert published_for(detections({"init": "random", "seed": 0, "ap50": 50.0})[0]) is None


def test_the_readout_table_is_for_a_resnet50_on_a_thousand_classes_only(readouts):
    def found(arch, num_classes):
        classes = [str(i) for i in range(num_classes)]
        return published_for(readouts({"init": "a", "seed": 0, "top1": 5.0, "arch": arch, "classes": classes})[0])

    assert found("resnet50", 1000) is PUBLISHED.imagenet_readout
    assert found("resnet18", 1000) is None and found("resnet50", 10) is None
