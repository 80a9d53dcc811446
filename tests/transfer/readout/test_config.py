"""The readout's configuration: the defaults are the paper's protocol, and whatever is not says so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from pretrain.config import to_plain
from tests.cases import each
from transfer.readout.config import LinearConfig, load_linear_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "linear"
# docs/specification.md 1.7, copied by hand.
PROTOCOL = {
    "epochs": 60,
    "learning_rate": 30.0,
    "schedule": "step",
    "decay": 0.2,
    "milestones": (30, 40, 50),
    "weight_decay": 0.0,
    "momentum": 0.9,
    "batch_size": 256,
    "crop_scale": (0.2, 1.0),
    "image_size": 224,
    "recipe": "linear",
    "cached_views": 0,
    "standardize": False,
    "scale_with_batch": False,
}


def test_defaults_are_the_papers_protocol():
    config = LinearConfig()
    assert {key: getattr(config, key) for key in PROTOCOL} == PROTOCOL
    assert config.scaled_learning_rate == 30.0
    assert config.differences_from_paper() == () and config.protocol_name().startswith("the paper's protocol")


def test_shipped_imagenet_file_writes_the_protocol_out():
    assert load_linear_config(CONFIGS / "imagenet_r50.yaml") == LinearConfig()


def test_mocos_protocol_is_written_out_and_says_whose_it_is():
    config = load_linear_config("imagenet_r50_moco")
    # docs/specification.md 1.7, copied by hand.
    theirs = {
        "epochs": 100,
        "decay": 0.1,
        "milestones": (60, 80),
        "crop_scale": (0.08, 1.0),
        "classifier_start": "normal",
    }
    assert {key: getattr(config, key) for key in {**PROTOCOL, **theirs}} == {**PROTOCOL, **theirs}
    assert config.protocol_name().startswith("MoCo's protocol, not the paper's (100 epochs")
    assert load_linear_config("imagenet_r50_moco", ["epochs=99"]).protocol_name().startswith("not the paper's protocol")
    assert load_linear_config("imagenet_r50_moco", ["seed=3", "num_workers=0"]).protocol_name().startswith("MoCo's")


@each("path", sorted(CONFIGS.glob("*.yaml")))
def test_every_shipped_file_loads(path):
    load_linear_config(path)


def test_small_file_is_cached_and_insensitive_to_feature_scale():
    config = load_linear_config(CONFIGS / "small_64px.yaml")
    assert config.image_size == 64 and config.cached_views > 0 and config.standardize
    assert config.protocol_name().startswith("not the paper's protocol")


def test_differences_can_be_typed_back_as_they_are_printed():
    config = load_linear_config(
        None, ["recipe=linear_randaugment", "crop_scale=[0.5, 1]", "standardize=true", "cached_views=2", "epochs=3"]
    )
    assert load_linear_config(None, config.differences_from_paper()) == config
    assert "crop_scale=[0.5, 1.0]" in config.protocol_name()


def test_seed_device_precision_and_workers_leave_the_protocol_its_name():
    config = LinearConfig(seed=3, device="cpu", precision="fp32", num_workers=0)
    assert config.differences_from_paper() == ()


def test_rate_scales_with_the_batch_only_when_asked():
    assert LinearConfig(batch_size=64).scaled_learning_rate == 30
    assert LinearConfig(batch_size=64, scale_with_batch=True).scaled_learning_rate == 7.5


@each(
    ("override", "word"),
    [
        ("epochs=0", "epochs"),
        ("batch_size=0", "batch_size"),
        ("seed=-1", "seed"),
        ("learning_rate=0", "learning_rate"),
        ("learning_rate=.nan", "learning_rate"),
        ("learning_rate=.inf", "learning_rate"),
        ("learning_rate=1e39", "learning_rate"),
        ("weight_decay=-1", "weight_decay"),
        ("momentum=1", "momentum"),
        ("decay=0", "decay"),
        ("milestones=[0]", "milestones"),
        ("crop_scale=[0.5, 0.2]", "crop_scale"),
        ("crop_scale=[0, 1]", "crop_scale"),
        ("image_size=31", "image_size"),
        ("cached_views=-1", "cached_views"),
        ("standardize=true", "cached_views=1"),
        ("epochs=many", "epochs"),
        ("recipe=infomin", "recipe"),
        ("epoch=3", "did you mean `epochs`"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(override, word):
    with pytest.raises(ConfigError, match=word.replace("[", r"\[")):
        load_linear_config(None, [override])


def test_an_override_wins_over_the_file():
    assert load_linear_config(CONFIGS / "imagenet_r50.yaml", ["epochs=2"]).epochs == 2


def test_plain_values_are_finite_json():
    plain = to_plain(LinearConfig())
    assert plain["milestones"] == [30, 40, 50]
    assert all(math.isfinite(value) for value in plain.values() if isinstance(value, float))
