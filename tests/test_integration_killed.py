"""The device server killed in mid-run: the file is whole, and the next server goes on where the settings were."""

from __future__ import annotations

import time

import fabio
import h5py
import numpy as np
import pytest
from framesieve.formats.sparse_reader import SparseFile
from integration_helpers import SHAPE, Beamline, Recomputed, check_against, small_detector, small_images, wait_until

pytest_plugins = ["integration_fixtures"]

SETTINGS = {
    "acquisition": {
        "polarization": 0.5,
        "solid_angle": True,
        "opencl_device": "0:0",
        "saving_prefix": "later",
        "saving_next_number": 17,
        "saving_overwrite_policy": "overwrite",
        "saving_sparse": True,
        "saving_dense": True,
    },
    "sparsifier": {
        "snr_clip": 2.5,
        "clip_cycles": 7,
        "error_model": 2,
        "radial_bins": 123,
        "noise": 1.5,
        "snr_pick": 4.25,
        "surroundings": 7,
    },
    "peakfinder": {
        "snr_peak": 4.5,
        "patch_size": 7,
        "min_pixels": 30,  # more than the default patch has: patch_size must come first, or this must wait
        "max_peaks": 99,
        "radius_min": 500.0,
        "radius_max": 600.0,
    },
    # more than the default of the other one, likewise
    "veto": {"enabled": False, "max_peaks": 30, "min_peaks": 25, "control_fraction": 12.5},
}


@pytest.fixture(scope="module")
def own():
    """A house of its own, which may burn down."""
    with Beamline() as beamline:
        yield beamline


def test_killed_in_mid_run(own, poni, tmp_path):
    own.reset_settings()
    own.set(geometry=str(poni), saving_directory=str(tmp_path))
    with small_detector(100_000, rate=60) as detector:
        own.set(source=detector.url)
        own.acquisition.Start()
        own.wait_for_frames(30)
        reduced = own.acquisition.frame_count
        path = own.output
        time.sleep(1.5)  # what was reduced so long ago must be in the file
        newest = own.acquisition.last_frame_number
        own.server.kill()

    with h5py.File(path) as file:
        frame_ptr = file["/entry_0000/sparse_frames/frame_ptr"][()]
        assert len(file["/entry_0000/ledger"]) >= reduced
        assert len(file["/entry_0000/sparse_frames/index"]) >= frame_ptr[-1]
    with SparseFile(path) as file:
        assert reduced <= len(file)
        assert file.ledger["frame"].tolist() == list(range(len(file.ledger)))
        assert newest - 120 < file.ledger["frame"][-1]
        recomputed = Recomputed(poni, small_images(20))
        check_against(recomputed, file)
        recomputed.close()
        with fabio.open(str(path)) as image:
            assert image.nframes == len(file)
            last = image.get_frame(len(file) - 1).data
            frame = file.frame(len(file) - 1)
            assert np.array_equal(last.ravel()[frame.index], frame.intensity)


def test_settings_survive(own, poni, tmp_path):
    if not own.server.running:
        own.server.start()
    own.make_idle()
    mask = tmp_path / "mask.npy"
    np.save(mask, np.zeros(SHAPE, np.uint8))
    files = {"geometry": str(poni), "mask": str(mask), "dark": "", "flat": str(mask), "source": "stream2://127.0.0.1:9"}
    for device, values in SETTINGS.items():
        own.set(device, **values)
    own.set(**files, saving_directory=str(tmp_path))
    own.server.kill()
    own.server.start()
    for device, values in SETTINGS.items():
        proxy = getattr(own, device)
        assert {name: proxy.read_attribute(name).value for name in values} == values
    found = {name: own.acquisition.read_attribute(name).value for name in files}
    assert found == files
    assert own.acquisition.saving_directory == str(tmp_path)
    assert "not usable" not in own.acquisition.status()
    # what is not memorised
    assert own.acquisition.number_of_frames == 0

    own.reset_settings()
    own.good_run(tmp_path, poni)


def test_numbers_of_files_go_on_after_a_kill(own, poni, tmp_path):
    """The file that was being written when the server died keeps its number; the next one must not hit it."""
    own.make_idle()
    own.reset_settings()
    own.set(geometry=str(poni), saving_directory=str(tmp_path), saving_prefix="run")
    with small_detector(4) as detector:
        own.run(detector.url)
    assert own.acquisition.saving_next_number == 1

    def memorised() -> list[str]:
        database = own.database.database()
        found = database.get_device_attribute_property("demo/framesieve/acquisition", "saving_next_number")
        return list(found["saving_next_number"].get("__value", []))

    wait_until(lambda: memorised() == ["1"], "the database is told, shortly after the run")
    own.server.kill()
    own.server.start()
    assert own.acquisition.saving_next_number == 1
    with small_detector(4) as detector:
        assert own.run(detector.url).name == "run_0001.h5"
