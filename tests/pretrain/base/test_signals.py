"""Stop signals set a flag inside the context, and the handlers before it come back after it."""

from __future__ import annotations

import os
import signal

import pytest

from pretrain.base import signals
from pretrain.base.signals import StopFlag


def test_sigterm_sets_the_flag_and_the_old_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_first_ctrl_c_asks_and_the_second_ends(monkeypatch, capfd):
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same keystroke once more, passed on by torchrun
        assert stop.is_set and stop.terminated("saved").exit_code == 130
        monkeypatch.setattr(signals, "SAME_KEYSTROKE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.count("stopping after this step") == 1
    assert StopFlag().terminated("saved").exit_code == 143  # control: not after Ctrl-C
