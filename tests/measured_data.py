"""Where the measured data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def data_file(name: str) -> Path:
    """A file of the measured data; the test is skipped where it is absent."""
    root = os.environ.get("FRAMESIEVE_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(root, name).absolute()
    if not path.exists():
        pytest.skip(f"measured data are absent: {path} (set FRAMESIEVE_DATA)")
    return path
