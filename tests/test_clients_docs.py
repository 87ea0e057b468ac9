"""The examples of docs/clients.md and docs/python_reference.md do what the pages say."""

from __future__ import annotations

import contextlib

import numpy as np
from docs_helpers import examples
from framesieve.clients import Reduction
from framesieve.formats.sparse_reader import SparseFile
from integration_helpers import SHAPE, small_detector, wait_until

pytest_plugins = ["integration_fixtures"]


def test_the_examples_in_python(beamline, poni, tmp_path, capsys):
    address = f"tango://{beamline.database.host}/demo"
    connect, settings, change, run, start, numbers, refused = (
        text.replace('"id00"', repr(address)) for text in examples("clients.md", "python")
    )
    names = {}
    with contextlib.ExitStack() as stack:
        detector = stack.enter_context(small_detector(1_000_000, rate=60))
        beamline.set(geometry=str(poni), saving_directory=str(tmp_path), source=detector.url)
        exec(connect, names)
        reduction = names["r"]
        assert isinstance(reduction, Reduction)
        assert "STANDBY" in capsys.readouterr().out
        with reduction.run():
            wait_until(lambda: reduction.frame_count > 5, "frames")
            exec(settings, names)
            first, said = names["applied"], capsys.readouterr().out
            exec(change, names)
            second = names["applied"]
            assert reduction.snr_peak == 4.0
    with SparseFile(reduction.output_file) as file:
        sets = {row.parameter_set.number: row for row in file.parameter_sets}
        assert sets[first.parameter_set].first_frame == first.first_frame
        assert sets[second.parameter_set].first_frame == second.first_frame
        values = sets[first.parameter_set].parameter_set.values
        assert (values.snr_pick, values.veto_min_peaks) == (2.5, 30)
        assert f"snr_pick = 2.5, min_peaks = 30: parameter set {first.parameter_set}, from frame" in said

    for text in (run, start):
        with small_detector(20) as detector:
            reduction.source = detector.url
            exec(text, names)
            assert "lysozyme" in reduction.output_file and reduction.output_file in capsys.readouterr().out
            assert reduction.frame_count == 20

    exec(numbers, names)
    assert (
        "('frame', 'n_peaks', 'n_pixels', 'verdict', 'parameter_set', 'monitor', 'position_x', 'position_y')"
        in capsys.readouterr().out
    )
    assert names["counters"]["frame"].tolist() == list(range(20)) and len(names["new"]) == 0
    assert names["image"].dtype == np.uint16 and names["curves"].dtype.names == ("radius", "mean", "std")
    assert len(names["peaks"]) == reduction.peak_count > 0

    exec(refused, names)
    assert capsys.readouterr().out == "DATA_OUT_OF_RANGE\nsnr_pick = -1.0: accepted is 0.0 to 1000.0\n"


def test_the_examples_of_the_reference(beamline, poni, tmp_path, capsys):
    client, file = examples("python_reference.md", "python")
    names = {}
    with small_detector(20) as detector:
        beamline.set(geometry=str(poni), saving_directory=str(tmp_path), source=detector.url)
        beamline.set("veto", min_peaks=0)
        exec(client.replace('"id00"', repr(f"tango://{beamline.database.host}/demo")), names)
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("output_file") and "lysozyme" in said[-1]
    assert [line.split()[0] for line in said if line.startswith("19 ")] == ["19"]
    exec(file.replace('"sparse.h5"', repr(names["r"].output_file)), names)
    assert [int(line.split()[0]) for line in capsys.readouterr().out.splitlines() if line[0] in "0123456789"] == [
        *range(20)
    ]
    assert names["image"].shape == SHAPE
