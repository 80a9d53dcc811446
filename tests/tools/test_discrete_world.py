"""The command: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.tools.in_process import Done, run_tool_here


def run(*arguments: str) -> Done:
    return run_tool_here("discrete_world.py", *arguments)


@pytest.mark.slow
def test_command_prints_the_regimes_and_writes_both_files(tmp_path: Path) -> None:
    result = run("--output-dir", str(tmp_path / "out"), "--num-labels", "8")
    assert result.returncode == 0, result.stderr
    for text in (
        "missing information",
        "sweet spot, optimal",
        "excess noise",
        "50625 pairs, 1225 of least",
        "out of reach",
    ):
        assert text in result.stdout
    assert "NOT optimal" not in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["regimes.json", "regimes.png"]
    found = json.loads((tmp_path / "out" / "regimes.json").read_text())
    assert len(found["all_pairs"]) == 528 and found["num_labels"] == 8
    assert found["task_information"] == pytest.approx(2 * math.log(2))
    claims = {name: (e["reaches_task_information"], e["holds"]) for name, e in found["enumerations"].items()}
    assert claims == {
        "independent nuisances": (True, True),
        "one skewed nuisance": (True, True),
        "noisy labels": (False, True),
    }


@pytest.mark.parametrize(
    ("arguments", "message"), [(("--num-labels", "0"), "1 to 32, found 0"), (("--output-dir", "FILE"), "folder")]
)
def test_bad_input_ends_with_two(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = run(*(str(file) if word == "FILE" else word for word in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stdout == ""
