"""Exit codes of tools: 2 for the user's errors, 143 after SIGTERM, a traceback for ours."""

from __future__ import annotations

import errno
from unittest import mock

import pytest
import torch

from pretrain.base.errors import DataError, Terminated, nearest, run_tool


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("no images"), 2, "error: no images\n"),
        (Terminated("saved"), 143, "terminated: saved\n"),
        (Terminated("saved at step 3", exit_code=130), 130, "interrupted: saved at step 3\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/log.jsonl"),
            2,
            "error: could not write runs/log.jsonl: No space left on device; make room, and give the same command again\n",
        ),
        (KeyboardInterrupt("nothing was saved"), 130, "interrupted: nothing was saved\n"),
    ],
)
def test_each_ending_has_its_exit_code(capsys, error, code, text):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == code
    assert capsys.readouterr().err == text


def test_a_full_gpu_is_said_with_what_to_change(capsys):
    said = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8 GiB"
    with pytest.raises(SystemExit) as stop:
        run_tool(mock.Mock(side_effect=torch.OutOfMemoryError(said)))
    assert stop.value.code == 2
    assert "the GPU's memory is full (Tried to allocate 20.00 MiB). Use fewer" in capsys.readouterr().err


def test_success_is_zero_and_a_bug_keeps_its_traceback():
    with pytest.raises(SystemExit) as stop:
        run_tool(lambda: None)
    assert stop.value.code == 0

    def bug():
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        run_tool(bug)


def test_a_missing_optional_package_says_what_to_install_and_another_keeps_its_traceback(capsys):
    def needs(name):
        def main():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return main

    with pytest.raises(SystemExit) as stop:
        run_tool(needs("detectron2.config"))
    assert stop.value.code == 2 and "sal-detectron2" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        run_tool(needs("no_such_dependency"))


def test_the_nearest_name_is_the_one_abbreviated_else_the_most_alike():
    names = ("decay", "learning_rate", "weight_decay", "epochs")
    assert [nearest(word, names) for word in ("lr", "wd", "epoch", "weigth_decay")] == [
        "learning_rate", "weight_decay", "epochs", "weight_decay"
    ]  # fmt: skip
    assert nearest("xy", names) is None and nearest("lr", (*names, "last_rate")) is None
