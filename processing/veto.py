"""The verdict on a frame: kept, vetoed, or vetoed but kept as a control sample."""

from __future__ import annotations

import zlib

from .frames import Verdict
from .parameters import Parameters


def is_hit(n_peaks: int, p: Parameters) -> bool:
    """Whether the number of peaks lies between the limits of the veto (0 = no upper limit)."""
    return p.veto_min_peaks <= n_peaks and (not p.veto_max_peaks or n_peaks <= p.veto_max_peaks)


def judge(series_id: str, number: int, n_peaks: int, p: Parameters) -> tuple[Verdict, str]:
    """Verdict and, for what is no plain hit, its reason in words.

    Control samples are drawn by a hash of series and frame number, so that the same frames are chosen when a
    series is reduced again.
    """
    if is_hit(n_peaks, p):
        return Verdict.KEPT, ""
    if n_peaks < p.veto_min_peaks:
        reason = f"{n_peaks} peaks, fewer than {p.veto_min_peaks}"
    else:
        reason = f"{n_peaks} peaks, more than {p.veto_max_peaks}"
    if not p.veto_enabled:
        return Verdict.KEPT, reason + ", but the veto is off"
    if _draw(series_id, number) * 100 < p.control_fraction:
        return Verdict.CONTROL, reason
    return Verdict.VETOED, reason


def _draw(series_id: str, number: int) -> float:
    """A number in [0, 1) that looks random, from series and frame number."""
    return zlib.crc32(f"{series_id}\0{number}".encode()) / 2**32
