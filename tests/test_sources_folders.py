"""Folders, patterns, masters and what they tell: which files are taken, in which order, with which metadata."""

import bz2
import gzip
import math
import os
import shutil
from datetime import UTC, datetime

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
from follow_writer import SHAPE, Clock, eiger, frame, images
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources.cbf import read_cbf_header
from framesieve.sources.file import FileSource
from framesieve.sources.payload import EncodedPayload
from measured_data import data_file
from sources_helpers import pixels_of

FAST = Clock(1e6)


def read_all(*inputs: object) -> tuple[SeriesStart, list[Frame | BrokenFrame]]:
    source, events = FileSource([str(item) for item in inputs]), []
    begin = source.open()
    while not isinstance(event := source.read(0), SeriesEnd):
        events.append(event)
    source.close()
    return begin, events


def check(events: list, dtype: str = "int32") -> list[int]:
    for event in events:
        np.testing.assert_array_equal(pixels_of(event.payload), frame(event.number, dtype))
    return [event.number for event in events]


def write_cbf(path, number: int) -> None:
    fabio.cbfimage.CbfImage(data=frame(number, "int32")).write(str(path))


# ---- which files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["", "/scan_*.cbf", "/*"])
def test_images_in_natural_order_with_the_numbers_of_their_names(tmp_path, pattern):
    for number in (1, 2, 10, 11, 100):
        write_cbf(tmp_path / f"scan_{number}.cbf", number)
    if not pattern:  # what is no image by its name is left out of a folder
        (tmp_path / "notes.txt").write_text("none")
        (tmp_path / ".hidden.cbf").write_text("none")
        (tmp_path / "more.cbf").mkdir()
    begin, events = read_all(f"{tmp_path}{pattern}")
    assert check(events) == [1, 2, 10, 11, 100]
    assert begin.series_id == "scan_1.cbf"


def test_names_that_do_not_go_on_alike_are_counted(tmp_path):
    for number, name in enumerate(("a_5", "b_1", "b_7")):
        write_cbf(tmp_path / f"{name}.cbf", number)
    assert check(read_all(tmp_path)[1]) == [0, 1, 2]


def test_a_folder_of_several_kinds_is_refused(tmp_path):
    images(tmp_path, 2, FAST, "cbf")
    images(tmp_path, 3, FAST, "tif")
    with pytest.raises(ConfigurationError, match=r"several kinds: 2 cbf \(scan_1.cbf …\), 3 tif .*name one kind"):
        FileSource(str(tmp_path)).open()
    assert len(read_all(f"{tmp_path}/*.tif")[1]) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"is a directory, and no file in it ends in .*\.cbf"):
        FileSource(str(tmp_path / "empty")).open()


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("pattern", ["", "/*.h5"])
def test_frames_that_a_master_links_to_are_read_once(tmp_path, numbered, pattern):
    eiger(tmp_path / "x_master.h5", 46, FAST, numbered=numbered)
    assert len(list(tmp_path.iterdir())) == 4
    begin, events = read_all(f"{tmp_path}{pattern}")
    assert check(events, "uint16") == list(range(46))
    assert begin.metadata["files"] == [str(tmp_path / "x_master.h5")]
    # chunks go on as they are stored, also from behind a virtual dataset
    assert all(isinstance(event.payload, EncodedPayload) for event in events)


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress], ids=["gz", "bz2"])
@pytest.mark.parametrize("suffix", ["cbf", "edf", "tif"])
def test_compressed_images(tmp_path, suffix, packed):
    images(tmp_path, 2, FAST, suffix)
    for path in list(tmp_path.glob(f"*.{suffix}")):
        end = ".gz" if packed is gzip.compress else ".bz2"
        path.with_name(path.name + end).write_bytes(packed(path.read_bytes()))
        path.unlink()
    _, events = read_all(tmp_path)
    assert [event.number for event in events] == [1, 2]
    np.testing.assert_array_equal(pixels_of(events[1].payload), frame(1, "int32"))


