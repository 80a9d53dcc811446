"""Detection trainings that are killed, stopped and poisoned, in one and in two gloo processes (tests/benchmarks/detection_kills.py).

docs/benchmarks/detection_kills.json has the long campaign, with the controls in which one part is taken out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the campaign's short form reports. It forks, which a process with pytest's threads must not."""
    script = ROOT / "tests" / "benchmarks" / "detection_kills.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), "--brief"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    reported: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return reported


def test_a_run_killed_while_it_saves_ends_bit_for_bit_as_one_that_nothing_disturbed(found) -> None:
    assert found["killed"] == {"codes": [0, -9, 0], "resumed": ["Starting training from iteration 0", "Starting training from iteration 2"], "differences": []}  # fmt: skip


def test_two_processes_save_on_sigterm_and_the_same_command_ends_as_if_it_had_not_come(found) -> None:
    stopped = found["two_ranks"]
    assert (stopped["codes"], stopped["status"], stopped["differences"]) == ([0, 143, 0], "stopped", [])
    assert f"saved after iteration {stopped['iterations']} of 4" in stopped["error"]


def test_a_loss_that_is_not_finite_on_one_process_stops_both_and_names_its_images(found) -> None:
    nan = found["nan"]
    assert (nan["code"], nan["status"], nan["said"], nan["hung"]) == (2, "failed", 2, False)  # both processes say it
    assert nan["error"].startswith("training diverged: the loss of iteration 4 is not finite (loss_cls nan")
    assert nan["error"].count("/train/0000") == 1  # the one image of that process, not of the other
    assert (nan["newest"], nan["unreadable"]) == ("model_0000002.pth", [])
