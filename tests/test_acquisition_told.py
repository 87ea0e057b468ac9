"""What the source tells of the detector, mask, flat field, geometry, comes into force and into the file."""

import hashlib
import json
import subprocess
from datetime import datetime

import h5py
import numpy as np
import pytest
from framesieve.acquisition import mask_file, reducers
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.images import Images
from framesieve.acquisition.run_state import RunState
from framesieve.acquisition.settings import RunSettings
from framesieve.acquisition.told_geometry import poni_of
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import ArrayPayload, Frame, SeriesEnd, SeriesStart
from framesieve.processing.geometry import pixel_geometry
from framesieve.processing.reducer import Reducer

SHAPE, FRAMES, DTYPE = (96, 80), 8, np.dtype("uint16")
PATIENCE = 120.0
FULL = {"distance": 0.15, "pixel_size": [1e-4, 2e-4], "beam_center": [30.25, 41.5], "wavelength": 1e-10}


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).poisson(9, SHAPE).astype(DTYPE)


class Detector:
    """A live source that tells all it knows when its series begin."""

    live, sends_bslz4 = True, False

    def __init__(self, *series: dict) -> None:
        self._series = series or ({},)

    def open(self):
        self._events = iter(self._all())

    def _all(self):
        for k, told in enumerate(self._series):
            name, last = f"s{k}", k == len(self._series) - 1
            yield SeriesStart(name, SHAPE, DTYPE, FRAMES, **told)
            yield from (Frame(n, name, ArrayPayload(image(n)), 1e9 + n, 50.0 + n, (n, -n)) for n in range(FRAMES))
            yield SeriesEnd(name, superseded=not last)

    def read(self, timeout):
        return next(self._events, None)

    def close(self):
        pass


@pytest.fixture
def run(tmp_path):
    """Run a detector to the end; gives the controller and the arrays of the file."""
    (tmp_path / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.005\nPoni2: 0.004\n"
    )
    made, count = [], iter(range(100))

    def once(detector: Detector, controller: RunController | None = None, error: str = "", **settings):
        if controller is None:
            controller = RunController(batch_size=2, ring_size=64)
            made.append(controller)
        controller._open_source = lambda _: detector
        path = tmp_path / f"{next(count)}.h5"
        defaults = {"geometry": str(tmp_path / "a.poni"), "source": "stream2://a:1", "radial_bins": 20}
        controller.configure(saving_file=str(path), **defaults | settings)
        controller.parameters.update(snr_pick=2.0, min_pixels=1, veto_min_peaks=0)
        controller.start()
        assert controller.wait(PATIENCE)
        if error:
            assert controller.state is RunState.FAULT and error in str(controller.error)
            controller.reset()
            return controller, None
        assert (controller.state, controller.error) == (RunState.STANDBY, None)
        found = {}
        with h5py.File(path) as file:
            entry = file["entry_0000"]
            for name in ("index", "intensity", "frame_ptr", "background_avg", "mask", "normalization"):
                found[name] = entry["sparse_frames"][name][()] if name in entry["sparse_frames"] else None
            found["ledger"] = entry["ledger"][()]
            for name in ("configuration", "source_metadata"):
                found[name] = json.loads(entry["geometry"][name][()])
            found["poni"] = entry["geometry/poni"][()].decode()
            found["detector"] = {key: item[()] for key, item in file["entry_1/instrument_1/detector_1"].items()}
        return controller, found

    yield once
    for controller in made:
        controller.shutdown()


def some_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint32)
    mask[40:60, 10:30] = 1 << 4
    mask[0] = 1
    return mask


