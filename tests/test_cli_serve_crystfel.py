"""What CrystFEL gets over ZeroMQ, read with a reader of MessagePack that takes what CrystFEL's code takes."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
import zmq
from formats_helpers import reduced_frame, run_info
from framesieve.formats.crystfel_stream import message, stream_geometry
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.parameters import Parameters, ParameterSet

pytest.importorskip("msgpack", reason="the package msgpack is absent")
DEADLINE = 60_000  # ms


def unpack(data: bytes, at: int = 0):
    """(value, what follows) of MessagePack's types that the messages use, by its specification. Text, raw bytes,
    integers and doubles are told apart; anything else is an error."""
    code, at = data[at], at + 1
    if code < 0x80:
        return code, at
    sizes = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDC: 2, 0xDE: 2}
    integers = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
    if code == 0xCB:
        return struct.unpack_from(">d", data, at)[0], at + 8
    if code in integers:
        return struct.unpack_from(integers[code], data, at)[0], at + struct.calcsize(integers[code])
    if code in sizes:
        length, at = int.from_bytes(data[at : at + sizes[code]], "big"), at + sizes[code]
    elif code < 0x90 or code < 0xA0:
        length = code & 15
    elif code < 0xC0:
        length = code & 31
    else:
        raise ValueError(f"type {code:#x}")
    if code in (0xC4, 0xC5, 0xC6):
        return data[at : at + length], at + length
    if code in (0xD9, 0xDA) or 0xA0 <= code < 0xC0:
        return data[at : at + length].decode(), at + length
    values = []
    is_map = code == 0xDE or code < 0x90
    for _ in range(2 * length if is_map else length):
        value, at = unpack(data, at)
        values.append(value)
    return (list(zip(values[::2], values[1::2], strict=True)) if is_map else values), at


def find(pairs: list, wanted: str):
    """As CrystFEL looks a key up: the first one of the message that agrees with it as far as itself goes."""
    return next(value for key, value in pairs if wanted.startswith(key))


def image_and_peaks(data: bytes, geometry: str) -> tuple[np.ndarray, np.ndarray]:
    """By the facts: image and peaks under the names that the geometry file says."""
    named = dict(line.split(" = ") for line in geometry.splitlines() if line.count(" = ") == 1 and "/" not in line[:6])
    pairs, end = unpack(data)
    assert end == len(data)
    image, peaks = find(pairs, named["data"]), find(pairs, named["peak_list"])
    kind, shape, raw = (find(image, key) for key in ("type", "shape", "data"))
    assert kind in ("<i4", "<f4") and len(shape) == 2 and isinstance(raw, bytes)
    columns = [find(peaks, key) for key in ("fs", "ss", "intensity")]
    assert len({len(column) for column in columns}) == 1
    assert all(isinstance(number, float) for column in columns for number in column)
    return np.frombuffer(raw, kind).reshape(shape), np.array(columns).T


def write(path, dtype: str = "uint16") -> list:
    frames = [reduced_frame(number, dtype=dtype) for number in (3, 4, 7)]
    frames[1].peaks = frames[1].peaks[:0]
    with SparseWriter(path) as writer:
        writer.begin(run_info(dtype))
        writer.add_parameter_set(ParameterSet(1, Parameters()), 0, 0.0)
        writer.append(frames)
    return frames


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_message(tmp_path, dtype):
    frames = write(tmp_path / "a.h5", dtype)
    geometry = stream_geometry(
        "data = /x\ndim0 = %\ndim1 = ss\nmask0_data = /m\npeak_list = /p\npeak_list_type = cxi\n"
    )
    assert geometry == "data = detector_data\npeak_list = peak_list\n"
    with SparseFile(tmp_path / "a.h5") as file:
        masked = file.densifier.masked
        for row, frame in enumerate(frames):
            image, peaks = image_and_peaks(message(file, row), geometry)
            expected = file.densify(row, noise=True)
            np.testing.assert_array_equal(
                image[~masked], np.maximum(expected, 0)[~masked] if dtype == "uint16" else expected[~masked]
            )
            assert (image[masked] == -1).all() and masked.any()
            np.testing.assert_array_equal(peaks, frame.peaks[:, :3].astype(float))
    assert any(len(frame.peaks) for frame in frames)


def test_the_program_serves_every_frame_once_and_ends(tmp_path):
    write(tmp_path / "a.h5")
    endpoint = f"ipc://{tmp_path}/s"
    command = [sys.executable, "-c", "from framesieve.cli.main import app, main; import sys; sys.exit(main())"]
    if not serves():
        command[2] = (
            "import sys, typer; from framesieve.cli.serve_crystfel import serve_crystfel; app = typer.Typer();"
            "app.command()(serve_crystfel); app.command('other')(lambda: None); app()"
        )
    arguments = ["serve-crystfel", str(tmp_path / "a.h5"), "--endpoint", endpoint, "--geometry", str(tmp_path / "g")]
    server = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        with zmq.Context() as context:
            workers = [context.socket(zmq.REQ) for _ in range(2)]
            answers = []
            for worker in workers:
                worker.linger = 0
                worker.connect(endpoint)
            for number in range(3):
                worker = workers[number % 2]
                worker.send(b"next")
                assert worker.poll(DEADLINE), "no answer"
                answers.append(worker.recv())
            assert "3 frames" in server.communicate(timeout=DEADLINE / 1000)[0]
            assert server.returncode == 0
            for worker in workers:
                worker.close()
    finally:
        server.kill()
    geometry = (tmp_path / "g").read_text()
    assert "min_fs" in geometry and "%" not in geometry and "mask" not in geometry
    with SparseFile(tmp_path / "a.h5") as file:
        for row, answer in enumerate(answers):
            assert answer == message(file, row)
            image_and_peaks(answer, geometry)


def serves() -> bool:
    """Whether the program has the command."""
    from framesieve.cli import main

    return any(getattr(one.callback, "__name__", "") == "serve_crystfel" for one in main.app.registered_commands)
