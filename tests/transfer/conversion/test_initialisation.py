"""One weight file has one name, in a detection run's result and in a readout's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretrain.run.checkpoint import KEYS, write_checkpoint
from transfer.conversion.initialisation import initialisation_name
from transfer.conversion.sidecar import parse_sidecar
from transfer.detect.config import CONFIG_ROOT, load_detector_config
from transfer.detect.loading import WeightsPlan
from transfer.detect.run import DetectionRun, RunOptions, init_name

SIDECAR = {
    "format": "infomin-transfer/sidecar", "version": 1, "weights_sha256": "", "arch": "resnet18", "detectron2": {}, "proof": {},
    "contract": {"channel_order": "RGB", "mean": [0.5] * 3, "std": [0.2] * 3, "stride_in_1x1": False, "bn_eps": 1e-5, "stem": "7x7"},
}  # fmt: skip


def named_by_detection(weights: str, sidecar: dict | None, config_file: str = "demo/R_18_FPN_infomin.yaml") -> str:
    config = load_detector_config(CONFIG_ROOT / config_file, ["MODEL.WEIGHTS", weights])
    plan = WeightsPlan("converted" if weights else "random", weights, sidecar)
    return init_name(DetectionRun(RunOptions(config_file), config, None, plan, ()))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"layout": "pycontrast"}, "mine"),
        ({"layout": "torchvision"}, "supervised"),
        ({"layout": "infomin-transfer", "method": "moco_v2"}, "moco_v2"),
    ],
)
def test_detection_and_readout_name_one_weight_file_alike(tmp_path: Path, source: dict, name: str) -> None:
    weights = tmp_path / "mine.pth"
    weights.with_suffix(".json").write_text(json.dumps({**SIDECAR, "source": source}))
    sidecar = parse_sidecar(weights).to_dict()
    assert initialisation_name(str(weights)) == named_by_detection(str(weights), sidecar) == name


def test_weights_without_a_sidecar_are_named_after_their_file(tmp_path: Path) -> None:
    assert initialisation_name("runs/weights/mine.pth") == named_by_detection("runs/weights/mine.pth", None) == "mine"
    (tmp_path / "odd.json").write_text("{")
    assert initialisation_name(str(tmp_path / "odd.pth")) == "odd"


def test_a_run_and_its_checkpoint_are_named_after_their_method(tmp_path: Path) -> None:
    run = tmp_path / "run"
    state = {key: {} for key in KEYS if key not in ("format", "version")}
    write_checkpoint(run / "checkpoints" / "step_00000003.pt", {**state, "method": "moco_v2"})
    assert initialisation_name(str(run)) == "moco_v2"
    assert initialisation_name(str(run / "checkpoints" / "step_00000003.pt")) == "moco_v2"


def test_random_and_detectron2s_own_weights_have_their_usual_names() -> None:
    assert initialisation_name("random:resnet18") == named_by_detection("", None) == "random"
    catalog = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert initialisation_name(catalog) == named_by_detection(catalog, None) == "supervised"
