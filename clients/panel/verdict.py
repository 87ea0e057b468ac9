"""Whether a run is good, in words: what the banner says. No Qt here."""

from __future__ import annotations

import time

import numpy as np

from ..tuning import LEAST_FRAMES, propose_threshold
from .figures import grouped, short
from .model import PanelModel
from .values import Refusal, name_of

RUNS = ("RUNNING", "ALARM")
SILENCE = 5.0  # s without a frame, in a run, after which it is said …
GAPS = 3  # … where that is as many times the longest pause between two frames of this run
REFUSAL_SHOWN = 15.0  # s
ABOUT_LOSSES = ("Frames are being lost", "frames_lost", "frames_dropped", "frames_failed")  # told by their numbers
MANY = 200  # frames without a hit, after which it is said where some of them may be hits, or none has a peak
SURE = 1000  # the same in any case: at 1 % hits there is none among 200 frames in one run of eight
MAY_BE_A_HIT = 10  # peaks; fewer are false ones, as a rule
NEARLY_ALL = 0.9  # share of the frames that look like hits, above which a veto of them is said


def dangers(model: PanelModel) -> list[str]:
    """What wastes beam time although frames are reduced: nothing comes, or nothing that comes is a hit."""
    if model.state not in RUNS:
        return []
    found = []
    silent = time.monotonic() - model.last_frame
    if model.get("acquisition/frame_count", 0) and silent > max(SILENCE, GAPS * model.longest_gap):
        last = int(model.get("acquisition/last_frame_number", -1))
        found.append(f"No frame for {silent:.0f} s" + (f" (the last was {grouped(last)})." if last >= 0 else "."))
    history = model.get("peakfinder/peak_count_history")
    if history is not None:
        least, most = (int(model.get(f"veto/{name}_peaks") or 0) for name in ("min", "max"))
        found.append(veto_note(np.asarray(history, np.int64), least, most, bool(model.get("veto/enabled"))))
    return [text for text in found if text]


def veto_note(counts: np.ndarray, least: int, most: int, enabled: bool) -> str:
    """What is wrong with a veto, or the empty text.

    Parameters
    ----------
    counts
        int (n,): the peaks of each of the last frames.
    least, most
        Peaks of a hit; most 0 = no limit.
    enabled
        Whether frames that are no hits are thrown away.
    """
    if len(counts) < MANY:
        return ""
    is_hit = (counts >= least) & ((counts <= most) if most else True)
    if not is_hit.any():
        text = f"No hit among the last {grouped(len(counts))} frames"
        if not counts.any():
            return f"{text}, nor a single peak."
        may_be_hits = counts.max() >= MAY_BE_A_HIT
        if not may_be_hits and len(counts) < SURE:
            return ""
        need = f"has {grouped(least)} to {grouped(most)}" if most else f"needs {grouped(least)}"
        have = f"at most {grouped(counts.max())}" if not most else f"{grouped(counts.min())} to {grouped(counts.max())}"
        return f"{text}: they have {have} peaks, a hit {need}." + (
            " The veto throws them away." if enabled and may_be_hits else ""
        )
    proposal = propose_threshold(np.bincount(counts)) if enabled else None
    if proposal is not None:
        looks_like_a_hit = counts >= proposal.min_peaks
        lost = looks_like_a_hit & ~is_hit
        thrown = float(lost.sum() / looks_like_a_hit.sum())
        if looks_like_a_hit.sum() >= LEAST_FRAMES and thrown > NEARLY_ALL:
            # where hits are rare the two groups may be blanks without and with a false peak
            blanks, wasted, kept = (np.median(np.log1p(counts[some])) for some in (~looks_like_a_hit, lost, is_hit))
            if abs(wasted - blanks) < abs(wasted - kept):
                return ""
            share = short(100 * thrown)
            peaks = f"{proposal.min_peaks} peak{'' if proposal.min_peaks == 1 else 's'}"
            return f"The veto throws away {share} % of the frames with {peaks} or more."
    return ""


def troubles(model: PanelModel, notes: list[str]) -> list[str]:
    """What else is, or was, wrong, the most recent first; `notes` are the further lines of Status."""
    found = []
    refusal = model.newest_refusal
    if refusal is not None and time.monotonic() - refusal.time < REFUSAL_SHOWN:
        found.append(text_of(refusal, model))
    for what in ("lost", "dropped", "failed"):
        if count := model.get(f"acquisition/frames_{what}", 0):
            found.append(f"{grouped(count)} {'frame' if count == 1 else 'frames'} {what}.")
    if error := model.get("acquisition/last_error", ""):
        found.append(f"Last error: {error}")
    return found + [line for line in notes if not line.startswith(ABOUT_LOSSES)]


def praise(model: PanelModel) -> str:
    """What is said where nothing is wrong."""
    state, frames = model.state, model.get("acquisition/frame_count", 0)
    if not frames:
        known = {"RUNNING": "Waiting for the first frame.", "ON": "Ready: Start begins the run."}
        return known.get(state, _next(model))
    if state in RUNS:
        others = "the others vetoed" if model.get("veto/enabled") else "all frames kept"
        return f"{short(float(model.get('veto/hit_rate', 0)))} % hits, {others}, none lost."
    # not hit_rate: that is of the last frames only
    kept = model.get("veto/kept_count", 0)
    return f"The last run: {grouped(frames)} frames, {grouped(kept)} kept, none lost."


def _next(model: PanelModel) -> str:
    """What is to be done before a run."""
    if model.state != "STANDBY":
        return ""
    saves = model.get("acquisition/saving_sparse") or model.get("acquisition/saving_dense")
    for setting, is_needed in (("source", True), ("saving_directory", saves)):
        key = f"acquisition/{setting}"
        if is_needed and model.get(key) == "" and key in model.descriptions:
            return f"{model.descriptions[key].label} is to be set, on the page Source and file."
    return "Start begins a run."


def text_of(refusal: Refusal, model: PanelModel) -> str:
    """A refusal, with the name that the setting has on the panel."""
    description = model.descriptions.get(refusal.key)
    what = description.label if description else name_of(refusal.key)
    return f"{what} refused: {refusal.reason}"
