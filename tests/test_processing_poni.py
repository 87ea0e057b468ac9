"""PONI files: what is read, what is refused, and where it puts the pixels (pyFAI is the reference)."""

import json

import numpy as np
import pytest
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.geometry import pixel_geometry
from framesieve.processing.poni import parse_poni, read_poni

SHAPE = (60, 50)
LINES = ["Distance: 0.1", "Poni1: 0.004", "Poni2: 0.003", "Rot1: 0", "Rot2: 0", "Rot3: 0", "Wavelength: 1e-10"]


def config(**more) -> str:
    return "Detector_config: " + json.dumps({"pixel1": 1e-4, "pixel2": 2e-4, "max_shape": SHAPE, **more})


def poni_text(version="2.1", tilt=(0.0, 0.0, 0.0), **more) -> str:
    rotations = [f"Rot{i + 1}: {angle}" for i, angle in enumerate(tilt)]
    head = [f"poni_version: {version}", "Detector: Detector", config(**more)]
    return "\n".join([*head, *LINES[:3], *rotations, LINES[6]])


VERSIONS = {
    "1": "\n".join(["# made by hand", "PixelSize1: 1e-4", "PixelSize2: 2e-4", *LINES]),
    "2": "\n".join(["poni_version: 2", "Detector: Detector", config(), *LINES]),
    "2.1": "\n".join(["poni_version: 2.1", "Detector: Detector", config(orientation=3), *LINES]),
    "3": "\n".join(
        ["poni_version: 3", "Detector: Detector", config(orientation=3, sensor=None), "Parallax: False", *LINES]
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(version):
    poni = parse_poni(VERSIONS[version])
    assert (poni.distance, poni.poni1, poni.poni2) == (0.1, 0.004, 0.003)
    assert (poni.pixel1, poni.pixel2, poni.wavelength, poni.orientation) == (1e-4, 2e-4, 1e-10, 3)
    assert poni.shape == (None if version == "1" else SHAPE)
    assert poni.text == VERSIONS[version]


def test_keys_in_any_case_comments_and_the_last_line_wins():
    poni = parse_poni("PIXELSIZE1: 1e-4\npixelsize2: 1e-4\nDistance: 9 # m\n# Distance: 7\ndistance: 0.5\n")
    assert poni.distance == 0.5
    assert (poni.poni1, poni.rot1, poni.wavelength) == (0.0, 0.0, None)


@pytest.mark.parametrize(
    "name, pixel, shape",
    [
        ("Pilatus 6M", 172e-6, (2527, 2463)),
        ("pilatus_6m", 172e-6, (2527, 2463)),
        ("Pilatus CdTe 2M", 172e-6, (1679, 1475)),
        ("Eiger2 4M", 75e-6, (2162, 2068)),
        ("Eiger 16M", 75e-6, (4371, 4150)),
        ("Eiger2 CdTe 16M", 75e-6, (4362, 4148)),
        ("Jungfrau 4M", 75e-6, (2164, 2068)),
    ],
)
def test_detectors_known_by_name(name, pixel, shape):
    poni = parse_poni("\n".join(["poni_version: 2", f"Detector: {name}", "Detector_config: {}", *LINES]))
    assert (poni.pixel1, poni.pixel2, poni.shape) == (pixel, pixel, shape)


def test_names_and_sizes_agree_with_pyfai():
    detectors = pytest.importorskip("pyFAI.detectors")
    from framesieve.processing.detectors import _KNOWN

    compared = 0
    for key, (pixel, shape) in _KNOWN.items():
        if key in detectors.ALL_DETECTORS:
            theirs = detectors.detector_factory(key)
            assert (theirs.pixel1, theirs.pixel2) == pytest.approx((pixel, pixel)), key
            assert tuple(theirs.max_shape) == shape, key
            compared += 1
    assert compared >= 15


REFUSED = {
    "version 4": (poni_text("4"), "poni_version 4"),
    "version 0": (poni_text("0"), "poni_version 0"),
    "version in words": (poni_text("two"), "poni_version"),
    "parallax": (poni_text("3") + "\nParallax: True", "[Pp]arallax"),
    "spline, version 1": (VERSIONS["1"] + "\nSplineFile: /data/frelon.spline", "spline"),
    "spline, version 2": (poni_text(splineFile="frelon.spline"), "distortion"),
    "distorted detector": (poni_text(filename="detector.h5"), "distortion"),
    "curved detector": (
        "\n".join(["poni_version: 2", "Detector: Aarhus", "Detector_config: {}", *LINES]),
        "Aarhus",
    ),
    "curved detector with a pixel size": (
        "\n".join(["poni_version: 2.1", "Detector: Cylindrical", config(radius=0.3), *LINES]),
        "Cylindrical",
    ),
    "hexagonal pixels": ("\n".join(["poni_version: 2", "Detector: Pixirad1", config(), *LINES]), "Pixirad1"),
    "unknown detector": ("\n".join(["poni_version: 2", "Detector: Mystery", "Detector_config: {}", *LINES]), "Mystery"),
    "orientation 5": (poni_text(orientation=5), "orientation 5"),
    "orientation in words": (poni_text(orientation="up"), "orientation"),
    "orientation true": (poni_text(orientation=[3]), "orientation"),
    "no text at all": ("", "not a PONI file"),
    "some other text": ("hello\nworld", "not a PONI file"),
    "no distance": (poni_text().replace("Distance", "Length"), "Distance"),
    "NaN distance": (poni_text().replace("Distance: 0.1", "Distance: nan"), "distance"),
    "infinite poni": (poni_text().replace("Poni1: 0.004", "Poni1: inf"), "poni1"),
    "text for a rotation": (poni_text().replace("Rot1: 0.0", "Rot1: much"), "rot1"),
    "negative distance": (poni_text().replace("Distance: 0.1", "Distance: -0.1"), "above 0"),
    "distance zero": (poni_text().replace("Distance: 0.1", "Distance: 0"), "above 0"),
    "wavelength in Å": (poni_text().replace("1e-10", "1.03"), "Wavelength"),
    "negative wavelength": (poni_text().replace("1e-10", "-1e-10"), "Wavelength"),
    "pixel size in µm": (poni_text(pixel1=75), "pixel size"),
    "pixel size in words": (poni_text(pixel1="small"), "pixel size"),
    "no pixel size": ("\n".join(LINES), "pixel size"),
    "bad json": (poni_text().replace('{"pixel1"', '{pixel1'), "JSON"),
    "json is a list": ("\n".join(["poni_version: 2", "Detector_config: [1, 2]", *LINES]), "JSON object"),
    "shape of three": (poni_text(max_shape=[1, 2, 3]), "max_shape"),
    "shape zero": (poni_text(max_shape=[0, 2]), "max_shape"),
    "shape in words": (poni_text(max_shape="big"), "max_shape"),
    "shape not finite": (poni_text(max_shape=[1e400, 5]), "max_shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_clear_error(case):
    text, words = REFUSED[case]
    with pytest.raises(ConfigurationError, match=words) as caught:
        parse_poni(text, "my.poni")
    assert "my.poni" in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", ["missing", "directory", "binary"])
def test_files_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / "x.poni"
    if kind == "directory":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ConfigurationError, match=r"x\.poni"):
        read_poni(path)


TILTS = [(0.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.0, -0.25, 0.0), (0.0, 0.0, 1.1), (0.2, -0.15, 0.4), (-0.4, 0.35, -2.0)]


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
@pytest.mark.parametrize("tilt", TILTS)
def test_positions_as_in_pyfai(orientation, tilt):
    pyfai_detectors = pytest.importorskip("pyFAI.detectors")
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    poni = parse_poni(poni_text(tilt=tilt, orientation=orientation))
    ours = pixel_geometry(poni, SHAPE, solid_angle=True, polarization=0.95)

    detector = pyfai_detectors.Detector(1e-4, 2e-4, max_shape=SHAPE, orientation=orientation)
    ai = AzimuthalIntegrator(0.1, 0.004, 0.003, *tilt, detector=detector, wavelength=1e-10)
    np.testing.assert_allclose(ours.radius, ai.array_from_unit(SHAPE, unit="r_m", scale=False), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.solid_angle, ai.solidAngleArray(SHAPE), rtol=1e-6)
    np.testing.assert_allclose(ours.polarization, ai.polarization(SHAPE, factor=0.95), rtol=1e-6)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_orientations_move_positions_by_hand(orientation):
    """Without tilt the pixel nearest to the beam is known by counting."""
    poni = parse_poni(poni_text(orientation=orientation))
    y, x = 39.5, 14.5  # poni1 / pixel1 − ½, poni2 / pixel2 − ½
    if orientation in (1, 2):
        y = SHAPE[0] - 1 - y
    if orientation in (1, 4):
        x = SHAPE[1] - 1 - x
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = np.hypot((yy - y) * 1e-4, (xx - x) * 2e-4)
    np.testing.assert_allclose(pixel_geometry(poni, SHAPE).radius, expected, rtol=1e-9, atol=1e-12)
    assert poni.beam_center == pytest.approx((x + 0.5, y + 0.5))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (0.01, -0.008, 0.0), (-0.009, 0.007, 0.7)])
def test_beam_center_is_the_place_of_the_smallest_radius(orientation, tilt):
    poni = parse_poni(poni_text(tilt=tilt, orientation=orientation))
    radius = pixel_geometry(poni, SHAPE).radius
    y, x = np.unravel_index(radius.argmin(), SHAPE)
    assert 0 < y < SHAPE[0] - 1 and 0 < x < SHAPE[1] - 1  # it lies on the detector: the search means something
    # finer, around it: the radius, squared, is a parabola of x and of y for so small angles
    dx, dy = [
        0.5 * (before - after) / (before - 2 * radius[y, x] ** 2 + after)
        for before, after in (
            (radius[y, x - 1] ** 2, radius[y, x + 1] ** 2),
            (radius[y - 1, x] ** 2, radius[y + 1, x] ** 2),
        )
    ]
    assert poni.beam_center == pytest.approx((x + 0.5 + dx, y + 0.5 + dy), abs=0.02)


def test_not_asked_for_is_none():
    geometry = pixel_geometry(parse_poni(poni_text()), SHAPE)
    assert geometry.solid_angle is None and geometry.polarization is None


def test_pixel_on_the_beam_has_no_azimuth():
    text = poni_text().replace("Poni1: 0.004", "Poni1: 0.00055").replace("Poni2: 0.003", "Poni2: 0.0009")
    geometry = pixel_geometry(parse_poni(text), (12, 10), polarization=1.0)
    assert geometry.radius[5, 4] < 1e-15
    assert geometry.polarization[5, 4] == pytest.approx(1)
    assert np.isfinite(geometry.polarization).all()
