"""Wrong input through Tango: each costs one clear error, and the server does a good run afterwards."""

from __future__ import annotations

import os
import resource
import subprocess

import numpy as np
import pytest
import tango
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.experiment import Experiment
from framesieve.simulators.misbehaviour import Misbehaviour
from integration_helpers import (
    FAULT,
    ON,
    RUNNING,
    SHAPE,
    STANDBY,
    Beamline,
    Detector,
    Images,
    Recomputed,
    Sender,
    check_against,
    check_ledger,
    refused,
    small_detector,
    small_images,
    wait_until,
)
from sources_helpers import dumps, encode, end, image, start, typed_array

pytest_plugins = ["integration_fixtures"]


@pytest.fixture
def ready(beamline, poni, tmp_path):
    """All is set but the source; whatever the test does, a good run must be possible afterwards."""
    output = tmp_path / "output"
    output.mkdir()
    beamline.set(geometry=str(poni), saving_directory=str(output), saving_prefix="run")
    yield beamline
    beamline.make_idle()
    beamline.good_run(output, poni)


def fault_of(beamline: Beamline, command: str = "Prepare") -> str:
    """The first line of Status in FAULT, into which a command has led."""
    getattr(beamline.acquisition, command)()
    wait_until(lambda: beamline.state in (FAULT, ON, STANDBY), "the end of a preparation")
    assert beamline.state == FAULT
    status = beamline.acquisition.status()
    assert "Traceback" not in status and "Error:" not in status
    assert "Reset" in status  # what to do
    assert all(device.state() == FAULT for device in (beamline.sparsifier, beamline.peakfinder, beamline.veto))
    return status.splitlines()[0]


def poni_text(**changes: str) -> str:
    lines = dict(line.split(": ", 1) for line in Experiment(SHAPE).poni_text().splitlines()[1:])
    return "".join(f"{key}: {value}\n" for key, value in (lines | changes).items())


# ---- settings that are refused at once -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["geometry", "mask", "dark", "flat"])
def test_missing_file(ready, name):
    before = ready.acquisition.read_attribute(name).value
    with refused("CONFIGURATION_ERROR", name, "/no/such/file", "no such file"):
        ready.set(**{name: "/no/such/file"})
    assert ready.acquisition.read_attribute(name).value == before
    assert ready.state == STANDBY


@pytest.mark.parametrize(
    "source",
    [
        "nonsense",
        "http://localhost:31001",
        "stream2://",
        "stream2://host",
        "stream2://host:port",
        "stream2://host:99999",
        "stream2://host:1?colour=red",
        "file:",
        "stream1://localhost",
        "sls://localhost",
    ],
)
def test_source_that_is_not_understood(ready, source):
    with refused("CONFIGURATION_ERROR", source.partition("?")[0]):
        ready.set(source=source)
    assert ready.acquisition.source == ""


NAN = float("nan")


@pytest.mark.parametrize(
    ("device", "name", "value"),
    [
        ("sparsifier", "snr_pick", -1.0),
        ("sparsifier", "snr_clip", 1e6),
        ("sparsifier", "clip_cycles", 1000),
        ("sparsifier", "radial_bins", 3),
        ("sparsifier", "radial_bins", 4_000_000_000),
        ("peakfinder", "patch_size", 4),
        ("peakfinder", "patch_size", 1),
        ("peakfinder", "max_peaks", 0),
        ("veto", "min_peaks", 4_000_000_000),
        ("veto", "control_fraction", 101.0),
        ("veto", "what_if_min_peaks", 4_000_000_000),
        ("acquisition", "polarization", 1.5),
        ("acquisition", "saving_next_number", -1),
        ("acquisition", "saving_overwrite_policy", "perhaps"),
    ],
)
def test_attribute_out_of_range(beamline, device, name, value):
    proxy = getattr(beamline, device)
    before = proxy.read_attribute(name).value
    with refused("DATA_OUT_OF_RANGE", name, "accepted"):
        proxy.write_attribute(name, value)
    assert proxy.read_attribute(name).value == before


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("sparsifier", "snr_pick"),
        ("sparsifier", "noise"),
        ("peakfinder", "radius_max"),
        ("acquisition", "polarization"),
    ],
)
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_no_number(beamline, device, name, value):
    proxy = getattr(beamline, device)
    before = proxy.read_attribute(name).value
    with refused("API_WAttrOutsideLimit", name, "NaN"):  # by Tango, before the device sees it
        proxy.write_attribute(name, value)
    assert proxy.read_attribute(name).value == before


def test_error_model_that_does_not_exist(beamline):
    with pytest.raises(tango.DevFailed):
        beamline.sparsifier.error_model = 4
    assert beamline.sparsifier.error_model == 0


