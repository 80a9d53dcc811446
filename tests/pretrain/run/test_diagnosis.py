"""Each warning on series as they were measured: the run that collapsed is named, the run that learned is not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from pretrain.config import load_run_config
from pretrain.run.diagnosis import (
    RULES,
    Diagnosis,
    RunFacts,
    embeddings_collapsed,
    keys_collapsed,
    loss_flat,
    positives_given_away,
    worse_than_random,
)
from pretrain.run.observation import run_facts
from tests.cases import each

FACTS = RunFacts(
    num_negatives=1024,
    feature_dim=128,
    memory="queue",
    keys_per_step=64,
    steps_per_epoch=156,
    head="mlp",
    learning_rate=0.03,
    momentum=0.99,
    batchnorm_images=16,
    asked=200,
)
STEPS = (10, 25, 50, 100, 150, 200)
LEARNED = [  # measured: MoCo v2's views, head with BatchNorm, rate 0.03
    {"step": step, "loss_instance": loss, "accuracy": accuracy, "key_std": spread}
    for step, loss, accuracy, spread in zip(
        STEPS, (6.798, 6.676, 6.204, 6.351, 5.827, 6.078), (0, 0, 0, 0.016, 0.031, 0.047), (0.088,) * 6, strict=True
    )
]
COLLAPSED = [  # measured: the paper's head, InfoMin's views, rate 0.05
    {"step": step, "loss_instance": loss, "accuracy": accuracy, "key_std": spread}
    for step, loss, accuracy, spread in zip(
        STEPS,
        (5.951, 6.064, 6.098, 5.919, 5.885, 5.944),
        (0, 0, 0, 0.172, 0.234, 0.109),
        (0.049, 0.029, 0.015, 0.009, 0.007, 0.007),
        strict=True,
    )
]


def measured(*ranks, features=150.0, start=35.0):
    rows = zip((0, 50, 100, 150, 200), (start, *ranks), strict=False)
    return [{"step": step, "effective_rank": features, "effective_rank_embedding": rank} for step, rank in rows]


def test_keys_in_one_point_are_found_and_the_figure_is_said():
    found = keys_collapsed(COLLAPSED, FACTS)
    assert (
        "step 200: the embeddings are collapsing: the keys of a batch have a spread of 0.007, 0.088 is uniform"
        in str(found)
    )
    assert "1. method.head=mlp_bn" in found.advice and "2. optimizer.learning_rate=0.01" in found.advice
    assert keys_collapsed(LEARNED, FACTS) is None


def test_collapse_is_found_within_the_first_epoch():
    first = next(n for n in range(1, len(COLLAPSED) + 1) if keys_collapsed(COLLAPSED[:n], FACTS))
    assert COLLAPSED[first - 1]["step"] <= 156


def test_a_narrow_cone_that_opens_is_no_collapse():
    opening = [
        {"step": step, "key_std": spread} for step, spread in ((10, 0.005), (40, 0.008), (50, 0.011), (60, 0.015))
    ]
    assert keys_collapsed(opening, FACTS) is None
    assert keys_collapsed([{**entry, "key_std": 0.005} for entry in opening], FACTS) is not None


def test_embeddings_of_few_directions_are_found_where_training_batchnorm_hides_it():
    # measured: weight decay 0.1. In training the keys' spread is 0.03 to 0.07, in evaluation all embeddings are one vector
    found = embeddings_collapsed(measured(1.002, 1.012, 1.317, features=3.0), FACTS)
    assert "effective rank is 1.3 of 128 directions, 35.0 with random weights" in found.words
    assert embeddings_collapsed(measured(4.642), FACTS) is not None
    assert embeddings_collapsed(measured(36.2, 31.1, 30.2, 31.6), FACTS) is None
    assert embeddings_collapsed(measured(14.2, 17.6), FACTS) is None  # measured: paper's head, EMA 0.999: learns


def test_features_of_one_direction_are_found():
    assert embeddings_collapsed(measured(9.0, features=1.04), FACTS).name == "features_collapsed"


def test_a_loss_that_stays_a_uniform_guess_is_found_after_an_epoch_and_200_steps():
    flat = [{"step": step, "loss_instance": 6.95} for step in range(10, 400, 10)]
    first = next(n for n in range(1, len(flat) + 1) if loss_flat(flat[:n], FACTS))
    assert flat[first - 1]["step"] == 220  # the queue is full after 16 steps
    falling = [{**entry, "loss_instance": 6.95 - 0.002 * entry["step"]} for entry in flat]
    assert not any(loss_flat(falling[:n], FACTS) for n in range(len(falling)))
    late = [
        {**entry, "loss_instance": 9 - 0.005 * entry["step"]} for entry in flat
    ]  # a bank's, above a guess's at first
    assert not any(loss_flat(late[:n], FACTS) for n in range(len(late)))
    bank = dataclasses.replace(FACTS, memory="bank")  # its rows are random for the whole first epoch
    first = next(n for n in range(1, len(flat) + 1) if loss_flat(flat[:n], bank))
    assert flat[first - 1]["step"] == 360


def test_positives_that_are_all_found_at_once_are_suspicious_but_not_against_the_random_rows_of_the_start():
    given = [{"step": step, "accuracy": 1.0} for step in range(1, 200)]
    first = next(n for n in range(1, len(given) + 1) if positives_given_away(given[:n], FACTS))
    assert given[first - 1]["step"] > 30 + 1
    assert "method.batchnorm_images=4" in positives_given_away(given, FACTS).advice
    assert positives_given_away([{**entry, "accuracy": 0.9} for entry in given], FACTS) is None
    few = dataclasses.replace(FACTS, num_negatives=126)  # an easy task
    assert positives_given_away(given, few) is None
    late = [{**entry, "step": entry["step"] + 1000} for entry in given]
    assert positives_given_away(late, FACTS) is None


def test_a_probe_below_random_weights_is_found_beyond_the_noise_of_its_images():
    def probe(*values):
        return [{"step": step, "knn": value} for step, value in zip((0, 156, 312), values, strict=True)]

    assert "12.0 %, below the 30.0 %" in worse_than_random(probe(30.0, 12.0, 11.0), FACTS).words
    assert worse_than_random(probe(21.0, 18.0, 19.0), FACTS) is None  # 200 images: a deviation of 4 points
    assert worse_than_random(probe(30.0, 12.0, 28.0), FACTS) is None


def test_a_finding_is_said_once_and_a_collapse_ends_the_search():
    diagnosis = Diagnosis(FACTS)
    said = [str(finding) for entry in COLLAPSED for finding in diagnosis.look(entry)]
    assert len(said) == 1
    flat = [{"step": step, "loss_instance": 6.95, "key_std": 0.001} for step in range(300, 600, 10)]
    assert not any(diagnosis.look(entry) for entry in flat)
    assert [finding.name for finding in diagnosis.findings] == ["keys_collapsed"]


def test_a_resumed_run_does_not_say_again_what_its_log_has_shown():
    diagnosis = Diagnosis(FACTS, earlier=COLLAPSED)
    assert [finding.name for finding in diagnosis.findings] == ["keys_collapsed"]
    assert diagnosis.look({**COLLAPSED[-1], "step": 210}) == []


def test_a_healthy_run_of_many_steps_has_no_findings():
    diagnosis = Diagnosis(FACTS)
    for step in range(10, 3000, 10):
        loss = 6.93 - 3 * (1 - math.exp(-step / 500))
        entry = {"step": step, "loss_instance": loss, "accuracy": min(0.6, step / 3000), "key_std": 0.087}
        assert diagnosis.look(entry) == []
    for entry in measured(36.2, 31.1, 30.2):
        assert diagnosis.look({**entry, "step": entry["step"] + 3000, "knn": 30.0}) == []


@each("rule", RULES)
def test_no_rule_speaks_before_there_is_a_log(rule):
    assert rule([], FACTS) is None


def test_a_symmetric_loss_fills_the_queue_twice_as_fast():
    words = ["data.root=images", "method.queue_size=64"]
    once, twice = (
        run_facts(load_run_config(Path("smoke"), [*words, *more]), steps_per_epoch=4).keys_per_step
        for more in ([], ["method.symmetric=true"])
    )
    assert (once, twice) == (16, 32)


def test_a_run_too_short_to_be_judged_says_at_its_end_that_nothing_was_learned():
    flat = [{"step": step, "loss_instance": 6.93 + 0.01 * (step % 3)} for step in (10, 20, 30)]
    diagnosis = Diagnosis(FACTS, earlier=flat)
    assert diagnosis.findings == []
    (finding,) = diagnosis.end()
    assert "ended after 30 steps with the loss of a uniform guess: 6.94, ln(K + 1) = 6.93" in str(finding)
    assert diagnosis.findings == [finding]
    assert Diagnosis(FACTS, earlier=LEARNED).end() == []
    collapsed = Diagnosis(FACTS, earlier=COLLAPSED)
    assert collapsed.findings and collapsed.end() == []  # that says it all
