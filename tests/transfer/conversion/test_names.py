"""torchvision's names to Detectron2's: one-to-one, reversible, and as the reference's string rules say."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.errors import CheckpointError
from pretrain.model.encoder import backbone_shapes
from tests.transfer.conversion.checkpoints import caffe2, haiku, huggingface_names, prefixed, simclr_port
from tests.transfer.conversion.checkpoints_libraries import children
from transfer.conversion.names import NAMINGS, from_detectron2, to_detectron2, with_affine_statistics


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


def flat_haiku(state):
    return {
        f"{module.replace('/~', '')}/{leaf}": tensor
        for part in haiku(state)
        for module, leaves in part.items()
        for leaf, tensor in leaves.items()
        if leaf not in ("hidden", "counter")
    }


# Written by string rules in tests/transfer/checkpoints*.py; here each must come back.
WRITERS = {
    "torchvision": dict,
    "sequential": children,
    "hugging face": huggingface_names,
    "caffe2": lambda state: {k: t for k, t in caffe2(state, state, statistics=True).items() if k not in JUNK},
    "simclr port": lambda state: {
        k: t for k, t in simclr_port(state, state)["resnet"].items() if not k.startswith("fc.")
    },
    "haiku": flat_haiku,
    "detectron2": to_detectron2,
}
JUNK = ("conv1_b", "fc1000_w", "fc1000_b")


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext101_32x8d"])
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_has_one_torchvision_name_for_each_tensor(naming, arch):
    shapes = backbone_shapes(arch)
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    renamed = NAMINGS[naming].renamed(WRITERS[naming](state))
    assert {name: tuple(tensor.shape) for name, tensor in renamed.items()} == shapes


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_naming_knows_its_own_names_alone(naming):
    state = {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes("resnet18").items()}
    for name in WRITERS[naming](state):
        assert (
            NAMINGS[naming].knows(name)
            and not NAMINGS[naming].knows(f"x{name}")
            and not NAMINGS[naming].knows(f"{name}x")
        )
        assert not any(NAMINGS[other].knows(name) for other in NAMINGS if other != naming)


def test_haiku_s_axes_become_torch_s():
    weight = torch.randn(64, 3, 7, 7)
    taken = NAMINGS["haiku"].renamed(flat_haiku({"conv1.weight": weight, "bn1.weight": torch.arange(64.0)}))
    assert torch.equal(taken["conv1.weight"], weight) and torch.equal(taken["bn1.weight"], torch.arange(64.0))


def test_two_names_that_become_one_are_refused():
    names = prefixed({"embedder.embedder.convolution.weight": torch.zeros(1)}, "resnet.")
    with pytest.raises(CheckpointError, match=r"both become conv1\.weight"):
        NAMINGS["hugging face"].renamed({**names, "embedder.embedder.convolution.weight": torch.zeros(1)})


def test_a_scale_and_shift_get_the_statistics_of_the_identity():
    scale, shift, x = torch.rand(4) + 0.5, torch.randn(4), torch.randn(2, 4, 3, 3)
    full = with_affine_statistics({"bn1.weight": scale, "bn1.bias": shift, "conv1.weight": torch.zeros(4, 3, 7, 7)})
    assert set(full) == {"bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "conv1.weight"}
    got = torch.nn.functional.batch_norm(x, full["bn1.running_mean"], full["bn1.running_var"], scale, shift, eps=1e-5)
    torch.testing.assert_close(got, x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))


def test_some_statistics_missing_is_a_damaged_file_not_a_scale_and_shift():
    some = {"bn1.weight": torch.ones(4), "bn1.bias": torch.zeros(4), "layer1.0.bn1.running_mean": torch.zeros(4)}
    assert with_affine_statistics(some) == some
