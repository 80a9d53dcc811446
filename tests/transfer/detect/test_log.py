"""The screen of a detection run, without Detectron2's long dumps."""

from __future__ import annotations

import logging

import pytest

from transfer.detect.log import LONG_MESSAGE, _is_short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("iter: 19 total_loss: 1.0", True),
        ("\n" * (LONG_MESSAGE - 1), True),
        ("\n" * LONG_MESSAGE, False),
        ("Environment info:\nPython 3", False),
        ("copypaste: 1,2,3", False),
    ],
)
def test_dumps_and_copypaste_lines_stay_off_the_screen(text: str, shown: bool) -> None:
    assert _is_short(logging.LogRecord("detectron2", logging.INFO, "", 0, text, (), None)) == shown
