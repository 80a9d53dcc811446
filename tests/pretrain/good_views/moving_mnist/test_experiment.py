"""The experiment on a small made-up data set: what it writes, that it goes on where it stopped, what it warns about."""

from __future__ import annotations

import json

import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.moving_mnist import experiment
from pretrain.good_views.moving_mnist.config import load_moving_mnist_config
from pretrain.good_views.moving_mnist.experiment import run_experiment, warnings_about
from pretrain.good_views.moving_mnist.factors import SHARINGS

QUICK = [
    "scene.num_frames=2",
    "scene.background_size=64",
    "encoder.input_pixels=32",
    "encoder.width=4",
    "encoder.feature_dim=16",
    "encoder.num_points=2",
    "encoder.head_dim=8",
    "training.batch_size=16",
    "training.steps=2",
    "training.supervised_steps=2",
    "training.device=cpu",
    "probe.num_train=60",
    "probe.num_test=40",
    "probe.weight_decay=0.1",
    "probe.information_batches=2",
]


@pytest.fixture
def run(sources, tmp_path):
    def start(*overrides, sharings=SHARINGS[:1], seeds=(0, 1), output_dir=tmp_path / "run"):
        said = []
        result = run_experiment(
            digits=str(sources[0]),
            backgrounds=str(sources[1]),
            config=load_moving_mnist_config(None, [*QUICK, *overrides]),
            sharings=sharings,
            seeds=seeds,
            output_dir=output_dir,
            say=said.append,
        )
        return result, said, output_dir

    return start


def without_times(results):
    for cell in results["cells"]:
        del cell["seconds"], cell["cpu_seconds"]
    return results


@pytest.mark.slow
def test_all_seven_sharings_fill_the_table(run):
    results, said, folder = run(sharings=SHARINGS, seeds=(0,))
    assert json.loads((folder / "results.json").read_text()) == results
    rows = results["summary"]["rows"]["image"]
    assert list(rows) == [sharing.name for sharing in SHARINGS] + ["supervised", "random weights", "constant predictor"]
    assert results["config"]["scene"]["num_frames"] == 2
    assert results["data"]["held_out_digits"]["num"] == 10
    table = (folder / "table.md").read_text()
    assert all(f"| {sharing.name} |" in table for sharing in SHARINGS)
    assert (folder / "samples.png").stat().st_size > 1000
    assert sum(line.startswith("[") for line in said) == 1 + 1 + 7 + 3


def test_a_killed_run_goes_on_and_ends_with_the_same_figures(run, tmp_path, monkeypatch):
    whole, _, _ = run(output_dir=tmp_path / "whole")
    measured = []
    honest = experiment.measure_cell

    def killed(cell, bench):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(cell.name)
        return honest(cell, bench)

    monkeypatch.setattr(experiment, "measure_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        run(output_dir=tmp_path / "killed")
    half = json.loads((tmp_path / "killed" / "results.json").read_text())
    assert len(half["cells"]) == 5

    def counted(cell, bench):
        measured.append(cell.name)
        return honest(cell, bench)

    monkeypatch.setattr(experiment, "measure_cell", counted)
    resumed, said, _ = run(output_dir=tmp_path / "killed")
    assert said[0] == "5 of 11 cells are finished already"
    assert len(measured) == len(set(measured)) == 11
    assert without_times(resumed) == without_times(whole)


def test_a_finished_run_trains_nothing_and_adds_a_seed_when_asked(run, monkeypatch):
    run(seeds=(0,))
    honest = experiment.measure_cell
    monkeypatch.setattr(experiment, "measure_cell", lambda *_: pytest.fail("measured again"))
    run(seeds=(0,))
    added = []
    monkeypatch.setattr(experiment, "measure_cell", lambda cell, bench: added.append(cell.seed) or honest(cell, bench))
    results, _, _ = run(seeds=(0, 1))
    assert set(added) == {1}
    assert results["summary"]["information"]["digit"]["num_seeds"] == 2


def test_another_configuration_in_the_same_folder_is_refused_before_anything_is_written(run):
    _, _, folder = run(seeds=(0,))
    before = (folder / "results.json").read_bytes(), (folder / "samples.png").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="scene.future_steps: then 3, now 4"):
        run("scene.future_steps=4", seeds=(0,))
    assert before == ((folder / "results.json").read_bytes(), (folder / "samples.png").stat().st_mtime_ns)


def test_bad_sources_leave_nothing_behind(run, sources, tmp_path):
    sources[0].unlink()
    with pytest.raises(DataError, match="no such file"):
        run(output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_encoders_that_found_nothing_and_bounds_at_their_ceiling_are_told():
    def cell(nats, *, saturated=False):
        information = {
            "bound": "info_nce",
            "nats": nats,
            "low": nats - 0.01,
            "high": nats + 0.01,
            "ceiling": 4.0,
            "saturated": saturated,
            "num_pairs": 100,
            "num_negatives": 54,
        }
        return {"row": "digit", "seed": 0, "information": information}

    assert warnings_about(cell(1.0)) == []
    (nothing,) = warnings_about(cell(0.0))
    assert "found nothing" in nothing and "training.steps" in nothing
    (saturated,) = warnings_about(cell(3.9, saturated=True))
    assert "ceiling" in saturated
    assert warnings_about({"row": "random weights"}) == []
