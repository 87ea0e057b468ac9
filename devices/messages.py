"""What the server has to say: Python's log, kept for the attribute `log` and passed on to Tango's logging.

A message may come from any thread, also one that must not wait. So it is only taken down here; the publisher passes it
on to the logging targets of the devices, which may be other servers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from .errors import as_latin

if TYPE_CHECKING:
    from .base import FrameSieveDevice

KEPT = 200  # messages that the attribute `log` shows
WAITING = 1000  # messages that can wait for the publisher; without one the oldest are forgotten
LONGEST = 500  # characters of a message in `log`
PACKAGE = logging.getLogger(__package__.partition(".")[0])


class Messages(logging.Handler):
    """Takes down every message of the package. Thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: tuple[str, ...] = ()  # for the attribute `log`: replaced as a whole
        self.are_passed_on = False  # a publisher brings them, or will bring them, to the logging of Tango
        self._kept: deque[str] = deque(maxlen=KEPT)
        self._waiting: deque[logging.LogRecord] = deque(maxlen=WAITING)
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = as_line(record)
        except Exception:  # arguments that do not fit: never fail where a message is written
            self.handleError(record)
            return
        with self._guard:
            self._waiting.append(record)
            if record.levelno >= logging.INFO:  # so that details that somebody asked for do not push out the others
                self._kept.append(line)
                self.lines = tuple(self._kept)

    def pass_on(self, devices: list[FrameSieveDevice]) -> None:
        """Bring what waits to Tango's logging, each message by the device that it names, or by the first one; and
        have Python take down what any of them wants to show. Called by the publisher only."""
        if not devices:
            return
        loggers = {device.get_name(): device.get_logger() for device in devices}
        level = logging.DEBUG if any(logger.is_debug_enabled() for logger in loggers.values()) else logging.INFO
        if PACKAGE.level != level:
            PACKAGE.setLevel(level)
        while self._waiting:
            record = self._waiting.popleft()
            logger = loggers.get(getattr(record, "device", ""), next(iter(loggers.values())))
            text = as_latin(f"{record.name}: {logging.Formatter().format(record)}")
            if record.levelno >= logging.ERROR:
                logger.error("%s", text)
            elif record.levelno >= logging.WARNING:
                logger.warn("%s", text)
            elif record.levelno >= logging.INFO:
                logger.info("%s", text)
            else:
                logger.debug("%s", text)


def as_line(record: logging.LogRecord) -> str:
    """`2026-03-04 05:06:07.089 WARNING text`, in one line that Tango can carry; of a traceback the last line."""
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    source = getattr(record, "device", "").rpartition("/")[2] or record.name.partition(".")[2]
    text = " ".join(f"{source}: {text}".split())
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    return as_latin(f"{moment}.{int(record.msecs):03d} {record.levelname} {text[:LONGEST]}")[:LONGEST]


def of_device(device: FrameSieveDevice) -> logging.LoggerAdapter:
    """The log of a device."""
    return logging.LoggerAdapter(logging.getLogger(__package__), {"device": device.get_name()})


_messages: Messages | None = None


def messages() -> Messages:
    """The messages of this process, taken down from the first call on."""
    global _messages
    if _messages is None:
        _messages = Messages()
        PACKAGE.addHandler(_messages)
        if PACKAGE.level == logging.NOTSET:
            PACKAGE.setLevel(logging.INFO)
    return _messages
