"""Two runs are one where every value that matters is equal; otherwise every differing key is named."""

from __future__ import annotations

import pytest

from pretrain.base.errors import ConfigError
from pretrain.base.same_run import differences, require_same

THERE = {"seed": 0, "optimizer": {"epochs": 2, "milestones": [1, 2]}, "runtime": {"device": "cpu"}}


def test_every_differing_leaf_is_named_and_an_absent_one_is_none():
    now = {"seed": 0, "optimizer": {"epochs": 3, "milestones": [1, 2], "decay": 0.1}, "runtime": {"device": "cpu"}}
    assert differences(THERE, THERE) == []
    assert differences(THERE, now) == ["optimizer.decay: None there, 0.1 now", "optimizer.epochs: 2 there, 3 now"]


def test_keys_that_may_change_are_free_and_others_are_not():
    moved = {**THERE, "runtime": {"device": "cuda"}}
    require_same(THERE, moved, place="runs/a", free=("runtime.",))
    with pytest.raises(
        ConfigError, match=r"runs/a holds a run with another configuration \(runtime.device: 'cpu' there"
    ):
        require_same(THERE, moved, place="runs/a")


def test_a_long_value_is_cut_in_the_message():
    (line,) = differences({"generator": "a" * 16_000}, {"generator": "b" * 16_000})
    assert len(line) < 200 and "aaa..." in line and "bbb..." in line
