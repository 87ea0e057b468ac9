"""What the panel knows of the devices: newest values by events, settings that are to be written, refusals.

No Qt here. Nothing is polled: every value comes by a change event, and the descriptions of the attributes are read
once per connection. All talking to devices that may take time is done by one thread of the model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tango

from ...processing.threads import start_thread
from .names import READINGS, TRENDS
from .values import Description, Picture, Refusal, Value, describe, name_of, reason_of

log = logging.getLogger(__name__)

TREND_LENGTH = 600.0  # s
TREND_STEP = 0.2  # s between two points that are kept
RETRY = 2.0  # s until a device that was not there is tried again
#: a picture → where it is kept, and its peaks, frame number and step
PICTURES = {
    "acquisition/preview": (
        *("picture", "acquisition/preview_peaks", "acquisition/preview_frame", "acquisition/preview_step"),
    ),
    "peakfinder/last_hit_preview": (
        *("hit", "peakfinder/last_hit_peaks", "peakfinder/last_hit_number", "peakfinder/virtual_powder_step"),
    ),
}
COMMANDS = ("Prepare", "Start", "Stop", "Abort", "Reset")
TOLD_APART = ("acquisition/frame_count", "acquisition/state")  # whose changes matter, not only their values
OUTDATED = 1.0  # s: a command that was refused so long before the state changed says nothing of the new one


class PanelModel:
    """The devices of one pipeline as a panel needs them. Thread-safe.

    Parameters
    ----------
    devices
        Member (acquisition, sparsifier, peakfinder, veto) → name of the device.
    """

    def __init__(self, devices: Mapping[str, str]) -> None:
        self.devices = dict(devices)
        self.descriptions: dict[str, Description] = {}
        self.last_news = time.monotonic()  # when the newest event came
        self.last_frame = self.last_news  # when frame_count last changed
        self.longest_gap = 0.0  # s, the longest time between two changes of it in this run
        self.state_was_seen = False  # whether the acquisition device has answered at all
        self._values: dict[str, Value] = {}
        self._changed: set[str] = set()
        self.picture: Picture | None = None  # the newest frame; None before the first
        self.hit: Picture | None = None  # the last hit, while it is watched
        self._trends: dict[str, deque[tuple[float, float]]] = {
            key: deque(maxlen=int(TREND_LENGTH / TREND_STEP)) for key in TRENDS
        }
        self._refusals: dict[str, Refusal] = {}
        self._lock = threading.Lock()
        # what the thread has to do: settings to write (the newest value of each), commands, members to connect
        self._to_do = threading.Condition()
        self._writes: dict[str, Any] = {}
        self._commands: deque[str] = deque(maxlen=8)
        self._to_connect: dict[str, float] = dict.fromkeys(self.devices, 0.0)  # member → not before
        self._to_describe: set[str] = set()
        self._being_written = ""
        self._closing = False
        self._proxies: dict[str, tango.DeviceProxy] = {}
        self._subscriptions: list[tuple[tango.DeviceProxy, int]] = []
        self._wanted: tuple[str, ...] = ()  # what is watched beside what is always shown
        self._watched: dict[str, tuple[tango.DeviceProxy, int]] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connect; returns at once, values come as the devices send them."""
        self._thread = start_thread(self._run, "panel")

    def close(self, timeout: float = 2.0) -> bool:
        """Unsubscribe; whether that was done in time. The thread is given up where a device does not answer."""
        with self._to_do:
            self._closing = True
            self._to_do.notify()
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    # ---- what is known -------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The newest value of `member/attribute`, `default` without any."""
        value = self._values.get(key)
        return default if value is None or value.error or value.value is None else value.value

    def detail(self, key: str) -> Value:
        """The same with quality and error."""
        return self._values.get(key, Value())

    def take_changed(self) -> set[str]:
        """What has changed since the last call: attributes, refusals, `member` where its descriptions came."""
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    def trend(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Times (of `time.monotonic`) and values, NaN where there was no connection."""
        with self._lock:
            points = np.array(self._trends[key], dtype=np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    @property
    def missing(self) -> dict[str, str]:
        """Members that do not answer → why."""
        states = {member: self.detail(f"{member}/state") for member in self.devices}
        return {
            member: state.error or "connecting"
            for member, state in states.items()
            if state.error or state.value is None
        }

    @property
    def state(self) -> str:
        """Of the acquisition device: its name in capitals, or empty without connection."""
        return str(self.get("acquisition/state", ""))

    @property
    def newest_refusal(self) -> Refusal | None:
        with self._lock:
            return max(self._refusals.values(), key=lambda refusal: refusal.time, default=None)

    def refusal(self, key: str) -> Refusal | None:
        """Why the last write of a setting, or the last command, was refused; None where it was not."""
        return self._refusals.get(key)

    def is_pending(self, key: str) -> bool:
        """Whether a setting is still to be written."""
        with self._to_do:
            return key in self._writes or key == self._being_written

    # ---- what is to be done --------------------------------------------------------------------------------------

    def write(self, key: str, value: Any) -> None:
        """Have a setting written; of several values that wait, the newest. Returns at once."""
        with self._to_do:
            self._writes[key] = value
            self._to_do.notify()

    def command(self, name: str) -> None:
        """Have a command of the acquisition device executed; returns at once."""
        with self._to_do:
            self._commands.append(name)
            self._to_do.notify()

    def watch(self, keys: Iterable[str]) -> None:
        """Subscribe to these beside what is always shown, and no longer to those watched before. Returns at once."""
        with self._to_do:
            self._wanted = tuple(keys)
            self._to_do.notify()

    def _run(self) -> None:
        with tango.EnsureOmniThread():
            while True:
                with self._to_do:
                    while not (job := self._next_job()):
                        self._to_do.wait(self._patience())
                do, *arguments = job
                try:
                    do(*arguments)
                except Exception:
                    log.exception("the panel cannot do what it should")
                if do == self._disconnect:
                    return

    def _next_job(self) -> tuple | None:
        now = time.monotonic()
        if self._closing:
            return (self._disconnect,)
        if self._commands:
            return self._execute, self._commands.popleft()
        if self._writes:
            key = next(iter(self._writes))
            self._being_written = key
            return self._write, key, self._writes.pop(key)
        if due := [member for member, when in self._to_connect.items() if when <= now]:
            del self._to_connect[due[0]]
            return self._connect, due[0]
        if self._to_describe:
            return self._describe, self._to_describe.pop()
        if gone := [key for key in self._watched if key not in self._wanted]:
            return self._unwatch, gone[0]
        if new := [key for key in self._wanted if key not in self._watched and key in self.descriptions]:
            return self._watch, new[0]
        return None

    def _watch(self, key: str) -> None:
        proxy = self._proxies[key.partition("/")[0]]
        try:
            self._watched[key] = proxy, self._subscribe(proxy, key)
        except Exception:  # not again and again
            self._wanted = tuple(wanted for wanted in self._wanted if wanted != key)
            raise

    def _unwatch(self, key: str) -> None:
        proxy, identity = self._watched.pop(key)
        self._unsubscribe([(proxy, identity)])

    def _patience(self) -> float | None:
        return max(0.0, min(self._to_connect.values()) - time.monotonic()) if self._to_connect else None

    def _write(self, key: str, value: Any) -> None:
        member, _, name = key.partition("/")
        try:
            self._attempt(key, member, lambda proxy: proxy.write_attribute(name, value))
        finally:
            self._being_written = ""
            self._note(key)

    def _execute(self, name: str) -> None:
        self._attempt(f"acquisition/{name}", "acquisition", lambda proxy: proxy.command_inout(name))

    def _attempt(self, key: str, member: str, do: Any) -> None:
        try:
            if member not in self._proxies:
                raise ConnectionError(f"there is no connection to {self.devices[member]}")
            do(self._proxies[member])
        except Exception as error:
            with self._lock:
                self._refusals[key] = Refusal(key, reason_of(error), time.monotonic())
        else:
            with self._lock:
                # a command that was taken answers those that were not
                for solved in [key] if name_of(key) not in COMMANDS else [f"acquisition/{name}" for name in COMMANDS]:
                    self._refusals.pop(solved, None)
        self._note(key)

    # ---- connecting ----------------------------------------------------------------------------------------------

    def _connect(self, member: str) -> None:
        """Descriptions and subscriptions of one device; tried again later where it is not there."""
        name = self.devices[member]
        try:
            proxy = tango.DeviceProxy(name)
            self._proxies[member] = proxy
            self._describe(member)
        except Exception as error:
            self._store(f"{member}/state", Value(error=reason_of(error)))
            with self._to_do:
                self._to_connect[member] = time.monotonic() + RETRY
            return
        shown = [name_of(key) for key in self._shown(member)]
        for attribute in ["state", "status", *shown]:
            self._subscriptions.append((proxy, self._subscribe(proxy, f"{member}/{attribute}")))

    def _subscribe(self, proxy: tango.DeviceProxy, key: str) -> int:
        def take(event: tango.EventData) -> None:
            self._take(key, event)

        # "stateless": it stays subscribed whatever happens to the server, and comes back with it
        return proxy.subscribe_event(
            name_of(key), tango.EventType.CHANGE_EVENT, take, sub_mode=tango.EventSubMode.Stateless
        )

    def _shown(self, member: str) -> list[str]:
        """What is shown of a device, of what it has: an older server may lack some of it."""
        keys = [
            key
            for key, description in list(self.descriptions.items())
            if key.startswith(f"{member}/") and (description.is_writable or name_of(key) in READINGS.get(member, ()))
        ]
        return sorted(keys, key=lambda key: name_of(key) == "preview")  # after what belongs to it

    def _describe(self, member: str) -> None:
        found = {}
        for info in self._proxies[member].attribute_list_query_ex():
            found[f"{member}/{info.name}"] = describe(info)
        self.descriptions = {key: old for key, old in self.descriptions.items() if not key.startswith(f"{member}/")}
        self.descriptions |= found
        self._note(member)

    def _disconnect(self) -> None:
        self._unsubscribe([*self._subscriptions, *self._watched.values()])
        self._subscriptions.clear()
        self._watched.clear()

    @staticmethod
    def _unsubscribe(subscriptions: Iterable[tuple[tango.DeviceProxy, int]]) -> None:
        for proxy, identity in subscriptions:
            try:
                proxy.unsubscribe_event(identity)
            except Exception:  # the server may be gone
                log.debug("unsubscribing", exc_info=True)

    # ---- events --------------------------------------------------------------------------------------------------

    def _take(self, key: str, event: tango.EventData) -> None:
        """The callback of every subscription: stores, and does nothing else."""
        if event.err:
            self._store(key, Value(error=event.errors[0].desc.strip() if event.errors else "no connection"))
            return
        read = event.attr_value
        value = str(read.value) if key.endswith("/state") else read.value
        before = self._values.get(key)
        if key in PICTURES:
            field, *others = PICTURES[key]
            # what belongs to a picture is sent before it
            setattr(self, field, Picture.of(value, *(self.get(other) for other in others)))
        self._store(key, Value(value, read.quality))
        if key.endswith("/state") and before is not None and before.error:
            with self._to_do:  # the server is back, maybe with other labels
                self._to_describe.add(key.partition("/")[0])
                self._to_do.notify()

    def _store(self, key: str, value: Value) -> None:
        now = time.monotonic()
        with self._lock:
            before = self._values.get(key, Value())
            self._values[key] = value
            if key in TOLD_APART and not value.error and before.value != value.value:
                self._note_change(key, before.value, value.value, now)
            self._changed.add(key)
            if not value.error:
                self.last_news = now
            trend = self._trends.get(key)
            if trend is not None:
                number = float("nan") if value.error or value.value is None else float(value.value)
                if trend and now - trend[-1][0] < TREND_STEP:
                    trend[-1] = (trend[-1][0], number)  # the newest of a crowd
                else:
                    trend.append((now, number))

    def _note_change(self, key: str, before: Any, value: Any, now: float) -> None:
        """What a new value of the acquisition device stands for."""
        if key == "acquisition/frame_count":
            goes_on = before is not None and value is not None and 0 < before < value
            self.longest_gap = max(self.longest_gap, now - self.last_frame) if goes_on else 0.0
            self.last_frame = now
        else:
            self.state_was_seen = True
            for refused in [f"acquisition/{name}" for name in COMMANDS]:
                if refused in self._refusals and now - self._refusals[refused].time > OUTDATED:
                    del self._refusals[refused]

    def _note(self, what: str) -> None:
        with self._lock:
            self._changed.add(what)
