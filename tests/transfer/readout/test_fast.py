"""The fast readout's measurements: how a head is chosen, what it may see, and what few labels and neighbours give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pretrain.base.errors import ConfigError, DataError
from tests.cases import each
from transfer.readout.config import LinearConfig
from transfer.readout.fast import Features, choose_head, few_labels, hold_out, nearest_neighbours
from transfer.readout.fast_config import FastConfig, load_fast_config
from transfer.readout.features import cached_batches, feature_scale
from transfer.readout.linear import Validation, train_classifier

D, C = 6, 3
CONFIG = FastConfig(
    epochs=6,
    least_steps=0,
    batch_size=16,
    milestones=(4,),
    learning_rates=(1e-7, 0.05, 0.3),
    weight_decays=(0.0, 0.01),
    standardize=False,
    held_out=0.25,
    neighbours=(1, 5),
    fractions=(0.2,),
)


def make_features(*, noise=0.7, num_train=90, num_views=2):
    generator = torch.Generator().manual_seed(0)

    def rows(labels):
        return (2 * functional.one_hot(labels, D) + noise * torch.randn(len(labels), D, generator=generator)).half()

    train, val = torch.arange(num_train) % C, torch.arange(45) % C
    return Features([rows(train) for _ in range(num_views)], rows(train), rows(val), train, val, C)


def test_the_best_head_on_held_out_training_images_is_chosen_and_all_of_them_are_recorded():
    choice = choose_head(make_features(), CONFIG)
    assert len(choice.tried) == 6 and (choice.num_fit, choice.num_held_out) == (66, 24)
    assert choice.chosen.held_out_top1 == max(t.held_out_top1 for t in choice.tried)
    assert choice.chosen.head.learning_rate > 1e-7 and choice.top1 > 80
    recorded = choice.to_dict()
    assert recorded["heads_tried"] == len(recorded["heads"]) == 6 and recorded["trained_again_on"] == 90


def test_the_choice_does_not_see_the_validation_labels():
    features = make_features(noise=1.0)
    wrong = replace(features, val_labels=(features.val_labels + 1) % C)
    honest, blind = choose_head(features, CONFIG), choose_head(wrong, CONFIG)
    assert (honest.tried, honest.chosen) == (blind.tried, blind.chosen) and honest.top1 > 60 > blind.top1


def test_the_chosen_head_is_the_one_that_a_usual_readout_trains_on_the_same_views():
    features = make_features(noise=1.5)
    choice = choose_head(features, replace(CONFIG, learning_rates=(0.05,), weight_decays=(0.01,)))
    usual = LinearConfig(epochs=6, batch_size=16, milestones=(4,), learning_rate=0.05, weight_decay=0.01, device="cpu")
    batches = cached_batches(features.train_views, features.train_labels, usual)
    validation = Validation(features.val_centre.float(), features.val_labels)
    trained = train_classifier(batches, validation, usual, num_train=90, num_classes=C, announce=print)
    assert choice.top1 == pytest.approx(trained.history[-1]["top1"])
    assert choice.top5 == pytest.approx(trained.history[-1]["top5"])


def test_diverged_heads_are_recorded_and_never_chosen_and_none_left_is_an_error():
    features = make_features()
    huge = replace(features, train_views=[1e4 * view for view in features.train_views])
    choice = choose_head(huge, replace(CONFIG, learning_rates=(1e-9, 1e30), weight_decays=(0.0,)))
    assert [t.held_out_top1 is None for t in choice.tried] == [False, True]
    assert choice.to_dict()["diverged"] == 1 and choice.chosen.head.learning_rate == 1e-9
    with pytest.raises(ConfigError, match="all 1 heads diverged; pass smaller rates"):
        choose_head(huge, replace(CONFIG, learning_rates=(1e30,), weight_decays=(0.0,)))


def test_the_held_out_part_is_a_share_of_every_class_and_leaves_one_to_train_on():
    positions, labels = torch.arange(100, 127), torch.tensor([0] * 20 + [1] * 5 + [2] * 2)
    fit, held_out = hold_out(positions, labels, share=0.2, seed=0)
    assert sorted([*fit.tolist(), *held_out.tolist()]) == positions.tolist()
    assert torch.bincount(labels[held_out - 100]).tolist() == [4, 1, 1]
    fit, _ = hold_out(positions, labels, share=0.99, seed=0)
    assert torch.bincount(labels[fit - 100]).tolist() == [1, 1, 1]
    with pytest.raises(DataError, match=r"1 classes have a single training image .*class number 1"):
        hold_out(torch.arange(3), torch.tensor([0, 1, 0]), share=0.5, seed=0)


def test_few_labels_are_nested_draws_of_each_class_and_nothing_else_is_seen(monkeypatch):
    features = make_features()
    drawn = {}

    def spy(features, config, *, positions):
        drawn[config.seed, len(positions)] = set(positions.tolist())
        return choose_head(features, config, positions=positions)

    monkeypatch.setattr("transfer.readout.fast.choose_head", spy)
    for fraction in (0.1, 0.4):
        results = few_labels(features, CONFIG, fraction=fraction, announce=lambda text: None)
        assert [result["seed"] for result in results] == list(CONFIG.fraction_seeds)
        assert all(result["num_images"] == 90 * fraction for result in results)
        assert all(result["num_fit"] + result["trained_again_on"] < 2 * result["num_images"] for result in results)
    assert all(drawn[seed, 9] < drawn[seed, 36] for seed in CONFIG.fraction_seeds) and drawn[0, 9] != drawn[1, 9]
    unseen = torch.ones(90, dtype=torch.bool)
    unseen[list(drawn[0, 9])] = False
    spoilt = [torch.where(unseen[:, None], torch.nan, view) for view in features.train_views]
    few = choose_head(
        replace(features, train_views=spoilt), replace(CONFIG, seed=0), positions=torch.tensor(sorted(drawn[0, 9]))
    )
    assert few.top1 > 50


def test_few_images_are_trained_for_the_least_number_of_steps(monkeypatch):
    counted = []
    monkeypatch.setattr(
        "transfer.readout.fast.train_epochs",
        lambda heads, batches, schedule: (
            counted.append((schedule.epochs * schedule.steps_per_epoch, schedule.milestones)) or []
        ),
    )
    choose_head(make_features(), replace(CONFIG, least_steps=60))
    assert counted == [(60, (8,)), (60, (7,))]  # 5 and 6 steps an epoch: 12 and 10 epochs in place of 6


@pytest.mark.parametrize("positions", [None, torch.tensor([3, 1, 8])])
def test_the_scale_of_features_is_that_of_the_images_trained_on(positions):
    views = make_features().train_views
    scale = feature_scale(views, positions)
    rows = torch.cat([view if positions is None else view[positions] for view in views]).double().numpy()
    assert scale.mean.numpy() == pytest.approx(rows.mean(0), rel=1e-5)
    assert (1 / scale.factor).numpy() == pytest.approx(rows.std(0), rel=1e-5)
    assert np.abs(scale(views[0]).numpy()).max() < 10


def test_nearest_neighbours_have_weighted_and_equal_votes_by_name():
    features = make_features(noise=0.1)
    assert nearest_neighbours(features, CONFIG) == dict.fromkeys(
        ("knn_1/top1", "knn_1_equal_votes/top1", "knn_5/top1", "knn_5_equal_votes/top1"), 100.0
    )
    # One near neighbour of class 0 and two far ones of class 1: similarity outweighs them, numbers do not.
    angles = torch.tensor([0.1, 1.2, 1.2])
    bank = torch.stack([angles.cos(), angles.sin()], dim=1)
    query, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0, 1, 1])
    three = Features([bank], bank, query, labels, torch.tensor([0]), 2)
    figures = nearest_neighbours(three, replace(CONFIG, neighbours=(3,)))
    assert figures == {"knn_3/top1": 100.0, "knn_3_equal_votes/top1": 0.0}


def test_the_shipped_files_try_32_heads_and_the_augmented_one_differs_in_its_views_alone():
    centre, augmented = (load_fast_config(name) for name in ("centre", "augmented"))
    assert centre == FastConfig() and len(centre.heads) == len(set(centre.heads)) == 32
    assert augmented == replace(centre, view="augmented", num_views=10)


@each(
    ("override", "word"),
    [
        ("learning_rates=[]", "learning_rates"),
        ("learning_rates=[0.1,0.1]", "different"),
        ("learning_rates=[-1]", "learning_rates"),
        ("learning_rates=0.1", "expected a list"),
        ("weight_decays=[-1]", "weight_decays"),
        ("weight_decays=[]", "weight_decays"),
        ("held_out=0", "held_out"),
        ("held_out=1", "held_out"),
        ("fractions=[1.5]", "fractions"),
        ("fraction_seeds=[]", "fraction_seeds"),
        ("fraction_seeds=[-1]", "fraction_seeds"),
        ("neighbours=[0]", "neighbours"),
        ("temperature=0", "temperature"),
        ("num_views=0", "num_views"),
        ("view=center", "did you mean 'centre'"),
        ("epochs=0", "epochs"),
        ("image_size=16", "image_size"),
        ("learning_rate=1", "did you mean `learning_rates`"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(override, word):
    with pytest.raises(ConfigError, match=word.replace("[", r"\[")):
        load_fast_config(None, [override])
