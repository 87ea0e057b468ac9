"""Everything a run needs before its first frame: source, geometry, mask, device, files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..formats.dense_writer import DenseWriter
from ..formats.parted_writer import PartedDenseWriter, PartedSparseWriter, check_parts
from ..formats.sparse_writer import SparseWriter
from ..processing.errors import ConfigurationError
from ..processing.frames import PIXEL_DTYPES, SeriesStart, Source
from ..processing.opencl import choose_devices
from ..processing.threads import automatic
from ..sources.monitor import monitored
from ..sources.registry import accepted
from .collector import Collector
from .images import Images
from .reducers import Reducers
from .settings import RunSettings
from .sink import RunSink

#: what a detector that has not sent anything yet is likely to send
LIKELY = SeriesStart("", dtype=np.dtype(np.uint32))


@dataclass(slots=True)
class Prepared:
    """A run that can start; `close` ends it, or takes it back where it never started."""

    source: Source
    sink: RunSink
    collector: Collector
    images: Images
    reducers: Reducers
    start: SeriesStart | None = None  # as far as the source told it when it was opened
    is_parted: bool = False  # whether the source is somebody else's now

    def part_with_source(self) -> Source | None:
        """The source, still open, for the run that follows: `close` leaves it alone. None where it cannot be kept."""
        park = getattr(self.source, "park", None)
        kept = park() if park is not None else None
        self.is_parted = kept is not None
        return kept

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # every one is closed, also where closing another fails
            stack.callback(self.reducers.close)
            stack.callback(self.sink.close)
            if not self.is_parted:
                stack.callback(self.source.close)


def prepare_run(
    settings: RunSettings,
    open_source: Callable[[str], Source],
    *,
    batch_size: int,
    decode_threads: int = 0,
    likely: SeriesStart = LIKELY,
) -> Prepared:
    """Load and open everything; what can fail without the detector fails here. `open_source` makes the source, or
    gives one whose connection was kept since the last run.

    A detector tells its pixel type and mask only when a series begins, and then there is little time: kernels are
    built for a `likely` series now, so that as a rule they are there.

    Raises
    ------
    FrameSieveError
        Says which setting, what is wrong with it and what would be right.
    """
    settings.check()
    if not settings.source:
        raise ConfigurationError(f"source is not set (accepted: {accepted()})")
    devices = choose_devices(settings.opencl_device)
    images = Images(settings)
    collector = Collector()
    collector.mask_info = json.dumps(images.mask_info())
    reducers = Reducers(
        devices, images.bins, images.dark, batch_size, collector, decode_threads=automatic(decode_threads)
    )
    source = monitored(open_source(settings.source), settings.monitor)
    writers: list[SparseWriter | DenseWriter] = []
    try:
        # a detector's connection comes last: what it sends to a run that then cannot begin is gone
        start = source.open() if not source.live else None
        reducers.are_compressed = source.sends_bslz4
        # where the source knows its shape, images of another one are refused here and not at the first frame
        if start is not None and start.shape is not None:
            images.bins(start.shape, start)
        elif images.shape is not None and images.tells_geometry:
            images.bins(images.shape)
        sparse = dense = None
        inputs = [spec.partition("::")[0] for spec in (settings.geometry, settings.mask, settings.dark, settings.flat)]
        inputs += start.metadata.get("files", []) if start is not None else []
        if settings.saving_sparse:
            sparse = _create(SparseWriter, settings.output_path, settings, inputs)
            writers.append(sparse)
        if settings.saving_dense:
            path = settings.output_path
            dense = _create(DenseWriter, path.with_name(f"{path.stem}_nxmx{path.suffix}"), settings, inputs)
            writers.append(dense)
        collector.output_file = str(writers[0].path) if writers else ""
        files = start.metadata.get("files", []) if start is not None else []
        origin = f"file:{', '.join(files)}" if len(files) > 1 else settings.source
        sink = RunSink(collector, sparse, dense, images, origin)
        if start is not None and start.shape is not None and start.dtype in PIXEL_DTYPES:
            reducers.make(start)
        elif start is None and (shape := images.shape or likely.shape) is not None:
            reducers.expect(replace(likely, shape=shape))
        if source.live:
            start = source.open()
    except BaseException:
        source.close()
        reducers.close()
        for writer in writers:
            writer.remove()
        raise

    return Prepared(source, sink, collector, images, reducers, start)


def _create(writer: type, path: Path, settings: RunSettings, inputs: list[str]) -> SparseWriter | DenseWriter:
    """A new file, never in the place of one that the run reads."""
    if not settings.saving_file and not settings.saving_directory:
        raise ConfigurationError(
            "saving_directory is not set: give a directory, or switch saving_sparse and saving_dense off"
        )
    if path.exists() and any(os.path.exists(name) and path.samefile(name) for name in inputs):
        raise ConfigurationError(f"{path} is read by this run and cannot be written by it: name another file")
    overwrite = settings.saving_overwrite_policy == "overwrite"
    if settings.saving_frames_per_file:
        check_parts(path, overwrite=overwrite, inputs=inputs)
        return _PARTED[writer](os.fspath(path), settings.saving_frames_per_file, overwrite=overwrite)
    return writer(os.fspath(path), overwrite=overwrite)


_PARTED = {SparseWriter: PartedSparseWriter, DenseWriter: PartedDenseWriter}
