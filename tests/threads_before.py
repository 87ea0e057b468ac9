"""Threads that were there when the test began, see conftest.py: another test in this process may have left them."""

import threading

BEFORE: set[threading.Thread] = set()
