"""`bench panel`: the arithmetic with made-up numbers. The panel itself is tested in test_clients_panel."""

from __future__ import annotations

import pytest
from framesieve.benchmarks.panel_cost import MEASURED, WITH, WITHOUT, ratio, run, table
from framesieve.processing.errors import OutOfRangeError


def rows(*rates: float) -> list[dict[str, float]]:
    return [dict.fromkeys(MEASURED, rate) for rate in rates]


def test_the_ratio_is_that_of_measurements_beside_each_other():
    measured = {WITHOUT: rows(10, 50, 100), WITH: rows(9, 50, 98)}
    expected = {WITHOUT: 50, WITH: 50, "ratio": 0.98, "lowest": 0.9, "highest": 1.0}
    assert ratio(measured, "frames_per_s") == expected
    nothing = ratio({WITHOUT: rows(0), WITH: rows(5)}, "frames_per_s")
    assert nothing["ratio"] == 0


def test_the_table_tells_all_three():
    measured = {WITHOUT: rows(100), WITH: rows(98)}
    text = table(
        {"frames": 30, "rate_asked": 0, "nice": 19, "shape": [8, 9], "cpus": 2, "panel_ms_per_s": 123.4, **measured}
        | {name: ratio(measured, name) for name in MEASURED}
    )
    assert text.count("0.980 (0.980 to 0.980)") == 3
    assert "123 ms" in text


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": float("inf")}, {"rate": -1}])
def test_what_makes_no_sense_is_refused_before_anything_is_started(wrong):
    with pytest.raises(OutOfRangeError, match="accepted"):
        run(**wrong)
