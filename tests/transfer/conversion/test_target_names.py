"""The table of Hugging Face's names: one-to-one, complete, and nothing passes by accident."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.errors import CheckpointError
from pretrain.model.encoder import backbone_shapes
from tests.transfer.conversion.backbones import backbone_of
from transfer.conversion.export_huggingface import configuration
from transfer.conversion.target_names import from_huggingface, to_huggingface


def names_of(arch):
    return {name: torch.full((), float(i)) for i, name in enumerate(backbone_shapes(arch))}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_there_and_back_is_the_same(arch):
    tensors = names_of(arch)
    renamed = to_huggingface(tensors)
    assert len(renamed) == len(tensors)
    assert from_huggingface(renamed) == tensors


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_the_names_are_those_of_transformers_network(arch):
    from transformers import ResNetModel

    backbone = backbone_of(arch)
    with torch.device("meta"):
        network = ResNetModel(configuration(backbone))
    shapes = {name: t.shape for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert {name: t.shape for name, t in to_huggingface(backbone.tensors).items()} == shapes


@pytest.mark.parametrize("name", ["fc.weight", "layer5.0.conv1.weight", "layer1.0.conv4.weight", "xconv1.weight"])
def test_a_name_without_a_counterpart_is_refused(name):
    with pytest.raises(CheckpointError, match="no name of its own"):
        to_huggingface({name: torch.zeros(())})


@pytest.mark.parametrize("name", ["classifier.1.weight", "encoder.stages.4.layers.0.shortcut.convolution.weight"])
def test_a_foreign_name_without_a_counterpart_is_refused(name):
    with pytest.raises(CheckpointError, match="no name of its own"):
        from_huggingface({name: torch.zeros(())})
