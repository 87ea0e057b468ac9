"""The Tango database as seen by a running server: it may be away for a while.

Tango stores a memorised value after the write of the attribute, and the write fails where the database is away,
although the value is in force. Here such a write succeeds: Tango is told to leave the database alone until the write is
over, and the value is stored later.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import tango

if TYPE_CHECKING:
    from .base import FrameSieveDevice

PATIENCE = 0.5  # s; a computer that is switched off refuses no connection, it says nothing
RETRY = 2.0  # s between two attempts to store what could not be stored


class DatabaseLink:
    """Whether there is a database, whether it answers, and Tango's hands off it while it does not."""

    def __init__(self) -> None:
        self.is_used: bool = tango.Util._UseDb  # false with -nodb; the file of -file counts as one
        self._is_file: bool = tango.Util._FileDb
        self.is_lost = False  # something could not be stored, and nothing has been since
        self._left_alone: set[FrameSieveDevice] = set()
        self._lock = threading.Lock()

    @property
    def answers(self) -> bool:
        """Whether it can be expected to take what Tango wants to store; takes at most `PATIENCE` per address."""
        if not self.is_used:
            return False
        if self._is_file:
            return True
        if self.is_lost:  # for a second after it is back Tango itself does not try
            return False
        for address in (tango.ApiUtil.get_env_var("TANGO_HOST") or "").split(","):
            host, _, port = address.strip().rpartition(":")
            with contextlib.suppress(OSError, ValueError), socket.create_connection((host, int(port)), PATIENCE):
                return True
        self.is_lost = True
        return False

    def store(self, device: str, values: dict[str, str]) -> bool:
        """Store memorised values; whether that was possible."""
        stored = {name: {"__value": [value]} for name, value in values.items()}
        try:
            tango.Util.instance().get_database().put_device_attribute_property(device, stored)
        except tango.DevFailed:
            self.is_lost = True
        else:
            self.is_lost = False
        return not self.is_lost

    def leave_alone(self, device: FrameSieveDevice) -> None:
        """Have Tango store nothing, until `resume`; called while the device is written to."""
        with self._lock:
            self._left_alone.add(device)
            tango.Util.set_use_db(False)

    def resume(self, device: FrameSieveDevice) -> None:
        """The write is over; called with the monitor of the device."""
        with self._lock:
            if device in self._left_alone:
                self._left_alone.remove(device)
                if not self._left_alone:
                    tango.Util.set_use_db(True)

    def is_left_alone_for(self, device: FrameSieveDevice) -> bool:
        return device in self._left_alone