def test_limits_that_contradict_each_other(beamline):
    with refused("DATA_OUT_OF_RANGE", "min_pixels = 26", "5 × 5 pixels", "patch_size"):
        beamline.set("peakfinder", min_pixels=26)
    beamline.set("peakfinder", radius_max=5.0)
    with refused("DATA_OUT_OF_RANGE", "radius_max", "radius_min"):
        beamline.set("peakfinder", radius_min=6.0)
    beamline.set("veto", max_peaks=5)
    with refused("DATA_OUT_OF_RANGE", "max_peaks", "min_peaks"):
        beamline.set("veto", min_peaks=6)
    assert (beamline.peakfinder.radius_min, beamline.veto.min_peaks) == (0, 0)


@pytest.mark.parametrize("prefix", ["", "a/b", "../up"])
def test_prefix_that_is_no_file_name(beamline, prefix):
    with refused("CONFIGURATION_ERROR", "saving_prefix"):
        beamline.set(saving_prefix=prefix)


# ---- what shows when a run is prepared -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["nothing.poni"]),
        ("\x00\x01\x02 no text at all \xff", ["nothing.poni"]),
        (poni_text(Distance="far"), ["nothing.poni", "distance = 'far'", "accepted"]),
        (poni_text(poni_version="4"), ["nothing.poni", "4"]),
        (poni_text(Detector_config="{not json"), ["nothing.poni", "Detector_config"]),
    ],
    ids=["empty", "binary", "word for a number", "version 4", "no JSON"],
)
def test_malformed_geometry(ready, tmp_path, text, words):
    path = tmp_path / "nothing.poni"
    path.write_text(text, encoding="latin-1")
    with refused("CONFIGURATION_ERROR", *words):
        ready.set(geometry=str(path))
    # one that was good when it was written
    path.write_text(poni_text())
    with Sender() as sender:
        ready.set(source=sender.url, geometry=str(path))
        path.write_text(text, encoding="latin-1")
        status = fault_of(ready)
    for word in words:
        assert word in status
    last_error = ready.acquisition.last_error
    assert last_error in status and "?" not in last_error.replace("how?", "")
    assert ready.acquisition.read_attribute("Status").value == status


def test_geometry_that_has_gone(ready, tmp_path):
    path = tmp_path / "gone.poni"
    path.write_text(poni_text())
    ready.set(source="stream2://127.0.0.1:9", geometry=str(path))
    path.unlink()
    assert "gone.poni" in fault_of(ready)


def test_no_source_and_no_geometry(ready, tmp_path):
    assert "source is not set" in fault_of(ready)
    ready.acquisition.Reset()
    np.save(tmp_path / "frame.npy", np.zeros((3, 4), np.uint16))
    ready.set(source=f"file:{tmp_path}/frame.npy", geometry="")
    assert "geometry is not set" in fault_of(ready, "Start")


def test_geometry_of_another_detector(ready, tmp_path):
    """The frames tell their shape only when the first one comes: the run ends, and no empty file stays."""
    path = tmp_path / "other.poni"
    path.write_text(Experiment((SHAPE[0] + 1, SHAPE[1])).poni_text())
    ready.set(geometry=str(path))
    with small_detector(10) as detector:
        ready.set(source=detector.url)
        ready.acquisition.Start()
        wait_until(lambda: ready.state == FAULT, "FAULT")
    status = ready.acquisition.status()
    assert "256 × 240" in status and "257 × 240" in status and "other.poni" in status
    assert list((tmp_path / "output").iterdir()) == []
    assert ready.acquisition.saving_next_number == 0


@pytest.mark.parametrize("name", ["mask", "dark", "flat"])
def test_image_of_the_wrong_shape(ready, tmp_path, name):
    path = tmp_path / "image.npy"
    exchanged = np.ones((SHAPE[1], SHAPE[0]))
    np.save(path, exchanged)
    with refused("CONFIGURATION_ERROR", name, "image.npy", "240 × 256", "256 × 240"):
        ready.set(**{name: str(path)})
    # one that was right when it was written
    np.save(path, np.zeros(SHAPE))
    with Sender() as sender:
        ready.set(source=sender.url, **{name: str(path)})
        np.save(path, exchanged)
        status = fault_of(ready)
    assert name in status and "image.npy" in status and "240 × 256" in status and "256 × 240" in status


def test_mask_that_leaves_nothing(ready, tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, np.ones(SHAPE, np.uint8))
    with Sender() as sender:
        ready.set(source=sender.url, mask=str(path))
        assert "no pixel" in fault_of(ready)


def test_nobody_at_the_source(ready):
    ready.set(source="stream2://127.0.0.1:9")
    assert "nothing answers at 127.0.0.1:9" in fault_of(ready)


def test_source_file_is_missing(ready):
    ready.set(source="file:/no/such/file.h5")
    assert "/no/such/file.h5" in fault_of(ready)


