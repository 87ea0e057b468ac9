"""Detector geometry in four dialects: pixels stay where they are."""

from __future__ import annotations

import json
import math

import h5py
import numpy as np
import pytest
from formats_helpers import PONI, SHAPE, reduced_frame, run_info
from framesieve.cli.main import main
from framesieve.formats.crystfel_geom import read_geom, write_geom
from framesieve.formats.geometry_files import read_geometry, write_geometry
from framesieve.formats.panels import DetectorGeometry, Panel, from_poni, to_poni
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.formats.xds_inp import read_xds, write_xds
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.poni import parse_poni

ROWS, COLUMNS = 40, 60


def poni(orientation: int = 3, rotations=(0.1, -0.25, 0.4), pixels=(100e-6, 150e-6)) -> str:
    config = {"pixel1": pixels[0], "pixel2": pixels[1], "max_shape": [ROWS, COLUMNS], "orientation": orientation}
    rotations = "\n".join(f"Rot{i}: {angle}" for i, angle in enumerate(rotations, 1))
    return (
        f"poni_version: 2.1\nDetector: Detector\nDetector_config: {json.dumps(config)}\n"
        f"Distance: 0.123\nPoni1: 0.0015\nPoni2: -0.0042\n{rotations}\nWavelength: 1.1e-10\n"
    )


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_poni_as_pyfai(tmp_path, orientation):
    """pyFAI gives t1 (up), t2 (right) and t3 (along the beam) of each pixel centre."""
    geometry = pytest.importorskip("pyFAI.geometry")
    (tmp_path / "g.poni").write_text(poni(orientation))
    t3, t1, t2 = geometry.Geometry().load(str(tmp_path / "g.poni")).calc_pos_zyx(corners=False)
    ours = from_poni(parse_poni(poni(orientation))).positions()
    np.testing.assert_allclose(ours, np.stack([-t2, t1, t3], axis=-1), atol=1e-9)


def tilted(vector, angle: float, axis: int) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.eye(3)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
    return matrix @ np.asarray(vector, float)


