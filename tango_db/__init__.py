"""Beamline description (YAML) to Tango database, and the embedded database."""

from pathlib import Path

SAMPLES = ("demo", "id29", "two_instances")


def sample_path(name: str) -> Path:
    """The sample beamline description `name` that comes with the package (one of `SAMPLES`)."""
    return Path(__file__).with_name(f"{name}.yaml")
