"""The configuration: the files of configs/views/, and values that make no scene."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from pretrain.good_views.moving_mnist.config import MovingMnistConfig, load_moving_mnist_config
from tests.cases import each

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "views"


def test_the_file_at_the_papers_scale_writes_the_defaults_out():
    assert load_moving_mnist_config(CONFIGS / "moving_mnist.yaml") == MovingMnistConfig()
    assert load_moving_mnist_config(None) == MovingMnistConfig()


def test_the_small_file_keeps_the_canvas_and_overrides_reach_it():
    config = load_moving_mnist_config(CONFIGS / "moving_mnist_small.yaml", ["training.steps=7"])
    assert config.scene.canvas == 64
    assert config.training.steps == 7
    assert config.training.batch_size == 64


@each(
    ("override", "message"),
    [
        ("scene.canvass=64", "did you mean `scene.canvas`"),
        ("scene.canvas=28", "more than a digit"),
        ("scene.num_frames=1", "motion"),
        ("scene.future_steps=-1", "0 or more"),
        ("scene.speed=[3, 2]", "low <= high"),
        ("scene.speed=[3, 37]", "free range"),
        ("scene.background_size=63", "at least the canvas"),
        ("scene.background_brightness=0", r"\(0, 1\]"),
        ("scene.same_digit=images", "did you mean 'instance'|expected one of"),
        ("encoder.input_pixels=48", "divide"),
        ("encoder.width=0", "positive"),
        ("training.batch_size=1", "negatives"),
        ("training.steps=0", "positive"),
        ("training.learning_rate=0", "positive"),
        ("training.temperature=-1", "positive"),
        ("probe.num_test=3", "20 or more"),
        ("probe.weight_decay=0", "positive"),
        ("held_out_share=1", r"\(0, 1\)"),
    ],
)
def test_impossible_values_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_moving_mnist_config(None, [override])
