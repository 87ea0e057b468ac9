"""The core as a run uses it: one input slot of the device is filled while the other is reduced.

What it tells beyond the time of the chain is how well the two go on at the same time. The frames are decoded already,
so filling copies them; decoding, and what comes after the reduction, is left out.
"""

from __future__ import annotations

import time

import numpy as np

from ..processing.frames import ArrayPayload
from ..processing.parameters import Parameters
from ..processing.reducer import Reducer
from ..processing.threads import Crew, automatic, thread_pool
from .measuring import up_to


def stream_times(
    reducer: Reducer, frames: np.ndarray, parameters: Parameters, rounds: int, seconds: float | None = None
) -> list[float]:
    """Seconds per frame, of round after round; a round reduces both slots, each filled anew.

    Parameters
    ----------
    reducer
        Warm already.
    frames
        (up to batch_size, rows, columns), the batch that is reduced again and again.
    parameters
        Of the reduction.
    rounds, seconds
        How many, see `measuring.up_to`; one more goes before and is not counted.
    """
    slots = range(len(reducer.inputs))
    crew = Crew(automatic(0), "decode")
    times = []
    try:
        with thread_pool(1, "fill") as filler:
            filled = [filler.submit(_fill, reducer, slot, frames, crew) for slot in slots]

            def one_round() -> None:
                for slot in slots:
                    filled[slot].result()
                    reducer.reduce(slot, len(frames), parameters)
                    filled[slot] = filler.submit(_fill, reducer, slot, frames, crew)

            one_round()
            last = time.perf_counter()
            for _ in up_to(rounds, seconds):
                one_round()
                now = time.perf_counter()
                times.append((now - last) / (len(slots) * len(frames)))
                last = now
    finally:
        crew.close()
    return times


def _fill(reducer: Reducer, slot: int, frames: np.ndarray, crew: Crew) -> None:
    """Ready frames into a free slot, several at a time, as the filling step of a run does it."""
    crew.map(lambda i: reducer.put(slot, i, ArrayPayload(frames[i])), range(len(frames)))
    reducer.upload(slot, len(frames))
