"""Sardana's pool and MacroServer with the controllers and macros of framesieve, on the embedded database."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import tango
from docs_helpers import examples
from framesieve.clients import Reduction
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.raster import raster_scan
from integration_helpers import SHAPE, Beamline, Sender, small_detector, small_images, wait_until
from PIL import Image

pytest.importorskip("sardana", reason="Sardana is not installed: pip install 'sardana>=3.5'")
from sardana_helpers import MacroError, Sardana
from sources_helpers import end, image, start

pytest_plugins = ["integration_fixtures"]


@pytest.fixture(scope="module")
def lab(house: Beamline, tmp_path_factory) -> Iterator[Sardana]:
    with Sardana(house.database, tmp_path_factory.mktemp("sardana")) as lab:
        assert "Created snr_pick" in lab.run("fs_define", "demo")
        lab.run("senv", "ActiveMntGrp", "fs")
        yield lab


@pytest.fixture
def reduction(lab, beamline, poni, tmp_path) -> Reduction:
    reduction = Reduction(f"tango://{beamline.database.host}/demo", timeout=20.0, patience=30.0)
    reduction.set(geometry=str(poni), saving_directory=str(tmp_path), min_peaks=20)
    return reduction


def scan_of(lab: Sardana, number: int = -1) -> dict[str, np.ndarray]:
    """What the record of a scan has, by channel."""
    with h5py.File(lab.folder / "scan.h5") as h5:
        entry = sorted(h5.values(), key=lambda group: int(re.sub(r"\D", "", group.name)))[number]
        return {name: value[()] for name, value in entry["measurement"].items() if isinstance(value, h5py.Dataset)}


def check_against_ledger(record: dict[str, np.ndarray], ledger: np.ndarray) -> None:
    """Every point of a scan has the sums of the frames that it names."""
    saved = np.isin(ledger["verdict"], (Verdict.KEPT, Verdict.CONTROL))
    for point in range(len(record["fs_frames"])):
        first, last = (int(record[f"fs_{name}_frame"][point]) for name in ("first", "last"))
        inside = (ledger["frame"] >= first) & (ledger["frame"] <= last)
        assert last >= first >= 0
        rows = ledger[inside]
        expected = {
            "fs_frames": len(rows),
            "fs_kept": int(saved[inside].sum()),
            "fs_vetoed": int((rows["verdict"] == Verdict.VETOED).sum()),
            "fs_control": int((rows["verdict"] == Verdict.CONTROL).sum()),
            "fs_peaks": int(rows["n_peaks"].sum()),
            "fs_pixels": int(rows["n_pixels"].sum()),
        }
        assert {name: int(record[name][point]) for name in expected} == expected, f"point {point}"
        assert set(rows["parameter_set"].tolist()) == {int(record["fs_parameter_set"][point])}, f"point {point}"


def test_scans_while_frames_flow(lab, reduction, beamline):
    reduction.set(control_fraction=30.0)
    with small_detector(1_000_000, n_peaks=(40, 12), rate=40) as detector, reduction.run(source=detector.url):
        wait_until(lambda: reduction.frame_count > 5, "frames")
        lab.run("ascan", "snr_pick", 1, 4, 6, 0.3)
        picks = scan_of(lab)
        lab.run("ascan", "min_peaks", 5, 45, 2, -20)  # 20 frames at each point
        thresholds = scan_of(lab)
        lab.run("ct", 0.2)

        with pytest.raises(MacroError):  # refused by the device
            lab.run("mv", "snr_pick", -1)
        assert reduction.snr_pick == 4.0
        with pytest.raises(MacroError):
            lab.run("mv", "min_peaks", 2.5)
        assert "4" in lab.run("wm", "snr_pick")

        check_ctrl_c(lab, reduction)
        lab.run("dscan", "snr_pick", -1, 1, 1, -5)  # relative, and goes back to where it was
        assert reduction.snr_pick == 3.0
        back = scan_of(lab)
    with SparseFile(reduction.output_file) as file:
        ledger = file.ledger
        sets = {row.parameter_set.number: row.parameter_set.values for row in file.parameter_sets}
    assert [sets[int(n)].snr_pick for n in back["fs_parameter_set"]] == [2.0, 4.0]
    for record in (picks, thresholds, back):
        check_against_ledger(record, ledger)
    np.testing.assert_array_equal(picks["snr_pick"], [1, 1.5, 2, 2.5, 3, 3.5, 4])
    assert [sets[int(n)].snr_pick for n in picks["fs_parameter_set"]] == picks["snr_pick"].tolist()
    assert np.all(picks["fs_frames"] > 0) and np.all(picks["fs_time"] >= 0.3)
    assert np.all(np.diff(picks["fs_pixels"] / picks["fs_frames"]) < 0)  # the higher, the fewer
    assert np.all((picks["hit_rate"] > 30) & (picks["hit_rate"] < 70))  # every second frame is a hit
    assert [sets[int(n)].veto_min_peaks for n in thresholds["fs_parameter_set"]] == [5, 25, 45]
    assert thresholds["fs_frames"].tolist() == [20, 20, 20]
    assert (thresholds["fs_kept"] - thresholds["fs_control"]).tolist() == [20, 10, 0]


def check_ctrl_c(lab: Sardana, reduction: Reduction) -> None:
    """In the middle of a long point, and in a motion that waits for a frame: it ends at once, the next scan works."""
    running = lab.begin("ascan", "snr_pick", 1, 4, 3, 1000)
    wait_until(lambda: reduction.snr_pick == 1.0, "the first point")
    timer = lab.element("fs_time")
    wait_until(lambda: timer.state() == tango.DevState.MOVING, "counting")
    began = time.monotonic()
    lab.stop()
    with pytest.raises(MacroError, match=r"^(stop|abort)"):
        lab.finish(*running)
    assert time.monotonic() - began < 100
    assert timer.state() == tango.DevState.ON
    assert reduction.snr_pick == 1.0  # as with any motor: it stays where it is
    lab.run("mv", "snr_pick", 3)
    assert reduction.is_running


def test_a_scan_in_fault_ends_with_its_reason(lab, reduction):
    reduction.source = "stream2://127.0.0.1:1"  # nobody answers there
    reduction.start()
    wait_until(lambda: reduction.state == "FAULT", "FAULT")
    try:
        with pytest.raises(MacroError):
            lab.run("ct", 0.1)
        wait_until(lambda: "127.0.0.1:1" in lab.status_of("fs_time"), "the reason")
    finally:
        reduction.reset()
    lab.run("ct", 0.1)  # idle: no frames, and no error
    assert lab.element("fs_frames").state() == tango.DevState.ON


def test_a_setting_has_arrived_when_a_frame_was_reduced_with_it(lab, reduction):
    images = small_images(5)
    motor = lab.element("snr_pick")
    with Sender() as sender:
        reduction.source = sender.url
        reduction.start()
        sender.send(start(SHAPE, number_of_images=5), *(image(n, images[n]) for n in range(3)))
        wait_until(lambda: reduction.frame_count == 3, "frames")
        motor.Position = 2.0
        wait_until(lambda: reduction.snr_pick == 2.0, "the value to be written")
        wait_until(lambda: motor.state() == tango.DevState.MOVING, "the motion")  # the pool says so a little later
        for _ in range(10):  # no frame comes
            assert motor.state() == tango.DevState.MOVING
        sender.send(image(3, images[3]))
        wait_until(lambda: motor.state() == tango.DevState.ON, "the end of the motion")
        wait_until(lambda: "from frame 3 on" in motor.status(), "the words for it, which come after the state")
        assert motor.Position == 2.0
        sender.send(end())
        reduction.wait(60.0)


def test_previews_and_their_references(lab, reduction):
    lab.run("defmeas", "previews", "fs_time", "fs_last_frame", "fs_preview")
    lab.run("set_meas", "previews")
    try:
        with small_detector(1_000_000, distinct=5, rate=20) as detector, reduction.run(source=detector.url):
            wait_until(lambda: reduction.frame_count > 5, "frames")
            lab.run("ascan", "noise", 1, 2, 1, 0.2)
            record = scan_of(lab)
            assert record["fs_preview"].shape == (2, *SHAPE)
            for image in record["fs_preview"]:
                assert any(np.array_equal(image, detector.frames[0].image(i)) for i in range(5))

            pattern = f"h5file://{lab.folder}/preview_{{index:04d}}.h5::/entry/image"
            lab.run("set_meas_conf", "ValueRefPattern", pattern, "fs_preview")
            lab.run("set_meas_conf", "ValueRefEnabled", True, "fs_preview")
            Path(lab.folder, "preview_0001.h5").write_text("of an earlier scan")
            lab.run("ascan", "noise", 1, 2, 1, 0.2)
            referred = scan_of(lab)
    finally:
        lab.run("senv", "ActiveMntGrp", "fs")
    references = [value.decode() for value in referred["fs_preview"]]
    paths = [lab.folder / f"preview_{index:04d}.h5" for index in (0, 2)]
    assert references == [f"h5file://{path}::/entry/image" for path in paths]
    for path in paths:
        with h5py.File(path) as h5:
            assert h5["entry/image"].attrs["frame"] > 5
            assert any(np.array_equal(h5["entry/image"][()], detector.frames[0].image(i)) for i in range(5))
    assert Path(lab.folder, "preview_0001.h5").read_text() == "of an earlier scan"


def test_macros(lab, reduction, tmp_path):
    options = {"n_peaks": (40, 4, 4), "rate": 100, "user_data": raster_scan(12)}
    with small_detector(120, **options) as detector, reduction.run(source=detector.url) as run:
        said = lab.run("fs_set", "snr_pick", 2.5, "min_peaks", 10, "enabled", "true", "error_model", "poisson")
        assert "snr_pick: 3 -> 2.5" in said and "min_peaks: 20 -> 10" in said
        assert (run.snr_pick, run.min_peaks, run.error_model) == (2.5, 10, "poisson")
        number = int(re.search(r"parameter set (\d+)", said)[1])
        run.wait(60.0)
    with SparseFile(reduction.output_file) as file:
        [line] = [row for row in file.parameter_sets if row.parameter_set.number == number]
        assert f"from frame {line.first_frame} on" in said
        counts = file.ledger["n_peaks"]
    hits = np.arange(120) % 20 % 3 == 0  # 20 images, again and again
    for words in (("snr_pik", 1), ("snr_pick", "much"), ("enabled", "perhaps"), ("snr_pick", -1), ("hit_rate", 5)):
        with pytest.raises(MacroError, match=words[0]):
            lab.run("fs_set", *words)

    with pytest.raises(MacroError, match="controllers are those of demo"):
        lab.run("fs_define", "demo/framesieve/veto")
    with pytest.raises(MacroError, match="nowhere/framesieve/acquisition"):
        lab.run("fs_define", "nowhere")

    said = lab.run("fs_show")
    assert "frame_count" in said and re.search(r"^snr_pick +2\.5 ", said, re.M) and "STANDBY" in said
    assert re.search(r"^radius_max +7 mm ", lab.run("fs_show", "radius_max"), re.M) is None
    assert re.search(r"^radius_max +0 mm ", lab.run("fs_show", "radius_max"), re.M)

    said = lab.run("fs_tune_veto", 0, 60, 20)
    for threshold in (0, 20, 40, 60):
        share = 100 * np.mean(counts >= threshold)
        assert re.search(rf"^ +{threshold} +{share:.2f} %", said, re.M), said
    proposed = int(re.search(r"min_peaks (\d+)", said)[1])
    assert 4 < proposed <= 40 and np.array_equal(counts >= proposed, hits)
    assert reduction.min_peaks == 10  # it is tried, not applied

    said = lab.run("fs_map", 0, 0, tmp_path / "map.png")
    assert "120 of 120 positions" in said and "by their positions" in said
    with Image.open(tmp_path / "map.png") as png:
        picture = np.asarray(png)
    expected = counts.reshape(10, 12).astype(float)
    factor = picture.shape[0] // 10
    assert picture.shape[:2] == (10 * factor, 12 * factor)
    grey = picture[factor // 2 :: factor, factor // 2 :: factor]
    assert np.all(grey == grey[..., :1])  # no position is missing
    np.testing.assert_allclose(grey[..., 0], 255 * expected / counts.max(), atol=2)
    with pytest.raises(MacroError, match="10000 positions"):
        lab.run("fs_map", 1000, 1000, tmp_path / "large.png")


def test_the_examples_of_the_documents(lab, reduction, tmp_path):
    """Line by line, as somebody types them; the devices are there already, and points are shorter."""
    shorter = {"ct 1": "ct 0.2", "ascan snr_pick 1 4 6 1": "ascan snr_pick 1 4 6 0.2", "50 4 -200": "50 4 -40"}
    blocks = []
    for text in examples("clients.md", "sardana"):
        for long, short in shorter.items():
            text = text.replace(long, short)
        blocks.append(text.replace("id00", "demo").replace("/tmp/", f"{tmp_path}/"))
    said = {}
    try:
        with small_detector(1_000_000, n_peaks=(40, 12), rate=60) as detector, reduction.run(source=detector.url):
            wait_until(lambda: reduction.frame_count > 30, "frames")
            for line in "".join(blocks).splitlines():
                said[line] = lab.run(*line.split())
    finally:
        lab.run("senv", "ActiveMntGrp", "fs")
        lab.run("udefsnap")
    assert "frame_count" in said["ct 0.3"] and "fs_peaks" in said["ct 0.2"]
    assert "ctrl_framesievecounters is there already" in said["fs_define demo"]
    frames = re.findall(r"^ *\d+ +\S+ +\S+ +(\S+)", said["ascan min_peaks 10 50 4 -40"], re.M)
    assert [float(count) for count in frames] == [40.0] * 5
    assert len(re.findall(r"^ *\d+ +\S", said["ascan snr_pick 1 4 6 0.2"], re.M)) == 7
    assert (reduction.snr_pick, reduction.min_peaks) == (2.5, 30)
    [mapped] = [text for line, text in said.items() if line.startswith("fs_map")]
    assert "20 of 20 positions" in mapped and "by their numbers" in mapped  # the source tells no positions
    assert (tmp_path / "map.png").exists()


def test_both_servers_may_be_restarted(lab, house, poni, tmp_path):
    house.make_idle()
    house.reset_settings()
    house.server.close()
    lab.restart()  # without the devices: the elements are there, and say what is wrong
    assert "demo/framesieve/acquisition is not exported" in lab.status_of("snr_pick")
    with pytest.raises(MacroError, match="demo/framesieve/acquisition is not exported"):
        lab.run("mv", "snr_pick", 2)
    house.server.start()
    house.connect()
    reduction = Reduction(f"tango://{house.database.host}/demo", timeout=20.0, patience=30.0)
    reduction.set(geometry=str(poni), saving_directory=str(tmp_path), min_peaks=20)
    with small_detector(1_000_000, rate=20) as detector, reduction.run(source=detector.url):
        wait_until(lambda: reduction.frame_count > 5, "frames")
        lab.retry("mv", "snr_pick", 2)
        assert reduction.snr_pick == 2.0
        lab.retry("ct", 0.1)
        counting = lab.begin("ct", 5)
        timer = lab.element("fs_time")
        wait_until(lambda: timer.state() == tango.DevState.MOVING, "counting")
        house.server.kill()
        with pytest.raises(MacroError, match="Fault"):
            lab.finish(*counting)
        assert "demo: not reached" in timer.status()
        house.server.start()
        house.connect()
        lab.retry("mv", "snr_pick", 2.5)
        assert reduction.snr_pick == 2.5
        lab.retry("ct", 0.1)
        assert timer.state() == tango.DevState.ON
