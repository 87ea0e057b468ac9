"""`framesieve reduce`: the pipeline on files, without Tango."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..processing.errors import ConfigurationError, FrameSieveError
from ..processing.frames import Source
from ..processing.parameters import ErrorModel, Parameters, ParameterStore
from .common import FAILED, exit_status, progress_display, stop_on_signals

_DEFAULT = Parameters()


def reduce(
    inputs: Annotated[list[str], typer.Argument(help="HDF5 (FILE or FILE::DATASET), CBF and anything fabio reads.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="The sparse file to write.")],
    geometry: Annotated[
        str, typer.Option(help="PONI file; without it, what the input tells of distance and beam centre.")
    ] = "",
    mask: Annotated[str, typer.Option(help="Image, non-zero = bad.")] = "",
    dark: Annotated[str, typer.Option(help="Image that is subtracted.")] = "",
    flat: Annotated[str, typer.Option(help="Image that pixels are divided by.")] = "",
    polarization: Annotated[
        float, typer.Option(help="Degree of linear polarization, -1 to 1; 0 = no correction.")
    ] = 0.0,
    solid_angle: Annotated[bool, typer.Option(help="Correct for the solid angle of a pixel.")] = False,
    error_model: Annotated[
        ErrorModel,
        typer.Option(
            parser=str, metavar="azimuthal|poisson|hybrid|exact", help="How the background's spread is known."
        ),
    ] = "azimuthal",
    snr_clip: Annotated[float, typer.Option(help="Clipping cut-off in σ; 0 = Chauvenet.")] = _DEFAULT.snr_clip,
    clip_cycles: Annotated[int, typer.Option(help="At most so many clipping cycles.")] = _DEFAULT.clip_cycles,
    radial_bins: Annotated[int, typer.Option(help="Radial bins of the background curve.")] = 800,
    noise: Annotated[float, typer.Option(help="Smallest meaningful signal, added in quadrature.")] = _DEFAULT.noise,
    snr_pick: Annotated[float, typer.Option(help="Keep pixels above background + so many σ.")] = _DEFAULT.snr_pick,
    surroundings: Annotated[
        int, typer.Option(help="Where 3 of 3 × 3 pixels were picked, keep so many × so many: 3, 5, 7, …; 0 = none.")
    ] = _DEFAULT.surroundings,
    snr_peak: Annotated[float, typer.Option(help="Peaks rise above background + so many σ.")] = _DEFAULT.snr_peak,
    patch_size: Annotated[int, typer.Option(help="Neighbourhood of a peak: 3, 5, 7, …")] = _DEFAULT.patch_size,
    min_pixels: Annotated[int, typer.Option(help="Pixels above snr-peak that a peak needs.")] = _DEFAULT.min_pixels,
    max_peaks: Annotated[int, typer.Option(help="Most peaks kept per frame.")] = _DEFAULT.max_peaks,
    min_peaks: Annotated[int, typer.Option(help="Frames with fewer peaks are vetoed; 0 keeps all.")] = (
        _DEFAULT.veto_min_peaks
    ),
    control_fraction: Annotated[
        float, typer.Option(help="Per cent of vetoed frames that are kept all the same.")
    ] = _DEFAULT.control_fraction,
    device: Annotated[
        str, typer.Option(help="OpenCL device: auto, all, PLATFORM:DEVICE[/PARTS], or several with commas.")
    ] = "auto",
    follow: Annotated[
        bool, typer.Option("--follow", help="The input is still being written, or not there yet; one only.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(help="--follow ends after so many seconds without a new frame [default: 30].")
    ] = None,
    frames_per_file: Annotated[
        int, typer.Option(help="Saved frames per file, OUT_000001.h5 and so on, which OUT.h5 joins; 0 = all in OUT.h5.")
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False,
) -> None:
    """Reduce the frames of files to picked pixels, background curves and peaks."""
    with exit_status("reduce", stopped=FAILED), stop_on_signals(at_once=False) as check_stop:
        # OpenCL and HDF5 take a while to import
        from ..acquisition.controller import RunController
        from ..sources.file import FileSource
        from ..sources.follow import FollowSource
        from ..sources.registry import SCHEMES

        if out.exists() and not overwrite:
            raise ConfigurationError(f"{out} exists; name another file, or replace it with --overwrite")
        parameters = Parameters().replace(
            error_model=str(error_model),
            snr_clip=snr_clip,
            clip_cycles=clip_cycles,
            noise=noise,
            snr_pick=snr_pick,
            surroundings=surroundings,
            snr_peak=snr_peak,
            patch_size=patch_size,
            min_pixels=min_pixels,
            max_peaks=max_peaks,
            veto_min_peaks=min_peaks,
            control_fraction=control_fraction,
        )
        if timeout is not None and not follow:
            raise ConfigurationError("--timeout goes with --follow")
        if any(one.partition(":")[0] in SCHEMES for one in inputs):
            raise ConfigurationError(
                f"{inputs[0]}: name files as they are, without 'file:'; streams are read by the device server"
            )
        if follow:
            if len(inputs) > 1:
                raise ConfigurationError(f"--follow takes one input, not {len(inputs)}; put a pattern in quotes")
            url = f"follow:{inputs[0]}?timeout={30.0 if timeout is None else timeout!r}"
            source: Source = FollowSource.from_url(url)
        else:
            url, source = f"file:{inputs[0]}", FileSource(inputs)
        controller = RunController(ParameterStore(parameters), open_source=lambda _: source)
        try:
            controller.configure(
                source=url,
                geometry=geometry,
                mask=mask,
                dark=dark,
                flat=flat,
                polarization=polarization,
                solid_angle=solid_angle,
                radial_bins=radial_bins,
                opencl_device=device,
                saving_file=str(out),
                saving_frames_per_file=frames_per_file,
                saving_overwrite_policy="overwrite" if overwrite else "abort",
            )
            _run(controller, check_stop)
        finally:
            controller.shutdown()


def _run(controller, check_stop: Callable[[], None]) -> None:
    """Prepare, run with a progress bar, say what came out."""
    controller.prepare()
    while not controller.wait(0.1):
        check_stop()
    check_stop()  # a signal may also have ended a compiler
    if controller.error is not None:
        raise _unusable(controller.error)
    if not controller.settings.geometry:
        print(
            "framesieve reduce: no --geometry: distance and beam centre are those that the input tells, without any "
            "tilt",
            file=sys.stderr,
        )
    from ..acquisition.status_notes import counted

    controller.start()
    with progress_display() as progress:
        task = progress.add_task("reducing", total=controller.expected_frames)
        while not controller.wait(0.1):
            check_stop()
            progress.update(task, completed=controller.snapshot().frame_count)
    snapshot = controller.snapshot()
    if controller.error is not None:
        # a geometry that does not fit the frames shows only now
        raise _unusable(controller.error) if snapshot.frame_count == 0 else controller.error
    print(
        f"{counted(snapshot.frame_count)} reduced: {snapshot.kept_count} kept, {snapshot.vetoed_count} vetoed; "
        f"{snapshot.peaks_found} peaks; {snapshot.output_file or 'no file'}"
    )
    if snapshot.vetoed_count:
        least = controller.parameters.current.values.veto_min_peaks
        print(f"vetoed frames have fewer than {least} peaks; --min-peaks 0 keeps them", file=sys.stderr)
    if snapshot.frames_failed:
        print(f"framesieve reduce: {snapshot.frames_failed} frames failed: {snapshot.last_error}", file=sys.stderr)
        raise typer.Exit(FAILED)


def _unusable(error: Exception) -> Exception:
    """What stops a run before its first frame is input that cannot be used."""
    return ConfigurationError(str(error)) if isinstance(error, FrameSieveError) else error
