"""`framesieve register`: write servers, devices, properties and initial settings into the Tango database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..processing.errors import CommunicationError, FrameSieveError


def register(
    beamline: Annotated[Path, typer.Argument(help="Beamline description in YAML.", metavar="BEAMLINE.yaml")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, write nothing.")] = False,
    reset_settings: Annotated[
        bool, typer.Option("--reset-settings", help="Write initial settings over those tuned since.")
    ] = False,
    tango_host: Annotated[
        str | None, typer.Option(help="HOST:PORT of the Tango database; by default $TANGO_HOST.", metavar="HOST:PORT")
    ] = None,
) -> None:
    """Write servers, devices, properties and initial settings into the Tango database.

    Run it as often as you like: only what differs is written, and values tuned on the beamline stay.
    """
    from ..devices.properties import PROPERTIES  # Tango takes a while to import
    from ..tango_db import register as database
    from ..tango_db.beamline import check_properties, load

    try:
        description = load(beamline)
        known = {name: {entry.name: entry.dtype for entry in entries} for name, entries in PROPERTIES.items()}
        for sentence in check_properties(description, known):
            typer.echo(f"{beamline}: warning: {sentence}", err=True)
        db = database.connect(tango_host)
        plan = database.plan(description, db, reset_settings=reset_settings)
        if not dry_run:
            database.apply(plan.changes, db)
    except CommunicationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except FrameSieveError as error:
        text = str(error)
        told = text.startswith((str(beamline), "TANGO_HOST"))
        typer.echo(text if told else f"{beamline}: {text}", err=True)
        raise typer.Exit(2) from None
    for line in database.report(plan, dry_run=dry_run, source=beamline.name):
        typer.echo(line)
