"""`framesieve register`: write servers, devices, properties and initial settings into the Tango database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..processing.errors import CommunicationError, ConfigurationError, FrameSieveError


def register(
    beamline: Annotated[
        Path | None,
        typer.Argument(
            help="Beamline description in YAML, or in JSON as --export and dsconfig write it.", metavar="BEAMLINE.yaml"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, write nothing.")] = False,
    reset_settings: Annotated[
        bool, typer.Option("--reset-settings", help="Write initial settings over those tuned since.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Register nothing: save what the database has, tuned settings included, in dsconfig's format. Of the "
            "servers in BEAMLINE.yaml, of FrameSieve/INSTANCE if that is given instead, or of all.",
            metavar="FILE.json",
        ),
    ] = None,
    tango_host: Annotated[
        str | None, typer.Option(help="HOST:PORT of the Tango database; by default $TANGO_HOST.", metavar="HOST:PORT")
    ] = None,
) -> None:
    """Write servers, devices, properties and initial settings into the Tango database.

    Run it as often as you like: only what differs is written, and values tuned on the beamline stay.
    """
    try:
        if export is not None:
            if dry_run or reset_settings:
                option = "--dry-run" if dry_run else "--reset-settings"
                raise ConfigurationError(f"{option} does not go with --export, which writes nothing into the database")
            lines = _export(beamline, export, tango_host)
        elif beamline is None:
            raise ConfigurationError("give BEAMLINE.yaml, the description to register, or --export FILE.json")
        else:
            lines = _register(beamline, dry_run, reset_settings, tango_host)
    except CommunicationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except FrameSieveError as error:
        text = str(error)
        told = beamline is None or text.startswith((str(beamline), "TANGO_HOST", str(export), "--"))
        typer.echo(text if told else f"{beamline}: {text}", err=True)
        raise typer.Exit(2) from None
    for line in lines:
        typer.echo(line)


def _register(beamline: Path, dry_run: bool, reset_settings: bool, tango_host: str | None) -> list[str]:
    from ..devices.properties import PROPERTIES  # Tango takes a while to import
    from ..tango_db import register as database
    from ..tango_db.beamline import load
    from ..tango_db.property_types import check_properties

    description = load(beamline)
    known = {name: {entry.name: entry.dtype for entry in entries} for name, entries in PROPERTIES.items()}
    for sentence in check_properties(description, known):
        typer.echo(f"{beamline}: warning: {sentence}", err=True)
    db = database.connect(tango_host)
    plan = database.plan(description, db, reset_settings=reset_settings)
    if not dry_run:
        database.apply(plan.changes, db)
    return database.report(plan, dry_run=dry_run, source=beamline.name)


def _export(beamline: Path | None, file: Path, tango_host: str | None) -> list[str]:
    from ..tango_db.attributes import SERVER
    from ..tango_db.beamline import load
    from ..tango_db.export import export, save, servers_in
    from ..tango_db.register import connect

    if beamline is None or re.fullmatch(f"{SERVER}/[^/]+", str(beamline), re.IGNORECASE):
        servers = [str(beamline)] if beamline else None
    else:
        servers = [f"{SERVER}/{instance}" for instance in load(beamline).instances]
    db = connect(tango_host)
    if servers is None and not (servers := servers_in(db)):
        raise ConfigurationError(f"the Tango database has no server {SERVER}: there is nothing to export")
    save(export(db, servers), file)
    return [f"{file}: {', '.join(servers)} as the Tango database at {db.get_db_host()}:{db.get_db_port()} has it"]
