"""Recognising a checkpoint: wrappers anywhere, nothing half taken, every refusal says what was found."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.errors import CheckpointError, ConfigError
from tests.transfer.conversion.checkpoints import densecl, encoder_state, moco_v2, ours, pycontrast, torchvision_model
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.sources import load_backbone

QUERY, KEY = tiny_state(seed=0), tiny_state(seed=1)
pytestmark = pytest.mark.usefixtures("tiny_architectures")


@pytest.fixture
def saved(tmp_path):
    """Function: content -> path of a torch file."""

    def save(content):
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path)
        return path

    return save


@pytest.mark.parametrize(
    "wrapper", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."]
)
def test_wrappers_are_seen_through_in_any_order(saved, wrapper):
    content = moco_v2(QUERY, KEY)
    content["state_dict"] = {wrapper + name.removeprefix("module."): t for name, t in content["state_dict"].items()}
    assert load_backbone(saved(content)).layout == "moco"


def test_wrappers_inside_a_name_are_seen_through(saved):
    flat = {name.replace("layer1.0.", "layer1.0._fsdp_wrapped_module."): t for name, t in QUERY.items()}
    assert torch.equal(load_backbone(saved(flat)).tensors["layer1.0.conv1.weight"], QUERY["layer1.0.conv1.weight"])


def test_two_names_that_become_one_are_refused(saved):
    with pytest.raises(CheckpointError, match=r"both called conv1\.weight"):
        load_backbone(saved({**QUERY, "module.conv1.weight": QUERY["conv1.weight"]}))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet34", "resnet50"])
def test_the_architecture_is_read_off_the_tensors(saved, arch):
    found = load_backbone(saved(moco_v2(encoder_state(arch), encoder_state(arch))))
    assert found.arch == arch
    assert len(found.tensors) == {"resnet34": 180, "resnet50": 265}[arch]


@pytest.mark.parametrize("name", ["conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias"])
def test_one_missing_tensor_is_named(saved, name):
    content = pycontrast(QUERY, KEY)
    del content["model"][f"module.encoder.{name}"]
    with pytest.raises(CheckpointError, match=f"99 of 100 .* 1 missing: {name}"):
        load_backbone(saved(content))


def test_a_tensor_of_another_shape_is_named(saved):
    content = {**torchvision_model(QUERY, KEY), "conv1.weight": torch.randn(4, 3, 3, 3)}
    with pytest.raises(
        CheckpointError, match=r"1 of another shape: conv1\.weight \(4, 3, 3, 3\), expected \(4, 3, 7, 7\)"
    ):
        load_backbone(saved(content))


def test_a_tensor_that_nothing_explains_is_named(saved):
    with pytest.raises(CheckpointError, match=r"1 not of a ResNet: layer1\.0\.se\.fc1\.weight"):
        load_backbone(saved({**QUERY, "layer1.0.se.fc1.weight": torch.zeros(4, 4)}))


def test_the_source_named_by_the_user_is_held_against_the_file(saved):
    path = saved(pycontrast(QUERY, KEY))
    assert load_backbone(path, source="pycontrast").layout == "pycontrast"
    with pytest.raises(CheckpointError, match=r"is not of layout pixpro|encoder_k"):
        load_backbone(saved(moco_v2(QUERY, KEY)), source="pixpro")


def test_one_encoder_saved_twice_must_be_one(saved):
    content = densecl(QUERY, KEY)
    assert load_backbone(saved(content)).layout == "openselfsup"
    content["state_dict"]["encoder_q.0.layer2.0.conv1.weight"] = KEY["layer2.0.conv1.weight"]
    with pytest.raises(
        CheckpointError, match=r"encoder_q\.0\.\* are the same encoder saved twice, and differ; 1 tensors: layer2"
    ):
        load_backbone(saved(content))
    del content["state_dict"]["encoder_q.0.layer2.0.conv1.weight"]
    with pytest.raises(CheckpointError, match="saved twice, and differ"):
        load_backbone(saved(content))


def test_a_file_that_fits_two_layouts_asks_which(saved):
    both = {**moco_v2(QUERY, KEY), **pycontrast(QUERY, KEY)}
    with pytest.raises(CheckpointError, match=r"moco, pycontrast.*--source"):
        load_backbone(saved(both))
    assert load_backbone(saved(both), source="moco").layout == "moco"


def test_a_source_or_branch_that_does_not_exist_is_a_configuration_error(saved):
    path = saved(torchvision_model(QUERY, KEY))
    with pytest.raises(ConfigError, match=r"--source expected auto or one of .*found 'mocco'"):
        load_backbone(path, source="mocco")
    with pytest.raises(ConfigError, match=r"--branch key: .* holds backbone"):
        load_backbone(path, branch="key")
    with pytest.raises(CheckpointError, match=r"is not of layout moco"):
        load_backbone(path, source="moco")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, value):
    broken = {name: t.clone() for name, t in QUERY.items()}
    broken["layer3.0.conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinity .* layer3\.0\.conv1\.weight"):
        load_backbone(saved(broken))


def test_half_precision_becomes_float32_with_the_same_values(saved):
    half = {name: t.half() if t.is_floating_point() else t for name, t in QUERY.items()}
    found = load_backbone(saved(half)).tensors
    assert all(t.dtype == torch.float32 and torch.equal(t, half[name].float()) for name, t in found.items())


def test_our_checkpoint_without_its_parts_is_refused(saved):
    content = ours(QUERY, KEY, arch="tiny18")
    del content["contract"]
    with pytest.raises(CheckpointError, match="lacks parts"):
        load_backbone(saved(content))


def test_tensors_own_their_memory(saved):
    """A view into a larger storage would be saved with all of that storage."""
    whole = torch.randn(2, 4, 3, 7, 7)
    found = load_backbone(saved({**QUERY, "conv1.weight": whole[1]})).tensors["conv1.weight"]
    assert found.untyped_storage().nbytes() == found.numel() * 4 and torch.equal(found, whole[1])


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)], {"state_dict": {}}])
def test_a_file_without_tensors_is_refused(saved, content):
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load_backbone(saved(content))


def test_a_run_is_its_newest_checkpoint_and_damage_in_it_is_named(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(ours(QUERY, KEY, arch="tiny18"), folder / "step_00000040.pt")
    torch.save(ours(KEY, QUERY, arch="tiny18"), folder / "step_00000120.pt")
    for place in (tmp_path / "run", folder):
        found = load_backbone(place)
        assert found.path.name == "step_00000120.pt" and torch.equal(found.tensors["bn1.bias"], KEY["bn1.bias"])
    (folder / "step_00000120.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"step_00000120\.pt"):
        load_backbone(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"without checkpoints of tools/pretrain\.py"):
        load_backbone(tmp_path)
