"""The dry run: its operations against a count by hand, on a whole batch and on a part of it; it changes nothing on the disk."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn

from pretrain import dry_run
from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.data.stream import open_stream
from pretrain.dry_run import describe
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.state import build_state

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`


@pytest.fixture(scope="module")
def tiny(image_folder):
    from pretrain.base.strict import from_mapping, merge
    from pretrain.config import RunConfig
    from tests.pretrain.conftest import TINY

    values = merge(TINY, {"data": {"root": str(image_folder)}, "method": {"temperature": 0.1}})
    return from_mapping(RunConfig, values, where="test")


def described(config, ranks=Ranks()):  # noqa: B008
    stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
    return describe(config, stream, ranks=ranks)


def gigaflops(text):
    return float(re.search(r"([\d.]+) GFLOP for the global batch of 8", text)[1])


def counted_by_hand(config):
    """Two operations a multiply-add of every convolution and linear layer. The key network runs forward; the query network
    forward, back to its weights and back to its inputs, where the first convolution has none to go back to."""
    state = build_state(config, InputContract(), precision=choose_precision("fp32", torch.device("cpu")), ranks=Ranks())
    query, key = state.method.query, state.method.key
    counts = dict.fromkeys((query, key, "to the images"), 0)

    def hook(network):
        def count(layer, inputs, output):
            macs = output.numel() * layer.weight[0].numel()
            counts[network] += macs
            if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
                counts["to the images"] += macs * (network is query)

        return count

    for network in (query, key):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(hook(network))
    size, patch, rows = config.views.image_size, config.views.patch_size, config.optimizer.batch_size
    with torch.no_grad():
        query(torch.zeros(rows, 3, size, size), torch.zeros(9 * rows, 3, patch, patch), torch.arange(9).repeat(rows, 1))
        key(torch.zeros(rows, 3, size, size))
    logits = 2 * 2 * rows * (config.method.queue_size + 1) * config.method.feature_dim  # two heads, forward and back
    return 2 * (3 * counts[query] - counts["to the images"] + counts[key] + logits)


def test_the_operations_of_a_step_are_those_counted_by_hand_and_a_part_of_the_batch_is_scaled_up(tiny, monkeypatch):
    monkeypatch.setattr(dry_run, "INPUT_SECONDS", 0.1)
    monkeypatch.setattr(dry_run, "STEP_SECONDS", 0.1)
    text = described(tiny)
    whole = gigaflops(text)
    assert whole == pytest.approx(counted_by_hand(tiny) / 1e9, abs=0.051)  # printed with one decimal
    assert " s a step\n" in text
    assert re.search(
        r"about \d.* on this machine with one process: 6 steps of [\d.]+ s \(step [\d.]+ s, input [\d.]+ s a batch with "
        r"data.num_workers=0; the views are made between the steps: data.num_workers=0\)\nof it checkpoints .* \(assumed\)\n",
        text,
    )
    assert "method infomin (changed: method.temperature, views.blur_kernel), encoder resnet18_half" in text
    assert "\nmeasured: one process that takes whole batches of 8 images\n" in text
    with pytest.raises(ConfigError, match="batch_size"):
        described(tiny, Ranks(world_size=3))
    monkeypatch.setattr(dry_run, "CPU_IMAGES", 4)
    part = described(tiny)
    assert gigaflops(part) == whole and " s a step, scaled up from 4 of the batch's 8 images" in part


def test_of_several_ranks_the_share_of_one_is_timed_and_said_so(tiny, monkeypatch, caplog):
    timed = []
    monkeypatch.setattr(dry_run, "_step_seconds", lambda state, batch, *args, **rest: timed.append(batch) or 3.0)
    monkeypatch.setattr(dry_run, "input_seconds", lambda stream, images: timed.append(images) or 0.0)
    config = dataclasses.replace(tiny, method=dataclasses.replace(tiny.method, jigsaw_fraction=0.5))
    one, two = described(config), described(config, Ranks(world_size=2, local_world_size=2))
    whole, _, share, share_read = timed
    assert (len(whole.index), len(share.index), share_read) == (8, 4, 4)
    assert len(whole.patches) == 4 and len(share.patches) == 2
    assert share.index.tolist() == whole.index[:4].tolist()
    assert "with 2 ranks like this one: 6 steps of 3.00 s" in two and "\n3.00 s a step\n" in two
    assert "measured: the first of 2 ranks alone, with its 4 of a batch's 8 images." in two
    assert gigaflops(two) == pytest.approx(gigaflops(one), abs=0.051)
    assert "share their BatchNorm statistics" not in caplog.text  # two ranks with a group each have different ones
