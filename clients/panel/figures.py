"""How numbers are written."""

from __future__ import annotations


def grouped(number: int) -> str:
    """12345678 as 12 345 678, with narrow spaces."""
    return f"{int(number):,}".replace(",", "\u2009")


def short(number: float) -> str:
    """Three digits that mean something."""
    size = abs(number)
    return f"{number:.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}" if size else "0"