def several(square: bool = True) -> DetectorGeometry:
    """Four panels, each with a shift and a rotation of its own; the last one counts its columns backwards."""
    pixel, panels = 75e-6, []
    for number in range(4):
        first = (ROWS * (number // 2), COLUMNS * (number % 2))
        slow, fast = [0, -pixel, 0], [-pixel if number < 3 else pixel, 0, 0]
        angles = [(0.01 * number, 0), (0.3 - 0.1 * number, 1), (0.02 * number, 2)]
        for angle, axis in angles:
            slow, fast = tilted(slow, angle, axis), tilted(fast, angle, axis)
        origin = [0.004 - 0.0046 * (number % 2), 0.003 - 0.0031 * (number // 2), 0.1 + 0.002 * number]
        panels.append(Panel(f"q{number}", first, (ROWS - number, COLUMNS), np.array(origin), slow, fast))
    return DetectorGeometry(tuple(panels), (2 * ROWS - 2, 2 * COLUMNS), 1e-10)


def assert_same_places(one: DetectorGeometry, other: DetectorGeometry, pixel: float = 75e-6) -> None:
    assert one.shape == other.shape
    assert one.wavelength == pytest.approx(other.wavelength, rel=1e-9)
    a, b = one.positions(), other.positions()
    assert np.array_equal(np.isnan(a), np.isnan(b))
    assert np.nanmax(np.abs(a - b)) < 1e-5 * pixel


@pytest.mark.parametrize("name", ["g.geom", "g.nxs", "XDS.INP", "g.poni"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_round_trip_of_one_panel(tmp_path, name, orientation):
    for rotations in ((0, 0, 0), (0.1, -0.25, 0.4), (-0.6, 0.3, 2.9)):
        geometry = from_poni(parse_poni(poni(orientation, rotations)))
        write_geometry(geometry, tmp_path / name, overwrite=True)
        assert_same_places(read_geometry(tmp_path / name), geometry)
        again = from_poni(parse_poni(to_poni(read_geometry(tmp_path / name))))
        assert_same_places(again, geometry)


@pytest.mark.parametrize("orientation", [2, 3])
def test_round_trip_of_numbers(orientation):
    """Not only positions: a PONI file comes back as it was."""
    before = parse_poni(poni(orientation))
    after = parse_poni(to_poni(from_poni(before)))
    for name in ("distance", "poni1", "poni2", "rot1", "rot2", "rot3", "pixel1", "pixel2", "wavelength"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-12), name
    assert (after.orientation, after.shape) == (orientation, (ROWS, COLUMNS))


def test_round_trip_of_several_panels(tmp_path):
    geometry = several()
    for number, name in enumerate(("a.geom", "b.nxs", "c.inp", "d.geom", "e.inp", "f.h5", "g.geom")):
        place = tmp_path / name
        write_geometry(geometry, place)
        read = read_geometry(place)
        assert [(panel.first, panel.size) for panel in read.panels] == [(p.first, p.size) for p in several().panels]
        assert_same_places(read, several())
        geometry = read
        assert number >= 0
    with pytest.raises(ConfigurationError, match="one regular grid"):
        to_poni(geometry)


def test_panels_on_one_grid_become_a_poni():
    whole = from_poni(parse_poni(poni()))
    panel = whole.panels[0]
    halves = tuple(
        Panel(f"p{i}", (0, x), (ROWS, COLUMNS // 2), panel.at(0, x), panel.slow, panel.fast)
        for i, x in enumerate((0, COLUMNS // 2))
    )
    split = DetectorGeometry(halves, whole.shape, whole.wavelength)
    assert_same_places(from_poni(parse_poni(to_poni(split))), whole)


GEOM = """; clen = 3 m, in a comment
clen = 150 mm
photon_energy = 9.5 keV
res = 10000
adu_per_photon = 1
rigid_group_q0 = a,b
bad_edge/min_x = -10.5   ; no panel
coffset = 0.002
ss = y

a/min_fs = 0
a/max_fs = 19
a/min_ss = 0
a/max_ss = 9
a/corner_x = -20.5
a/corner_y = 3.25   ; px
a/fs = +1.0x -0.0y

coffset = -0.001
b/min_fs = 20
b/max_fs = 39
b/min_ss = 0
b/max_ss = 9
b/corner_x = 20
b/corner_y = -4
b/fs = -0.6x+0.8z
b/ss = -y
b/coffset = 1 mm
"""


def test_geom_by_hand():
    geometry = read_geom(GEOM)
    assert geometry.shape == (10, 40)
    assert geometry.wavelength == pytest.approx(1.23984198e-6 / 9500)
    positions = geometry.positions() * 1e4  # pixels
    # first panel: corner (−20.5, 3.25), z = 150 mm + 2 mm; centres are half a pixel further
    np.testing.assert_allclose(positions[0, 0], [-20, 3.75, 1520])
    np.testing.assert_allclose(positions[9, 19], [-1, 12.75, 1520])
    # second: fast steps (−0.6, 0, 0.8), slow steps (0, −1, 0); z = 150 mm + 1 mm
    np.testing.assert_allclose(positions[0, 20], [19.7, -4.5, 1510.4])
    np.testing.assert_allclose(positions[9, 39], [20 - 0.6 * 19.5, -13.5, 1510 + 0.8 * 19.5])


def test_geom_text_is_what_crystfel_wants():
    text = write_geom(several())
    lines = [line.partition(";")[0] for line in text.splitlines()]
    values = dict(part.split(" = ", 1) for part in lines if " = " in part)
    assert values["dim0"] == "%" and values["dim1"] == "ss" and values["dim2"] == "fs"
    assert values["clen"].endswith(" m") and values["photon_energy"].endswith(" eV")
    for name in ("q0", "q3"):
        assert int(values[f"{name}/max_fs"]) - int(values[f"{name}/min_fs"]) == COLUMNS - 1
        for axis in ("fs", "ss"):
            parts = values[f"{name}/{axis}"].split()
            assert [part[-1] for part in parts] == ["x", "y", "z"] and all(part[0] in "+-" for part in parts)
    odd = DetectorGeometry((several().panels[0], *(
        Panel(name, p.first, p.size, p.origin, p.slow, p.fast)
        for name, p in zip(("bad1", "a/b", "groups"), several().panels[1:], strict=True)
    )), several().shape, None)  # fmt: skip
    assert_names = [panel.name for panel in read_geom(write_geom(odd)).panels]
    assert assert_names == ["q0", "p1", "a_b", "p3"]


XDS = """! a detector
 DETECTOR=EIGER NX= 30 NY=20  QX=0.1 QY=0.2
 ORGX=12.5 ORGY=8.0   DETECTOR_DISTANCE= 150.0
 X-RAY_WAVELENGTH=1.5 ! NX= 7
 DIRECTION_OF_DETECTOR_X-AXIS= 1 0 0
 DIRECTION_OF_DETECTOR_Y-AXIS= 0 0.6 0.8
 INCIDENT_BEAM_DIRECTION= 0 0 0.667
 NAME_TEMPLATE_OF_DATA_FRAMES=/data/x=1/run_??????.h5
"""


def test_xds_by_hand():
    geometry = read_xds(XDS)
    assert geometry.shape == (20, 30)
    assert geometry.wavelength == 1.5e-10
    # XDS' frame is turned by half a turn around the beam; the centre of the first pixel is (1, 1)
    normal = np.array([0, -0.8, 0.6])
    for x, y in ((1, 1), (30, 1), (5, 20)):
        theirs = (x - 12.5) * 0.1 * np.array([1, 0, 0]) + (y - 8) * 0.2 * np.array([0, 0.6, 0.8]) + 150 * normal
        np.testing.assert_allclose(geometry.positions()[y - 1, x - 1] * 1e3, theirs * [-1, -1, 1], atol=1e-9)


def test_segments_by_hand():
    """Axes and distance of a segment are in the frame of the detector."""
    text = (
        XDS
        + """
SEGMENT= 1 10 1 20
DIRECTION_OF_SEGMENT_X-AXIS= 1 0 0
DIRECTION_OF_SEGMENT_Y-AXIS= 0 1 0
SEGMENT_DISTANCE= 0
SEGMENT_ORGX= 0 SEGMENT_ORGY= 0
SEGMENT= 11 30 1 20
DIRECTION_OF_SEGMENT_X-AXIS= 0.8 0 0.6
DIRECTION_OF_SEGMENT_Y-AXIS= 0 1 0
SEGMENT_DISTANCE= 2
SEGMENT_ORGX= 4 SEGMENT_ORGY= 1
"""
    )
    whole, parts = read_xds(XDS), read_xds(text)
    np.testing.assert_allclose(parts.positions()[:, :10], whole.positions()[:, :10], atol=1e-12)
    x_axis, y_axis, normal = np.array([1, 0, 0]), np.array([0, 0.6, 0.8]), np.array([0, -0.8, 0.6])
    # pixel (20, 3): in the segment's plane 1.6 mm and 0.4 mm from its origin, and 2 mm along its normal (−0.6, 0, 0.8)
    on_detector = 1.6 * np.array([0.8, 0, 0.6]) + 0.4 * np.array([0, 1, 0]) + 2 * np.array([-0.6, 0, 0.8])
    theirs = (on_detector[0] - 1.25) * x_axis + (on_detector[1] - 1.6) * y_axis + (150 + on_detector[2]) * normal
    np.testing.assert_allclose(parts.positions()[2, 19] * 1e3, theirs * [-1, -1, 1], atol=1e-9)


def test_beam_that_is_not_along_z():
    """Turning everything in XDS' laboratory, the beam too, moves nothing."""
    geometry = from_poni(parse_poni(poni()))
    lines = []
    for line in write_xds(geometry).splitlines():
        key, _, numbers = line.partition("= ")
        if "DIRECTION" in key:
            line = f"{key}= " + " ".join(map(str, tilted([float(n) for n in numbers.split()], 0.3, 0)))
        lines.append(line)
    assert_same_places(read_xds("\n".join(lines)), geometry)


def test_straight_detector_in_all_dialects(tmp_path):
    """Distance 0.1 m, beam at (60, 40) px: the numbers that people know."""
    (tmp_path / "g.poni").write_text(PONI)
    mirrored = read_geometry(tmp_path / "g.poni").upside_down()
    # rows run upwards in a PONI file of orientation 3: seen from the sample x and y are left-handed, and the normal
    # that XDS makes of them points backwards
    for geometry, distance in ((read_geometry(tmp_path / "g.poni"), -100), (mirrored, 100)):
        words = write_xds(geometry).split()
        for key, number in {"ORGX=": 60.5, "ORGY=": 40.5, "DETECTOR_DISTANCE=": distance, "QX=": 0.075}.items():
            assert float(words[words.index(key) + 1]) == pytest.approx(number)
    geom = read_geom(write_geom(read_geometry(tmp_path / "g.poni"))).panels[0]
    np.testing.assert_allclose(geom.origin, [60 * 75e-6, -40 * 75e-6, 0.1])
    np.testing.assert_allclose(geom.fast, [-75e-6, 0, 0])
    assert parse_poni(to_poni(mirrored)).orientation == 2


def test_nxmx_with_a_chain_of_rotations(tmp_path):
    """As beamlines write it: axes of an unturned detector that depend on its stages."""
    with h5py.File(tmp_path / "g.nxs", "w") as file:
        for path, nx_class in (
            ("entry", "NXentry"),
            ("entry/instrument", "NXinstrument"),
            ("entry/instrument/detector", "NXdetector"),
            ("entry/instrument/detector/module", "NXdetector_module"),
            ("entry/instrument/detector/transformations", "NXtransformations"),
        ):
            file.create_group(path).attrs["NX_class"] = nx_class
        detector = file["entry/instrument/detector"]

        def axis(path, value, kind, units, vector, depends_on, offset=(0, 0, 0)):
            detector[path] = value
            detector[path].attrs.update(
                {"transformation_type": kind, "units": units, "vector": vector, "depends_on": depends_on}
            )
            detector[path].attrs.update({"offset": offset, "offset_units": "mm"})

        axis("transformations/two_theta", 90.0, "rotation", "deg", (0, 1, 0), ".")
        axis("transformations/z", [200.0], "translation", "mm", (0, 0, 1), "two_theta")
        axis("module/module_offset", 0.0, "translation", "mm", (1, 0, 0), "../transformations/z", (3, 4, 0))
        axis("module/fast_pixel_direction", 1e-4, "translation", "m", (-1, 0, 0), "module_offset")
        axis("module/slow_pixel_direction", 1e-4, "translation", "m", (0, -1, 0), "module_offset")
        detector["module/data_origin"], detector["module/data_size"] = [0, 0], [8, 5]
    geometry = read_geometry(tmp_path / "g.nxs")
    # a quarter turn around y brings z to x and x to −z: the detector is at x = 200 mm
    np.testing.assert_allclose(geometry.panels[0].at(0, 0) * 1e3, [200, 4, -3], atol=1e-9)
    np.testing.assert_allclose(geometry.panels[0].at(0, 5) * 1e3, [200, 4, -2.5], atol=1e-9)
    np.testing.assert_allclose(geometry.panels[0].at(8, 0) * 1e3, [200, 3.2, -3], atol=1e-9)


def test_every_file_has_the_other_dialects(tmp_path):
    with SparseWriter(tmp_path / "s.h5") as writer:
        writer.begin(run_info())
        writer.append([reduced_frame(0)])
    expected = from_poni(parse_poni(PONI), SHAPE)
    with h5py.File(tmp_path / "s.h5") as file:
        group = file["entry_0000/geometry"]
        assert_same_places(read_geom(group["geom"].asstr()[()]), expected)
        assert_same_places(read_xds(group["xds"].asstr()[()]), expected)
    assert_same_places(read_geometry(tmp_path / "s.h5"), expected)


def test_the_program(tmp_path, capsys):
    (tmp_path / "g.poni").write_text(poni())
    out = tmp_path / "XDS.INP"
    assert main(["geometry", str(tmp_path / "g.poni"), "-o", str(out)]) == 0
    assert "one panel, 40 × 60 pixels" in capsys.readouterr().out
    assert_same_places(read_geometry(out), from_poni(parse_poni(poni())))
    assert main(["geometry", str(out), "-o", str(tmp_path / "u.geom"), "--upside-down"]) == 0
    turned = read_geometry(tmp_path / "u.geom").positions()
    np.testing.assert_allclose(turned, read_geometry(out).positions() * [1, -1, 1], atol=1e-12)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "", "its name tells no dialect"),
        ("a.geom", GEOM.replace("150 mm", "/LCLS/distance"), "read from image files.*e.g. 'clen = 0.15 m'"),
        ("a.geom", GEOM.replace("150 mm", "150 parsec"), "line 2: '150 parsec'"),
        ("a.geom", GEOM.replace("b/max_ss = 9", ""), "panel 'b' has no max_ss"),
        ("a.geom", GEOM.replace("-0.6x+0.8z", "0.6x 0.8z"), "accepted is a sum"),
        ("a.geom", GEOM.replace("-0.6x+0.8z", "0x"), "span no plane"),
        ("a.geom", GEOM.replace("= 39", "= 1e9"), "up to 100 000"),
        ("a.geom", "; nothing\n", "no detector panel"),
        ("a.geom", "what is this\n", "accepted is 'name = value'"),
        ("a.inp", XDS.replace("QX=0.1", ""), "there is no QX="),
        ("a.inp", XDS.replace("= 0 0.6 0.8", "= 0 0.6"), "has 2 numbers: accepted is 3"),
        ("a.inp", XDS.replace("ORGX=12.5", "ORGX=left"), "line 3: ORGX= 'left'"),
        ("a.inp", XDS + "SEGMENT_ORGX= 1\n", "before the first SEGMENT="),
        ("a.inp", XDS + "SEGMENT= 1 2 3 4\n", "no DIRECTION_OF_SEGMENT_X-AXIS="),
        ("a.nxs", "text", "cannot be read as HDF5"),
        ("a.poni", "PixelSize1: 1e-4\nPixelSize2: 1e-4\nDistance: x\n", "accepted is a finite number"),
        ("a.poni", "Distance: 1\nPixelSize1: 1e-4\nPixelSize2: 1e-4\n", "how many pixels"),
    ],
)
def test_what_cannot_be_used(tmp_path, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_geometry(tmp_path / name)
    assert main(["geometry", str(tmp_path / name), "-o", str(tmp_path / "o.geom")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "o.geom").exists()


def test_nothing_is_replaced_unasked(tmp_path, capsys):
    (tmp_path / "g.poni").write_text(poni())
    (tmp_path / "o.geom").write_text("old")
    assert main(["geometry", str(tmp_path / "g.poni"), "-o", str(tmp_path / "o.geom")]) == 2
    assert "exists" in capsys.readouterr().err and (tmp_path / "o.geom").read_text() == "old"
    assert main(["geometry", str(tmp_path / "g.poni"), "-o", str(tmp_path / "o.xyz")]) == 2
    assert "its name tells no dialect" in capsys.readouterr().err
