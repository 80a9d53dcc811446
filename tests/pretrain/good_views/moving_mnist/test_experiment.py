"""The experiment on a small made-up data set: its cells, what it writes, that it goes on where it stopped, what it warns about."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.moving_mnist import experiment
from pretrain.good_views.moving_mnist.config import load_moving_mnist_config
from pretrain.good_views.moving_mnist.experiment import (
    Bench,
    Cell,
    measure_cell,
    plan_cells,
    read_cell,
    run_experiment,
    warnings_about,
    write_cell,
)
from pretrain.good_views.moving_mnist.factors import CONSTANT, RANDOM, SHARINGS, SUPERVISED
from pretrain.good_views.moving_mnist.pools import Worlds
from tests.pretrain.good_views.moving_mnist.tiny_world import write_sources

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

QUICK = [
    *("scene.num_frames=2", "scene.background_size=64"),
    *("encoder.input_pixels=32", "encoder.width=4", "encoder.feature_dim=16", "encoder.num_points=2"),
    *("encoder.head_dim=8", "training.batch_size=16", "training.steps=2", "training.supervised_steps=2"),
    *("training.device=cpu", "probe.num_train=60", "probe.num_test=40", "probe.weight_decay=0.1"),
    "probe.information_batches=2",
]


def run(root, output_dir, *overrides, sharings=SHARINGS[:1], seeds=(0,)):
    """The experiment on the sources below `root`: its results and messages."""
    messages = []
    results = run_experiment(
        digits=str(root / "digits.npz"),
        backgrounds=str(root / "backgrounds"),
        config=load_moving_mnist_config(None, [*QUICK, *overrides]),
        sharings=sharings,
        seeds=seeds,
        output_dir=output_dir,
        announce=messages.append,
    )
    return results, messages


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """(results, messages, folder) of a run of all seven sharings that nothing interrupted: read only."""
    folder = tmp_path_factory.mktemp("whole")
    return *run(root, folder, sharings=SHARINGS), folder


def without_times(results, *rows):
    """The cells of these rows, all of them for none, less how long they took."""
    return [
        {key: value for key, value in cell.items() if key not in ("seconds", "cpu_seconds")}
        for cell in results["cells"]
        if not rows or cell["row"] in rows
    ]


def test_all_seven_sharings_fill_the_table(whole):
    results, messages, folder = whole
    assert json.loads((folder / "results.json").read_text()) == results
    rows = results["summary"]["rows"]["image"]
    assert list(rows) == [sharing.name for sharing in SHARINGS] + [SUPERVISED, RANDOM, CONSTANT]
    assert results["config"]["scene"]["num_frames"] == 2
    assert results["data"]["held_out_digits"]["num"] == 10
    table = (folder / "table.md").read_text()
    assert all(f"| {sharing.name} |" in table for sharing in SHARINGS)
    assert (folder / "samples.png").stat().st_size > 1000
    assert sum(line.startswith("[") for line in messages) == 1 + 1 + 7 + 3


def test_cells_have_the_figures_of_their_kind(whole):
    for cell in whole[0]["cells"]:
        tasks = {cell["task"]} if cell["task"] else {"digit", "position", "background"}
        assert {view: set(errors) for view, errors in cell["errors"].items()} == {"sequence": tasks, "image": tasks}
        untrained = cell["row"] in (CONSTANT, RANDOM)
        assert ("information" in cell) == (not untrained and cell["row"] != SUPERVISED)
        assert ("history" in cell) != untrained
        if "history" in cell:
            assert cell["history"]["step"] == [1, 2]


def test_a_killed_run_goes_on_with_the_same_figures_and_measures_nothing_twice(root, whole, tmp_path, monkeypatch):
    measured = []
    honest = experiment.measure_cell

    def killed(cell, bench):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(cell.name)
        return honest(cell, bench)

    monkeypatch.setattr(experiment, "measure_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    assert len(json.loads((tmp_path / "results.json").read_text())["cells"]) == 3

    def counted(cell, bench):
        measured.append(cell.name)
        return honest(cell, bench)

    monkeypatch.setattr(experiment, "measure_cell", counted)
    resumed, messages = run(root, tmp_path)
    assert messages[0] == "3 of 6 cells are finished already"
    assert len(measured) == len(set(measured)) == 6
    assert without_times(resumed) == without_times(whole[0], CONSTANT, RANDOM, SUPERVISED, "digit")
    monkeypatch.setattr(experiment, "measure_cell", lambda *_: pytest.fail("measured again"))
    assert run(root, tmp_path)[0] == resumed
    added = []
    monkeypatch.setattr(experiment, "measure_cell", lambda cell, bench: added.append(cell.seed) or honest(cell, bench))
    results, _ = run(root, tmp_path, seeds=(0, 1))
    assert set(added) == {1} and results["summary"]["information"]["digit"]["num_seeds"] == 2


def test_another_configuration_in_the_same_folder_is_refused_before_anything_is_written(root, whole):
    folder = whole[2]
    before = (folder / "results.json").read_bytes(), (folder / "samples.png").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="scene.future_steps: 3 there, 4 now"):
        run(root, folder, "scene.future_steps=4")
    assert before == ((folder / "results.json").read_bytes(), (folder / "samples.png").stat().st_mtime_ns)


def test_bad_sources_leave_nothing_behind(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        run(tmp_path, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_encoders_that_found_nothing_and_bounds_at_their_ceiling_are_warned_of():
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


# Cells


@pytest.fixture
def bench(worlds, tiny):
    return Bench(worlds, tiny, torch.device("cpu"))


def test_the_plan_has_every_row_and_seed_once_and_finishes_seed_by_seed():
    plan = plan_cells(SHARINGS, (0, 5))
    names = [cell.name for cell in plan]
    assert len(set(names)) == len(names) == 1 + 2 + 2 * (7 + 3)
    trained = [cell.seed for cell in plan if cell.row not in (CONSTANT, RANDOM)]
    assert trained == [0] * 10 + [5] * 10
    assert {cell.task for cell in plan if cell.row == SUPERVISED} == {"digit", "position", "background"}
    assert "digit+position+background_seed5" in names and "supervised_digit_seed0" in names


def test_a_builder_of_pairs_that_leaks_stops_the_cell_before_training(bench, monkeypatch):
    """Planted: whatever is asked for, the background is shared too."""
    honest = experiment.PairMaker.__call__

    def leaking(self, sharing, **arguments):
        return honest(self, experiment.Sharing((*sharing.factors, "background")), **arguments)

    monkeypatch.setattr(experiment.PairMaker, "__call__", leaking)
    monkeypatch.setattr(experiment, "train_contrast", lambda *_, **__: pytest.fail("trained on leaking pairs"))
    with pytest.raises(AssertionError, match="background is not shared, and yet agrees"):
        measure_cell(Cell("digit", 0), bench)


def test_a_finished_cell_is_read_back(bench, tmp_path):
    cell, identity = Cell("digit", 0), bench.identity()
    assert read_cell(tmp_path, cell, identity) is None
    write_cell(tmp_path, cell, identity, {"row": "digit", "errors": {}})
    assert read_cell(tmp_path, cell, identity) == {"row": "digit", "errors": {}}
    assert read_cell(tmp_path, Cell("digit", 1), identity) is None


def test_a_cell_of_another_configuration_is_refused_by_name(bench, tiny, tmp_path):
    cell = Cell("digit", 0)
    write_cell(tmp_path, cell, bench.identity(), {"row": "digit"})
    other = replace(bench, config=replace(tiny, training=replace(tiny.training, steps=9)))
    with pytest.raises(ConfigError, match="config.training.steps: 3 there, 9 now"):
        read_cell(tmp_path, cell, other.identity())


def test_a_cell_of_other_data_is_refused(bench, worlds, tmp_path):
    cell = Cell("digit", 0)
    write_cell(tmp_path, cell, bench.identity(), {"row": "digit"})
    swapped = replace(bench, worlds=Worlds(worlds.held_out, worlds.train))
    with pytest.raises(ConfigError, match="data.train_digits.fingerprint"):
        read_cell(tmp_path, cell, swapped.identity())


def test_another_device_may_go_on(bench, tiny, tmp_path):
    cell = Cell("digit", 0)
    write_cell(tmp_path, cell, bench.identity(), {"row": "digit"})
    other = replace(bench, config=replace(tiny, training=replace(tiny.training, device="auto")))
    assert read_cell(tmp_path, cell, other.identity()) == {"row": "digit"}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"result": 1}', '{"identity": 1}'])
def test_a_file_that_is_no_cell_is_refused(bench, tmp_path, text):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "digit_seed0.json").write_text(text)
    with pytest.raises(DataError, match="remove it"):
        read_cell(tmp_path, Cell("digit", 0), bench.identity())
