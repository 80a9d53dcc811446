"""The region head with one more norm: where it is, how it starts, that it is in the forward pass and learns."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

import transfer.detect.heads
from pretrain.base.shapes_only import shapes_only
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.heads import Res5ROIHeadsExtraNorm

C4 = CONFIG_ROOT / "coco" / "R_50_C4_1x.yaml"
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8", "MODEL.ROI_HEADS.NUM_CLASSES", "3"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "8", "MODEL.RPN.POST_NMS_TOPK_TEST", "8", "MODEL.RPN.PRE_NMS_TOPK_TEST", "50"),
]
SHAPE = {"res4": ShapeSpec(channels=1024, stride=16)}


@pytest.mark.parametrize(("norm", "kind"), [("SyncBN", nn.SyncBatchNorm), ("BN", nn.BatchNorm2d)])
def test_res5_ends_in_one_norm_of_the_configured_kind(norm: str, kind: type) -> None:
    config = load_detector_config(C4, [*SMALL, "MODEL.RESNETS.NORM", norm])
    with shapes_only():
        res5 = Res5ROIHeadsExtraNorm(config, SHAPE).res5
    name, last = list(res5.named_children())[-1]
    assert name == "norm" and isinstance(last, kind) and last.num_features == 2048


def test_every_other_tensor_is_the_stock_heads() -> None:
    config = load_detector_config(C4, SMALL)
    with shapes_only():
        ours, stock = Res5ROIHeadsExtraNorm(config, SHAPE).state_dict(), Res5ROIHeads(config, SHAPE).state_dict()
    extra = set(ours) - set(stock)
    assert set(stock) < set(ours) and extra == {
        f"res5.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_head_is_registered_and_a_reload_does_not_stop() -> None:
    assert ROI_HEADS_REGISTRY.get("Res5ROIHeadsExtraNorm") is Res5ROIHeadsExtraNorm
    importlib.reload(transfer.detect.heads)


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_detector_config(C4, SMALL))


def test_norm_starts_as_identity_and_is_in_the_forward_pass(detector: nn.Module) -> None:
    head = detector.roi_heads.eval()
    regions = torch.randn(2, 1024, 14, 14)
    blocks = nn.Sequential(*list(head.res5.children())[:-1])
    with torch.no_grad():
        before, out = blocks(regions), head.res5(regions)
        assert torch.allclose(out, before, rtol=1e-4, atol=1e-6)  # divides by sqrt(1 + eps)
        head.res5.norm.weight.mul_(2)
        assert torch.allclose(head.res5(regions), 2 * out)
        head.res5.norm.weight.div_(2)


@pytest.mark.slow
def test_one_step_reaches_the_norm_and_the_stem_and_detection_follows(detector: nn.Module) -> None:
    truth = Instances((64, 64))
    truth.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 40], [30, 30, 60, 60]]))
    truth.gt_classes = torch.tensor([0, 2])
    truth.gt_masks = BitMasks(torch.ones(2, 64, 64, dtype=torch.bool))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    detector.train()
    with EventStorage():
        losses = detector([{"image": image, "instances": truth, "height": 64, "width": 64}] * 2)
    assert {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"} == set(losses)
    sum(losses.values()).backward()
    assert detector.roi_heads.res5.norm.weight.grad.abs().sum() > 0
    assert detector.backbone.stem.conv1.weight.grad.abs().sum() > 0  # FREEZE_AT 0
    detector.eval()
    with torch.no_grad():
        (found,) = detector([{"image": image, "height": 64, "width": 64}])
    assert torch.isfinite(found["instances"].pred_boxes.tensor).all()


def test_import_transfer_after_detectron2_registers_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ROI_HEADS_REGISTRY._obj_map, "Res5ROIHeadsExtraNorm")
    monkeypatch.delitem(sys.modules, "transfer.detect.heads")
    importlib.reload(transfer)
    assert ROI_HEADS_REGISTRY.get("Res5ROIHeadsExtraNorm").__name__ == "Res5ROIHeadsExtraNorm"


@pytest.mark.slow
def test_import_transfer_before_detectron2_registers_the_head() -> None:
    code = "import transfer, detectron2.modeling as m; m.roi_heads.ROI_HEADS_REGISTRY.get('Res5ROIHeadsExtraNorm')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=CONFIG_ROOT.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
