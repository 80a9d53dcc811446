"""Fake commands for tests of studies and sweeps: scripts that write the records of the real ones in no time."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from unittest import mock

from transfer.compare.runner import Outcome

PRELUDE = """
import json, os, pathlib, signal, sys, time
tool, words = pathlib.Path(sys.argv[0]).stem, sys.argv[1:]
root = pathlib.Path(sys.argv[0]).resolve().parents[1]
after = lambda name: words[words.index(name) + 1]
def write(path, value):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(json.dumps(value))
def option(name, otherwise):
    return after(name) if name in words else otherwise
def record(kind, figures, *, file=None, status="done", **details):
    # In --output-dir, OUTPUT_DIR or `file`; the row's name and the seed are those that were asked for.
    sys.path = [path for path in sys.path if path != str(root / "tools")]  # where pretrain.py hides the package
    from pretrain.base.record import DataRecord, Initialisation, Record, experiment_hash, to_plain

    seed = next((word[5:] for word in words if word.startswith("seed=")), option("SEED", option("--seeds", "0")))
    experiment = {"config": {"kind": kind}, "data": {"train": "fake"}}
    name = option("--init-name", option("--init", "").partition("=")[0] or option("--views", "random"))
    found = Record(
        kind=kind, experiment=experiment, config={}, seeds={"run": int(seed), "pretraining": None},
        hash=experiment_hash(experiment), status=status, commands=(" ".join([tool, *words]),),
        data={"train": DataRecord("fake", "fake", 1)}, metric="fake", initialisation=Initialisation(name, "asked", "w"),
        figures=figures, details=details,
    )
    write(file or option("--output-dir", option("OUTPUT_DIR", None)) + "/record.json", to_plain(found))
def pretraining(**details):
    record("pretraining", {"loss": 1.0}, checkpoint="checkpoints/step_5.pt", **details)
def readout(top1):
    record("readout", {"top1": top1, "top5": 100.0})
def detection(metrics):
    record("detection", {f"{task}/{name}": value for task, row in metrics.items() for name, value in row.items()})
with open(root / "calls.txt", "a") as calls:
    calls.write(tool + " " + " ".join(words) + "\\n")
print("hello from", tool)
if (root / f"slow_{tool}").exists():
    def stop(signum, frame):
        (root / "asked_to_stop").write_text(str(signum))
        sys.exit(128 + signum)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    write(after("--output-dir") + "/half.pt", {})
    (root / "ready").touch()
    time.sleep(60)
if (root / f"break_{tool}").exists():
    sys.exit(7)
"""


def write_tools(root: Path, names: Sequence[str], body: str) -> None:
    """tools/NAME.py for each name: `body`, which sees what PRELUDE defines."""
    (root / "tools").mkdir()
    for name in names:
        (root / "tools" / f"{name}.py").write_text(PRELUDE + body)


def run_here(
    command: Sequence[str], *, log_path: Path, out: BinaryIO, saves_on_sigterm: bool = False, also: Sequence[int] = ()
) -> Outcome:
    """In place of `run_logged`: the command's script in this process, which saves the start of another."""
    printed = io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", list(command[1:])),
        mock.patch.object(sys, "path", [str(Path(command[1]).parent), *sys.path]),  # as Python puts it there
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            runpy.run_path(command[1], run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
    out.write(printed.getvalue().encode())
    log_path.write_text(printed.getvalue())
    return Outcome(code, None)
