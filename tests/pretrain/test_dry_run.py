"""The dry run's figures: FLOPs against the literature's counts, every part named."""

from __future__ import annotations

import pytest

from pretrain.dry_run import describe, encoder_flops, step_flops


@pytest.mark.slow
def test_resnet50_at_224_px_is_the_4_1_giga_multiply_adds_of_the_literature():
    assert encoder_flops("resnet50", 224) / 2 == pytest.approx(4.1e9, rel=0.02)  # He et al., torchvision's table


def test_the_query_costs_three_forwards_and_the_key_one(tiny_config):
    parts = step_flops(tiny_config())
    assert parts["query"] == pytest.approx(3 * parts["key"])
    assert set(parts) >= {"query", "key", "patches"}


def test_the_text_names_configuration_parameters_flops_rates_and_first_batch(tiny_config):
    text = describe(tiny_config())
    for part in ("resolved configuration", "trained parameters", "GFLOP", "learning rate", "ln(K + 1)"):
        assert part in text
