"""Published figures: equal to infomin.md 1.8, 2.4 and 2.5 (copied here by hand), and recalled ones carry their mark."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from transfer.compare.published import DETECTION, IMAGENET_READOUT, family_of, published_detection, published_readout

CONFIGS = Path(__file__).resolve().parents[3] / "transfer" / "configs"
# infomin.md 2.5: box AP / mask AP, seen in the author's README.
COCO = {
    "coco/R_50_FPN_1x": {
        "random": (32.8, 29.9), "supervised": (39.7, 35.9), "InstDis": (38.8, 35.2), "PIRL": (38.6, 35.1),
        "MoCo v1": (39.4, 35.6), "infomin": (40.6, 36.7),
    },
    "coco/R_50_FPN_2x": {
        "random": (38.4, 34.7), "supervised": (41.6, 37.6), "InstDis": (41.3, 37.3), "PIRL": (41.2, 37.4),
        "MoCo v1": (41.7, 37.5), "MoCo v2": (41.7, 37.6), "infomin": (42.5, 38.4),
    },
    "coco/R_50_FPN_6x": {"random": (42.7, 38.6), "supervised": (42.6, 38.5), "infomin": (43.6, 39.2)},
    "coco/R_50_C4_1x": {"supervised": (38.2, 33.3), "MoCo": (38.5, 33.6), "infomin": (39.0, 34.1)},
    "coco/R_50_C4_2x": {"supervised": (40.0, 34.7), "MoCo": (40.7, 35.6), "infomin": (41.3, 36.0)},
}  # fmt: skip
# infomin.md 2.4: AP50 / AP / AP75; the first group seen in MoCo's README, the second UNVERIFIED.
VOC_SEEN = {
    "supervised": (81.3, 53.5, 58.8), "MoCo v1, 200 epochs": (81.5, 55.9, 62.6),
    "MoCo v2, 200 epochs": (82.4, 57.0, 63.6), "MoCo v2, 800 epochs": (82.5, 57.4, 64.0),
}  # fmt: skip
VOC_UNVERIFIED = {
    "random": (60.2, 33.8, 33.1), "InstDis": (80.9, 55.2, 61.2), "PIRL": (81.0, 55.5, 61.3), "infomin": (82.7, 57.6, 64.6),
}  # fmt: skip
# infomin.md 2.5, "UNVERIFIED extras": box AP50, AP75, mask AP50, AP75.
COCO_UNVERIFIED = {
    ("coco/R_50_FPN_1x", "random"): (50.9, 35.3, 47.9, 32.0),
    ("coco/R_50_FPN_1x", "supervised"): (59.5, 43.3, 56.6, 38.6),
    ("coco/R_50_FPN_1x", "infomin"): (60.6, 44.6, 57.7, 39.4),
    ("coco/R_50_FPN_2x", "supervised"): (61.7, 45.3, 58.7, 40.4),
    ("coco/R_50_FPN_2x", "infomin"): (62.7, 46.8, 59.7, 41.4),
    ("coco/R_50_C4_1x", "infomin"): (58.5, 42.0, 55.2, 36.3),
}
# infomin.md 1.8, ImageNet top-1.
READOUT = {
    "InstDis, 200 epochs": 59.5, "CMC, 200 epochs (two half-width encoders)": 58.6, "MoCo, 200 epochs": 60.8,
    "PIRL, 200 epochs": 61.7, "MoCo v2, 200 epochs": 67.5, "InfoMin, 100 epochs": 67.4, "InfoMin, 200 epochs": 70.1,
    "InfoMin, 800 epochs": 73.0,
}  # fmt: skip
ALL_TABLES = [*DETECTION.values(), IMAGENET_READOUT]


def figures_of(table):
    return {row.name: row.figures for row in table.rows}


@pytest.mark.parametrize("family", COCO)
def test_coco_figures_equal_the_authors_table(family):
    figures = figures_of(DETECTION[family])
    seen = {
        name: (row["bbox/AP"].value, row["segm/AP"].value)
        for name, row in figures.items()
        if row["bbox/AP"].verified and "segm/AP" in row
    }
    assert seen == COCO[family]


@pytest.mark.parametrize(("rows", "verified"), [(VOC_SEEN, True), (VOC_UNVERIFIED, False)])
def test_voc_figures_equal_the_table_and_the_recalled_ones_are_marked(rows, verified):
    figures = figures_of(DETECTION["voc/R_50_C4_24k"])
    assert set(figures) == set(VOC_SEEN) | set(VOC_UNVERIFIED)
    for name, values in rows.items():
        row = figures[name]
        assert tuple(row[f"bbox/{metric}"].value for metric in ("AP50", "AP", "AP75")) == values
        assert {figure.verified for figure in row.values()} == {verified}


@pytest.mark.parametrize(("family", "name"), COCO_UNVERIFIED)
def test_recalled_coco_figures_equal_the_notes_and_are_marked(family, name):
    row = figures_of(DETECTION[family])[name]
    keys = ("bbox/AP50", "bbox/AP75", "segm/AP50", "segm/AP75")
    assert tuple(row[key].value for key in keys) == COCO_UNVERIFIED[family, name]
    assert not any(row[key].verified for key in keys)


def test_the_moco_rows_that_only_the_paper_has_are_marked():
    row = figures_of(DETECTION["coco/R_50_FPN_1x"])["MoCo v2"]
    assert (row["bbox/AP"].value, row["segm/AP"].value) == (40.1, 36.3)
    assert not any(figure.verified for figure in row.values())
    row = figures_of(DETECTION["coco/R_50_FPN_moco_1x"])["supervised"]
    assert row["bbox/AP"].value == 38.9 and not row["bbox/AP"].verified


def test_readout_figures_equal_the_table():
    figures = figures_of(IMAGENET_READOUT)
    assert {name: row["top1"].value for name, row in figures.items()} == READOUT
    assert {name: row["top5"].value for name, row in figures.items() if "top5" in row} == {"InfoMin, 800 epochs": 91.1}


def test_every_figure_has_a_source_and_a_recalled_source_is_never_verified():
    for table in ALL_TABLES:
        for row in table.rows:
            for figure in row.figures.values():
                assert figure.source and 0 < figure.value < 100
                assert figure.verified == ("recalled" not in figure.source)


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("transfer/configs/voc/R_50_C4_24k_random.yaml", "voc/R_50_C4_24k"),
        ("/x/coco/R_50_FPN_moco_1x_infomin.yaml", "coco/R_50_FPN_moco_1x"),
        ("mine.yaml", "mine"),
        ("a/mine_supervised.yaml", "a/mine"),
    ],
)
def test_the_family_is_the_file_without_its_initialisation(path, family):
    assert family_of(path) == family


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("coco/*.yaml")) + sorted(CONFIGS.glob("voc/*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_paper_configuration_has_its_published_table(path):
    assert published_detection(str(path)) is not None


def test_demo_configurations_have_none():
    assert published_detection(str(CONFIGS / "demo" / "R_18_FPN_random.yaml")) is None


@pytest.mark.parametrize(("base", "end"), [("voc_24k", "_24k"), ("coco_1x", "_1x"), ("coco_2x", "_2x")])
def test_iterations_and_data_are_those_of_the_shipped_configurations(base, end):
    config = yaml.safe_load((CONFIGS / "base" / f"{base}.yaml").read_text())
    for family, table in DETECTION.items():
        if family.endswith(end):
            assert table.iterations == config["SOLVER"]["MAX_ITER"]
            assert all(name.startswith(("coco_2017", "voc_20")) for name in table.data)


def test_readout_table_is_for_a_resnet50_on_imagenet_only():
    assert published_readout(arch="resnet50", num_classes=1000) is IMAGENET_READOUT
    assert published_readout(arch="resnet18", num_classes=1000) is None
    assert published_readout(arch="resnet50", num_classes=10) is None
