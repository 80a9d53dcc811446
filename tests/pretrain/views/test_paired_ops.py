"""The paired operations as data: what cannot be is refused when it is written down."""

from __future__ import annotations

import pytest
from pretrain.views.paired_ops import ChannelSplit, FrequencySplit, PatchDistance

from pretrain.base.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrequencySplit(0), "expected 0 < sigma"),
        (lambda: FrequencySplit(float("nan")), "expected 0 < sigma"),
        (lambda: FrequencySplit(1.0, swap=1.5), r"swap in \[0, 1\], found 1.5"),
        (lambda: PatchDistance(0, 5), "a patch of 1 px or more"),
        (lambda: PatchDistance(64, -1), "a distance of 0 px or more"),
        (lambda: ChannelSplit("lab", p=-0.1), r"p in \[0, 1\]"),
        (lambda: ChannelSplit("lab", swap=2), r"swap in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_smallest_side_is_patch_and_distance():
    assert PatchDistance(64, 384).smallest_side == 448
