"""The three probes: perfect features leave no error, constants leave chance, and each view has its own labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.good_views.moving_mnist.config import ProbeConfig
from pretrain.good_views.moving_mnist.encoders import build_encoders
from pretrain.good_views.moving_mnist.factors import SHARINGS
from pretrain.good_views.moving_mnist.pairs import PairMaker
from pretrain.good_views.moving_mnist.probing import Table, constant_predictor, encode, probe, probe_encoders

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny):
    return replace(tiny, probe=ProbeConfig(num_train=400, num_test=400, weight_decay=1e-2, information_batches=1))


def makers(worlds, config, seed=0):
    return PairMaker(worlds.train, config.scene, seed), PairMaker(worlds.held_out, config.scene, seed)


class Knowing(nn.Module):
    """Not an encoder: it is given the factors of the pairs in the order in which they are encoded."""

    def __init__(self, maker, split, view):
        super().__init__()
        factors = getattr(maker(SHARINGS[0], split=split, start=0, count=400), f"factors_{view}")
        digits, places = (nn.functional.one_hot(labels).float() for labels in (factors.digit, factors.background))
        self.rows = torch.cat((digits, places, factors.position), dim=1)

    def forward(self, view):
        rows, self.rows = self.rows[: len(view)], self.rows[len(view) :]
        return rows


def test_features_that_hold_the_factors_leave_no_error(worlds, config):
    train, held_out = makers(worlds, config)
    seen = encode(
        (Knowing(train, "probe_train", 1), Knowing(train, "probe_train", 2)),
        train,
        split="probe_train",
        num=400,
        device=CPU,
    )
    unseen = encode(
        (Knowing(held_out, "probe_test", 1), Knowing(held_out, "probe_test", 2)),
        held_out,
        split="probe_test",
        num=400,
        device=CPU,
    )
    for view in range(2):
        errors = probe(seen[view], unseen[view], train, weight_decay=1e-6)
        assert errors.digit == errors.background == 0
        assert errors.position < 0.1


def test_the_features_of_one_view_do_not_answer_for_the_other(worlds, config):
    """Views of one pair share the digit here: the position and background of view 2 must be chance given those of view 1."""
    train, _ = makers(worlds, config)
    knowing = (Knowing(train, "probe_train", 1), Knowing(train, "probe_train", 2))
    first, second = encode(knowing, train, split="probe_train", num=400, device=CPU)
    crossed = replace(first, position=second.position, background=second.background)
    errors = probe(first, crossed, train, weight_decay=1e-4)
    assert errors.background > 60 and errors.position > 10


def test_the_constant_predictor_is_chance(worlds, config):
    errors = constant_predictor(*makers(worlds, config), config)
    for view in ("sequence", "image"):
        assert errors[view].digit == pytest.approx(90, abs=5)
        assert errors[view].background == pytest.approx(75, abs=7)
        assert errors[view].position == pytest.approx(13.8, abs=0.7)


def test_random_weights_are_probed_in_both_encoders_and_left_as_they_were(worlds, config):
    networks = build_encoders(config.encoder, config.scene, seed=0)
    before = copy.deepcopy(networks.state_dict())
    errors = probe_encoders(networks, *makers(worlds, config), config, device=CPU)
    assert set(errors) == {"sequence", "image"}
    assert all(0 <= value <= 100 for entry in errors.values() for value in entry.to_plain().values())
    assert all(torch.equal(before[name], value) for name, value in networks.state_dict().items())
    assert errors == probe_encoders(networks, *makers(worlds, config), config, device=CPU)


def test_held_out_scenes_are_made_of_held_out_images(worlds, config):
    """A table of held-out scenes cannot be told apart by the training images: none of them is shown."""
    _, held_out = makers(worlds, config)
    shown = held_out(SHARINGS[0], split="probe_test", start=0, count=200)
    for row in range(200):
        x, y = shown.factors_2.crop[row].tolist()
        image = worlds.held_out.backgrounds.images[shown.factors_2.background_index[row]]
        outside = np.ones((64, 64), dtype=bool)
        left, top = shown.factors_2.offsets[row, 0].tolist()
        outside[top : top + 28, left : left + 28] = False
        assert np.array_equal(shown.view_2[row].numpy()[:, outside], image[:, y : y + 64, x : x + 64][:, outside])
    seen = {image.tobytes() for image in worlds.train.backgrounds.images}
    assert not seen & {image.tobytes() for image in worlds.held_out.backgrounds.images}


def test_a_table_holds_every_scene_once_in_order(worlds, config):
    train, _ = makers(worlds, config)
    table, _ = encode((nn.Flatten(), nn.Flatten()), train, split="probe_train", num=150, device=CPU)
    whole = train(SHARINGS[0], split="probe_train", start=0, count=150)
    assert isinstance(table, Table)
    assert torch.equal(table.features, whole.view_1.flatten(1).float())
    assert torch.equal(table.position, whole.factors_1.position)


@pytest.mark.parametrize("measure", ["probe", "constant"])
def test_probes_are_fitted_on_training_scenes_and_judged_on_held_out_ones(worlds, config, monkeypatch, measure):
    asked = []

    def recording(encoders, maker, *, split, num, device):
        asked.append((maker.world, split, num))
        return encode(encoders, maker, split=split, num=num, device=device)

    monkeypatch.setattr("pretrain.good_views.moving_mnist.probing.encode", recording)
    config = replace(config, probe=replace(config.probe, num_train=40, num_test=30, weight_decay=0.1))
    if measure == "probe":
        networks = build_encoders(config.encoder, config.scene, seed=0)
        probe_encoders(networks, *makers(worlds, config), config, device=CPU)
    else:
        constant_predictor(*makers(worlds, config), config)
    assert asked[0][0] is worlds.train and asked[0][1:] == ("probe_train", 40)
    assert asked[1][0] is worlds.held_out and asked[1][1:] == ("probe_test", 30)
