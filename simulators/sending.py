"""How simulated detectors live: series after series from a thread of their own, and what they did."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Self

from .misbehaviour import Misbehaviour, Step


@dataclass
class Done:
    """What a detector has done so far, in all series. Of `images`, those handed over, so many were `corrupt`,
    `duplicated` (the second of the two) or `strays`; `lost` ones were not handed over. It `died` before these images of
    the first series; some that had been handed over before may have gone with it: nobody can know how many."""

    images: int = 0
    lost: int = 0
    corrupt: int = 0
    duplicated: int = 0
    strays: int = 0
    died: list[int] = field(default_factory=list)

    def count(self, step: Step) -> None:
        """An image was handed over."""
        self.images += 1
        self.corrupt += step.corrupt
        self.duplicated += step.again
        self.strays += step.stray

    def count_lost(self, misbehaviour: Misbehaviour, series: int, last: int, n_frames: int) -> None:
        """A series of `n_frames` images is over, of which that at `last` was the farthest."""
        reach = last + 1 if misbehaviour.is_aborted(series) else n_frames
        self.lost += sum(place < reach for place in misbehaviour.lost)


class SendingThread:
    """Sends series from a thread. A subclass says how one is sent (`_send_series`), and what there is to close.

    Attributes
    ----------
    series : int
        Number of series, one after the other; 0 = until stopped. Set by the subclass.
    done : Done
        What was sent so far, and what went wrong.
    """

    series: int

    def __init__(self) -> None:
        self.done = Done()
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self._cut_short = False

    @property
    def sent(self) -> int:
        """Images handed over so far, in all series."""
        return self.done.images

    def _send_series(self, number: int) -> bool:
        """Send one series, `number` counting from 1; False when told to stop before its end."""
        raise NotImplementedError

    def _close(self, linger: float) -> None:
        """Give everything back; last messages may wait `linger` seconds for whoever takes them."""
        raise NotImplementedError

    def _launch(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is handed over; False when `timeout` seconds were not enough.

        Raises
        ------
        Exception
            What made the sending end early.
        """
        finished = self._finished.wait(timeout)
        if self._error is not None:
            raise self._error
        return finished

    def stop(self, linger: float = 5.0) -> None:
        """End the sending, at any moment; may be called twice.

        When all has been sent, at most `linger` seconds are waited for the last messages to be taken; when the series
        is cut short, they are dropped.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        complete = self._finished.is_set() and self._error is None and not self._cut_short
        self._close(linger if complete else 0.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to send."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self._send_all()
        except Exception as error:
            self._error = error
        finally:
            self._finished.set()

    def _send_all(self) -> None:
        number = 0
        while (not self.series or number < self.series) and not self._stop.is_set():
            number += 1
            if not self._send_series(number):
                self._cut_short = True
                break
