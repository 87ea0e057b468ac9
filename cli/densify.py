"""`framesieve densify`: a sparse file as whole images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..processing.errors import OutOfRangeError
from .common import FAILED, exit_status, progress_display, stop_on_signals

_FORMATS = ("nxmx", "eiger")


def densify(
    sparse: Annotated[Path, typer.Argument(help="A sparse file of framesieve or of pyFAI.")],
    out: Annotated[
        Path, typer.Option("-o", "--output", help="File to write; for eiger its name ends with _master.h5.")
    ],
    format_: Annotated[
        str, typer.Option("--format", metavar="nxmx|eiger", help="nxmx: one file; eiger: a master and files of images.")
    ] = "nxmx",
    noise: Annotated[
        bool, typer.Option("--noise/--no-noise", help="Whether the background has noise; CrysAlisPro wants none.")
    ] = True,
    seed: Annotated[
        int | None, typer.Option(help="What noise is drawn from; else it follows from series and frame number.", min=0)
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads; 0 = as many as there are cores.", min=0, max=1024)] = 0,
    frames_per_file: Annotated[int, typer.Option(help="Images per file of the eiger format.", min=1)] = 1000,
    upside_down: Annotated[
        bool, typer.Option("--upside-down", help="Rows run the other way than the PONI file's orientation says.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write the frames of a sparse file as whole images, for DIALS, XDS, CrystFEL and others."""
    with exit_status("densify", stopped=FAILED), stop_on_signals(at_once=False) as check_stop:
        # HDF5 takes a while to import
        from ..formats.dense_files import DenseFormat, densify_file
        from ..formats.sparse_reader import SparseFile

        if format_ not in _FORMATS:
            raise OutOfRangeError(f"--format {format_}: accepted is {' or '.join(_FORMATS)}")
        with SparseFile(sparse) as file, progress_display() as display:
            task = display.add_task("densifying", total=len(file))

            def progress(done: int) -> None:
                check_stop()
                display.update(task, completed=done)

            files = densify_file(
                file,
                out,
                form=DenseFormat(format_),
                noise=noise,
                seed=seed,
                threads=threads,
                frames_per_file=frames_per_file,
                overwrite=overwrite,
                upside_down=upside_down,
                progress=progress,
            )
            count = len(file)
        more = f" with {files[1].name} … {files[-1].name}" if len(files) > 1 else ""
        print(f"{count} frames of {sparse} made dense: {files[0]}{more}")
