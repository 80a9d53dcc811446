"""Where the sweet spot lies and what can be stated about it: against planted figures."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.views.families import FAMILIES
from tests.benchmarks.false_alarms import simulate, sweep_alarms
from tests.cases import each
from transfer.compare.results import Information
from transfer.compare.sweep_figures import Figures, Row, find_sweet_spot, findings, format_table


def row(setting, *, nats=(1.0,), accuracy=(50.0,), saturated=False):
    accuracies = accuracy if accuracy is not None else (None,) * len(nats)
    nats = nats if len(nats) == len(accuracies) else nats * len(accuracies)
    return Row(
        setting,
        {
            seed: Figures(Information(n, n - 0.1, n + 0.1, 5.5, saturated), a)
            for seed, (n, a) in enumerate(zip(nats, accuracies, strict=True))
        },
    )


CROP, JITTER, COLOUR = FAMILIES["crop"], FAMILIES["jitter"], FAMILIES["colour"]


def test_the_best_mean_wins_even_where_one_seed_is_higher_elsewhere():
    # Paired over three seeds at 1 - 0.05 / 3: 0.1 lies 1.1, 1.0, 0.9 lower, 0.4 lies 10, -5, 2.6 lower.
    rows = [
        row(0.1, accuracy=(49.0, 49.2, 49.5)),
        row(0.2, accuracy=(50.1, 50.2, 50.4)),
        row(0.4, accuracy=(40.1, 55.2, 47.8)),
    ]
    spot = find_sweet_spot(rows, CROP)
    assert spot.setting == 0.2
    assert [rival.difference.verdict for rival in spot.rivals] == ["higher", "not told apart"]
    assert spot.notes[0] == "0.1 is 1.0 points lower, interval +0.6 to +1.4, n = 3"
    assert spot.notes[1].startswith("0.4 is 2.5 points lower, interval -") and spot.notes[1].endswith(
        "n = 3: not told apart"
    )
    assert spot.line(CROP) == "best mean: crop 0.2 (50.2 ± 0.2 %, 3 seeds)"
    assert findings(rows, CROP)[-1].endswith("of 98.33 % each (95 % for all 3 pairs of settings together)")


@each(
    ("family", "settings", "best", "sentence"),
    [
        (CROP, (0.1, 0.2, 0.4), 0, "add 0.05 to --settings"),
        (CROP, (0.1, 0.2, 0.4), 2, "add 0.8 to --settings"),
        (CROP, (0.2, 0.5, 1.0), 2, "the end of what crop allows (1)"),
        (JITTER, (0.0, 0.5, 1.0), 2, "add 2 to --settings"),
        (JITTER, (0.0, 0.5, 1.0), 0, "the end of what jitter allows (0)"),
        (FAMILIES["distance"], (64.0, 96.0, 128.0), 2, "add 160 to --settings"),
        (FAMILIES["stacking"], ("crop", "+flip", "+jitter"), 2, "the best may lie beyond +jitter"),
    ],
)
def test_a_best_at_the_end_says_how_to_go_on(family, settings, best, sentence):
    rows = [row(s, accuracy=(50.0 + 9 * (i == best), 50.0 + 9 * (i == best))) for i, s in enumerate(settings)]
    spot = find_sweet_spot(rows, family)
    assert spot.setting == settings[best] and any(sentence in note for note in spot.notes)
    inner = [row(s, accuracy=(50.0 + 9 * (i == 1),) * 2) for i, s in enumerate(settings)]
    assert not any(" end " in note for note in find_sweet_spot(inner, family).notes)  # control: inside the range


def test_one_seed_cannot_tell():
    spot = find_sweet_spot([row(0.1), row(0.2, accuracy=(51.0,)), row(0.4)], CROP)
    assert len(spot.notes) == 2 and all("whether that is chance is not known" in note for note in spot.notes)


def test_unordered_settings_are_compared_with_the_runner_up():
    rows = [row("rgb", accuracy=(50.0, 52.0)), row("lab", accuracy=(40.0, 40.1)), row("yuv", accuracy=(51.0, 52.0))]
    spot = find_sweet_spot(rows, COLOUR)
    assert spot.setting == "yuv" and len(spot.notes) == 1 and spot.notes[0].startswith("rgb is 0.5 points lower")
    assert not any("rises" in line for line in findings(rows, COLOUR))


def test_a_saturated_best_is_noted_and_none_without_accuracy():
    rows = [row(0.1), row(0.2, accuracy=(60.0,), saturated=True), row(0.4)]
    assert any("saturated" in note for note in find_sweet_spot(rows, CROP).notes)
    assert find_sweet_spot([row(0.1, accuracy=None), row(0.2, accuracy=None)], CROP) is None


@each(
    ("nats", "family", "sentence"),
    [
        (
            (1, 2, 3, 4),
            CROP,
            "rises from 0.1 to 0.8 (1.00 nats at 0.1, 4.00 at 0.8, rank correlation +1.00), as expected",
        ),
        ((4, 3, 2, 1), CROP, "falls from 0.1 to 0.8 (4.00 nats at 0.1, 1.00 at 0.8, rank correlation -1.00), against"),
        ((4, 3, 2, 1), JITTER, "as expected"),
        ((1, 3, 2, 1.5), CROP, "no single direction"),
        ((1, 1, 1, 1), CROP, "no single direction"),
        ((1, 2, 3, 4), FAMILIES["frequency"], "rises"),
    ],
)
def test_the_direction_of_the_information_is_stated_as_it_is(nats, family, sentence):
    rows = [row(s, nats=(float(n),)) for s, n in zip((0.1, 0.2, 0.4, 0.8), nats, strict=True)]
    assert sentence in findings(rows, family)[0]
    assert (" single direction" in sentence) != findings(rows, family)[0].endswith(
        "whether that is chance is not known"
    )


@each(
    ("accuracy", "sentence"),
    [
        (((40, 41, 40.5), (50.1, 50.9, 50.3), (42, 43, 42.4)), "accuracy rises and then falls (9.9 points below"),
        (((49, 52, 51), (50.2, 53, 51), (48, 53, 52)), "not told apart from the first and the last setting"),
        (((40, 41, 40.5), (50.1, 50.9, 50.3), (48, 53, 46)), "not told apart from the last setting"),
        (((40, 41), (50, 51), (60, 61)), "best at the last setting, 0.4: no rise and fall is seen"),
        (((60, 61), (50, 51), (40, 41)), "best at the first setting, 0.1: no rise"),
        (((40,), (50,), (42,)), "with one seed"),
    ],
)
def test_the_shape_of_the_accuracy_is_stated_as_it_is(accuracy, sentence):
    rows = [row(s, accuracy=tuple(map(float, a))) for s, a in zip((0.1, 0.2, 0.4), accuracy, strict=True)]
    assert sentence in findings(rows, CROP)[1]


def test_a_bound_below_zero_is_noted():
    rows = [row(s, nats=(n,)) for s, n in ((0.1, -0.74), (0.2, 0.5), (0.4, 1.0))]
    assert "below 0 at 0.1 (-0.74): information is not" in findings(rows, CROP)[-1]
    assert not any(
        "below 0" in line for line in findings(rows[1:], CROP) + findings([row(s) for s in (0.1, 0.2, 0.4)], CROP)
    )
    assert findings([row("lab", nats=(-0.1,)), row("rgb")], COLOUR) != ()


def test_the_table_marks_best_and_saturated():
    rows = [row(0.1, nats=(1.0, 1.2), accuracy=(40.0, 41.0)), row(0.2, saturated=True, accuracy=(50.0, 51.0))]
    lines = format_table(rows, CROP, accuracy_name="top-1", best=0.2).splitlines()
    assert lines[2] == "| 0.1 | 1.10 ± 0.14 | 5.50 | 40.5 ± 0.7 | 2 |"
    assert lines[3] == "| 0.2 | 1.00 ± 0.00* | 5.50 | **50.5 ± 0.7** | 2 |"
    assert lines[5].startswith("* saturated")
    assert "saturated" not in format_table(rows[:1], CROP, accuracy_name="top-1", best=None)


# --- how often a sweep states what is not there -----------------------------------------------------------------------


def sweep_of(figures):
    """(settings, seeds) -> rows of a jitter sweep."""
    return [row(float(number), accuracy=tuple(values)) for number, values in enumerate(figures)]


def states_a_difference(rows):
    """Whether any of a sweep's sentences on accuracy does."""
    spot = find_sweet_spot(rows, JITTER)
    told_apart = any(rival.difference.verdict == "higher" for rival in spot.rivals)
    return told_apart or any("rises and then falls" in line for line in findings(rows, JITTER))


