"""Published figures: where each comes from, and that they belong to the configurations that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping, load_yaml
from transfer.compare.published import FILE, Published, load_published, published_for

CONFIGS = Path(__file__).resolve().parents[3] / "transfer" / "configs"
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


def test_every_shipped_paper_configuration_has_its_published_table_with_its_schedule_and_data(detections):
    for path in (*CONFIGS.glob("coco/*.yaml"), *CONFIGS.glob("voc/*.yaml")):
        (experiment,) = detections({"init": "random", "seed": 0, "ap50": 50.0, "config_file": str(path)})
        table = published_for(experiment)
        solver = yaml.safe_load(
            (CONFIGS / "base" / f"{path.parent.name}_{table.config.rpartition('_')[2]}.yaml").read_text()
        )["SOLVER"]
        assert (table.iterations, table.batch, table.learning_rate) == (
            solver["MAX_ITER"], solver["IMS_PER_BATCH"], solver["BASE_LR"]
        )  # fmt: skip
        assert table.data.train.startswith("coco_2017" if path.parent.name == "coco" else "voc_20")
    assert published_for(detections({"init": "random", "seed": 0, "ap50": 50.0})[0]) is None


def test_the_readout_table_is_for_a_resnet50_on_a_thousand_classes_only(readouts):
    def found(arch, num_classes):
        classes = [str(i) for i in range(num_classes)]
        return published_for(readouts({"init": "a", "seed": 0, "top1": 5.0, "arch": arch, "classes": classes})[0])

    assert found("resnet50", 1000) is PUBLISHED.imagenet_readout
    assert found("resnet18", 1000) is None and found("resnet50", 10) is None
