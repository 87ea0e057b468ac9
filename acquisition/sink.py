"""Takes what the pipeline delivers: into the files first, into the statistics then."""

from __future__ import annotations

import json
import logging
import time

from ..formats.dense_writer import DenseWriter
from ..formats.sparse_writer import SparseWriter
from ..processing.device_times import DeviceTimes
from ..processing.frames import ReducedFrame, RunInfo, SeriesStart
from ..processing.parameters import ParameterSet
from ..processing.reducer import Reducer
from .collector import Collector
from .images import Images

log = logging.getLogger(__name__)

_MAX_EARLY_ROWS = 100_000  # of frames that failed before any good one came


class RunSink:
    """Sink of one run; used by the pipeline's last thread, then closed by whoever ends the run.

    Parameters
    ----------
    sparse, dense
        Files that are open already; None: not wanted.
    """

    def __init__(
        self,
        collector: Collector,
        sparse: SparseWriter | None,
        dense: DenseWriter | None,
        images: Images,
        source: str,
    ) -> None:
        self._collector = collector
        self._sparse = sparse
        self._dense = dense
        self._images = images
        self._source = source
        self._recorded: set[int] = set()  # numbers of the parameter sets in the file
        self._early: list[ReducedFrame] = []
        self._has_begun = False

    @property
    def has_saved(self) -> bool:
        """Whether there are files with something in them."""
        return any(writer.has_begun for writer in self._writers)

    @property
    def bytes_written(self) -> int:
        return sum(writer.bytes_written for writer in self._writers)

    @property
    def stalled(self) -> float:
        """Seconds for which a disk has not answered."""
        return max((writer.stalled for writer in self._writers), default=0.0)

    def give_up_disk(self) -> None:
        """Wait for the disk no longer; what was waiting for it ends with `HardwareError`. Called by any thread."""
        for writer in self._writers:
            writer.give_up()

    @property
    def _writers(self) -> list[SparseWriter | DenseWriter]:
        return [writer for writer in (self._sparse, self._dense) if writer is not None]

    def begin(self, reducer: Reducer) -> None:
        self._has_begun = True
        bins = reducer.bins
        self._collector.radius_mm = bins.radius * 1e3
        self._collector.mask = bins.mask
        self._collector.mask_info = json.dumps(self._images.mask_info(bins))
        self._collector.overview.begin(bins, reducer.dtype)
        info = RunInfo.of_geometry(
            self._images.poni,
            self._images.told.metadata,
            shape=bins.shape,
            dtype=reducer.dtype,
            radius=bins.radius.astype("float32"),
            radius_image=bins.radius_image,
            normalization=None if bins.norm is None else bins.norm.reshape(bins.shape),
            source=self._source,
            configuration=self._images.configuration(),
        )
        for writer in self._writers:
            writer.begin(info)
        self._collector.start_output(self.bytes_written)
        early, self._early = self._early, []
        self._write(early, None)

    def series(self, start: SeriesStart) -> None:
        log.info("series %s begins", start.series_id)
        if start.came_before is not None:
            self._collector.note = (
                f"Series {start.series_id} began before this run started: {start.came_before} frames taken from the "
                "connection kept since the last run."
            )
            log.info("%s", self._collector.note)
        problems = list(start.problems)
        if start.joined_late and start.metadata:
            problems.append(
                "it had begun before this run: frames before the first one that came are not counted as lost"
            )
        elif start.joined_late:
            problems.append(
                "its beginning was not seen: frames before the first one that came are not counted as lost, and what "
                "the detector tells there, such as its mask, is that of the series before, if there was one"
            )
        if self._has_begun and not self._images.hold_for(start):
            problems.append("its mask or flat field differs from that of the run, which began with another series")
        for problem in problems:
            self.problem(start.series_id, problem)

    def problem(self, series_id: str, problem: str) -> None:
        log.warning("series %s: %s", series_id, problem)
        self._collector.set_error(f"series {series_id}: {problem}")

    def deliver(self, rows: list[ReducedFrame], parameter_set: ParameterSet | None, times: DeviceTimes) -> None:
        self._write(rows, parameter_set)
        written = self.bytes_written if self._writers else None
        self._collector.add(rows, parameter_set, times, written)

    def _write(self, rows: list[ReducedFrame], parameter_set: ParameterSet | None) -> None:
        if not self._writers or not rows:
            return
        if not all(writer.has_begun for writer in self._writers):
            self._early += rows[: _MAX_EARLY_ROWS - len(self._early)]
            return
        if self._sparse is not None:
            if parameter_set is not None and parameter_set.number not in self._recorded:
                self._sparse.add_parameter_set(parameter_set, rows[0].number, time.time())
                self._recorded.add(parameter_set.number)
            self._sparse.append(rows)
        if self._dense is not None:
            self._dense.append(rows)

    def left_out(self, device: str, reason: str, others: list[str]) -> None:
        self._collector.set_devices(others)
        self._collector.set_error(reason)

    def idle(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Finish the files; every one is closed, also where closing another fails. One in which no frame ever began
        is removed: it holds nothing, and its number is free again."""
        errors = []
        for writer in self._writers:
            try:
                writer.close()
            except Exception as error:
                errors.append(error)
            if not writer.has_begun:
                writer.remove()
        if not self.has_saved:
            self._collector.output_file = ""
        else:
            self._collector.end_output(self.bytes_written)
        if errors:
            raise errors[0]
