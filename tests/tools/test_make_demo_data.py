"""The command: exit codes, messages, reuse."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--num-unlabelled", "8", "--num-readout", "8", "--num-train-scenes", "1", "--num-test-scenes", "1")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "make_demo_data.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_command_writes_then_reuses_then_refuses(tmp_path: Path) -> None:
    target = str(tmp_path / "demo")
    sheet = tmp_path / "sheet.png"
    first = run("--output-dir", target, *SMALL, "--num-workers", "2", "--overview", str(sheet))
    assert first.returncode == 0, first.stderr
    assert sheet.read_bytes().startswith(b"\x89PNG")
    second = run("--output-dir", target, *SMALL)
    assert second.returncode == 0 and "reused" in second.stdout
    third = run("--output-dir", target, *SMALL, "--seed", "1")
    assert third.returncode == 2
    assert "other content" in third.stderr and "Traceback" not in third.stderr
    fourth = run("--output-dir", str(tmp_path / "new"), "--image-size", "5")
    assert fourth.returncode == 2 and "image_size" in fourth.stderr and not (tmp_path / "new").exists()
