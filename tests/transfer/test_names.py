"""torchvision's names to Detectron2's: one-to-one, reversible, and as the reference's string rules say."""

from __future__ import annotations

import pytest
import torch

from pretrain.encoder import ARCHITECTURES, backbone_shapes
from pretrain.errors import CheckpointError
from transfer.names import from_detectron2, to_detectron2


def meta_tensors(arch):
    return {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(arch).items()}


def reference_name(key: str) -> str:
    """infomin.md 2.1, step by step."""
    if "layer" not in key:
        key = "stem." + key
    for number in (1, 2, 3, 4):
        key = key.replace(f"layer{number}", f"res{number + 1}")
    for number in (1, 2, 3):
        key = key.replace(f"bn{number}", f"conv{number}.norm")
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_names_are_the_reference_rules_and_come_back(arch):
    tensors = meta_tensors(arch)
    renamed = to_detectron2(tensors)
    assert list(renamed) == [reference_name(name) for name in tensors]
    assert all(renamed[reference_name(name)] is tensor for name, tensor in tensors.items())
    assert list(from_detectron2(renamed)) == list(tensors)


def test_resnet50_has_265_tensors():
    assert len(to_detectron2(meta_tensors("resnet50"))) == 265


@pytest.mark.parametrize(
    "name",
    ["fc.weight", "layer5.0.conv1.weight", "module.conv1.weight", "xlayer1.0.conv1.weight", "bn1.num_batches_tracked"],
)
def test_a_name_that_is_no_backbone_tensor_is_refused(name):
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        to_detectron2({name: torch.zeros(1)})
