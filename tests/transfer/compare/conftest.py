"""What the tests of this room share: commands that run in this process, and experiments made of written runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.transfer.conftest import write_detection, write_linear
from tests.transfer.fake_tools import run_here
from transfer.compare.experiments import Experiment, group_runs
from transfer.compare.results import read_run


@pytest.fixture
def commands_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of a study or sweep run in this process, which saves the start of another."""
    monkeypatch.setattr("transfer.compare.runner.run_logged", run_here)


@pytest.fixture
def detections(tmp_path: Path) -> Callable[..., tuple[Experiment, ...]]:
    """Function: keyword arguments of each detection run to write (init, seed, ap50, ...) -> the experiments among them."""

    def make(*specs: dict[str, Any], baseline: str | None = None) -> tuple[Experiment, ...]:
        here = tmp_path / f"set{len(list(tmp_path.glob('set*')))}" / "detect"
        runs = [read_run(write_detection(here / str(i), **spec)) for i, spec in enumerate(specs)]
        return group_runs(runs, baseline=baseline)

    return make


@pytest.fixture
def readouts(tmp_path: Path) -> Callable[..., tuple[Experiment, ...]]:
    """The same for readouts."""

    def make(*specs: dict[str, Any], baseline: str | None = None) -> tuple[Experiment, ...]:
        here = tmp_path / f"set{len(list(tmp_path.glob('set*')))}"
        runs = [read_run(write_linear(here / str(i), **spec)) for i, spec in enumerate(specs)]
        return group_runs(runs, baseline=baseline)

    return make
