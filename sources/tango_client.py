"""A thread that stays in touch with one Tango device, which may go away and come back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..processing.errors import CommunicationError, FrameSieveError
from ..processing.threads import start_thread
from .tango_address import TangoAddress

if TYPE_CHECKING:
    import tango

log = logging.getLogger(__name__)

#: how long to wait before a device that does not answer is asked again, s
RETRY = 0.5

#: how long a thread that is inside a call to Tango is waited for, s; then it is left to end by itself
JOIN_PATIENCE = 2.0

#: reasons of errors that mean: the device could not be asked. Others are its answer
NO_ANSWER = ("API_CorbaException", "API_CantConnectToDevice", "API_ConnectionFailed", "API_DeviceTimedOut",
             "API_ServerNotRunning", "API_DeviceNotExported", "API_CommandTimedOut")  # fmt: skip


class TangoClient:
    """Base of what reads from a device: `attach` is called whenever there is a connection, `turn` again and again while
    it lasts, `detach` at its end. All are called by one thread. An error of Tango ends the connection, and another one
    is tried.

    Attributes
    ----------
    wake : threading.Event
        Ends the wait between two turns.
    is_attached : bool
        Whether there is a connection.
    failure : Exception or None
        What ended the thread for good.
    """

    def __init__(self, address: TangoAddress, timeout: float, thread_name: str) -> None:
        self.address, self.timeout = address, timeout
        self.wake = threading.Event()
        self.stopping = threading.Event()
        self.is_attached = False
        self.failure: Exception | None = None
        self._decided = threading.Event()  # whether it could be reached at first
        self._thread_name = thread_name
        self._thread: threading.Thread | None = None
        self._subscriptions: list[int] = []

    # --- for subclasses

    def attach(self, proxy: tango.DeviceProxy) -> None:
        """Connect: ask the device for something. ConfigurationError where it has not what is needed."""

    def turn(self, proxy: tango.DeviceProxy) -> None:
        """Look after the device; waits on `wake` in between."""
        raise NotImplementedError

    def detach(self) -> None:
        """The connection is over."""

    # --- life

    def start(self) -> None:
        """Start the thread, and wait until the device has answered.

        Raises
        ------
        CommunicationError, ConfigurationError
            It does not answer, or has not what is needed.
        """
        self._thread = start_thread(self._run, self._thread_name)
        if not self._decided.wait(3 * self.timeout + 2.0):  # it may take several calls
            self.stop()
            raise CommunicationError(f"{self.address}: the device does not answer")
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """End the thread; one that is inside a call to Tango ends later."""
        self.stopping.set()
        self.wake.set()
        if self._thread is not None:
            self._thread.join(JOIN_PATIENCE)
            self._thread = None

    def _run(self) -> None:
        import tango

        with tango.EnsureOmniThread():
            while not self.stopping.is_set():
                try:
                    self._stay_in_touch(tango)
                except (tango.DevFailed, FrameSieveError) as error:
                    if not self._decided.is_set():
                        known = isinstance(error, FrameSieveError)
                        self.failure = error if known else CommunicationError(f"{self.address}: {_why(error)}")
                        break
                    log.warning("%s: %s; trying again", self.address, text_of(error))
                except Exception as error:
                    log.exception("%s", self.address)
                    self.failure = CommunicationError(f"{self.address}: {type(error).__name__}: {error}")
                    break
                self.stopping.wait(RETRY)
        self._decided.set()

    def _stay_in_touch(self, tango: Any) -> None:
        proxy = tango.DeviceProxy(self.address.device)
        proxy.set_timeout_millis(int(1000 * self.timeout))
        try:
            self.attach(proxy)
            self.is_attached = True
            self._decided.set()
            while not self.stopping.is_set():
                self.turn(proxy)
        finally:
            self.is_attached = False
            self._unsubscribe(proxy)
            self.detach()

    # --- events

    def subscribe(self, proxy: tango.DeviceProxy, name: str, kind: str, callback: Any) -> bool:
        """Have `callback` called with the events `kind` ("CHANGE_EVENT") of an attribute, from a thread of Tango; False
        where the device does not offer them. What the attribute has now is no event."""
        import tango

        try:
            event = getattr(tango.EventType, kind)
            self._subscriptions.append(proxy.subscribe_event(name, event, callback, tango.EventSubMode.Sync))
        except tango.DevFailed as error:
            log.info("%s: no %s of %s: %s", self.address, kind, name, text_of(error))
            return False
        return True

    def _unsubscribe(self, proxy: tango.DeviceProxy) -> None:
        import tango

        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            try:
                proxy.unsubscribe_event(subscription)
            except tango.DevFailed as error:
                log.info("%s: %s", self.address, text_of(error))


def read_values(proxy: tango.DeviceProxy, names: Sequence[str]) -> list[tango.DeviceAttribute]:
    """Several attributes, read in this order and at once; DevFailed where one of them fails."""
    import tango

    found = proxy.read_attributes(list(names))
    for value in found:
        if value.has_failed:
            raise tango.DevFailed(*value.get_err_stack())
    return found


def is_silence(error: tango.DevFailed) -> bool:
    """Whether the device could not be asked, as opposed to: refused."""
    return any(one.reason in NO_ANSWER for one in error.args)


def _why(error: tango.DevFailed) -> str:
    """Why a device cannot be used at all, with Tango's own words behind it."""
    if is_silence(error):
        return f"the device does not answer; is its server running? ({text_of(error)})"
    return text_of(error)


def text_of(error: Exception) -> str:
    """What went wrong, in one line: the first error of a DevFailed is the one at the root."""
    stack = getattr(error, "args", ())
    text = stack[0].desc if stack and hasattr(stack[0], "desc") else str(error)
    return " ".join(text.split())[:300] or type(error).__name__
