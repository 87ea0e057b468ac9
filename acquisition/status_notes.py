"""Sentences of Status on a run."""

from __future__ import annotations

from ..processing.pipeline import Pipeline
from .statistics import Snapshot

SILENCE = 5.0  # s for which nothing arrives before Status says so


def silence_note(pipeline: Pipeline) -> str:
    """What Status should say of a source that sends nothing; seconds in steps, since each of them is an event."""
    silence = pipeline.silence
    if silence < SILENCE:
        return ""
    seconds = f"{silence // SILENCE * SILENCE:.0f} s" if silence < 60 else f"{silence // 60:.0f} min"
    if pipeline.newest_arrived is None:
        return f"Nothing has arrived for {seconds}, and no frame yet."
    return f"Nothing has arrived for {seconds} (the last frame was {pipeline.newest_arrived}); Stop ends the run."


def counted(frames: int) -> str:
    """`1 frame`, `2 frames`"""
    return f"{frames} frame{'' if frames == 1 else 's'}"


def summary(snapshot: Snapshot) -> str:
    """What Status says of the last run."""
    text = f"The last run: {counted(snapshot.frame_count)} reduced, {snapshot.kept_count} kept"
    for name, count in (
        ("lost", snapshot.frames_lost),
        ("dropped", snapshot.frames_dropped),
        ("failed", snapshot.frames_failed),
    ):
        if count:
            text += f", {count} {name}"
    return text + (f"; {snapshot.output_file}." if snapshot.output_file else ".")
