"""The general rule: one complete ResNet under one prefix is taken, anything less or more is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError, ConfigError
from tests.cases import each
from tests.transfer.conversion.backbones import taken
from tests.transfer.conversion.checkpoints import prefixed
from tests.transfer.conversion.checkpoints_libraries import children, huggingface_names
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.containers import file_view
from transfer.conversion.unknown import find_candidates

pytestmark = pytest.mark.usefixtures("tiny_architectures")
PATH = Path("somebodys.pth")


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("rename", "naming"),
    [(dict, "torchvision"), (children, "sequential"), (huggingface_names, "hugging face")],
    ids=["torchvision", "sequential", "huggingface"],
)
@pytest.mark.parametrize("arch", ["tiny18", "tiny50"])
def test_a_unique_prefix_is_taken_whatever_it_is_called(rename, naming, arch):
    state = tiny_state(arch)
    content = {"training": {"f_theta": prefixed(rename(state), "wing.trunk.") | {"wing.mlp.weight": torch.ones(2, 2)}}}
    found = taken(content, PATH)
    assert (found.layout, found.branch, found.arch) == ("unknown", "training/f_theta/wing.trunk", arch)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.tensors.items())
    assert "no known layout" in found.notes[0]
    (candidate,) = find_candidates(file_view(content, PATH).containers)
    assert candidate.naming == naming and candidate.complete


def test_two_complete_copies_need_a_choice():
    content = {"nets": {**prefixed(tiny_state(seed=0), "one."), **prefixed(tiny_state(seed=1), "two.")}}
    with pytest.raises(CheckpointError, match=r"2 complete copies .*\(nets/one, nets/two\); pass --branch"):
        taken(content, PATH)
    found = taken(content, PATH, branch="nets/two")
    assert torch.equal(found.tensors["conv1.weight"], tiny_state(seed=1)["conv1.weight"])
    assert set(found.branches) == {"nets/one", "nets/two"} and found.branches[0] == "nets/two"
    with pytest.raises(ConfigError, match=r"--branch nets/three: .* holds nets/one, nets/two"):
        taken(content, PATH, branch="nets/three")


def test_one_encoder_saved_twice_is_one():
    content = {"nets": {**prefixed(tiny_state(), "one."), **prefixed(tiny_state(), "again.")}}
    assert taken(content, PATH).branch == "nets/one"


def test_a_complete_copy_beside_a_damaged_one_is_not_taken_in_silence():
    damaged = without(tiny_state(seed=0), "layer2.0.conv1.weight")
    content = {"nets": {**prefixed(damaged, "one."), **prefixed(tiny_state(seed=1), "two.")}}
    with pytest.raises(CheckpointError, match=r"nets/two is complete, but nets/one is not .*layer2\.0\.conv1\.weight"):
        taken(content, PATH)
    assert taken(content, PATH, branch="nets/two").branch == "nets/two"
    with pytest.raises(CheckpointError, match=r"1 missing: layer2\.0\.conv1\.weight"):
        taken(content, PATH, branch="nets/one")


@each(
    ("spoil", "message"),
    [
        (lambda s: without(s, "layer4.1.bn2.bias"), r"99 of 100 .* 1 missing: layer4\.1\.bn2\.bias"),
        (lambda s: {**s, "layer4.1.bn2.bias": torch.zeros(3)}, r"1 of another shape: layer4\.1\.bn2\.bias \(3,\)"),
        (lambda s: {**s, "layer4.1.se.weight": torch.zeros(3)}, "more than convolutions and BatchNorm"),
        (lambda s: {**s, "layer4.1.bn2.bias": torch.full((32,), float("nan"))}, "NaN or infinity"),
    ],
)
def test_an_incomplete_prefix_is_refused_with_what_it_lacks(spoil, message):
    with pytest.raises(CheckpointError, match=message):
        taken({"wing": prefixed(spoil(tiny_state()), "trunk.")}, PATH)


def test_the_file_s_other_tensors_do_no_harm():
    content = {
        "wing": {**prefixed(tiny_state(), "trunk."), **{f"trunk.head.{i}.weight": torch.ones(2) for i in range(5)}}
    }
    assert taken(content, PATH).layout == "unknown"


def test_a_file_without_any_resnet_says_what_it_holds():
    with pytest.raises(CheckpointError, match=r"no known layout.*weights: 1 tensors \(a, \.\.\.\).*pycontrast"):
        taken({"weights": {"a": torch.zeros(2)}}, PATH)
