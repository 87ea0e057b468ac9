"""Recorded messages are sent again as they are, to sources and by the command."""

import time

import numpy as np
import pytest
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.recorded import RecordedDetector, read_stream1
from framesieve.sources.registry import open_source
from integration_helpers import framesieve
from measured_data import data_file
from sources_helpers import pixels_of

PATIENCE = 60.0


def events_of(detector: RecordedDetector, is_last) -> list:
    source = open_source(detector.url)
    source.open()
    events, deadline = [], time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        event = source.read(0.2)
        if event is not None:
            events.append(event)
            if is_last(event):
                source.close()
                return events
    raise AssertionError(f"it did not come, but {events}")


def test_stream2():
    folder = data_file("dectris_stream2/r500k_bm_bslz4_16bit")
    with RecordedDetector([folder], port=0) as detector:
        start, *images, end = events_of(detector, lambda event: isinstance(event, SeriesEnd))
    assert isinstance(start, SeriesStart) and start.joined_late  # its beginning was not recorded
    assert [type(image) for image in images] == [Frame, Frame] and isinstance(end, SeriesEnd)
    assert images[0].payload.shape == (514, 1030) and images[0].payload.dtype == np.uint16
    assert detector.sent == detector.total == 3


def test_stream1_with_a_corrupt_message():
    files = [data_file(f"dectris_stream1/{name}") for name in ("header", "image000044")]
    with RecordedDetector(files, port=0) as detector:
        start, image = events_of(detector, lambda event: isinstance(event, Frame))
    assert not start.joined_late and start.shape == (2162, 2068) == image.payload.shape
    assert pixels_of(image.payload).max() == 65535
    with RecordedDetector(files, port=0, misbehaviour=Misbehaviour.parse("corrupt=1")) as detector:
        _, broken = events_of(detector, lambda event: not isinstance(event, SeriesStart))
        if isinstance(broken, Frame):  # told when it is decoded
            with pytest.raises(Exception, match="corrupt"):
                pixels_of(broken.payload)
        else:
            assert isinstance(broken, BrokenFrame)


def test_what_is_no_recording(tmp_path):
    (tmp_path / "a.cbor").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"\xc1\x00")
    for paths, text in (
        ([], "no recorded message is named"),
        ([tmp_path / "none"], "no such file"),
        ([tmp_path / "a.cbor", tmp_path / "b"], "cannot be sent together"),
        ([tmp_path / "b"], "no recorded message of stream v1"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            RecordedDetector(paths, port=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="holds no messages"):
        RecordedDetector([tmp_path / "empty"])
    for data in (b"", b"\x93", b"\xc4\xff", b"\x91\xa1"):
        (tmp_path / "b").write_bytes(data)
        with pytest.raises(ConfigurationError, match="no recorded message"):
            read_stream1(tmp_path / "b")


def test_the_command_refuses(tmp_path):
    process = framesieve("simulate", "recorded", tmp_path / "none")
    assert process.returncode == 2 and "no such file" in process.stderr
