"""Tensors are compared with the encoders that Detectron2 builds; others are refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.errors import CheckpointError
from pretrain.model.encoder import backbone_shapes
from tests.cases import each
from tests.transfer.conversion.backbones import taken
from tests.transfer.conversion.checkpoints import encoder_state, prefixed, pycontrast_cmc
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.fitting import fit, reason
from transfer.conversion.sources import load_backbone

PATH = Path("x.pth")


def meta(arch):
    return {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(arch).items()}


@each("arch", ARCHITECTURES)
def test_every_encoder_is_distinguished_from_every_other(arch):
    found = fit(meta(arch), on_request=True)
    assert (found.arch, found.complete, found.placed) == (arch, True, len(backbone_shapes(arch)))


def test_grouped_and_plain_shapes_differ_in_every_pair():
    shapes = [tuple(sorted(backbone_shapes(arch).items())) for arch in ARCHITECTURES]
    assert len(set(shapes)) == len(ARCHITECTURES)


def deep_stem(state):
    state = dict(state)
    del state["conv1.weight"]
    return {**state, **{f"conv1.{i}.weight": torch.empty(32, 3, 3, 3, device="meta") for i in (0, 3, 6)}}


def average_down(state):
    return {
        name.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1."): t
        for name, t in state.items()
    }


def with_first(*shape):
    return lambda state: {**state, "conv1.weight": torch.empty(shape, device="meta")}


MISFITS = {
    "deep stem": (deep_stem, "deep stem"),
    "CLIP's stem": (lambda s: {**with_first(32, 3, 3, 3)(s), "conv3.weight": torch.empty(64, 32, 3, 3)}, "deep stem"),
    "avg-down": (average_down, "avg-down"),
    "CIFAR stem": (with_first(64, 3, 3, 3), "CIFAR"),
    "one channel": (with_first(64, 1, 7, 7), "reads 1 channels"),
    "two channels": (with_first(64, 2, 7, 7), "reads 2 channels"),
    "squeeze": (lambda s: {**s, "layer1.0.se.fc1.weight": torch.empty(4)}, "squeeze-and-excitation"),
    "GroupNorm": (lambda s: {k: t for k, t in s.items() if "running" not in k}, "no running statistics"),
    "ResNet-26": (
        lambda s: {k: t for k, t in s.items() if k.split(".")[1] in "01" or "layer" not in k},
        "2, 2, 2, 2 blocks",
    ),
}


@each(("spoil", "message"), MISFITS.values())
def test_what_detectron2_cannot_build_is_refused_with_the_reason(spoil, message):
    tensors = spoil(meta("resnet50"))
    assert message in (reason(tensors) or "")
    for content in (tensors, {"state_dict": prefixed(tensors, "module.")}, {"odd": prefixed(tensors, "trunk.")}):
        with pytest.raises(CheckpointError, match=message):
            taken(content, PATH)


def test_the_control_of_these_refusals_is_a_plain_resnet():
    assert reason(meta("resnet50")) is None and fit(meta("resnet50")).complete


def test_a_vision_transformer_is_refused_as_one():
    vit = {
        "cls_token": torch.zeros(1, 1, 8),
        "blocks.0.attn.qkv.weight": torch.zeros(24, 8),
        "norm.weight": torch.ones(8),
    }
    for content in (vit, {"teacher": prefixed(vit, "backbone."), "student": prefixed(vit, "module.backbone.")}):
        with pytest.raises(CheckpointError, match="vision transformer"):
            taken(content, PATH)


def test_a_detector_of_another_backbone_says_what_can_be_done_with_it():
    content = {
        "model": {
            "backbone.bottom_up.stem.conv.weight": torch.zeros(2),
            "roi_heads.box_head.fc1.weight": torch.zeros(2),
        }
    }
    with pytest.raises(CheckpointError, match=r"whole detector.*--eval-only.*MODEL.WEIGHTS FILE.*--trust"):
        taken(content, PATH)


def test_selective_kernels_are_refused_as_such():
    content = {
        "resnet": {
            "net.0.0.weight": torch.zeros(32, 3, 3, 3),
            "net.1.blocks.0.net.2.mixing_conv.0.weight": torch.zeros(2),
        }
    }
    with pytest.raises(CheckpointError, match="selective kernels"):
        taken(content, PATH)


@pytest.mark.slow
def test_cmc_s_two_encoders_are_refused_with_their_channels():
    with pytest.raises(CheckpointError, match=r"pycontrast-cmc.*1 and 2 colour channels.*half as wide"):
        taken(pycontrast_cmc(), PATH)


def test_a_half_width_encoder_is_converted_only_when_asked_for(tmp_path):
    half = encoder_state("resnet50_half")
    torch.save(half, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="half as wide as a ResNet-50 .*pass --source"):
        load_backbone(tmp_path / "x.pth")
    found = load_backbone(tmp_path / "x.pth", source="torchvision")
    assert found.arch == "resnet50_half" and len(found.tensors) == 265


@pytest.mark.usefixtures("tiny_architectures")
def test_a_mixed_file_names_what_belongs_to_the_other_encoder():
    mixed = {**tiny_state("tiny18"), "layer3.0.conv1.weight": tiny_state("tiny50")["layer3.0.conv1.weight"]}
    with pytest.raises(CheckpointError, match=r"1 of another shape: layer3\.0\.conv1\.weight"):
        taken(mixed, PATH)
