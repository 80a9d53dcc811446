"""BatchNorm in groups: the statistics of several processes in one, and the leak that it closes."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.model.batchnorm import GroupedBatchNorm, group_batchnorm, num_groups
from pretrain.model.encoder import ResNetEncoder


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
