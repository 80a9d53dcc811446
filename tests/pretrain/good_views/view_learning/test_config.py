"""Defaults are the paper's; whatever cannot be is refused with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from pretrain.good_views.view_learning.config import GameConfig, load_game_config
from tests.cases import each

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "views"


def test_defaults_are_those_of_the_specification_section_4() -> None:
    config = GameConfig()
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.generator_factor, optimizer.betas) == (2e-4, 5.0, (0.5, 0.999))
    assert (optimizer.epochs, optimizer.milestones, optimizer.decay) == (100, (60, 80), 0.2)
    assert (optimizer.batch_size, optimizer.labelled_batch_size) == (128, 64)
    assert (config.image_size, config.crop_scale) == (64, (0.2, 1.0))
    estimator = config.estimator
    assert (estimator.bound, estimator.dim, estimator.temperature, estimator.num_negatives) == ("dv", 256, 0.07, 4096)
    assert (estimator.encoder.kind, config.classifier.kind) == ("resnet50_half", "resnet18_half")
    assert (config.generator.num_blocks, config.generator.coupling) == (4, "additive")


def test_embeddings_are_256_long_for_dv_and_128_otherwise() -> None:
    assert [load_game_config(None, [f"estimator.bound={bound}"]).estimator.dim for bound in ("dv", "infonce")] == [
        256,
        128,
    ]
    assert load_game_config(None, ["estimator.embedding_dim=5"]).estimator.dim == 5


def test_a_supervised_game_gives_information_no_weight() -> None:
    weights = {mode: GameConfig(mode=mode).effective_information_weight for mode in ("supervised", "semi-supervised")}
    assert weights == {"supervised": 0.0, "semi-supervised": 1.0}
    assert not GameConfig(mode="unsupervised").uses_labels


def test_given_values_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "game.yaml").write_text("mode: supervised\nlabels_per_class: 3\n")
    config = load_game_config(tmp_path / "game.yaml", ["image_size=32"], mode="unsupervised", labels_per_class=None)
    assert (config.mode, config.labels_per_class, config.image_size) == ("unsupervised", 3, 32)


@each(
    ("override", "message"),
    [
        ("generator.space=ydrdb", "did you mean 'ydbdr'"),
        ("generator.couplings=affine", r"did you mean `generator\.coupling`"),
        ("mode=semisupervised", "did you mean 'semi-supervised'"),
        ("image_size=8", "at least 16 px"),
        ("crop_scale=[0.5, 0.2]", "crop_scale expected"),
        ("optimizer.batch_size=1", "batch sizes expected"),
        ("optimizer.betas=[0.5, 1.0]", "betas expected"),
        ("estimator.temperature=0", "temperature expected positive"),
        ("estimator.bank_momentum=1.0", "bank_momentum expected"),
        ("labels_per_class=0", "labels_per_class expected positive"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_game_config(None, [override])


def test_the_paper_s_file_spells_the_defaults_out_and_the_small_one_loads() -> None:
    assert load_game_config(CONFIGS / "learned_views_stl10.yaml") == GameConfig()
    assert load_game_config(CONFIGS / "learned_views_small.yaml").estimator.encoder.kind == "small"
