"""What the tests of this room share: commands that run in this process."""

from __future__ import annotations

import pytest

from tests.transfer.fake_tools import run_here


@pytest.fixture
def commands_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of a study or sweep run in this process, which saves the start of another."""
    monkeypatch.setattr("transfer.compare.runner.run_logged", run_here)