@pytest.mark.parametrize("shared", [False, True], ids=["own seeds", "shared seed effects"])
@pytest.mark.parametrize("num_seeds", [2, 3, 20])
def test_a_sweep_of_five_equal_settings_states_a_difference_in_at_most_five_percent(num_seeds, shared):
    drawn = simulate(4000, num_seeds, effects=(50.0,) * 5, shared=2.0 * shared, rng=np.random.default_rng(num_seeds))
    alarms = sweep_alarms(drawn, "rule")  # the benchmark's table, which is the product's:
    some = np.concatenate([np.arange(50), np.flatnonzero(alarms)[:10]])
    assert alarms[some].any()
    np.testing.assert_array_equal([states_a_difference(sweep_of(figures)) for figures in drawn[some]], alarms[some])
    assert alarms.mean() <= 0.05
    if num_seeds < 5 and not shared:  # control: the rule that was replaced
        assert sweep_alarms(drawn, "spread").mean() > 0.25


def test_a_setting_that_is_three_deviations_better_is_found_with_ten_seeds():
    drawn = simulate(50, 10, effects=(50.0, 50.0, 53.0, 50.0, 50.0), shared=2.0, rng=np.random.default_rng(0))
    assert np.mean([states_a_difference(sweep_of(figures)) for figures in drawn]) > 0.95
