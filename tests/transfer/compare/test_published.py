"""Published figures: where each comes from, and that they belong to the configurations that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping, load_yaml
from transfer.compare.published import FILE, Published, load_published, published_detection, published_readout

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
    row = published_detection("coco/R_50_FPN_1x_infomin.yaml").rows["infomin"]
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


def test_every_shipped_paper_configuration_has_its_published_table_with_its_iterations_and_data():
    for path in (*CONFIGS.glob("coco/*.yaml"), *CONFIGS.glob("voc/*.yaml")):
        table = published_detection(str(path))
        end = table.config.rpartition("_")[2]
        base = yaml.safe_load((CONFIGS / "base" / f"{path.parent.name}_{end}.yaml").read_text())
        assert table.iterations == base["SOLVER"]["MAX_ITER"]
        assert all(name.startswith(("coco_2017", "voc_20")) for name in table.data)
    assert published_detection(str(CONFIGS / "demo" / "R_18_FPN_random.yaml")) is None


def test_readout_table_is_for_a_resnet50_on_imagenet_only():
    assert published_readout(arch="resnet50", num_classes=1000) is PUBLISHED.imagenet_readout
    assert published_readout(arch="resnet18", num_classes=1000) is None
    assert published_readout(arch="resnet50", num_classes=10) is None
