"""Commands of a study: what they print is shown and logged, also through a terminal."""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path

import pytest

from transfer.compare.runner import run_logged


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_both_streams_are_shown_and_logged_and_the_exit_code_returned(tmp_path: Path) -> None:
    out = io.BytesIO()
    code = "import sys; print('one'); sys.stderr.write('two\\n'); sys.exit(5)"
    outcome = run_logged(python(code), log_path=tmp_path / "log", out=out)
    assert (outcome.code, outcome.stopped_by) == (5, None)
    assert out.getvalue() == (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_death_by_a_signal_is_128_and_the_signal(tmp_path: Path) -> None:
    outcome = run_logged(python("import os; os.kill(os.getpid(), 9)"), log_path=tmp_path / "log", out=io.BytesIO())
    assert (outcome.code, outcome.stopped_by) == (137, None)


def test_no_input_is_waited_for(tmp_path: Path) -> None:
    assert run_logged(python("input()"), log_path=tmp_path / "log", out=io.BytesIO()).code == 1


def test_on_a_terminal_the_command_sees_a_terminal_and_the_log_has_plain_lines(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    try:
        with open(writer, "wb", buffering=0, closefd=False) as out:
            outcome = run_logged(
                python("import os; print(os.isatty(2), *os.get_terminal_size(2))"), log_path=tmp_path / "log", out=out
            )
        assert outcome.code == 0
        assert b"True 80 24" in os.read(reader, 100)
        assert (tmp_path / "log").read_bytes() == b"True 80 24\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_logged([str(tmp_path / "absent")], log_path=tmp_path / "log", out=io.BytesIO())
