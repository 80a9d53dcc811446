"""The structure of a weight file: containers found at any depth, wrappers and envelopes taken off one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError
from tests.cases import each
from transfer.conversion.containers import arranged, branch_tensors, file_view, find_containers, levels, unwrap
from transfer.conversion.layouts import Branch, Layout

PATH = Path("x.pth")
ONE = torch.ones(1)


def test_containers_are_found_at_any_depth_with_the_keys_that_lead_there():
    content = {"a": {"b": {"w": ONE, "n": 3}}, "w": ONE, "list": [ONE], 5: {"w": ONE}}
    assert {place: list(tensors) for place, tensors in find_containers(content)} == {(): ["w"], ("a", "b"): ["w"]}


def test_a_file_that_nests_without_end_is_left_at_the_sixth_level():
    content: dict = {"w": ONE}
    for _ in range(10):
        content = {"inner": content}
    assert list(find_containers(content)) == []


@each(
    "name",
    [
        "module.a.weight",
        "_orig_mod.module.a.weight",
        "a._fsdp_wrapped_module.weight",
        "module.module.a.weight",
        "a.weight",
    ],
)
def test_wrappers_vanish_wherever_they_stand(name):
    assert list(unwrap({name: ONE}, PATH)) == ["a.weight"]


def test_a_word_that_only_contains_a_wrapper_s_name_stays():
    assert list(unwrap({"modules.weight": ONE, "my_module.weight": ONE}, PATH)) == [
        "modules.weight",
        "my_module.weight",
    ]


def test_counters_of_moving_averages_are_no_weights():
    assert list(unwrap({"n_averaged": torch.tensor(3), "module.w": ONE}, PATH)) == ["w"]
    assert list(unwrap({"step": torch.ones(2), "w": ONE}, PATH)) == ["step", "w"]  # a tensor of that name


def test_two_names_that_become_one_are_refused():
    with pytest.raises(CheckpointError, match="both called w"):
        unwrap({"module.w": ONE, "w": ONE}, PATH)


def test_envelopes_come_off_one_at_a_time_the_fewest_first():
    view = file_view({"checkpoint": {"state_dict": {"model.w": ONE}, "author": "x"}, "epoch": 3}, PATH)
    found = [[inner.label for inner in level] for level in levels(view)]
    assert found[0] == [""] and found[1] == ["checkpoint", "model."]
    assert "checkpoint/state_dict/model." in found[3]
    (once,) = [inner for inner in list(levels(view))[1] if inner.label == "checkpoint"]
    assert set(once.content) == {"state_dict", "author"}


def test_live_weights_come_before_their_average():
    view = file_view({"model_ema": {"w": ONE}, "state_dict": {"w": ONE}}, PATH)
    assert [inner.label for inner in list(levels(view))[1]] == ["state_dict", "model_ema"]


@each("content", [{}, {"epoch": 3}, [ONE], {"state_dict": {}}])
def test_a_file_without_tensors_is_refused(content):
    with pytest.raises(CheckpointError, match="holds no tensors"):
        file_view(content, PATH)


def test_tensors_at_the_top_serve_as_a_layout_s_one_container():
    layout = Layout("x", "", "", (), {"a": Branch("p.", ("state_dict",))})
    flat = file_view({"p.w": ONE, "other": {"v": ONE}}, PATH)
    assert list(branch_tensors(arranged(layout, flat), layout.branches["a"])) == ["w"]
    several = Layout("x", "", "", (), {"a": Branch("p.", ("one",)), "b": Branch("p.", ("two",))})
    assert arranged(several, flat) is flat and several.container is None


def test_haiku_s_parameters_and_state_become_one_dictionary():
    content = {
        "params": {"net/~/conv": {"w": ONE}},
        "state": {"net/~/norm/~/mean_ema": {"average": ONE}},
        "else": {"w": ONE},
    }
    view = file_view(content, PATH)
    joined = branch_tensors(view, Branch("", ("params",), state=("state",)))
    assert sorted(joined) == ["net/conv/w", "net/norm/mean_ema/average"]
