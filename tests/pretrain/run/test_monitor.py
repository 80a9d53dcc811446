"""The monitor measures and leaves no trace: modes, statistics, weights and random states are those of before, bit by bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.base.errors import DataError
from pretrain.base.signals import StopFlag
from pretrain.run import monitor as monitor_module
from pretrain.run.monitor import Monitor, MonitorImages, chance, evaluation, held_out, num_asked
from pretrain.run.ranks import Ranks

SIDE = 32


class Network(nn.Module):
    """A part in training mode, one in evaluation mode, BatchNorm and dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm1d(8).eval()

    def forward(self, images):
        return self.frozen(self.body(images / 255))


def encode(network, images):
    features = network(images)
    return [(features, nn.functional.normalize(features, dim=1))]


def picture(index):
    """Class 0 is dark, class 1 bright; every image has its own noise."""
    rng = np.random.default_rng(index)
    return rng.integers(200 * (index % 2), 200 * (index % 2) + 50, (40, 48, 3), dtype=np.uint8)


def monitor(count=40, **changed):
    labels = torch.arange(count) % 2
    settings = {
        "encode": encode,
        "image_size": SIDE,
        "neighbours": 3,
        "every_steps": 2,
        "num_steps": 5,
        "ranks": Ranks(),
        "stop": StopFlag(),
    }
    images = changed.pop("images", MonitorImages(count, picture, labels))
    return Monitor(images, **{**settings, **changed})


def trace(network):
    """All that a run would notice."""
    tensors = [tensor.clone() for tensor in network.state_dict().values()]
    modes = [part.training for part in network.modules()]
    return tensors, modes, torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()


def same(before, after):
    (tensors, *rest), (tensors_after, *rest_after) = before, after
    equal = all(torch.equal(a, b) for a, b in zip(tensors, tensors_after, strict=True))
    return equal and rest[0] == rest_after[0] and torch.equal(rest[1], rest_after[1]) and rest[2:] == rest_after[2:]


def test_measuring_leaves_no_trace_in_the_run():
    network = Network()
    before = trace(network)
    figures = monitor().after_epoch(network, 2)
    assert figures["knn"] > 60 and figures["effective_rank"] > 1  # it did look
    assert same(before, trace(network))
    encode(network, torch.zeros(4, 3, SIDE, SIDE))  # the control: the same look in training mode moves the statistics
    assert not same(before, trace(network))


def test_the_modes_come_back_after_an_error():
    network = Network()
    before = trace(network)
    with pytest.raises(RuntimeError), evaluation(network):
        assert not network.training
        raise RuntimeError
    assert same(before, trace(network))


def test_it_measures_before_the_first_step_every_few_and_after_the_last_each_once():
    looked = monitor()
    assert [step for step in range(6) if looked.after_epoch(Network(), step)] == [0, 2, 4, 5]
    resumed = monitor(measured=2)
    assert [step for step in range(2, 6) if resumed.after_epoch(Network(), step)] == [4, 5]
    late = monitor(measured=0)  # killed between the save of step 2 and the measurement
    assert [step for step in range(2, 6) if late.after_epoch(Network(), step)] == [2, 4, 5]
    off = monitor(every_steps=0)
    assert not any(off.after_epoch(Network(), step) for step in range(6))


def test_every_fifth_image_of_a_class_is_asked_about():
    labels = torch.tensor([0] * 11 + [1] * 4 + [2] * 5)
    assert held_out(labels).nonzero().flatten().tolist() == [4, 9, 19]
    assert num_asked(labels) == 3 and chance(labels) == pytest.approx(200 / 3)


def test_a_stop_signal_ends_it_between_two_batches_without_figures_and_it_stays_due(monkeypatch):
    monkeypatch.setattr(monitor_module, "IMAGES_AT_ONCE", 8)
    stop, seen = StopFlag(), []

    def looking(network, images):
        seen.append(len(images))
        stop.is_set = len(seen) == 2
        return encode(network, images)

    network = Network()
    before = trace(network)
    asked = monitor(encode=looking, stop=stop)
    assert asked.after_epoch(network, 2) is None
    assert seen == [8, 8] and asked.is_due(2)  # of 40
    assert same(before, trace(network))


def test_an_image_that_was_damaged_meanwhile_is_left_out_and_named_once(caplog):
    def read(index):
        if index == 7:
            raise DataError("seven.png: cut off")
        return picture(index)

    looked = monitor(images=MonitorImages(40, read, torch.arange(40) % 2))
    network = Network()
    assert looked.after_epoch(network, 0) and looked.after_epoch(network, 2)
    assert caplog.text.count("seven.png: cut off; the monitor goes on without it") == 1


def test_without_labels_there_is_no_probe():
    figures = monitor(images=MonitorImages(10, picture)).after_epoch(Network(), 0)
    assert set(figures) == {"effective_rank", "effective_rank_embedding", "embedding_std"}
