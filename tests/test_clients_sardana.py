"""Sardana's pool and MacroServer with the controllers and macros of framesieve, on the embedded database."""

from __future__ import annotations

import h5py
import pytest
from framesieve.clients import Reduction
from integration_helpers import Beamline, small_detector, wait_until

pytest.importorskip("sardana", reason="Sardana is not installed: pip install 'framesieve[sardana]'")
from sardana_helpers import Sardana

pytest_plugins = ["integration_fixtures"]


@pytest.fixture(scope="module")
def lab(house: Beamline, tmp_path_factory):
    with Sardana(house.database, tmp_path_factory.mktemp("sardana")) as lab:
        print(lab.run("fs_define", f"tango://{house.database.host}/demo"))
        lab.run("senv", "ActiveMntGrp", "fs")
        yield lab


def test_a_scan_over_snr_pick(lab, beamline, poni, tmp_path):
    r = Reduction(f"tango://{beamline.database.host}/demo", timeout=20.0)
    r.set(geometry=str(poni), saving_directory=str(tmp_path), min_peaks=20)
    with small_detector(100_000, n_peaks=(40, 12), rate=60) as detector, r.run(source=detector.url):
        wait_until(lambda: r.frame_count > 5, "frames")
        print(lab.run("ascan", "snr_pick", 1, 4, 6, 0.5))
    with h5py.File(lab.folder / "scan.h5") as h5:
        [entry] = h5.values()
        record = {name: value[()] for name, value in entry["measurement"].items() if isinstance(value, h5py.Dataset)}
    print(record)
