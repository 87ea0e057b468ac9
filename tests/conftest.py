"""For every test."""

import logging
import threading

import pytest
import threads_before

ROOT = logging.getLogger()
LEVEL = ROOT.level


@pytest.fixture(scope="module", autouse=True)
def root_logger():
    """As it was: Taurus sets its level and adds a handler, and tests that follow in this process look at messages."""
    ROOT.setLevel(LEVEL)
    for handler in list(ROOT.handlers):
        if type(handler) is logging.StreamHandler:  # those of pytest are of other kinds
            ROOT.removeHandler(handler)


@pytest.fixture(autouse=True)
def note_threads():
    """A connection, say, is kept for some seconds after the test that opened it."""
    threads_before.BEFORE = set(threading.enumerate())
