"""`framesieve simulate`: detectors that speak a real protocol, and files of simulated frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ..processing.errors import OutOfRangeError
from ..simulators.diffraction import StillSimulator
from ..simulators.frame_inputs import FrameInput, SimulatedInput, open_input
from ..simulators.misbehaviour import Misbehaviour
from ..simulators.push_detector import PushDetector
from ..simulators.raster import raster_scan
from ..simulators.recorded import RecordedDetector
from ..simulators.simulation_file import write_simulation
from ..simulators.sls_detector import SLS_PORT, SlsDetector
from ..simulators.stream1_detector import STREAM1_PORT, Stream1Detector
from ..simulators.stream2_detector import STREAM2_PORT, Stream2Detector
from .common import exit_status, progress_display, stop_on_signals

app = typer.Typer(help="Simulated detectors and files of simulated frames.", no_args_is_help=True)

#: distinct simulated frames that are kept in memory; a longer series repeats them
DISTINCT = 100

#: how long the last messages wait for a slow receiver, s
LINGER = 60.0

Hits = Annotated[float, typer.Option(help="Share of frames with a crystal, per cent.")]
Seed = Annotated[int, typer.Option(help="The same number gives the same frames.")]
PixelType = Annotated[str, typer.Option("--dtype", help="uint8, uint16, uint32 or int32.")]
Shape = Annotated[tuple[int, int], typer.Option(help="Rows and columns.")]


Source = Annotated[str | None, typer.Option("--input", help="Send these frames: HDF5 (FILE or FILE::DATASET), CBF, …")]
Frames = Annotated[int | None, typer.Option(help="Images per series [default: the input's, or 100].")]
Rate = Annotated[float, typer.Option(help="Images per second; 0 = as fast as possible.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 = a free one.")]
Encoding = Annotated[str, typer.Option(help="bslz4, lz4 or none.")]
Series = Annotated[int, typer.Option(help="Number of series; 0 = until stopped.")]
Distinct = Annotated[int, typer.Option(help="Simulated frames held in memory and repeated.")]
Scan = Annotated[
    int | None, typer.Option(help="Tell monitor and position of a scan with so many points in a line.", min=1)
]
Misbehave = Annotated[
    str, typer.Option(help='What goes wrong, e.g. "lost=3,7 stall=20:1.5"; a word that is not known lists all.')
]


@app.command()
def stream1(
    source: Source = None,
    frames: Frames = None,
    rate: Rate = 10.0,
    hits: Hits = 30.0,
    host: Host = "127.0.0.1",
    port: Port = STREAM1_PORT,
    encoding: Encoding = "bslz4",
    header_detail: Annotated[str, typer.Option(help="What the header tells: all, basic or none.")] = "all",
    series_repeat: Series = 1,
    distinct: Distinct = DISTINCT,
    seed: Seed = 0,
    dtype: PixelType = "uint16",
    shape: Shape = (2167, 2070),
    scan: Scan = None,
    misbehave: Misbehave = "",
) -> None:
    """A DECTRIS detector that sends a stream v1 as soon as a receiver connects."""

    def make(frame_input: FrameInput, count: int | None) -> PushDetector:
        return Stream1Detector(
            frame_input,
            host=host,
            port=port,
            n_frames=count,
            rate=rate,
            encoding=encoding,
            series=series_repeat,
            header_detail=header_detail,
            user_data=scan and raster_scan(scan),
            misbehaviour=Misbehaviour.parse(misbehave),
        )

    _send(make, source, frames, distinct, lambda n: _simulator(shape, hits, n, seed, dtype))


@app.command()
def stream2(
    source: Source = None,
    frames: Frames = None,
    rate: Rate = 10.0,
    hits: Hits = 30.0,
    host: Host = "127.0.0.1",
    port: Port = STREAM2_PORT,
    encoding: Encoding = "bslz4",
    header_detail: Annotated[str, typer.Option(help="What the start message tells: all or basic.")] = "all",
    channels: Annotated[int, typer.Option(help="Number of channels (energy thresholds).", min=1)] = 1,
    series_repeat: Series = 1,
    distinct: Distinct = DISTINCT,
    seed: Seed = 0,
    dtype: PixelType = "uint16",
    shape: Shape = (2167, 2070),
    scan: Scan = None,
    misbehave: Misbehave = "",
) -> None:
    """A DECTRIS detector that sends a stream2 as soon as a receiver connects."""

    def make(frame_input: FrameInput, count: int | None) -> PushDetector:
        return Stream2Detector(
            frame_input,
            host=host,
            port=port,
            n_frames=count,
            rate=rate,
            encoding=encoding,
            channels=[f"threshold_{i + 1}" for i in range(channels)],
            series=series_repeat,
            header_detail=header_detail,
            user_data=scan and raster_scan(scan),
            misbehaviour=Misbehaviour.parse(misbehave),
        )

    _send(make, source, frames, distinct, lambda n: _simulator(shape, hits, n, seed, dtype))


@app.command()
def sls(
    source: Source = None,
    frames: Frames = None,
    rate: Rate = 10.0,
    hits: Hits = 30.0,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the first receiver, the others follow; 0 = free ones.")] = SLS_PORT,
    grid: Annotated[tuple[int, int], typer.Option(help="Modules below and beside one another, one receiver each.")] = (
        2,
        1,
    ),
    detector: Annotated[str, typer.Option(help="eiger, jungfrau or moench.")] = "jungfrau",
    drop: Annotated[bool, typer.Option("--drop", help="Do not wait for a slow reader, as real receivers.")] = False,
    series_repeat: Series = 1,
    distinct: Distinct = DISTINCT,
    seed: Seed = 0,
    dtype: PixelType = "uint16",
    shape: Shape = (1024, 1024),
    scan: Scan = None,
    misbehave: Misbehave = "",
) -> None:
    """A PSI detector whose receivers publish its modules as soon as all of them have a subscriber."""

    def make(frame_input: FrameInput, count: int | None) -> SlsDetector:
        return SlsDetector(
            frame_input,
            host=host,
            port=port,
            grid=grid,
            n_frames=count,
            rate=rate,
            series=series_repeat,
            detector=detector,
            drops=drop,
            added=scan and raster_scan(scan),
            misbehaviour=Misbehaviour.parse(misbehave),
        )

    _send(make, source, frames, distinct, lambda n: _simulator(shape, hits, n, seed, dtype))


@app.command()
def recorded(
    messages: Annotated[
        list[Path], typer.Argument(help="Files, or folders of files: .cbor of stream2, else stream v1.")
    ],
    rate: Rate = 10.0,
    host: Host = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 = a free one [default: the usual].")] = None,
    series_repeat: Annotated[int, typer.Option(help="How often all messages are sent; 0 = until stopped.")] = 1,
    misbehave: Misbehave = "",
) -> None:
    """Recorded messages of a DECTRIS detector, sent again as they are."""
    with exit_status("simulate"), stop_on_signals() as check_stop, progress_display() as progress:
        detector = RecordedDetector(
            messages, host=host, port=port, rate=rate, series=series_repeat, misbehaviour=Misbehaviour.parse(misbehave)
        )
        _run(detector, check_stop, progress)


def _send(
    make_detector: Callable[[FrameInput, int | None], PushDetector | SlsDetector],
    source: str | None,
    frames: int | None,
    distinct: int,
    simulator: Callable[[int], StillSimulator],
) -> None:
    """Run a detector to its end; `simulator` makes one of so many frames, where there is no `source`."""
    with exit_status("simulate"), stop_on_signals() as check_stop, progress_display() as progress:
        if source is not None:
            frame_input: FrameInput = open_input(source)
        else:
            frames = DISTINCT if frames is None else frames
            kept = min(frames, distinct)
            frame_input = SimulatedInput(simulator(kept), kept)
        detector = make_detector(frame_input, frames)
        if isinstance(frame_input, SimulatedInput):
            task = progress.add_task("simulating", total=frame_input.n_frames)

            def encoded(done: int, _: int) -> None:
                check_stop()
                progress.update(task, completed=done)

            frame_input.prepare(detector.stored_encoding, encoded)
            progress.remove_task(task)
        _run(detector, check_stop, progress)


def _run(detector: PushDetector | SlsDetector, check_stop: Callable[[], None], progress: Progress) -> None:
    """Let it send all it has."""
    try:
        detector.start()
        print(detector.url, flush=True)
        task = progress.add_task("sending", total=detector.total)
        while not detector.wait(0.1):
            check_stop()
            progress.update(task, completed=detector.sent)
        progress.update(task, completed=detector.sent)
        detector.stop(linger=LINGER)
    finally:
        detector.stop(linger=0)


@app.command()
def file(
    out: Annotated[Path, typer.Argument(help="The HDF5 file to write.")],
    frames: Annotated[int, typer.Option(help="Number of frames.")] = 100,
    hits: Hits = 30.0,
    seed: Seed = 0,
    dtype: PixelType = "uint16",
    shape: Shape = (2167, 2070),
    pool: Annotated[int, typer.Option(help="Background realisations that frames share; 0 = one for each.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write simulated frames, their mask and geometry, and the truth behind them."""
    with exit_status("simulate"), stop_on_signals() as check_stop, progress_display() as progress:
        simulator = _simulator(shape, hits, frames, seed, dtype, pool)
        task = progress.add_task("writing", total=frames)

        def written(done: int, _: int) -> None:
            check_stop()
            progress.update(task, completed=done)

        write_simulation(out, simulator, frames, overwrite=overwrite, progress=written)


def _simulator(
    shape: tuple[int, int], hits: float, frames: int, seed: int, dtype: str, pool: int = 8
) -> StillSimulator:
    if not 0 <= hits <= 100:
        raise OutOfRangeError(f"hits {hits} %: 0 … 100 is expected")
    if min(shape) < 64:
        raise OutOfRangeError(f"shape {shape[0]} × {shape[1]}: at least 64 × 64 is expected")
    try:
        return StillSimulator(shape, hit_share=hits / 100, n_frames=frames, seed=seed, dtype=dtype, pool=pool)
    except TypeError as error:  # numpy does not know such a type
        raise OutOfRangeError(f"pixel type {dtype!r}: {error}") from error
