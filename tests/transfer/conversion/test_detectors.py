"""A whole detector's backbone: found under FPN and C4, with the input that its run's configuration names, proven."""

from __future__ import annotations

import pytest
import torch
import yaml

from pretrain.base.errors import CheckpointError, UserError
from tests.transfer.conversion.checkpoints import detectron2_names
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.convert import convert
from transfer.conversion.names import DETECTRON2
from transfer.conversion.sources import load_backbone

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_architectures")]
CONFIG = {
    "INPUT": {"FORMAT": "BGR"},
    "MODEL": {
        "PIXEL_MEAN": [103.53, 116.28, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "RESNETS": {"STRIDE_IN_1X1": True},
    },
}


def detector(kind):
    """As Detectron2's checkpointer saves it: heads, an optimizer, no counters of FrozenBN."""
    names = detectron2_names(tiny_state("tiny50"), {})["model"]
    names = {n: t for n, t in names.items() if not n.endswith("num_batches_tracked") and n != "stem.fc.weight"}
    places = {
        "FPN": lambda name: f"backbone.bottom_up.{name}",
        "C4": lambda name: f"{'roi_heads' if name.startswith('res5') else 'backbone'}.{name}",
    }
    more = ("proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.cls_score.weight")
    more += ("backbone.fpn_lateral2.weight",) if kind == "FPN" else ("roi_heads.res5.norm.weight",)
    model = {places[kind](name): tensor for name, tensor in names.items()} | {n: torch.randn(4, 4) for n in more}
    return {"model": model, "optimizer": {"state": {}}, "iteration": 99}


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_a_detector_s_backbone_is_converted_with_its_own_input(tmp_path, kind):
    torch.save(detector(kind), tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    sidecar = convert(tmp_path / "model_final.pth", tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    wanted = {n: t for n, t in tiny_state("tiny50").items() if not n.endswith("num_batches_tracked")}
    assert {n: t.tolist() for n, t in written.items()} == {DETECTRON2.names[n]: t.tolist() for n, t in wanted.items()}
    assert sidecar.detectron2["INPUT.FORMAT"] == "BGR" and sidecar.detectron2["MODEL.RESNETS.STRIDE_IN_1X1"] is True
    assert sidecar.detectron2["MODEL.PIXEL_MEAN"] == CONFIG["MODEL"]["PIXEL_MEAN"]
    assert sidecar.detectron2["MODEL.PIXEL_STD"] == CONFIG["MODEL"]["PIXEL_STD"]


def test_without_its_configuration_it_says_what_can_be_done(tmp_path):
    torch.save(detector("FPN"), tmp_path / "model_final.pth")
    with pytest.raises(CheckpointError, match=r"no config.yaml beside it.*needs no conversion.*--eval-only.*--trust"):
        load_backbone(tmp_path / "model_final.pth")


@pytest.mark.parametrize("text", ["MODEL: {}", "- 1", "INPUT: {FORMAT: BGR}\nMODEL: {PIXEL_MEAN: x}"])
def test_half_a_configuration_is_refused(tmp_path, text):
    torch.save(detector("C4"), tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError):
        load_backbone(tmp_path / "model_final.pth")
