"""tools/report.py as a user runs it: exit codes and words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.in_process import run_tool_here
from tests.transfer.conftest import write_linear

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_dir(tmp_path):
    return write_linear(tmp_path / "runs" / "readout", init="random", seed=0, top1=5.0)


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


@pytest.mark.parametrize("case", ["missing", "damaged", "output is a file", "no such baseline"])
def test_bad_input_ends_with_2_a_sentence_and_no_output(run_dir, tmp_path, case):
    runs, output = run_dir.parent, tmp_path / "out"
    if case == "missing":
        runs = tmp_path / "nothing"
    elif case == "damaged":
        (run_dir / "record.json").write_text('{"format"')
    elif case == "output is a file":
        output.write_text("x")
    asked = ("--baseline", "radnom") if case == "no such baseline" else ()
    done = run_tool_here("report.py", runs, "--output", output, *asked)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert "did you mean random?" in done.stderr or case != "no such baseline"
    assert not output.is_dir()
