"""The sentence of a report: every verdict in words, with what it stands on."""

from __future__ import annotations

import pytest

from transfer.compare.headline import headline, subject_of

SCORES = {"random": [20.0, 22.0, 21.0], "infomin": [26.0, 27.0, 31.0]}


@pytest.fixture
def experiment_of(detections):
    def make(scores=SCORES, baseline=None, **over):
        specs = [
            {"init": init, "seed": seed, "ap50": ap50, **over}
            for init, values in scores.items()
            for seed, ap50 in enumerate(values)
        ]
        (experiment,) = detections(*specs, baseline=baseline)
        return experiment

    return make


def test_what_beats_what_by_how_much_over_what(experiment_of):
    experiment = experiment_of()
    assert headline(experiment) == (
        f"demo/R_18_FPN_small, 200 labelled images [{experiment.short}]: infomin beats random by 7.0 box AP50 [0.4, 13.6] "
        "(95 % intervals over 3 seeds, of one pre-training: they are of fine-tuning alone)."
    )


def test_the_subject_is_compared_with_every_other_row_and_they_share_the_five_percent(experiment_of):
    text = headline(experiment_of({**SCORES, "theirs": [26.5, 26.9, 31.0], "best": [90.0, 91.0, 95.1]}))
    assert ": infomin is below best by 64.0 box AP50 [" in text
    assert " and is not told apart from random (+7.0 [-" in text and "theirs (-0.1 [-" in text
    assert "98.33 % intervals" in text


def test_only_what_is_told_apart_beats(experiment_of):
    """Control: the same means with more spread."""
    assert "beats" in headline(experiment_of())
    wide = headline(experiment_of({**SCORES, "infomin": [16.0, 27.0, 41.0]}))
    assert "infomin is not told apart in box AP50 from random (" in wide


def test_one_seed_is_said_to_leave_it_open(experiment_of):
    text = headline(experiment_of({"random": [20.0], "infomin": [26.0]}))
    assert "infomin is 6.0 box AP50 above random in one seed, which leaves open whether they differ." in text


def test_pretrainings_are_named_where_they_were_repeated(detections):
    own = [
        {
            "init": "mine",
            "seed": s,
            "ap50": 40.0 + p + s,
            "weights": f"{p}.pth",
            "pretraining": {"seed": p, "hash": "ab"},
        }
        for p in range(3)
        for s in range(2)
    ]
    (experiment,) = detections(*own, *({"init": "random", "seed": s, "ap50": 20.0 + 0.5 * s} for s in range(2)))
    text = headline(experiment)
    assert "mine beats random by 21.2 box AP50 [" in text and text.endswith(
        "(95 % intervals over 3 pre-trainings x 2 seeds)."
    )


def test_the_subject_is_ours_unless_another_is_asked_for(experiment_of):
    experiment = experiment_of({"random": [1.0], "supervised": [2.0], "other": [2.0], "infomin": [3.0]})
    assert subject_of(experiment) == "infomin" and subject_of(experiment, asked="other") == "other"
    assert headline(experiment, subject="other").partition(": ")[2].startswith("other is")


def test_without_a_baseline_or_a_second_row_nothing_is_said(experiment_of):
    assert headline(experiment_of({"infomin": [26.0], "supervised": [28.0]})) is None
    assert headline(experiment_of({"infomin": [26.0]})) is None


def test_a_row_without_the_figure_does_not_take_the_sentence_from_the_others(detections):
    base = {"seed": 0, "ap50": 20.0}
    rows = [
        {**base, "init": "random"},
        {**base, "init": "infomin"},
        {**base, "init": "mine", "figures": {"bbox/AP": 1.0}},
    ]
    text = headline(*detections(*rows))
    assert "infomin is 0.0 box AP50 below random in one seed" in text and "has no seed in common with mine" in text


def test_seeds_that_all_differ_by_the_same_are_no_proof(experiment_of):
    text = headline(experiment_of({"random": [20.0, 21.0], "infomin": [26.0, 27.0]}))
    assert "not told apart in box AP50 from random (+6.0, no interval: all differ by the same)" in text
