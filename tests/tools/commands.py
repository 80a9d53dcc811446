"""A command of tools/ run as a user runs it, but inside this process: no new interpreter, no second import of torch."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

from pretrain.base.errors import run_tool

ROOT = Path(__file__).resolve().parents[2]


def run_command(tool: str, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python tools/TOOL.py WORDS` in `cwd`: exit code, standard output and error, as subprocess.run gives them.

    An error that is no user error propagates with its traceback, where the command would print it.
    """
    arguments = [str(word) for word in words]
    out, err = io.StringIO(), io.StringIO()
    before, folder = sys.argv, Path.cwd()
    sys.argv = [f"tools/{tool}.py", *arguments]
    code = 0
    try:
        os.chdir(cwd or folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main = runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name=f"tools.{tool}")["main"]
                run_tool(main)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    finally:
        sys.argv = before
        os.chdir(folder)
    return subprocess.CompletedProcess([tool, *arguments], code, out.getvalue(), err.getvalue())