def assert_same_frames(one: dict, other: dict) -> None:
    for name in ("index", "intensity", "frame_ptr", "background_avg", "mask", "normalization"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_the_mask_of_the_source_is_a_mask(run, tmp_path):
    mask = some_mask()
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "part.npy", np.where(np.arange(SHAPE[0])[:, None] < 50, mask, 0))
    _, told = run(Detector({"pixel_mask": mask}))
    _, given = run(Detector(), mask=str(tmp_path / "mask.npy"))
    _, both = run(Detector({"pixel_mask": mask}), mask=str(tmp_path / "part.npy"))
    _, neither = run(Detector({"pixel_mask": mask}), source_corrections=False)
    assert_same_frames(told, given)
    assert_same_frames(told, both)
    masked = np.flatnonzero(mask)
    assert told["index"].size > 100 and not np.isin(told["index"], masked).any()
    assert np.isin(neither["index"], masked).any()
    assert told["configuration"]["mask_from_source"] and not given["configuration"]["mask_from_source"]
    assert not neither["configuration"]["mask_from_source"]


def test_which_mask_is_in_use_is_told_and_in_the_file(run, tmp_path):
    """Pixels that both mask count once."""
    file, source = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint32)
    file[:2], source[1:4] = 1, 8  # two rows, three rows, one of them the same
    path = tmp_path / "mask.npy"
    np.save(path, file)
    sha256 = subprocess.run(["sha256sum", path], capture_output=True, check=True, text=True).stdout.split()[0]
    before = datetime.now().astimezone().replace(microsecond=0)
    controller, found = run(Detector({"pixel_mask": source}), mask=str(path))
    info = json.loads(controller.snapshot().mask_info)
    assert before <= datetime.fromisoformat(info["loaded"]) <= datetime.now().astimezone()
    assert info == {
        "file": str(path), "sha256": sha256, "loaded": info["loaded"],
        "masked_by_file": 2 * 80, "masked_by_source": 3 * 80, "masked_pixels": 4 * 80,
    }  # fmt: skip
    assert (found["configuration"]["mask_sha256"], found["configuration"]["mask_loaded"]) == (sha256, info["loaded"])
    controller, found = run(Detector({"pixel_mask": source}))
    assert json.loads(controller.snapshot().mask_info) == {
        "file": "", "sha256": None, "loaded": None,
        "masked_by_file": 0, "masked_by_source": 3 * 80, "masked_pixels": 3 * 80,
    }  # fmt: skip
    assert found["configuration"]["mask_sha256"] is None


def test_the_mask_of_a_run_that_is_prepared(tmp_path):
    """What the source masks is known when its series begins."""
    path = tmp_path / "mask.npy"
    np.save(path, np.eye(*SHAPE))
    info = Images(RunSettings(mask=str(path))).mask_info()
    assert (info["masked_by_file"], info["masked_by_source"], info["masked_pixels"]) == (80, None, None)


def test_a_mask_in_a_huge_file_is_not_hashed(tmp_path, monkeypatch):
    path = tmp_path / "mask.npy"
    np.save(path, np.eye(*SHAPE))
    monkeypatch.setattr(mask_file, "MAX_HASHED", path.stat().st_size)
    assert len(mask_file.MaskFile.read(str(path)).sha256) == 64
    monkeypatch.setattr(mask_file, "MAX_HASHED", path.stat().st_size - 1)
    assert mask_file.MaskFile.read(str(path)).sha256 is None


def test_the_hash_is_that_of_the_mask_that_was_read(tmp_path, monkeypatch):
    """Somebody puts another file there in between."""
    path, new = tmp_path / "mask.npy", tmp_path / "new.npy"
    np.save(path, np.eye(*SHAPE))
    read, replacements = mask_file.read_image, []

    def read_and_replace(spec):
        pixels = read(spec)
        if replacements:
            np.save(new, np.full(SHAPE, replacements.pop()))
            new.replace(path)
        return pixels

    monkeypatch.setattr(mask_file, "read_image", read_and_replace)
    replacements[:] = [1.0]
    found = mask_file.MaskFile.read(str(path))
    assert found.pixels.all() and found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    replacements[:] = [2.0, 3.0, 4.0]
    with pytest.raises(ConfigurationError, match=r"mask\.npy' is being written: try again"):
        mask_file.MaskFile.read(str(path))


