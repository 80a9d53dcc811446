"""The command: exit codes, messages, reuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.in_process import run_tool_here

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--num-unlabelled", "8", "--num-readout", "8", "--num-train-scenes", "1", "--num-test-scenes", "1")


@pytest.mark.slow
def test_worker_processes_find_the_packages(tmp_path: Path) -> None:
    """Each of them imports the script again, as another module than __main__."""
    command = [sys.executable, str(ROOT / "tools" / "make_demo_data.py"), "--output-dir", str(tmp_path / "demo")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *SMALL, "--num-workers", "2"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "dataset.json").is_file()


def test_command_writes_then_reuses_then_refuses(tmp_path: Path) -> None:
    target, sheet = tmp_path / "demo", tmp_path / "sheet.png"
    first = run_tool_here("make_demo_data.py", "--output-dir", target, *SMALL, "--num-workers", 0)
    assert first.returncode == 0 and "written" in first.stdout
    second = run_tool_here("make_demo_data.py", "--output-dir", target, *SMALL, "--overview", sheet)
    assert second.returncode == 0 and "reused" in second.stdout and sheet.is_file()
    third = run_tool_here("make_demo_data.py", "--output-dir", target, *SMALL, "--seed", 1)
    assert third.returncode == 2 and "other content" in third.stderr
    fourth = run_tool_here("make_demo_data.py", "--output-dir", tmp_path / "new", "--image-size", 5)
    assert fourth.returncode == 2 and "image_size" in fourth.stderr and not (tmp_path / "new").exists()
    fifth = run_tool_here("make_demo_data.py", "--output-dir", target, *SMALL, "--overview", tmp_path / "sheet.jpg")
    assert fifth.returncode == 2 and "ends in .png" in fifth.stderr
