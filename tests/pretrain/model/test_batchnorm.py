"""BatchNorm in groups: the statistics of several processes in one, and the leak that it closes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.model import batchnorm
from pretrain.model.batchnorm import GroupedBatchNorm, fused_kernels, group_batchnorm, normalised, num_groups
from pretrain.model.encoder import ResNetEncoder
from tests.cases import each

ROOT = Path(__file__).resolve().parents[3]


def test_each_group_is_normalised_as_if_it_were_alone():
    images = torch.randn(12, 3, 5, 5) * 3 + 1
    grouped, plain = GroupedBatchNorm(3, groups=4), nn.BatchNorm2d(3)
    expected = torch.cat([plain(part) for part in images.split(3)])
    torch.testing.assert_close(grouped(images), expected)


def test_running_statistics_move_as_far_as_one_update_does():
    images = torch.randn(1, 3, 5, 5).repeat(8, 1, 1, 1)  # all groups alike, so the order of updates cannot matter
    grouped, plain = GroupedBatchNorm(3, groups=4), nn.BatchNorm2d(3)
    grouped(images), plain(images[:2])
    torch.testing.assert_close(grouped.running_mean, plain.running_mean)
    torch.testing.assert_close(grouped.running_var, plain.running_var)
    assert int(grouped.num_batches_tracked) == 1


def test_evaluation_is_batchnorm2d():
    images = torch.randn(6, 3, 4, 4)
    grouped, plain = GroupedBatchNorm(3, groups=3).eval(), nn.BatchNorm2d(3).eval()
    assert torch.equal(grouped(images), plain(images))


def test_a_batch_smaller_than_the_groups_still_runs():
    assert GroupedBatchNorm(3, groups=8)(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def test_replacing_keeps_names_values_and_parameters():
    encoder = ResNetEncoder("resnet18")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    owned = {id(parameter) for parameter in encoder.parameters()}
    group_batchnorm(encoder, groups=2)
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {id(parameter) for parameter in encoder.parameters()} == owned
    layers = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(layers) == 20 and all(isinstance(layer, GroupedBatchNorm) for layer in layers)


def test_groups_hold_at_least_the_images_asked_for():
    assert [num_groups(size, images_per_group=32) for size in (1, 32, 63, 64, 256)] == [1, 1, 1, 2, 8]


def test_without_groups_the_batch_statistics_give_the_positive_key_away():
    """Images that share nothing with their 'views' but the batch: what BatchNorm adds is all there is to tell them by."""
    torch.manual_seed(0)
    encode = ResNetEncoder("resnet18")

    def spread(groups: int) -> float:
        """Distance between two encodings of one image, in one batch with other company, relative to its length."""
        group_batchnorm(encode, groups=groups)
        for layer in encode.modules():
            if isinstance(layer, GroupedBatchNorm):
                layer.groups = groups
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        mixed = torch.randperm(16, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            straight, shuffled = encode(images), encode(images[mixed])[mixed.argsort()]
        return ((straight - shuffled).norm(dim=1) / straight.norm(dim=1)).mean().item()

    assert spread(1) < 1e-4  # the same statistics whatever the order: nothing is hidden
    assert spread(4) > 0.05  # shuffled groups have statistics of their own


def test_rows_of_features_are_grouped_as_images_are():
    rows = torch.randn(12, 5) * 2 + 3
    head = nn.Sequential(nn.BatchNorm1d(5, affine=False))
    expected = torch.cat([nn.BatchNorm1d(5, affine=False)(part) for part in rows.split(4)])
    group_batchnorm(head, groups=3)
    torch.testing.assert_close(head(rows), expected)


@each("relu, add", [(False, False), (True, False), (False, True), (True, True)])
def test_the_sum_and_the_relu_behind_it_are_those_of_torch(relu: bool, add: bool) -> None:
    images, other = torch.randn(12, 3, 5, 5) + 1, torch.randn(12, 3, 5, 5)
    for layer, plain in (
        (GroupedBatchNorm(3, groups=4), GroupedBatchNorm(3, groups=4)),
        (nn.BatchNorm2d(3), nn.BatchNorm2d(3)),
        (GroupedBatchNorm(3, groups=1), nn.BatchNorm2d(3)),
    ):
        expected = plain(images) + (other if add else 0)
        found = normalised(layer, images, other if add else None, relu=relu)
        assert torch.equal(found, expected.relu() if relu else expected)


def test_the_formula_for_the_compiler_is_the_groups_one_by_one():
    images = torch.randn(12, 3, 5, 5, dtype=torch.float64) * 3 + 1
    layers = [GroupedBatchNorm(3, groups=4).double() for _ in range(2)]
    given = [images.clone().requires_grad_() for _ in layers]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
            layer.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    results = [layers[0](given[0]), layers[1]._as_one_formula(given[1])]
    for result in results:
        result.backward(torch.linspace(-1, 1, images.numel(), dtype=torch.float64).view_as(images))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(given[1].grad, given[0].grad, rtol=1e-10, atol=1e-12)
    for (name, found), (_, expected) in zip(
        [*layers[1].named_buffers(), ("gradient", layers[1].weight.grad)],
        [*layers[0].named_buffers(), ("gradient", layers[0].weight.grad)],
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.slow
def test_the_fused_kernels_are_plain_batchnorm():
    """In Triton's interpreter; tests/gpu/test_kernels.py has them on a GPU."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretrain.model.interpreted_batchnorm"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found["deviations"]) == 32
    for case, values in found["deviations"].items():
        rounding = {"result", "rows", "other"} if "bfloat16" in case else set()
        for name, deviation in values.items():
            assert deviation < (1e-2 if name in rounding else 3e-6), (case, name, deviation)
    group = [0, 0, 4 * 9, 0, 0]  # the whole channel of the group of four images, so that the loss tells of it
    assert found["not_finite"] == {"nan": [group, group], "inf": [group, group]}


def test_where_the_fused_kernels_do_not_work_it_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(batchnorm.importlib, "import_module", lambda name: exec("raise RuntimeError('no C compiler')"))
    fused_kernels.cache_clear()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        assert [fused_kernels(torch.device("cpu")) for _ in range(2)] == [None, None]
    fused_kernels.cache_clear()
    (message,) = [record.getMessage() for record in caplog.records]  # said once
    assert "no C compiler" in message and "apt install gcc" in message
