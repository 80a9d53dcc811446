"""Stop signals set a flag inside the context and are given back after it."""

from __future__ import annotations

import os
import signal

from pretrain.base.signals import StopFlag


def test_sigterm_sets_the_flag_and_the_old_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set
    assert signal.getsignal(signal.SIGTERM) == before
