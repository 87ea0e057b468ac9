"""What the banner of the panel says of a run."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from framesieve.clients.panel import verdict
from framesieve.clients.panel.values import Description

BLANKS, HITS = [0] * 150 + [1] * 50, [60] * 60 + [75] * 40


class Model:
    """As much of a `PanelModel` as is asked here."""

    def __init__(self, state: str = "RUNNING", silent: float = 0.0, longest_gap: float = 0.0, **values: object) -> None:
        self.state, self.newest_refusal = state, None
        self.last_frame, self.longest_gap = time.monotonic() - silent, longest_gap
        self._values = values
        label = SimpleNamespace(source="Source", saving_directory="Saving directory")
        self.descriptions = {
            f"acquisition/{name}": Description(text, "", "", True, None) for name, text in vars(label).items()
        }

    def get(self, key: str, default: object = None) -> object:
        return self._values.get(key.partition("/")[2], default)


@pytest.mark.parametrize(
    ("counts", "least", "most", "enabled", "said"),
    [
        (BLANKS + HITS, 20, 0, True, ""),
        (BLANKS + HITS, 0, 0, True, ""),
        (BLANKS + HITS[:-30], 70, 0, True, ""),  # strict, but 10 of 70 are kept
        (BLANKS + HITS, 80, 0, False, "No hit among the last 300 frames: they have at most 75 peaks, a hit needs 80."),
        (
            *(BLANKS + HITS, 5000, 0, True),
            "No hit among the last 300 frames: they have at most 75 peaks, a hit needs 5\u2009000. "
            "The veto throws them away.",
        ),
        (
            *(HITS * 3, 5, 20, True),
            "No hit among the last 300 frames: they have 60 to 75 peaks, a hit has 5 to 20. The veto throws them away.",
        ),
        ([0] * 200, 1, 0, True, "No hit among the last 200 frames, nor a single peak."),
        ([0] * 199, 1, 0, True, ""),  # too few to say
        # rare hits: none has come yet, or the two groups are blanks without and with a false peak
        ([0] * 700 + [5] * 299, 20, 0, True, ""),
        (
            *([0] * 700 + [5] * 300, 20, 0, True),
            "No hit among the last 1\u2009000 frames: they have at most 5 peaks, a hit needs 20.",
        ),
        ([0] * 700 + [1] * 297 + [25] * 3, 20, 0, True, ""),
        # 96 of 100 frames that look like hits are thrown away; the middle between 1 and 60 is √(2 · 61) - 1
        (
            *(BLANKS + [60] * 96 + [75] * 4, 70, 0, True),
            "The veto throws away 96.0 % of the frames with 11 peaks or more.",
        ),
        (BLANKS + [60] * 96 + [75] * 4, 70, 0, False, ""),  # nothing is thrown away
        ([30, 31, 29, 33] * 50 + [70] * 4, 60, 0, True, ""),  # noise that no group stands out from
    ],
)
def test_a_veto_that_throws_all_away_is_told(counts, least, most, enabled, said):
    assert verdict.veto_note(np.array(counts), least, most, enabled) == said


def test_silence_is_told_however_much_else_comes():
    values = {"frame_count": 567, "last_frame_number": 566}
    [said] = verdict.dangers(Model(silent=9.4, **values))
    assert said == "No frame for 9 s (the last was 566)."
    assert verdict.dangers(Model(silent=3.0, **values)) == []
    assert verdict.dangers(Model("STANDBY", silent=9.4, **values)) == []
    assert verdict.dangers(Model(silent=29.0, longest_gap=10.0, **values)) == []  # a frame every ten seconds
    assert verdict.dangers(Model(silent=31.0, longest_gap=10.0, **values)) == ["No frame for 31 s (the last was 566)."]
    assert verdict.dangers(Model(silent=9.4, frame_count=0)) == []  # the detector has not been started


def test_the_threshold_as_it_is_now_judges_the_frames_before():
    values = {"peak_count_history": np.array(BLANKS + HITS, np.uint32), "enabled": True, "max_peaks": 0}
    assert verdict.dangers(Model(min_peaks=20, **values)) == []
    [said] = verdict.dangers(Model(min_peaks=100, **values))
    assert "No hit" in said


def test_nothing_wrong_is_told_too():
    run = {"frame_count": 2454, "kept_count": 430, "hit_rate": 17.52}
    assert verdict.praise(Model(enabled=True, **run)) == "17.5 % hits, the others vetoed, none lost."
    assert verdict.praise(Model(enabled=False, **run)) == "17.5 % hits, all frames kept, none lost."
    # hit_rate is that of the last frames, no verdict on a run
    assert verdict.praise(Model("STANDBY", **run)) == "The last run: 2\u2009454 frames, 430 kept, none lost."
    assert verdict.praise(Model()) == "Waiting for the first frame."


def test_what_is_missing_before_a_run_is_told():
    there = {"source": "stream2://a:1", "saving_directory": "/data", "saving_sparse": True}
    assert verdict.praise(Model("STANDBY", **there)) == "Start begins a run."
    assert verdict.praise(Model("STANDBY", **there | {"source": ""})).startswith("Source is to be set")
    assert verdict.praise(Model("STANDBY", **there | {"saving_directory": ""})).startswith("Saving directory is")
    nothing_saved = {"source": "file:/a", "saving_directory": "", "saving_sparse": False}
    assert verdict.praise(Model("STANDBY", **nothing_saved)) == "Start begins a run."