def test_tiff_with_several_pages(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pages = [pillow.fromarray(frame(number)) for number in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert check(read_all(tmp_path / "a.tif")[1], "uint16") == [0, 1, 2]


# ---- what is wrong with them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["cbf", "edf", "tif", "cbf.gz", "edf.gz", "tif.gz", "edf.bz2"])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_an_image_that_is_cut_off_costs_its_frame_only(tmp_path, suffix, share):
    images(tmp_path, 3, FAST, suffix[:3])
    if len(suffix) > 3:
        for path in list(tmp_path.glob("scan_*")):
            packed = gzip.compress if suffix.endswith("gz") else bz2.compress
            path.with_name(f"{path.name}.{suffix[4:]}").write_bytes(packed(path.read_bytes()))
            path.unlink()
    cut = tmp_path / f"scan_2.{suffix}"
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    _, events = read_all(f"{tmp_path}/scan_*.{suffix}")
    assert [(event.number, type(event)) for event in events] == [(1, Frame), (2, BrokenFrame), (3, Frame)]
    assert f"scan_2.{suffix}" in events[1].reason


def test_a_compressed_image_that_does_not_have_its_checksum(tmp_path):
    images(tmp_path, 3, FAST, "tif")
    for path in list(tmp_path.glob("*.tif")):
        content = bytearray(gzip.compress(path.read_bytes(), 0))  # stored as it is
        if path.stem == "scan_2":
            content[len(content) // 2] ^= 1
        path.with_name(f"{path.name}.gz").write_bytes(content)
        path.unlink()
    _, events = read_all(tmp_path)
    assert [type(event) for event in events] == [Frame, BrokenFrame, Frame]
    assert "scan_2.tif.gz: is cut off or corrupt" in events[1].reason


def test_sources_of_a_virtual_dataset_that_are_missing(tmp_path):
    eiger(tmp_path / "x_master.h5", 46, FAST, numbered=False)
    (tmp_path / "x_data_000002.h5").rename(tmp_path / "gone")
    with pytest.raises(ConfigurationError, match=r"the data of this virtual dataset are missing .*x_data_000002.h5::"):
        FileSource(str(tmp_path / "x_master.h5")).open()
    with h5py.File(tmp_path / "x_data_000002.h5", "w") as file:  # there, but shorter
        file["entry/data/data"] = np.array([frame(20 + i) for i in range(15)])
    _, events = read_all(tmp_path / "x_master.h5")
    assert [event.number for event in events if isinstance(event, BrokenFrame)] == list(range(35, 40))
    assert len(check([event for event in events if isinstance(event, Frame)], "uint16")) == 41


def test_frames_of_a_virtual_dataset_to_which_nothing_is_mapped(tmp_path):
    layout = h5py.VirtualLayout((4, *SHAPE), "u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = np.array([frame(0), frame(2)])
    layout[:3:2] = h5py.VirtualSource(str(tmp_path / "a.h5"), "d", (2, *SHAPE))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    _, events = read_all(tmp_path / "v.h5")
    assert [type(event) for event in events] == [Frame, BrokenFrame, Frame, BrokenFrame]
    assert "nothing is mapped" in events[1].reason
    check(events[::2], "uint16")


def test_pieces_of_frames_of_a_virtual_dataset(tmp_path):
    """Compared with what HDF5 itself reads: windows of modules, and frames in blocks of two from two files."""
    layout = h5py.VirtualLayout((8, 50, 60), "i4", maxshape=(8, 50, 60))
    for k in range(2):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            stack = np.array([frame(number) for number in range(10 * k, 10 * k + 6)]).astype(">u4")
            file.create_dataset("d", data=stack, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle())
        source = h5py.VirtualSource(str(tmp_path / f"{k}.h5"), "d", (6, *SHAPE))
        layout[2 * k : 2 * k + 2, :50, :20] = source[1:3, 10:60, 5:25]
        layout[2 * k + 4 : 2 * k + 6, 10:50, 30:60] = source[3:5, 70:110, 100:130]
        layout[2 * k : 2 * k + 2, :50, 20:60] = source[3:5, 10:60, 5:45]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("data", layout, fillvalue=-7)
    with h5py.File(tmp_path / "v.h5") as file:
        expected = file["data"][()]
    assert (expected == -7).any()
    events = read_all(tmp_path / "v.h5")[1]
    for event in events:
        np.testing.assert_array_equal(pixels_of(event.payload), expected[event.number])
    assert len(events) == 8


def test_a_file_and_a_folder_that_may_not_be_read(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("the administrator may read everything")
    write_cbf(tmp_path / "a.cbf", 0)
    (tmp_path / "a.cbf").chmod(0)
    with pytest.raises(ConfigurationError, match=r"a\.cbf: may not be read"):
        FileSource(str(tmp_path / "a.cbf")).open()
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(ConfigurationError, match="closed: cannot be read"):
        FileSource(str(tmp_path / "closed")).open()


def test_a_file_that_is_written_in_swmr_mode_can_be_read(tmp_path):
    """Or was, by a program that was killed: the file says that it is open."""
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file["data"] = np.array([frame(0), frame(1)])
        file.swmr_mode = True
        file.flush()
        shutil.copy(tmp_path / "a.h5", tmp_path / "b.h5")
    with pytest.raises(OSError, match="already open"):
        h5py.File(tmp_path / "b.h5")
    assert check(read_all(tmp_path / "b.h5")[1], "uint16") == [0, 1]


# ---- what they tell ------------------------------------------------------------------------------------------


@pytest.fixture
def nexus(tmp_path):
    """A file to which tests add; yields (path, h5py file)."""
    with h5py.File(tmp_path / "x.nxs", "w") as file:
        file["entry/data/data"] = np.zeros((3, 8, 9), "u2")
        file["entry"].attrs["NX_class"] = "NXentry"
        for name, kind in (
            ("instrument", "NXinstrument"),
            ("sample", "NXsample"),
            ("instrument/detector", "NXdetector"),
        ):
            file.require_group(f"entry/{name}").attrs["NX_class"] = kind
        yield tmp_path / "x.nxs", file


def begin_of(nexus) -> SeriesStart:
    nexus[1].close()
    source = FileSource(str(nexus[0]))
    try:
        return source.open()
    finally:
        source.close()


def test_metadata_in_si_units(nexus):
    _, file = nexus
    detector = file["entry/instrument/detector"]
    detector["distance"], detector["sensor_thickness"] = 215.5, 450.0
    detector["distance"].attrs["units"], detector["sensor_thickness"].attrs["units"] = "mm", "µm"
    detector["x_pixel_size"], detector["y_pixel_size"] = 0.1, 0.2
    detector["x_pixel_size"].attrs["units"] = detector["y_pixel_size"].attrs["units"] = np.bytes_("mm")
    detector["beam_center_x"], detector["beam_center_y"] = 45.0, 0.36
    detector["beam_center_y"].attrs["units"] = "cm and so on"
    detector["sensor_material"], detector["saturation_value"] = "CdTe", np.uint32(99_000)
    file["entry/instrument/beam/incident_energy"] = 12.398419843
    file["entry/instrument/beam/incident_energy"].attrs["units"] = "keV"
    file["entry/instrument/beam/incident_wavelength"] = 0.0  # never set
    metadata = begin_of(nexus).metadata
    assert metadata["distance"] == pytest.approx(0.2155)
    assert metadata["sensor_thickness"] == pytest.approx(450e-6)
    assert metadata["pixel_size"] == pytest.approx([2e-4, 1e-4])
    assert metadata["beam_center"] == [45.0, 0.36]
    assert metadata["wavelength"] == pytest.approx(1e-10)
    assert (metadata["sensor_material"], metadata["saturation_value"]) == ("CdTe", 99_000)


def test_a_beam_centre_as_a_length(nexus):
    detector = nexus[1]["entry/instrument/detector"]
    detector["x_pixel_size"] = detector["y_pixel_size"] = 1e-4
    for axis, value in (("x", 4.5), ("y", 3.0)):
        detector[f"beam_center_{axis}"] = value
        detector[f"beam_center_{axis}"].attrs["units"] = "mm"
    assert begin_of(nexus).metadata["beam_center"] == pytest.approx([45, 30])


def test_what_means_nothing_is_left_out(nexus):
    detector = nexus[1]["entry/instrument/detector"]
    detector["distance"], detector["x_pixel_size"] = 3.0, math.nan
    detector["distance"].attrs["units"] = "furlong"
    detector["y_pixel_size"] = 1e-4
    detector["saturation_value"], detector["description"] = np.zeros(4), np.void(b"x")
    nexus[1]["entry/instrument/beam"] = 5
    assert list(begin_of(nexus).metadata) == ["files"]


@pytest.mark.parametrize("where", ["pixel_mask", "detectorSpecific/pixel_mask"])
def test_the_pixel_mask(nexus, where):
    mask = np.arange(72, dtype=">u4").reshape(8, 9)
    nexus[1]["entry/instrument/detector"][where] = mask
    begin = begin_of(nexus)
    np.testing.assert_array_equal(begin.pixel_mask, mask)
    assert begin.pixel_mask.dtype.isnative
    assert (begin.flatfield, begin.problems) == (None, ())


def test_a_pixel_mask_of_another_detector(nexus):
    nexus[1]["entry/instrument/detector/pixel_mask"] = np.zeros((9, 9), "u4")
    begin = begin_of(nexus)
    assert begin.pixel_mask is None
    assert begin.problems == ("pixel_mask of the file is uint32 (9, 9), the frames have (8, 9): it is not used",)


@pytest.mark.parametrize(("applied", "used"), [(0, True), (False, True), (1, False), (None, False)])
def test_a_flat_field_that_is_still_to_be_applied(nexus, applied, used):
    detector = nexus[1]["entry/instrument/detector"]
    flat = np.linspace(0.5, 2, 72).reshape(8, 9)
    detector["detectorSpecific/flatfield"] = flat
    if applied is not None:
        detector["flatfield_correction_applied"] = applied
    begin = begin_of(nexus)
    assert (begin.flatfield is not None) == used
    if used:
        assert begin.flatfield.dtype == np.float32
        np.testing.assert_allclose(begin.flatfield, flat, rtol=1e-6)


def values_of(nexus) -> list[Frame]:
    nexus[1].close()
    return read_all(nexus[0])[1]


def test_values_beside_the_frames(nexus):
    data = nexus[1]["entry/data"]
    data["timestamp"], data["monitor"] = [5.0, 6.5, 8.0], np.array([7, 8, 9])
    data["position_x"], data["position_y"] = [0.1, 0.2, 0.3], [[1], [2], [3]]
    events = values_of(nexus)
    assert [event.timestamp for event in events] == [5.0, 6.5, 8.0]
    assert [event.monitor for event in events] == [7, 8, 9]
    assert [event.position for event in events] == [(0.1, 1), (0.2, 2), (0.3, 3)]


def test_values_as_nexus_has_them(nexus):
    entry = nexus[1]["entry"]
    for name in ("control", "other"):
        entry.create_group(name).attrs["NX_class"] = "NXmonitor"
    entry["control/data"], entry["other/data"] = [7.0, 8.0, 9.0], [0.0, 0.0, 0.0]
    for name, values in (("sam_x", [1, 2, 3]), ("sam_y", [4, 5, 6]), ("omega", [0, 0, 0])):
        entry["sample"].create_group(name).attrs["NX_class"] = "NXpositioner"
        entry[f"sample/{name}/value"] = values
    entry["instrument/detector/start_time"] = np.array([0, 500, 1000])
    entry["instrument/detector/start_time"].attrs.update({"start": "2026-03-01T12:00:00Z", "units": "ms"})
    events = values_of(nexus)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    assert [event.timestamp for event in events] == [noon, noon + 0.5, noon + 1]
    assert [event.monitor for event in events] == [7, 8, 9]
    assert [event.position for event in events] == [(1, 4), (2, 5), (3, 6)]


def test_values_of_another_number_are_not_used(nexus):
    data = nexus[1]["entry/data"]
    data["timestamp"], data["monitor"], data["position_x"] = [5.0, 6.5], "none", [0.1, 0.2, 0.3]
    (first, *_) = values_of(nexus)
    assert math.isnan(first.timestamp) and math.isnan(first.monitor) and math.isnan(first.position[0])


HEADER = """# Detector: PILATUS3 6M, S/N 60-0119\r
# 2015-10-11T22:38:52.149\r
# Pixel_size 172e-6 m x 175e-6 m\r
# CdTe sensor, thickness 0.001000 m\r
# Count_cutoff 1024465 counts\r
# Wavelength 0.96859 A\r
# Detector_distance 0.35100 m\r
# Beam_xy (1261.61, 1306.96) pixels\r
"""


def test_the_header_of_a_cbf_image():
    assert read_cbf_header(HEADER) == {
        "wavelength": pytest.approx(0.96859e-10),
        "distance": 0.351,
        "pixel_size": [175e-6, 172e-6],
        "beam_center": [1261.61, 1306.96],
        "saturation_value": 1024465,
        "detector": "PILATUS3 6M, S/N 60-0119",
        "sensor_material": "CdTe",
        "sensor_thickness": 0.001,
    }
    assert read_cbf_header("") == {}
    odd = "# Detector:\r\n# Wavelength 0 A\r\n# Detector_distance nan m\r\n"
    odd += "# Beam_xy (1, ) pixels\r\n# Pixel_size 0 m x 0 m\r\n"
    assert read_cbf_header(odd) == {}


def test_the_header_of_a_real_image():
    metadata = FileSource(str(data_file("pilatus6m_x06sa.cbf.gz"))).open().metadata
    assert metadata["wavelength"] == pytest.approx(1.0332e-10)
    assert (metadata["distance"], metadata["beam_center"]) == (0.3, [1230.1, 1310.5])
    assert metadata["detector"] == "PILATUS 6M, 60-0001, X06SA@SLS"
