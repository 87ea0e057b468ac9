"""Another program that writes frames while the test reads them: `python follow_writer.py KIND PATH FRAMES RATE`.

Every pixel depends on the number of its frame, so a frame that is not whole, or another one, cannot pass for it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import fabio
import h5py
import hdf5plugin
import numpy as np

SHAPE = (120, 131)


def frame(number: int, dtype: str = "uint16") -> np.ndarray:
    pixels = (np.arange(SHAPE[0] * SHAPE[1]) * (2 * number + 1) + number * 7919) % 60_013 + 1
    pixels[0] = number
    return pixels.reshape(SHAPE).astype(dtype)


class Clock:
    """Lets frames go at a rate."""

    def __init__(self, rate: float) -> None:
        self._period, self._next = 1 / rate, time.monotonic()

    def wait(self, parts: int = 1) -> None:
        self._next += self._period / parts
        time.sleep(max(self._next - time.monotonic(), 0))


def growing(file: h5py.File, chunk: int = 1, **options: object) -> h5py.Dataset:
    options = options or dict(hdf5plugin.Bitshuffle())
    return file.create_dataset(
        "entry/data/data", (0, *SHAPE), "u2", maxshape=(None, *SHAPE), chunks=(chunk, *SHAPE), **options
    )


def swmr(path: Path, count: int, clock: Clock, *, direct: bool = False, chunk: int = 1) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        data = growing(file, chunk)
        file.swmr_mode = True
        for i in range(count):
            data.resize(i + 1, 0)
            if direct:
                clock.wait(2)  # the frame is counted, and not there
                data.id.write_direct_chunk((i, 0, 0), bslz4(frame(i)))
            else:
                data[i] = frame(i)
            data.flush()
            clock.wait(2 if direct else 1)


def bslz4(pixels: np.ndarray) -> bytes:
    """A chunk as the filter makes it, by HDF5 itself in memory."""
    with h5py.File("none", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("a", data=pixels, chunks=pixels.shape, **hdf5plugin.Bitshuffle())
        return data.id.read_direct_chunk((0, 0))[1]


def flushed(path: Path, count: int, clock: Clock, *, chunk: int = 1, **options: object) -> None:
    """Not in SWMR mode; flushed now and then."""
    with h5py.File(path, "w") as file:
        data = growing(file, chunk, **options)
        for i in range(count):
            data.resize(i + 1, 0)
            data[i] = frame(i)
            if i % 7 == 3:
                file.flush()
            clock.wait()


def contiguous(path: Path, count: int, clock: Clock) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("entry/data/data", (count, *SHAPE), "u2")
        for i in range(count):
            data[i] = frame(i)
            if i % 7 == 3:
                file.flush()
            clock.wait()


def master(path: Path, count: int, per_file: int, *, numbered: bool = True) -> list[str]:
    """The master that DECTRIS' file writer makes before the data files are there."""
    names = []
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = np.bytes_("NXentry")
        data = entry.create_group("data")
        data.attrs["NX_class"] = np.bytes_("NXdata")
        detector = entry.create_group("instrument/detector")
        detector.attrs["NX_class"] = np.bytes_("NXdetector")
        detector["description"] = np.bytes_("Dectris EIGER2 Si 500K")
        detector["x_pixel_size"] = detector["y_pixel_size"] = np.float32(7.5e-5)
        specific = detector.create_group("detectorSpecific")
        specific["nimages"], specific["ntrigger"] = np.uint32(count // 2), np.uint32(2)
        specific["pixel_mask"] = np.eye(*SHAPE, dtype=np.uint32)
        for index in range(1, -(-count // per_file) + 1):
            names.append(f"{path.name.replace('_master.h5', '')}_data_{index:06d}.h5")
            if numbered:
                data[f"data_{index:06d}"] = h5py.ExternalLink(names[-1], "/entry/data/data")
        if not numbered:
            layout = h5py.VirtualLayout((count, *SHAPE), "u2")
            for name, start in zip(names, range(0, count, per_file), strict=True):
                number = min(per_file, count - start)
                layout[start : start + number] = h5py.VirtualSource(name, "entry/data/data", (number, *SHAPE))
            data.create_virtual_dataset("data", layout, fillvalue=0)
    return names


def data_file(path: Path, numbers: range, clock: Clock, low: int | None) -> None:
    with h5py.File(path, "w") as file:
        data = growing(file)
        if low is not None:
            data.attrs["image_nr_low"] = np.int32(low)
        for i in numbers:
            data.resize(i - numbers.start + 1, 0)
            data[i - numbers.start] = frame(i)
            clock.wait()


def eiger(path: Path, count: int, clock: Clock, *, numbered: bool = True, lows: bool = True) -> None:
    per_file = 20
    names = master(path, count, per_file, numbered=numbered)
    for name, start in zip(names, range(0, count, per_file), strict=True):
        numbers = range(start, min(start + per_file, count))
        data_file(path.with_name(name), numbers, clock, start + 1 if lows else None)


def images(folder: Path, count: int, clock: Clock, suffix: str) -> None:
    """Files that are written piece by piece under their final names."""
    kinds = {"cbf": fabio.cbfimage.CbfImage, "edf": fabio.edfimage.EdfImage, "tif": fabio.tifimage.TifImage}
    folder.mkdir(exist_ok=True)
    for i in range(count):
        whole = folder.with_name(f".whole.{suffix}")
        kinds[suffix](data=frame(i, "int32")).write(str(whole))
        content = whole.read_bytes()
        with (folder / f"scan_{i + 1}.{suffix}").open("wb", buffering=0) as file:
            for piece in range(4):
                file.write(content[len(content) * piece // 4 : len(content) * (piece + 1) // 4])
                clock.wait(4)


KINDS = {
    "swmr": swmr,
    "swmr, direct chunks": lambda *a: swmr(*a, direct=True),
    "swmr, chunks of four": lambda *a: swmr(*a, chunk=4),
    "flushed": flushed,
    "flushed, chunks of four": lambda *a: flushed(*a, chunk=4),
    "flushed, plain": lambda *a: flushed(*a, fillvalue=0),
    "flushed, gzip": lambda *a: flushed(*a, compression="gzip"),
    "contiguous": contiguous,
    "master": eiger,
    "master without numbers": lambda *a: eiger(*a, lows=False),
    "virtual": lambda *a: eiger(*a, numbered=False),
    "cbf": lambda *a: images(*a, "cbf"),
    "edf": lambda *a: images(*a, "edf"),
    "tif": lambda *a: images(*a, "tif"),
}

if __name__ == "__main__":
    kind, path, count, rate = sys.argv[1:]
    KINDS[kind](Path(path), int(count), Clock(float(rate)))
    print("done", flush=True)
