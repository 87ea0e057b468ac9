"""`framesieve geometry`: from one dialect of detector geometry to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import exit_status


def geometry(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="FILE.poni, FILE.geom, FILE.nxs (NXmx), FILE.h5, XDS.INP or FILE.inp.")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="The file to write; its name tells the dialect.")],
    upside_down: Annotated[
        bool, typer.Option("--upside-down", help="Rows run the other way than IN says: mirror it top to bottom.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Convert the geometry of a detector between pyFAI's PONI, CrystFEL's .geom, NXmx and XDS.INP."""
    with exit_status("geometry"):
        # HDF5 takes a while to import
        from ..formats.geometry_files import read_geometry, write_geometry

        found = read_geometry(source)
        write_geometry(found.upside_down() if upside_down else found, out, overwrite=overwrite)
        count = len(found.panels)
        panels = "one panel" if count == 1 else f"{count} panels"
        print(f"{source}: {panels}, {found.shape[0]} × {found.shape[1]} pixels; written to {out}")
