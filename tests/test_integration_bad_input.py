"""Wrong input through Tango: each costs one clear error, and the server does a good run afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import tango
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.experiment import Experiment
from framesieve.simulators.misbehaviour import Misbehaviour
from integration_helpers import (
    FAULT,
    RUNNING,
    SHAPE,
    STANDBY,
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


def poni_text(**changes: str) -> str:
    lines = dict(line.split(": ", 1) for line in Experiment(SHAPE).poni_text().splitlines()[1:])
    return "".join(f"{key}: {value}\n" for key, value in (lines | changes).items())


# ---- settings that are refused at once -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["geometry", "mask", "dark", "flat"])
def test_missing_file(recovering, name):
    before = recovering.acquisition.read_attribute(name).value
    with refused("CONFIGURATION_ERROR", name, "/no/such/file", "no such file"):
        recovering.set(**{name: "/no/such/file"})
    assert recovering.acquisition.read_attribute(name).value == before
    assert recovering.state == STANDBY


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
def test_source_that_is_not_understood(recovering, source):
    with refused("CONFIGURATION_ERROR", source.partition("?")[0]):
        recovering.set(source=source)
    assert recovering.acquisition.source == ""


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
def test_malformed_geometry(recovering, tmp_path, text, words):
    path = tmp_path / "nothing.poni"
    path.write_text(text, encoding="latin-1")
    with refused("CONFIGURATION_ERROR", *words):
        recovering.set(geometry=str(path))
    # one that was good when it was written
    path.write_text(poni_text())
    with Sender() as sender:
        recovering.set(source=sender.url, geometry=str(path))
        path.write_text(text, encoding="latin-1")
        status = recovering.fault()
    for word in words:
        assert word in status
    last_error = recovering.acquisition.last_error
    assert last_error in status and "?" not in last_error.replace("how?", "")
    assert recovering.acquisition.read_attribute("Status").value == status


def test_geometry_that_has_gone(recovering, tmp_path):
    path = tmp_path / "gone.poni"
    path.write_text(poni_text())
    recovering.set(source="stream2://127.0.0.1:9", geometry=str(path))
    path.unlink()
    assert "gone.poni" in recovering.fault()


def test_no_source_and_no_geometry(recovering, tmp_path):
    assert "source is not set" in recovering.fault()
    recovering.acquisition.Reset()
    np.save(tmp_path / "frame.npy", np.zeros((3, 4), np.uint16))
    recovering.set(source=f"file:{tmp_path}/frame.npy", geometry="")
    assert "geometry is not set" in recovering.fault("Start")


def test_geometry_of_another_detector(recovering, tmp_path):
    """The frames tell their shape only when the first one comes: the run ends, and no empty file stays."""
    path = tmp_path / "other.poni"
    path.write_text(Experiment((SHAPE[0] + 1, SHAPE[1])).poni_text())
    recovering.set(geometry=str(path))
    with small_detector(10) as detector:
        recovering.set(source=detector.url)
        recovering.acquisition.Start()
        wait_until(lambda: recovering.state == FAULT, "FAULT")
    status = recovering.acquisition.status()
    assert "256 × 240" in status and "257 × 240" in status and "other.poni" in status
    assert list((tmp_path / "output").iterdir()) == []
    assert recovering.acquisition.saving_next_number == 0


@pytest.mark.parametrize("name", ["mask", "dark", "flat"])
def test_image_of_the_wrong_shape(recovering, tmp_path, name):
    path = tmp_path / "image.npy"
    exchanged = np.ones((SHAPE[1], SHAPE[0]))
    np.save(path, exchanged)
    with refused("CONFIGURATION_ERROR", name, "image.npy", "240 × 256", "256 × 240"):
        recovering.set(**{name: str(path)})
    # one that was right when it was written
    np.save(path, np.zeros(SHAPE))
    with Sender() as sender:
        recovering.set(source=sender.url, **{name: str(path)})
        np.save(path, exchanged)
        status = recovering.fault()
    assert name in status and "image.npy" in status and "240 × 256" in status and "256 × 240" in status


def test_mask_that_leaves_nothing(recovering, tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, np.ones(SHAPE, np.uint8))
    with Sender() as sender:
        recovering.set(source=sender.url, mask=str(path))
        assert "no pixel" in recovering.fault()


def test_nobody_at_the_source(recovering):
    recovering.set(source="stream2://127.0.0.1:9")
    assert "nothing answers at 127.0.0.1:9" in recovering.fault()


def test_source_file_is_missing(recovering):
    recovering.set(source="file:/no/such/file.h5")
    assert "/no/such/file.h5" in recovering.fault()


def test_unknown_opencl_device(recovering):
    with Sender() as sender:
        recovering.set(source=sender.url, opencl_device="nobody:nothing")
        status = recovering.fault()
    assert "nobody:nothing" in status and "there are: 0:0" in status


# ---- while a run is on ---------------------------------------------------------------------------------------


def test_what_is_not_live_is_refused_in_mid_run(recovering, poni, tmp_path):
    with Sender() as sender:
        recovering.set(source=sender.url)
        recovering.acquisition.Start()
        sender.send(start(SHAPE))
        recovering.wait_for(RUNNING)
        for name in ("source", "geometry", "mask", "opencl_device", "saving_directory", "saving_prefix"):
            with refused("OPERATION_NOT_ALLOWED", name, "RUNNING"):
                recovering.set(**{name: str(poni)})
        with refused("OPERATION_NOT_ALLOWED", "number_of_frames"):
            recovering.set(number_of_frames=3)
        with refused("OPERATION_NOT_ALLOWED", "radial_bins"):
            recovering.set("sparsifier", radial_bins=50)
        with refused("DATA_OUT_OF_RANGE", "snr_pick"):
            recovering.set("sparsifier", snr_pick=-1.0)
        assert recovering.state == RUNNING
        sender.send(*(image(i, pixels) for i, pixels in enumerate(small_images(3))), end())
        recovering.wait_for_end()
    assert recovering.acquisition.frame_count == 3
    assert recovering.acquisition.geometry == str(poni)


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


def test_broken_messages_cost_their_frame_only(recovering, poni):
    kinds = list(broken_messages(0, small_images(1)[0]))
    images = small_images(10)
    count = 2 * len(kinds) + 1  # every second frame is broken
    expected: dict[int, str] = {}
    with Sender() as sender:
        recovering.set(source=sender.url)
        recovering.acquisition.Start()
        sender.send(start(SHAPE, number_of_images=count))
        for i in range(count):
            pixels = images[i % len(images)]
            if i % 2:
                message, expected[i] = broken_messages(i, pixels)[kinds[i // 2]]
                sender.send(message)
            else:
                sender.send(image(i, pixels, encoding="bslz4"))
        sender.send(end())
        recovering.wait_for_end()
    counters = recovering.counters
    assert counters["frame_count"] == count - len(kinds)
    assert counters["frames_dropped"] == 0
    with SparseFile(recovering.output) as file:
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


def test_nothing_but_broken_frames(recovering):
    """The shape is known, so there is a file that tells what became of them."""
    with Detector(Images(small_images(5)), misbehaviour=Misbehaviour(corrupt=frozenset(range(5)))) as detector:
        path = recovering.run(detector.url)
    assert recovering.counters == {"frame_count": 0, "frames_lost": 0, "frames_dropped": 0, "frames_failed": 5}
    assert "corrupt" in recovering.acquisition.last_error
    with SparseFile(path) as file:
        check_ledger(file.ledger, recovering.counters)
        assert len(file) == 0


def test_nothing_but_nonsense(recovering, tmp_path):
    """Nothing ever tells a file what to hold: the run goes on until it is stopped, and leaves no empty file."""
    with Sender() as sender:
        recovering.set(source=sender.url)
        recovering.acquisition.Start()
        sender.send(*[b"nonsense"] * 5)
        wait_until(lambda: recovering.acquisition.frames_failed == 5, "five broken messages")
        recovering.acquisition.Stop()
        recovering.wait_for_end()
    assert list(tmp_path.glob("output/*")) == []
    assert recovering.acquisition.saving_next_number == 0


def test_a_detector_that_goes_away(recovering):
    """The stream just stops: what came is saved by Stop, and the run goes on until then."""
    with Sender() as sender:
        recovering.set(source=sender.url)
        recovering.acquisition.Start()
        sender.send(start(SHAPE), *(image(i, pixels) for i, pixels in enumerate(small_images(5))))
        recovering.wait_for_frames(5)
    assert recovering.state == RUNNING
    recovering.acquisition.Stop()
    recovering.wait_for_end()
    with SparseFile(recovering.output) as file:
        assert len(file) == 5
