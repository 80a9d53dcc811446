"""Detectron2 builds every encoder of the table from the sidecar's settings, and computes what the source computes."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from pretrain.base.architecture import ARCHITECTURES, Architecture
from pretrain.base.contract import InputContract
from pretrain.base.shapes_only import shapes_only
from pretrain.model.encoder import STAGES, backbone_shapes
from tests.transfer.conversion.checkpoints import caffe2_with_statistics, encoder_state, save, torchvision_model
from transfer.conversion.convert import convert
from transfer.conversion.names import DETECTRON2
from transfer.conversion.sidecar import detectron2_settings
from transfer.conversion.targets import target_named

R50 = (3, 4, 6, 3)
SMALL = {
    "small bottleneck": Architecture(bottleneck=True, layers=R50, base_channels=8),
    "small grouped": Architecture(bottleneck=True, layers=R50, base_channels=8, groups=4, width_per_group=32),
    "small wide": Architecture(bottleneck=True, layers=R50, base_channels=8, width_per_group=128),
}


def configured(settings):
    """Detectron2's configuration with `settings`, all stages as outputs and trainable BatchNorm."""
    config = get_cfg()
    config.MODEL.BACKBONE.FREEZE_AT = 0
    config.MODEL.RESNETS.NORM = "BN"
    config.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    for key, value in settings.items():
        config.merge_from_list([key, value])
    return config


BUILT = [arch for arch in ARCHITECTURES if target_named("detectron2").has(arch)]


def test_what_the_target_says_that_detectron2_lacks_it_refuses_to_build():
    assert set(ARCHITECTURES) - set(BUILT) == {"resnet18_half"}
    with torch.device("meta"), pytest.raises(AssertionError, match="R18/R34"):
        build_backbone(configured(detectron2_settings("resnet18_half", InputContract())), ShapeSpec(channels=3))


@pytest.mark.parametrize("arch", BUILT)
def test_detectron2_builds_exactly_these_tensors(arch):
    with shapes_only():
        built = build_backbone(configured(detectron2_settings(arch, InputContract())), ShapeSpec(channels=3))
    found = {n: tuple(t.shape) for n, t in built.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(arch).items()}
    assert found == {name: tuple(tensor.shape) for name, tensor in DETECTRON2.renamed(state).items()}


@pytest.mark.parametrize(("arch", "key"), [("resnet50w2", "STEM_OUT_CHANNELS"), ("resnext50_32x4d", "WIDTH_PER_GROUP")])
def test_the_control_is_a_setting_left_at_its_default(arch, key):
    settings = detectron2_settings(arch, InputContract())
    del settings[f"MODEL.RESNETS.{key}"]
    with shapes_only():
        built = build_backbone(configured(settings), ShapeSpec(channels=3))
    shapes = {
        tuple(t.shape)
        for t in DETECTRON2.renamed(
            {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(arch).items()}
        ).values()
    }
    assert {tuple(t.shape) for n, t in built.state_dict().items() if "tracked" not in n} != shapes


@pytest.mark.slow
@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("maker", [torchvision_model, caffe2_with_statistics], ids=lambda maker: maker.__name__)
def test_small_encoders_of_every_kind_are_proven(tmp_path, monkeypatch, arch, maker):
    """Grouped, widened, with the stride in the 3x3 (torchvision's) and in the 1x1 (caffe2's, BGR)."""
    monkeypatch.setitem(ARCHITECTURES, arch, SMALL[arch])
    layout = "torchvision" if maker is torchvision_model else "caffe2"
    path = save(maker(encoder_state(arch), encoder_state(arch)), tmp_path, layout=layout)
    sidecar = convert(path, tmp_path / "out.pth")
    assert sidecar.arch == arch and sidecar.proof["tensors_placed"] == len(backbone_shapes(arch))
    assert sidecar.detectron2["MODEL.RESNETS.STRIDE_IN_1X1"] == (layout == "caffe2")
    assert sidecar.detectron2["INPUT.FORMAT"] == ("BGR" if layout == "caffe2" else "RGB")
    assert max(sidecar.proof["relative_difference"].values()) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet34", "resnext50_32x4d"])
def test_real_encoders_are_proven(tmp_path, arch):
    torch.save(encoder_state(arch), tmp_path / "in.pth")
    sidecar = convert(tmp_path / "in.pth", tmp_path / "out.pth")
    assert sidecar.arch == arch and sidecar.proof["tensors_placed"] == len(backbone_shapes(arch))