def test_unknown_opencl_device(ready):
    with Sender() as sender:
        ready.set(source=sender.url, opencl_device="nobody:nothing")
        status = fault_of(ready)
    assert "nobody:nothing" in status and "there are: 0:0" in status


# ---- where files go ------------------------------------------------------------------------------------------


def test_directory_is_missing(ready, tmp_path):
    with Sender() as sender:
        ready.set(source=sender.url, saving_directory=str(tmp_path / "missing"))
        status = fault_of(ready)
    assert str(tmp_path / "missing") in status and "does not exist" in status
    assert not (tmp_path / "missing").exists()


def test_directory_is_not_set(ready):
    with Sender() as sender:
        ready.set(source=sender.url, saving_directory="")
        assert "saving_directory is not set" in fault_of(ready)


def test_directory_is_read_only(ready, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):  # root may write everywhere but there
        folder = "/proc"
    with Sender() as sender:
        ready.set(source=sender.url, saving_directory=str(folder))
        status = fault_of(ready)
    assert str(folder) in status and "cannot be created" in status


def test_file_exists_already(ready, tmp_path):
    (tmp_path / "output" / "run_0000.h5").write_text("precious")
    with small_detector(3) as detector:
        ready.set(source=detector.url)
        status = fault_of(ready)
        assert "run_0000.h5 exists" in status and "overwrite" in status
        assert (tmp_path / "output" / "run_0000.h5").read_text() == "precious"
        ready.acquisition.Reset()
        path = ready.run(detector.url, saving_overwrite_policy="overwrite")
    with SparseFile(path) as file:
        assert len(file) == 3


def check_full_disk(beamline: Beamline) -> None:
    """The run has ended in FAULT; the file holds a part of the frames."""
    wait_until(lambda: beamline.state == FAULT, "FAULT")
    status = beamline.acquisition.status()
    assert "errno" in status and "Make room" in status and str(beamline.output) in status
    with SparseFile(beamline.output) as file:
        assert 0 < len(file) < beamline.acquisition.frame_count + 64
        for row in range(len(file)):
            file.frame(row)
    beamline.acquisition.Reset()


def test_disk_is_full(ready, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with small_detector(100_000, rate=150) as detector:
            ready.set(source=detector.url, saving_directory=str(disk))
            ready.acquisition.Start()
            check_full_disk(ready)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_file_may_not_grow(ready):
    """As with a quota: the limit is set on the process of the server, and taken back afterwards."""
    pid = ready.server.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    try:
        with small_detector(100_000, rate=150) as detector:
            ready.set(source=detector.url)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (2_000_000, before[1]))
            ready.acquisition.Start()
            check_full_disk(ready)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_directory_outside_of_the_saving_root(poni, tmp_path):
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    with Beamline({"SavingRoot": str(root)}) as beamline:
        for outside in (str(tmp_path), str(root / ".." / "elsewhere"), "/"):
            with refused("CONFIGURATION_ERROR", "saving_directory", outside, str(root)):
                beamline.set(saving_directory=outside)
        beamline.reset_settings()
        beamline.good_run(root / "inside", poni)


# ---- while a run is on ---------------------------------------------------------------------------------------


def test_what_is_not_live_is_refused_in_mid_run(ready, poni, tmp_path):
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Start()
        sender.send(start(SHAPE))
        ready.wait_for(RUNNING)
        for name in ("source", "geometry", "mask", "opencl_device", "saving_directory", "saving_prefix"):
            with refused("OPERATION_NOT_ALLOWED", name, "RUNNING"):
                ready.set(**{name: str(poni)})
        with refused("OPERATION_NOT_ALLOWED", "number_of_frames"):
            ready.set(number_of_frames=3)
        with refused("OPERATION_NOT_ALLOWED", "radial_bins"):
            ready.set("sparsifier", radial_bins=50)
        with refused("DATA_OUT_OF_RANGE", "snr_pick"):
            ready.set("sparsifier", snr_pick=-1.0)
        assert ready.state == RUNNING
        sender.send(*(image(i, pixels) for i, pixels in enumerate(small_images(3))), end())
        ready.wait_for_end()
    assert ready.acquisition.frame_count == 3
    assert ready.acquisition.geometry == str(poni)