def test_the_flat_field_of_the_source_is_multiplied(run, tmp_path):
    factors = np.random.default_rng(3).uniform(0.5, 2, SHAPE).astype(np.float32)
    factors[7, 9] = 0  # marks a pixel that cannot be corrected
    with np.errstate(divide="ignore"):
        np.save(tmp_path / "flat.npy", np.where(factors, np.float32(1) / factors, 0).astype(np.float32))
    np.save(tmp_path / "other.npy", np.full(SHAPE, 0.25, np.float32))
    _, told = run(Detector({"flatfield": factors}))
    _, given = run(Detector(), flat=str(tmp_path / "flat.npy"))
    _, users = run(Detector({"flatfield": factors}), flat=str(tmp_path / "other.npy"))
    _, plain = run(Detector())
    assert_same_frames(told, given)
    good = np.isfinite(told["mask"])
    assert not good[7, 9] and good.sum() == good.size - 1
    np.testing.assert_allclose(told["normalization"][good], 1 / factors[good], rtol=1e-6)
    np.testing.assert_allclose(users["background_avg"], 4 * plain["background_avg"], rtol=1e-5)
    assert told["configuration"]["flat_from_source"] and not users["configuration"]["flat_from_source"]


def test_geometry_of_the_source_where_none_is_given(run):
    controller, found = run(Detector({"metadata": FULL}), geometry="")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    radius = np.hypot((y - 41.5) * 1e-4, (x - 30.25) * 2e-4)
    inner, outer = np.nanmin(found["mask"]), np.nanmax(found["mask"])  # limited to the centres of the outermost bins
    np.testing.assert_allclose(found["mask"], np.clip(radius, inner, outer), rtol=1e-5)
    assert "Distance: 0.15" in found["poni"] and found["configuration"]["geometry_from_source"]
    assert found["detector"]["distance"] == 0.15 and found["detector"]["beam_center_x"] == pytest.approx(30.25)
    # what is known of the detector of the last run is no geometry for a source that tells none
    run(Detector(), controller, error="does not tell the distance and the pixel size and the beam centre", geometry="")
    run(Detector({"metadata": FULL}), controller, geometry="")


def test_the_status_warns_of_a_geometry_that_nobody_gave(run, tmp_path):
    controller, _ = run(Detector({"metadata": FULL}), geometry="")
    controller.configure(saving_overwrite_policy="overwrite")
    controller.prepare()
    assert controller.wait(PATIENCE) and "NO GEOMETRY FILE" in controller.status
    controller.configure(geometry=str(tmp_path / "a.poni"))
    controller.prepare()
    assert controller.wait(PATIENCE) and "NO GEOMETRY" not in controller.status


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"distance": 0}, "does not tell the distance"),
        ({"distance": None}, "does not tell the distance"),
        ({"distance": float("nan")}, "does not tell the distance"),
        ({"distance": True}, "does not tell the distance"),
        ({"distance": -0.1}, "distance -0.1 m"),
        ({"pixel_size": [0.0, 1e-4]}, "pixels of"),
        ({"pixel_size": 1e-4}, "pixels of"),
        ({"pixel_size": "75 µm"}, "does not tell the pixel size"),
        ({"beam_center": [0, 0]}, "does not tell the beam centre"),
        ({"wavelength": 1.0}, "not an X-ray"),
    ],
)
def test_a_geometry_that_cannot_be(change, text):
    with pytest.raises(ConfigurationError, match=text):
        poni_of(FULL | change, SHAPE)


def test_told_geometry_is_that_of_the_numbers():
    poni = poni_of(FULL | {"detector": "EIGER\n2: 4M\r#"}, SHAPE)
    assert poni.beam_center == pytest.approx((30.25, 41.5)) and poni.shape == SHAPE
    assert (poni.distance, poni.pixel1, poni.pixel2, poni.wavelength) == (0.15, 1e-4, 2e-4, 1e-10)
    radius = pixel_geometry(poni, SHAPE).radius
    assert radius[41, 30] == pytest.approx(np.hypot(0.0, 0.25 * 2e-4), abs=1e-12)


