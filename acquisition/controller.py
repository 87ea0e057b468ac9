"""Prepare, Start, Stop, Abort, Reset of a run: what `AcquisitionDevice` and `framesieve reduce` both drive.

Every command returns at once; the work is done by threads.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..processing.errors import FrameSieveError, HardwareError, NotAllowedError
from ..processing.frames import SeriesStart, Source
from ..processing.parameters import ParameterStore
from ..processing.pipeline import Pipeline
from ..processing.threads import start_thread
from ..sources.registry import open_source
from .closing import Closing
from .collector import Collector
from .disk_watch import DiskWatch
from .images import check_images
from .overview import Overview
from .parking import Parking
from .preparation import LIKELY, Prepared, prepare_run
from .run_state import RunState, refuse_unless_idle
from .settings import RunSettings, check_inside
from .statistics import Snapshot
from .status_notes import silence_note, summary

log = logging.getLogger(__name__)

_ABORT_PATIENCE = 30.0  # s; a device that is still busy then is left behind
_PREPARE_PATIENCE = 120.0  # s, likewise for a preparation that is aborted: compilers take their time
_DISK_PATIENCE = 5.0  # s; a disk that does not answer a run that is aborted is given up


class RunController:
    """One pipeline and its life. All methods are thread-safe and return at once.

    Parameters
    ----------
    parameters
        Live parameters; change them through `parameters.update(...)` at any time.
    saving_root
        Directory below which files may be written; empty: anywhere.
    ring_size, batch_size
        Frames that can wait for the device, and frames per launch.
    decode_threads
        Frames that are decoded at once; 0: as suits the computer.
    open_source
        Makes the source from the text of the setting.
    """

    def __init__(
        self,
        parameters: ParameterStore | None = None,
        *,
        saving_root: str = "",
        ring_size: int = 32,
        batch_size: int = 4,
        decode_threads: int = 0,
        open_source: Callable[[str], Source] = open_source,
    ) -> None:
        self.parameters = parameters or ParameterStore()
        self.saving_root = saving_root
        self.ring_size = ring_size
        self.batch_size = batch_size
        self.decode_threads = decode_threads
        self._open_source = open_source
        self._parking = Parking()  # of the source, between two runs
        self.error: Exception | None = None  # why the state is FAULT
        self.what_if_min_peaks = self.parameters.current.values.veto_min_peaks
        self.settings = RunSettings()
        self.state = RunState.STANDBY
        self._status = "Idle. Prepare or Start begins a run."
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._prepared: Prepared | None = None
        self._pipeline: Pipeline | None = None
        self._collector = Collector()
        self._worker: threading.Thread | None = None
        self._disk_watch: DiskWatch | None = None  # of the last run that writes
        self._announced: int | None = None  # frames that the source told of
        self._cancelled = False
        self._likely = LIKELY  # the series that comes next
        self._likely_source = ""  # from which it comes
        # a thread cut off at the end of the interpreter may hold a lock of HDF5 or OpenCL, and the end would hang
        atexit.register(_shut_down, weakref.ref(self))

    # ---- settings --------------------------------------------------------------------------------------------

    def configure(self, **changes: Any) -> RunSettings:
        """Change run settings; checked at once (`ConfigurationError`, `OutOfRangeError`), refused while RUNNING
        (`NotAllowedError`). In ON the run falls back to STANDBY, since what was prepared no longer holds."""
        with self._lock:
            if self.state in (RunState.RUNNING, RunState.INIT):
                raise NotAllowedError(
                    f"{', '.join(changes)} cannot be changed while {self.state.name}; Stop or Abort the run first"
                )
            settings = self.settings.replace(**changes)
            settings.check(only=changes)
            check_images(settings, changes)
            check_inside(settings.saving_directory, self.saving_root)
            is_same_source = settings.source == self.settings.source
            self.settings = settings
            if not is_same_source:
                self._parking.clear()
            if self.state is RunState.ON:
                self._discard(keep_source=is_same_source)
                self._enter(RunState.STANDBY, "A setting was changed: Prepare again.")
            return settings

    # ---- commands --------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """STANDBY → INIT → ON, or FAULT."""
        with self._lock:
            refuse_unless_idle("Prepare", self.state)
            self._launch(start=False)

    def start(self) -> None:
        """ON → RUNNING, or STANDBY → INIT → RUNNING. A second start is refused (`NotAllowedError`)."""
        with self._lock:
            refuse_unless_idle("Start", self.state)
            if self.state is RunState.ON:
                self._run()
            else:
                self._launch(start=True)

    def stop(self) -> None:
        """Finish what has arrived, close the files. Redundant stops are ignored."""
        with self._lock:
            if self.state is RunState.RUNNING and self._pipeline is not None:
                self._status = "Stopping: finishing the frames that have arrived."
                self._pipeline.stop()
            elif self.state is RunState.INIT:
                if not self._cancelled:
                    self._cancelled = True
                    start_thread(self._wait_for_preparation, "cancel", self._worker)
            elif self.state is RunState.ON:
                self._discard()
                self._enter(RunState.STANDBY, "Idle. What was prepared has been given up.")

    def abort(self) -> None:
        """Stop at once; what was written stays valid. Where nothing runs, the connection that was kept since the last
        run is given up."""
        with self._lock:
            if self.state is RunState.RUNNING and self._pipeline is not None:
                self._status = "Aborting."
                self._pipeline.abort()
            else:
                self.disconnect()
                self.stop()

    def disconnect(self) -> None:
        """Give up the connection that was kept since the last run, and what has come by it."""
        self._parking.clear()

    def reset(self) -> None:
        """FAULT → STANDBY; in STANDBY as `disconnect`; refused while RUNNING (`NotAllowedError`)."""
        with self._lock:
            if self.state in (RunState.RUNNING, RunState.INIT):
                raise NotAllowedError(f"Reset is refused while {self.state.name}; Stop or Abort the run first")
            self.disconnect()
            if self.state is RunState.FAULT:
                self.error = None
                self._discard()
                self._enter(RunState.STANDBY, "Idle. Prepare or Start begins a run.")

    # ---- what is going on ------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """What the run does, and what is unusual about it."""
        pipeline = self._pipeline
        if self.state is not RunState.RUNNING or pipeline is None or pipeline.stopping:
            return self._status
        return " ".join(filter(None, (self._status, self._collector.note, silence_note(pipeline))))

    def snapshot(self) -> Snapshot:
        """The newest numbers; costs little."""
        pipeline, disk = self._pipeline, self._disk_watch
        snapshot = self._collector.snapshot(
            what_if_min_peaks=self.what_if_min_peaks,
            veto_max_peaks=self.parameters.current.values.veto_max_peaks,
            occupancy=pipeline.occupancy if pipeline is not None else 0.0,
        )
        if pipeline is not None and pipeline.drops_waiting:
            snapshot = replace(snapshot, frames_dropped=snapshot.frames_dropped + pipeline.drops_waiting)
        if disk is None:
            return snapshot
        return replace(snapshot, free_space=1e-9 * disk.free, time_until_full=disk.seconds_left, disk_alarm=disk.alarm)

    @property
    def expected_frames(self) -> int | None:
        """How many frames the run will have, as far as that is known."""
        return min(filter(None, (self._announced, self.settings.number_of_frames)), default=None)

    def read_counters(self, from_frame: int) -> dict[str, list]:
        """`frame`, `n_peaks`, `n_pixels`, `verdict` (name in lower case), `parameter_set` of the reduced frames
        with a number of at least `from_frame` among the last 10 000."""
        return self._collector.counters(from_frame)

    @property
    def overview(self) -> Overview:
        """Virtual powder, map of the scan and last hit of the newest run."""
        return self._collector.overview

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until neither INIT nor RUNNING; False when `timeout` seconds passed before."""
        with self._changed:
            return self._changed.wait_for(lambda: self.state not in (RunState.INIT, RunState.RUNNING), timeout)

    def shutdown(self) -> None:
        """Abort, join all threads (bounded), give the OpenCL device back. For the end of the process."""
        with self._lock:
            self._cancelled = True
            self.abort()
            worker = self._worker
        if worker is not None:
            worker.join(_ABORT_PATIENCE)
        with self._lock:
            self._discard()
            self.disconnect()

    # ---- behind the commands ---------------------------------------------------------------------------------

    def _enter(self, state: RunState, status: str) -> None:
        with self._changed:
            self._status = status
            self.state = state
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        what = str(error) if isinstance(error, FrameSieveError) else f"{type(error).__name__}: {error}"
        self._collector.set_error(what)
        self.error = error
        self.disconnect()
        self._enter(RunState.FAULT, f"{what}. Correct it, then Reset.")

    def _launch(self, *, start: bool) -> None:
        self._discard(keep_source=True)
        self._cancelled = False
        self._collector = Collector()  # the numbers of the last run are not those of this one
        self._enter(RunState.INIT, "Preparing: geometry, mask, bins, kernels, files.")
        self._worker = start_thread(self._prepare, "prepare", start)

    def _prepare(self, start: bool) -> None:
        try:
            prepared = prepare_run(
                self.settings,
                lambda url: self._parking.take(url) or self._open_source(url),
                batch_size=self.batch_size,
                decode_threads=self.decode_threads,
                likely=self._likely_series(),
            )
        except Exception as error:
            if not isinstance(error, FrameSieveError):
                log.exception("preparing failed")
            with self._lock:
                if self._worker is threading.current_thread():
                    self._fail(error)
            return
        with self._lock:
            if self._worker is not threading.current_thread():  # nobody waits for it any more
                Closing(prepared)
                return
            self._prepared = prepared
            self._collector = prepared.collector
            if self._cancelled:
                self._discard()
                self._enter(RunState.STANDBY, "Idle. The preparation was given up.")
            elif start:
                self._run()
            else:
                self._enter(RunState.ON, f"Prepared. Start begins the run.{self._geometry_note(prepared)}")

    def _wait_for_preparation(self, worker: threading.Thread) -> None:
        """A preparation is cancelled, and may hang."""
        worker.join(_PREPARE_PATIENCE)
        with self._lock:
            if worker.is_alive() and self._worker is worker:
                self._worker = None
                self._fail(HardwareError("the preparation does not end: does a network share or a device not answer?"))

    @staticmethod
    def _geometry_note(prepared: Prepared) -> str:
        if prepared.images.tells_geometry:
            return ""
        return " NO GEOMETRY FILE IS SET: distance and beam centre are those that the source tells, without any tilt."

    def _likely_series(self) -> SeriesStart:
        """The series of the last run comes again, but of another detector only the pixel type may be the same."""
        if self._likely_source == self.settings.source:
            return self._likely
        return SeriesStart("", dtype=self._likely.dtype)

    def _run(self) -> None:
        # from here on it belongs to the run, whose last step closes it
        prepared, self._prepared, settings = self._prepared, None, self.settings
        self._announced = prepared.start.number_of_frames if prepared.start is not None else None
        pipeline = Pipeline(
            prepared.source,
            prepared.reducers.make,
            self.parameters,
            prepared.sink,
            number_of_frames=settings.number_of_frames,
            ring_size=self.ring_size,
            keep_dense=settings.saving_dense,
            decode_threads=self.decode_threads,
            opened=prepared.start,
            preview=prepared.collector.set_preview,
        )
        self._pipeline = pipeline
        if settings.saving_sparse or settings.saving_dense:
            sink = prepared.sink
            self._disk_watch = DiskWatch(
                settings.output_path.absolute().parent, lambda: sink.bytes_written, lambda: sink.stalled
            )
        note = self._geometry_note(prepared)
        self._enter(RunState.RUNNING, f"Running: frames come from {settings.source}.{note}")
        pipeline.start()
        self._worker = start_thread(self._follow, "run", pipeline, prepared)

    def _follow(self, pipeline: Pipeline, prepared: Prepared) -> None:
        """Wait for the end of a run and clean up."""
        aborted_at = None
        counted_up = False
        closing: Closing | None = None
        source: Source | None = None  # for the next run
        while closing is None or not closing.join(0.1):
            if closing is None and pipeline.join(0.1):
                if pipeline.error is None and not pipeline.aborting:
                    source = prepared.part_with_source()
                closing = Closing(prepared)
            # at once, not at the end: a server that is killed must not meet its own file again
            counted_up = counted_up or self._count_up(prepared)
            if pipeline.aborting:
                aborted_at = aborted_at or time.monotonic()
                if prepared.sink.stalled > _DISK_PATIENCE:
                    prepared.sink.give_up_disk()
                if time.monotonic() - aborted_at > _ABORT_PATIENCE:
                    break
        error = pipeline.error
        if closing is not None and closing.join(0):
            error = error or closing.error
        else:  # what that step may still use is not closed under it
            error = HardwareError("a step of the run does not end: restart the server; what was written is safe")
        if self._disk_watch is not None:
            self._disk_watch.close()
        with self._lock:
            self._pipeline = None
            if prepared.reducers.dtype is not None:
                self._likely = replace(prepared.images.told, dtype=prepared.reducers.dtype)
                self._likely_source = self.settings.source
            if not counted_up:
                self._count_up(prepared)
            if error is None:
                self._parking.put(self.settings.source, source)
                note = self._collector.note
                self._enter(RunState.STANDBY, " ".join(filter(None, ("Idle.", summary(self.snapshot()), note))))
                return
            if source is not None:
                source.close()
            self._fail(error)

    def _count_up(self, prepared: Prepared) -> bool:
        """Go on to the next file number once something is in the file of this one."""
        if not prepared.sink.has_saved or self.settings.saving_file:
            return False
        with self._lock:
            self.settings = self.settings.replace(saving_next_number=self.settings.saving_next_number + 1)
        return True

    def _discard(self, *, keep_source: bool = False) -> None:
        """Give up what was prepared, but where it is wanted for the next run not the connection of the source."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            source = prepared.part_with_source() if keep_source else None
            closing = Closing(prepared)
            while not closing.join(0.1):
                if prepared.sink.stalled > _DISK_PATIENCE:
                    prepared.sink.give_up_disk()
            if closing.error is not None:
                log.error("giving up a prepared run: %s", closing.error)
            self._parking.put(self.settings.source, source)


def _shut_down(reference: weakref.ref[RunController]) -> None:
    controller = reference()
    if controller is not None:
        controller.shutdown()
