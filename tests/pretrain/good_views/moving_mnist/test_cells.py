"""Cells: the plan, what one measures, and when a finished one may be used again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.moving_mnist import cells
from pretrain.good_views.moving_mnist.cells import (
    Bench,
    Cell,
    differences,
    measure_cell,
    plan_cells,
    read_cell,
    write_cell,
)
from pretrain.good_views.moving_mnist.factors import CONSTANT, RANDOM, SHARINGS, SUPERVISED
from pretrain.good_views.moving_mnist.pools import Worlds


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


@pytest.mark.parametrize(
    "cell",
    [
        Cell(CONSTANT, 0),
        Cell(RANDOM, 1),
        Cell("digit+background", 0),
        *(Cell(SUPERVISED, 0, task) for task in ("digit", "position", "background")),
    ],
    ids=lambda cell: cell.name,
)
def test_a_cell_has_the_figures_of_its_kind_and_is_json(bench, cell):
    result = measure_cell(cell, bench)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    tasks = {cell.task} if cell.task else {"digit", "position", "background"}
    assert {view: set(errors) for view, errors in result["errors"].items()} == {"sequence": tasks, "image": tasks}
    assert ("information" in result) == (cell.row == "digit+background")
    assert ("history" in result) == (cell.row in ("digit+background", SUPERVISED))
    if "history" in result:
        assert result["history"]["step"] == [1, 2, 3]


def test_a_builder_of_pairs_that_leaks_stops_the_cell_before_training(bench, monkeypatch):
    """Planted: whatever is asked for, the background is shared too."""
    honest = cells.PairMaker.__call__

    def leaking(self, sharing, **arguments):
        return honest(self, cells.Sharing((*sharing.factors, "background")), **arguments)

    monkeypatch.setattr(cells.PairMaker, "__call__", leaking)
    monkeypatch.setattr(cells, "train_contrast", lambda *_, **__: pytest.fail("trained on leaking pairs"))
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
    with pytest.raises(ConfigError, match=r"config.training.steps: then 3, now 9\)"):
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


def test_differences_name_the_leaf():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        "a.c: then 2, now 3",
        "d: then None, now 4",
    ]
