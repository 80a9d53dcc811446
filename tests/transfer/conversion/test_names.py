"""Every library's names: one-to-one, as an independent writer has them, and nothing passes by accident."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.errors import CheckpointError
from pretrain.model.encoder import backbone_shapes
from tests.cases import each
from tests.transfer.conversion.backbones import backbone_of
from tests.transfer.conversion.checkpoints import caffe2, haiku, huggingface_names, prefixed, simclr_port
from tests.transfer.conversion.checkpoints_libraries import children
from transfer.conversion.export_huggingface import configuration
from transfer.conversion.names import DETECTOR, DETECTRON2, HUGGING_FACE, NAMINGS, with_affine_statistics


def meta_tensors(arch):
    return {name: torch.empty(shape, device="meta") for name, shape in backbone_shapes(arch).items()}


def reference_name(key: str) -> str:
    """docs/specification.md 2.1, step by step."""
    if "layer" not in key:
        key = "stem." + key
    for number in (1, 2, 3, 4):
        key = key.replace(f"layer{number}", f"res{number + 1}")
    for number in (1, 2, 3):
        key = key.replace(f"bn{number}", f"conv{number}.norm")
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def reference_names(state):
    return {reference_name(name): tensor for name, tensor in state.items()}


def in_c4_detector(state):
    names = reference_names(state).items()
    return {f"{'roi_heads' if name.startswith('res5') else 'backbone'}.{name}": tensor for name, tensor in names}


def flat_haiku(state):
    return {
        f"{module.replace('/~', '')}/{leaf}": tensor
        for part in haiku(state)
        for module, leaves in part.items()
        for leaf, tensor in leaves.items()
        if leaf not in ("hidden", "counter")
    }


# String rules that know nothing of transfer/conversion/names.py.
JUNK = ("conv1_b", "fc1000_w", "fc1000_b")
WRITERS = {
    "torchvision": dict,
    "sequential": children,
    "hugging face": huggingface_names,
    "caffe2": lambda state: {k: t for k, t in caffe2(state, state, statistics=True).items() if k not in JUNK},
    "simclr port": lambda state: {
        k: t for k, t in simclr_port(state, state)["resnet"].items() if not k.startswith("fc.")
    },
    "haiku": flat_haiku,
    "detectron2": reference_names,
    "detectron2 detector": in_c4_detector,
}


@each("naming", NAMINGS)
def test_every_naming_reads_and_writes_what_an_independent_writer_makes(naming):
    for arch in ("resnet18", "resnet50", "resnext101_32x8d"):
        state = meta_tensors(arch)
        written = WRITERS[naming](state)
        read = NAMINGS[naming].read(written)
        assert {name: tensor.shape for name, tensor in read.items()} == {n: t.shape for n, t in state.items()}
        written = {name: t for name, t in written.items() if not name.endswith("num_batches_tracked")}
        assert {NAMINGS[naming].library_name(name) for name in state} == {
            name[len(name) - len(NAMINGS[naming].library_name(NAMINGS[naming].torchvision(name))) :] for name in written
        }


@each("naming", NAMINGS)
def test_every_architecture_is_in_the_finite_set_and_no_two_parameters_share_a_name(naming):
    names = NAMINGS[naming].names
    assert set(names) >= {name for arch in ARCHITECTURES for name in backbone_shapes(arch)}
    assert len(NAMINGS[naming].inverse) == len(set(names.values())) == len(names)


def test_detectron2_s_names_are_the_reference_s_in_their_order():
    for arch in ARCHITECTURES:
        tensors = meta_tensors(arch)
        renamed = DETECTRON2.renamed(tensors)
        assert list(renamed) == [reference_name(name) for name in tensors]
        assert all(renamed[reference_name(name)] is tensor for name, tensor in tensors.items())
    assert len(DETECTRON2.renamed(meta_tensors("resnet50"))) == 265


@each("naming", NAMINGS)
def test_a_naming_knows_its_own_names_alone(naming):
    known = NAMINGS[naming].torchvision
    for name in WRITERS[naming](meta_tensors("resnet18")):
        assert known(name) and not known(f"x{name}") and not known(f"{name}x")
        assert not any(NAMINGS[other].torchvision(name) for other in NAMINGS if other != naming)


@each(
    "name",
    [
        "fc.weight",
        "layer5.0.conv1.weight",
        "layer1.0.conv4.weight",
        "module.conv1.weight",
        "xlayer1.0.conv1.weight",
        "bn1.num_batches_tracked",
    ],
)
def test_a_name_that_is_no_backbone_tensor_is_refused(name):
    for naming in NAMINGS.values():
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            naming.renamed({name: torch.zeros(1)})


def test_a_detector_s_other_tensors_have_no_name():
    for name in (
        "backbone.fpn_lateral2.weight",
        "roi_heads.res4.0.conv1.weight",
        "roi_heads.res5.norm.weight",
        "res2.0.conv1.weight",
    ):
        assert DETECTOR.torchvision(name) is None
    assert DETECTOR.torchvision("backbone.bottom_up.res2.0.conv1.weight") == "layer1.0.conv1.weight"


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_hugging_face_s_names_are_those_of_transformers_network(arch):
    from transformers import ResNetModel

    backbone = backbone_of(arch)
    with torch.device("meta"):
        network = ResNetModel(configuration(backbone))
    shapes = {name: t.shape for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert {name: t.shape for name, t in HUGGING_FACE.renamed(backbone.tensors).items()} == shapes


def test_haiku_s_axes_become_torch_s():
    weight = torch.randn(64, 3, 7, 7)
    read = NAMINGS["haiku"].read(flat_haiku({"conv1.weight": weight, "bn1.weight": torch.arange(64.0)}))
    assert torch.equal(read["conv1.weight"], weight) and torch.equal(read["bn1.weight"], torch.arange(64.0))


def test_two_names_that_become_one_are_refused():
    names = prefixed({"embedder.embedder.convolution.weight": torch.zeros(1)}, "resnet.")
    with pytest.raises(CheckpointError, match=r"both become conv1\.weight"):
        HUGGING_FACE.read({**names, "embedder.embedder.convolution.weight": torch.zeros(1)})


def test_a_scale_and_shift_get_the_statistics_of_the_identity():
    scale, shift, x = torch.rand(4) + 0.5, torch.randn(4), torch.randn(2, 4, 3, 3)
    full = with_affine_statistics({"bn1.weight": scale, "bn1.bias": shift, "conv1.weight": torch.zeros(4, 3, 7, 7)})
    assert set(full) == {"bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "conv1.weight"}
    got = torch.nn.functional.batch_norm(x, full["bn1.running_mean"], full["bn1.running_var"], scale, shift, eps=1e-5)
    torch.testing.assert_close(got, x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))


def test_some_statistics_missing_is_a_damaged_file_not_a_scale_and_shift():
    some = {"bn1.weight": torch.ones(4), "bn1.bias": torch.zeros(4), "layer1.0.bn1.running_mean": torch.zeros(4)}
    assert with_affine_statistics(some) == some