def test_what_is_told_and_cannot_be_used_is_told_on(run):
    controller, _ = run(Detector({"problems": ("pixel_mask: corrupt",)}))
    assert controller.snapshot().last_error == "series s0: pixel_mask: corrupt"


def test_a_series_whose_beginning_was_not_seen_is_told(run):
    """Its frames are reduced without the mask that the detector tells only there."""
    controller, _ = run(Detector({"joined_late": True}))
    assert "series s0: its beginning was not seen" in controller.snapshot().last_error


def test_another_mask_within_a_run_is_told(run):
    controller, found = run(Detector({"pixel_mask": some_mask()}, {"pixel_mask": some_mask()}))
    assert controller.snapshot().last_error == ""
    keys = list(zip(found["ledger"]["series"], found["ledger"]["frame"], strict=True))
    assert keys == [(name, n) for name in (b"s0", b"s1") for n in range(FRAMES)]
    controller, _ = run(Detector({"pixel_mask": some_mask()}, {}), controller)
    assert "series s1: its mask or flat field differs" in controller.snapshot().last_error


def test_for_the_next_run_all_is_made_at_prepare(run, monkeypatch):
    made = []

    class Watched(Reducer):
        def __init__(self, bins, dtype, *arguments, **options):
            made.append(np.dtype(dtype).name)
            super().__init__(bins, dtype, *arguments, **options)

    monkeypatch.setattr(reducers, "Reducer", Watched)
    told = {"pixel_mask": some_mask(), "metadata": FULL}
    controller, _ = run(Detector(told))
    assert made == ["uint16"]  # neither file nor detector told the shape before
    for expected, detector, settings in (
        (["uint16"], Detector(told), {}),
        (["uint16"], Detector({"pixel_mask": some_mask()}), {}),  # equal, though another array
        (["uint16", "uint16"], Detector(), {}),
        (["uint16"], Detector(), {"source": "stream2://other:1"}),  # of another detector nothing is known
    ):
        made.clear()
        run(detector, controller, **settings)
        assert made == expected


def test_what_the_source_tells_is_in_the_file(run):
    metadata = {"saturation_value": 54321, "sensor_material": "CdTe", "sensor_thickness": 7.5e-4, "header": {"a": [1]}}
    _, found = run(Detector({"metadata": metadata}))
    assert found["source_metadata"] == metadata
    detector = found["detector"]
    assert (detector["saturation_value"], detector["sensor_material"]) == (54321, b"CdTe")
    assert detector["sensor_thickness"] == 7.5e-4
    ledger = found["ledger"]
    np.testing.assert_array_equal(ledger["monitor"], 50.0 + np.arange(FRAMES))
    np.testing.assert_array_equal(ledger["position_x"], np.arange(FRAMES))
    np.testing.assert_array_equal(ledger["position_y"], -np.arange(FRAMES))
    np.testing.assert_array_equal(ledger["timestamp"], 1e9 + np.arange(FRAMES))


class Joined(Detector):
    """Of its series only the frames come: its beginning was taken by nobody."""

    def _all(self):
        start, *rest = super()._all()
        yield SeriesStart(start.series_id, start.shape, start.dtype, joined_late=True)
        yield from rest


def test_a_series_without_its_beginning_keeps_the_mask_of_the_one_before(run):
    told = {"pixel_mask": some_mask(), "metadata": FULL}
    controller, first = run(Detector(told), geometry="")
    _, second = run(Joined(), controller, geometry="")
    assert_same_frames(first, second)
    assert second["configuration"]["mask_from_source"]
    assert "beginning was not seen" in controller.snapshot().last_error
    _, other = run(Joined(), controller, source="stream2://other:1")
    assert not other["configuration"]["mask_from_source"]