def broken_messages(number: int, pixels: np.ndarray) -> dict[str, tuple[bytes, str]]:
    """What can be wrong with the message of a frame, and words that the ledger must have for it."""
    good = image(number, pixels, encoding="bslz4")
    compressed = bytearray(encode(pixels, "bslz4"))
    compressed[16:416] = b"\xff" * 400  # a run that is longer than its block; smaller damage LZ4 may not notice
    lz4 = bytearray(encode(pixels, "lz4"))
    lz4[12:16] = b"\x7f\xff\xff\xff"  # the length of the first block

    def with_tag(tag: int, content: object, shape: tuple[int, int] = pixels.shape) -> bytes:
        array = typed_array(pixels)
        array.value[0] = list(shape)
        array.value[1] = type(array)(tag, content)
        return image(number, {"threshold_1": array})

    def compressed_tag(encoding: str, size: int, content: bytes) -> object:
        return type(typed_array(pixels))(56500, [encoding, size, content])

    return {
        "truncated": (good[: len(good) // 2], "CBOR"),
        "no CBOR": (b"\xff\xfe\xfd", "CBOR"),
        "unknown message": (dumps({"type": "picture", "image_id": number}), "picture"),
        "unknown pixel type": (with_tag(99, pixels.tobytes()), "tag 99"),
        "wrong pixel type": (image(number, pixels.astype(np.uint32)), "uint32"),
        "wrong shape": (image(number, pixels[:-1].copy()), "255 × 240"),
        "too few bytes": (with_tag(69, pixels.tobytes()[:-2]), "bytes"),
        "too many bytes": (with_tag(69, pixels.tobytes() + b"\0\0"), "bytes"),
        "corrupt bslz4": (with_tag(69, compressed_tag("bslz4", 2, bytes(compressed))), "bslz4"),
        "corrupt lz4": (with_tag(69, compressed_tag("lz4", 0, bytes(lz4))), "lz4"),
        "short bslz4": (with_tag(69, compressed_tag("bslz4", 2, bytes(compressed[:10]))), "bslz4"),
        "unknown compression": (with_tag(69, compressed_tag("zip", 2, bytes(compressed))), "zip"),
        "no data": (image(number, {}), "without data"),
    }


def test_broken_messages_cost_their_frame_only(ready, poni):
    kinds = list(broken_messages(0, small_images(1)[0]))
    images = small_images(10)
    count = 2 * len(kinds) + 1  # every second frame is broken
    expected: dict[int, str] = {}
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Start()
        sender.send(start(SHAPE, number_of_images=count))
        for i in range(count):
            pixels = images[i % len(images)]
            if i % 2:
                message, expected[i] = broken_messages(i, pixels)[kinds[i // 2]]
                sender.send(message)
            else:
                sender.send(image(i, pixels, encoding="bslz4"))
        sender.send(end())
        ready.wait_for_end()
    counters = ready.counters
    assert counters["frame_count"] == count - len(kinds)
    assert counters["frames_dropped"] == 0
    with SparseFile(ready.output) as file:
        ledger = file.ledger
        check_ledger(ledger, counters)
        recomputed = Recomputed(poni, images)
        check_against(recomputed, file)
        recomputed.close()
    failed = ledger[ledger["verdict"] == Verdict.FAILED]
    assert len(failed) == len(kinds) == counters["frames_failed"]
    reasons = {int(row["frame"]): row["reason"].decode() for row in failed if row["frame"] >= 0}
    nameless = [row["reason"].decode() for row in failed if row["frame"] < 0]
    for number, word in expected.items():
        if number in reasons:
            assert word in reasons[number], kinds[number // 2]
        else:  # a message that is no CBOR tells no number: its frame is missing, and a message was broken
            assert any(word in reason for reason in nameless), kinds[number // 2]
    assert set(expected) - set(reasons) == set(ledger["frame"][ledger["verdict"] == Verdict.LOST].tolist())
    assert len(nameless) == counters["frames_lost"] == 3


def test_nothing_but_broken_frames(ready):
    """The shape is known, so there is a file that tells what became of them."""
    with Detector(Images(small_images(5)), misbehaviour=Misbehaviour(corrupt=frozenset(range(5)))) as detector:
        path = ready.run(detector.url)
    assert ready.counters == {"frame_count": 0, "frames_lost": 0, "frames_dropped": 0, "frames_failed": 5}
    assert "corrupt" in ready.acquisition.last_error
    with SparseFile(path) as file:
        check_ledger(file.ledger, ready.counters)
        assert len(file) == 0


def test_nothing_but_nonsense(ready, tmp_path):
    """Nothing ever tells a file what to hold: the run goes on until it is stopped, and leaves no empty file."""
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Start()
        sender.send(*[b"nonsense"] * 5)
        wait_until(lambda: ready.acquisition.frames_failed == 5, "five broken messages")
        ready.acquisition.Stop()
        ready.wait_for_end()
    assert list(tmp_path.glob("output/*")) == []
    assert ready.acquisition.saving_next_number == 0


def test_a_detector_that_goes_away(ready):
    """The stream just stops: what came is saved by Stop, and the run goes on until then."""
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Start()
        sender.send(start(SHAPE), *(image(i, pixels) for i, pixels in enumerate(small_images(5))))
        ready.wait_for_frames(5)
    assert ready.state == RUNNING
    ready.acquisition.Stop()
    ready.wait_for_end()
    with SparseFile(ready.output) as file:
        assert len(file) == 5
