"""`framesieve simulate`: detectors that speak a real protocol, and files of simulated frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..processing.errors import OutOfRangeError
from ..simulators.diffraction import StillSimulator
from ..simulators.frame_inputs import FrameInput, SimulatedInput, open_input
from ..simulators.simulation_file import write_simulation
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


@app.command()
def stream2(
    source: Annotated[
        str | None, typer.Option("--input", help="Send these frames: HDF5 (FILE or FILE::DATASET), CBF, …")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Images per series [default: the input's, or 100].")] = None,
    rate: Annotated[float, typer.Option(help="Images per second; 0 = as fast as possible.")] = 10.0,
    hits: Hits = 30.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 = a free one.")] = STREAM2_PORT,
    encoding: Annotated[str, typer.Option(help="bslz4, lz4 or none.")] = "bslz4",
    channels: Annotated[int, typer.Option(help="Number of channels (energy thresholds).", min=1)] = 1,
    series_repeat: Annotated[int, typer.Option(help="Number of series; 0 = until stopped.")] = 1,
    distinct: Annotated[int, typer.Option(help="Simulated frames held in memory and repeated.")] = DISTINCT,
    seed: Seed = 0,
    dtype: PixelType = "uint16",
    shape: Shape = (2167, 2070),
) -> None:
    """A DECTRIS detector that sends a stream2 as soon as a receiver connects."""
    with exit_status("simulate"), stop_on_signals() as check_stop, progress_display() as progress:
        if source is not None:
            frame_input: FrameInput = open_input(source)
        else:
            wanted = DISTINCT if frames is None else frames
            simulated = SimulatedInput(
                _simulator(shape, hits, min(wanted, distinct), seed, dtype), min(wanted, distinct)
            )
            frame_input, frames = simulated, wanted
        detector = Stream2Detector(
            frame_input,
            host=host,
            port=port,
            n_frames=frames,
            rate=rate,
            encoding=encoding,
            channels=[f"threshold_{i + 1}" for i in range(channels)],
            series=series_repeat,
        )
        if isinstance(frame_input, SimulatedInput):
            task = progress.add_task("simulating", total=frame_input.n_frames)

            def encoded(done: int, _: int) -> None:
                check_stop()
                progress.update(task, completed=done)

            frame_input.prepare(encoding, encoded)
            progress.remove_task(task)
        try:
            detector.start()
            print(f"stream2://{host}:{detector.port}", flush=True)
            total = detector.n_frames * series_repeat if series_repeat else None
            task = progress.add_task("sending", total=total)
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
