"""A command run as a user types it, but in this process: starting another one costs seconds, most of them torch's import."""

from __future__ import annotations

import io
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    """The current folder, for the block (contextlib has it from Python 3.11 on)."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class Done:
    """returncode: of the process that a shell would see. stdout, stderr: text."""

    returncode: int
    stdout: str
    stderr: str


def run_tool_here(tool: str, *words: object, cwd: Path | None = None) -> Done:
    """`python tools/TOOL WORDS...` in `cwd`. An exception that would be a traceback is raised."""
    script = os.path.relpath(TOOLS / tool, cwd)  # also becomes argv[0], which some results quote
    out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()  # as a real one, with a buffer
    with (
        mock.patch.object(sys, "argv", [script, *map(str, words)]),
        mock.patch.object(sys, "path", [str(TOOLS), *sys.path]),  # as Python puts it there; the script takes it out
        chdir(cwd or Path.cwd()),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.buffer.getvalue().decode(), err.getvalue())
