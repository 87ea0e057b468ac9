"""How the chain's time grows with the frame, the bins, the cycles, the peaks and the batch.

The values of a sweep are measured in turn, round by round. Three sweeps have a ratio that the project set itself a
limit for: what is expensive elsewhere (many cycles, many bins) must cost little here.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from ..processing.opencl import DeviceChoice
from ..processing.parameters import Parameters
from ..processing.reducer import Reducer
from .measuring import Spread, align, in_turn, ratio
from .standard import BINS, PARAMETERS, PEAKS, SHAPE, SHAPES, standard_bins, standard_frame


@dataclass(frozen=True)
class Sizes:
    """What is measured; other values than the default are for tests and small devices."""

    standard: tuple[int, int] = SHAPE
    standard_bins: int = BINS
    shapes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=lambda: dict(SHAPES))
    dtypes: tuple[str, ...] = ("uint16", "uint32")
    bins: tuple[int, ...] = (200, 800, 3000)
    cycles: tuple[int, ...] = (1, 2, 3, 5, 8)
    peaks: tuple[int, ...] = (0, 300, 3000, 30000)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    surroundings: tuple[int, ...] = (0, 9)
    copy: tuple[int, ...] | None = None  # bytes


@dataclass(frozen=True)
class Case:
    """One value of a sweep: how the standard is changed."""

    label: str
    shape: tuple[int, int]
    bins: int
    dtype: str = "uint32"
    peaks: int = PEAKS
    batch_size: int = 4
    parameters: Parameters = PARAMETERS


@dataclass(frozen=True)
class Sweep:
    """`above` and `below` are the labels of the two cases whose ratio has a `limit`."""

    name: str
    title: str
    cases: tuple[Case, ...]
    above: str = ""
    below: str = ""
    limit: float = 0.0

    def shortened(self) -> Sweep | None:
        """With the two cases of the ratio only; None where there is no ratio."""
        wanted = tuple(case for case in self.cases if case.label in (self.above, self.below))
        return dataclasses.replace(self, cases=wanted) if wanted else None


def sweeps(sizes: Sizes, batch_size: int) -> list[Sweep]:
    standard = Case("", sizes.standard, sizes.standard_bins, batch_size=batch_size)

    def cases(field: str, values: dict[str, object]) -> tuple[Case, ...]:
        return tuple(dataclasses.replace(standard, label=label, **{field: value}) for label, value in values.items())

    def plain(field: str, values: tuple) -> tuple[Case, ...]:
        return cases(field, {str(value): value for value in values})

    cycles = {str(n): PARAMETERS.replace(clip_cycles=n) for n in sizes.cycles}
    around = {str(n): PARAMETERS.replace(surroundings=n) for n in sizes.surroundings}
    # more pixels have more peaks: the same number of them per pixel
    pixels = {label: shape[0] * shape[1] / (SHAPE[0] * SHAPE[1]) for label, shape in sizes.shapes.items()}
    areas = tuple(
        dataclasses.replace(case, peaks=round(PEAKS * pixels[case.label])) for case in cases("shape", sizes.shapes)
    )
    return [
        Sweep("cycles", "clipping cycles", cases("parameters", cycles), "5", "1", 1.3),
        Sweep("bins", "radial bins", plain("bins", sizes.bins), str(sizes.bins[-1]), str(sizes.bins[0]), 1.3),
        Sweep("megapixels", "million pixels", areas, "16", "4", 4.4),
        Sweep("dtype", "pixel type", plain("dtype", sizes.dtypes)),
        Sweep("peaks", "peaks planted", plain("peaks", sizes.peaks)),
        Sweep("surroundings", "edge of the surroundings", cases("parameters", around)),
        Sweep("batch_size", "frames per batch", plain("batch_size", sizes.batches)),
    ]


def measure_sweeps(
    device: DeviceChoice,
    rounds: int,
    batch_size: int,
    *,
    complete: bool,
    sizes: Sizes,
    seconds: float | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, dict]:
    """`sweeps` (name → cases, medians) and `ratios` (name → median, quartiles, limit), plain values. Each sweep is
    given up to `rounds` rounds, and `seconds`, see `measuring.up_to`."""
    measured, ratios = {}, {}
    for sweep in sweeps(sizes, batch_size):
        part = sweep if complete else sweep.shortened()
        if part is None:
            continue
        progress(f"sweep over {sweep.title}")
        times, found = _measure(part, device, rounds, seconds)
        measured[sweep.name] = {
            "title": sweep.title,
            "cases": [
                {
                    "label": case.label,
                    "chain_ms": round((spread := Spread.of(times[case.label])).median, 3),
                    "quartiles_ms": spread.quartiles(),
                    **found[case.label],
                }
                for case in part.cases
            ],
        }
        if sweep.above in times and sweep.below in times:
            spread = ratio(times[sweep.above], times[sweep.below])
            ratios[sweep.name] = {
                "above": sweep.above,
                "below": sweep.below,
                "ratio": round(spread.median, 3),
                "quartiles": spread.quartiles(),
                "limit": sweep.limit,
            }
    return {"ratios": ratios, "sweeps": measured}


def _measure(
    sweep: Sweep, device: DeviceChoice, rounds: int, seconds: float | None = None
) -> tuple[dict[str, list[float]], dict[str, dict]]:
    """ms per frame of each case, round by round; and how many pixels and peaks it found."""
    with contextlib.ExitStack() as stack:
        shared: dict[tuple, Reducer] = {}  # cases that differ in parameters only use the same one
        works, found = {}, {}
        for case in sweep.cases:
            key = (case.shape, case.bins, case.dtype, case.peaks, case.batch_size)
            if key not in shared:
                radial = standard_bins(case.shape, case.bins)
                shared[key] = Reducer(radial, case.dtype, device, batch_size=case.batch_size)
                stack.callback(shared[key].close)
                shared[key].inputs[0][:] = standard_frame(radial, case.dtype, case.peaks)
            works[case.label] = _work(shared[key], case)
            result = works[case.label]()[0]
            works[case.label]()
            found[case.label] = {"pixels": len(result.index), "peaks": result.n_peaks}
        times = in_turn(works, rounds, seconds)
    sizes = {case.label: case.batch_size for case in sweep.cases}
    return {label: [t.wall * 1e3 / sizes[label] for t in times[label]] for label in times}, found


def _work(reducer: Reducer, case: Case):
    return lambda: reducer.reduce(0, case.batch_size, case.parameters)


def sweep_table(results: dict) -> list[str]:
    """Lines for people, with the ratios."""
    lines = []
    for name, sweep in results["sweeps"].items():
        rows = [[f"  {sweep['title']}", "ms per frame", "quartiles", "pixels", "peaks"]]
        for case in sweep["cases"]:
            low, high = case["quartiles_ms"]
            rows.append(
                [
                    f"  {case['label']}",
                    f"{case['chain_ms']:.2f}",
                    f"{low:.2f} to {high:.2f}",
                    str(case["pixels"]),
                    str(case["peaks"]),
                ]
            )
        lines += ["", *align(rows)]
        if one := results["ratios"].get(name):
            low, high = one["quartiles"]
            lines.append(
                f"  {one['above']} / {one['below']}: {one['ratio']:.2f} ({low:.2f} to {high:.2f}), "
                f"at most {one['limit']:g} is wanted"
            )
    return lines
