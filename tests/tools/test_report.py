"""tools/report.py as a user runs it: exit codes and words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.in_process import run_tool_here

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "runs" / "readout"
    path.mkdir(parents=True)
    history = [{"epoch": 1, "learning_rate": 30.0, "train_loss": 1.0, "top1": 5.0}]
    result = {
        "format": "infomin-transfer/linear-result", "version": 1, "init": "random", "weights": "random:resnet18",
        "arch": "resnet18", "seed": 0, "num_train": 4, "num_val": 2, "classes": ["a", "b"], "protocol": {"name": "p"},
        "command": "python tools/linear_eval.py", "top1": 5.0, "top5": 9.0, "history": history,
    }  # fmt: skip
    (path / "linear_result.json").write_text(json.dumps(result))
    return path


@pytest.mark.slow
def test_a_report_is_written_and_its_files_are_named(run_dir, tmp_path):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "TkAgg",
    }  # no display is needed
    command = [sys.executable, str(ROOT / "tools" / "report.py"), "runs", "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["1 runs", "wrote out/index.html", "wrote out/report.md", "wrote out/report.csv"]
    assert "5.0" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("case", ["missing", "damaged", "output is a file"])
def test_bad_input_ends_with_2_a_sentence_and_no_output(run_dir, tmp_path, case):
    runs, output = run_dir.parent, tmp_path / "out"
    if case == "missing":
        runs = tmp_path / "nothing"
    elif case == "damaged":
        (run_dir / "linear_result.json").write_text('{"format"')
    else:
        output.write_text("x")
    done = run_tool_here("report.py", runs, "--output", output)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert not output.is_dir()
