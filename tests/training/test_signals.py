"""Termination signals become exceptions inside the command line, and only there."""

import os
import signal
import time

import pytest

from mmada.io.signals import Terminated, signals_as_exceptions


def test_the_handlers_before_come_back_and_an_ignored_signal_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def wait() -> None:
        with signals_as_exceptions():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(Terminated) as ended:
        wait()
    assert (ended.value.code, str(ended.value)) == (143, "terminated by SIGTERM")
    assert {number: signal.getsignal(number) for number in before} == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_exceptions():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
