"""A Python program as a child process: started until it is ready, heard, ended, never left behind."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Self

from ..processing.errors import CommunicationError

LINES_KEPT = 2000
LINES_IN_ERRORS = 8


class ChildProcess:
    """A child process that ends with this one, however this one ends; see `watched`.

    A context manager: started on entering, closed on leaving. Safe to use after Tango has started its threads,
    since nothing of this process runs between fork and exec.

    Parameters
    ----------
    name
        What error messages call it.
    command
        A module name or the path of a `.py` file, and its arguments.
    ready
        Regular expression for the line of its output (stdout or stderr) from which on it can be used.
    env
        Environment variables on top of those of this process.
    timeout
        Seconds it may take to become ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready: str,
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.ready = ready
        self.env = dict(env or {})
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._changed = threading.Condition()  # guards the lines; notified for every line and at the end
        self._ended = True

    @property
    def lines(self) -> list[str]:
        """Its newest output since the last start, stdout and stderr in the order of arrival."""
        with self._changed:
            return list(self._lines)

    @property
    def pid(self) -> int:
        """Process id; raises `CommunicationError` when it was never started."""
        if self._process is None:
            raise CommunicationError(f"{self.name} has not been started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status (negative: ended by that signal); None while running or never started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> Self:
        """Start it and wait until it is ready; nothing happens when it runs already.

        Raises
        ------
        CommunicationError
            It ended or did not become ready in time; the text holds its last lines of output.
        """
        if self.running:
            return self
        self.close()
        self._lines.clear()
        self._ended = False
        # -P: a stray yaml.py in the current directory must not be imported; a session of its own: Ctrl-C in the
        # terminal goes to the parent alone, which then closes its children in the right order
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "framesieve.tango_db.watched", *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | self.env,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        try:
            self.wait_for(self.ready, self.timeout)
        except BaseException:
            self.kill()
            raise
        return self

    def wait_for(self, pattern: str, timeout: float) -> str:
        """The first line since the start that matches a regular expression; waits for it.

        Raises
        ------
        CommunicationError
            No such line within `timeout` seconds, or the process ended before it.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self._lines:
                    if re.search(pattern, line):
                        return line
                if self._ended:
                    raise CommunicationError(f"{self.name} ended {self._how_it_ended()}{self._last_output()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise CommunicationError(
                        f"{self.name} did not say {pattern!r} within {timeout:g} s{self._last_output()}"
                    )
                self._changed.wait(left)

    def check(self, *, may_end: bool = False, within: float = 0.0) -> None:
        """For whoever waits for something that it is to do.

        Parameters
        ----------
        may_end
            Whether it may have ended by itself, with status 0.
        within
            Seconds that it is given to end, for those who have just lost the connection.

        Raises
        ------
        CommunicationError
            It has ended; the text holds its last lines of output.
        """
        if self._process is None:
            raise CommunicationError(f"{self.name} has not been started")
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            return
        if status == 0 and may_end:
            return
        self._reader.join(1.0)  # what it said last may be on its way
        raise CommunicationError(f"{self.name} ended {self._how_it_ended()}{self._last_output()}")

    def close(self, grace: float = 5.0) -> None:
        """Ask it to end (SIGTERM), end it (SIGKILL) after `grace` seconds; ignored when it has ended."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._collect()

    def kill(self) -> None:
        """End it at once (SIGKILL): no clean-up on its side."""
        if self._process is not None:
            self._process.kill()
            self._collect()

    def restart(self) -> Self:
        """Close, then start again."""
        self.close()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _collect(self) -> None:
        assert self._process is not None
        self._process.wait()
        if self._reader is not None:
            self._reader.join(1.0)  # longer only if a grandchild holds the pipe open
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        with process.stdout:
            for line in process.stdout:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:  # it closed its output and lives on
            return "its output"
        return f"by signal {-status}" if status < 0 else f"with status {status}"

    def _last_output(self) -> str:
        last = list(self._lines)[-LINES_IN_ERRORS:]
        return "; its last output:\n  " + "\n  ".join(last) if last else "; it printed nothing"
