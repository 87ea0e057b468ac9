"""What programs downstream demand of files with whole images, as strict readers of their own.

Written from what is known of those programs (their sources), not from the writer.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the filters)
import numpy as np

BITSHUFFLE, LZ4 = 32008, 32004
INT_MAX = 2**31 - 1


def superblock_version(path: Path) -> int:
    with open(path, "rb") as file:
        start = file.read(9)
    assert start[:8] == b"\x89HDF\r\n\x1a\n"
    return start[8]


def check_frame_chunks(data: h5py.Dataset) -> None:
    """Frame-wise chunks of integers with at most one filter, which is LZ4, or bitshuffle with LZ4."""
    assert data.ndim == 3
    assert data.chunks == (1, *data.shape[1:])
    assert data.dtype.kind in "iu" and data.dtype.byteorder in "<=|"
    filters = data.id.get_create_plist()
    assert filters.get_nfilters() <= 1
    if filters.get_nfilters():
        number, _, parameters, _ = filters.get_filter(0)
        assert number in (BITSHUFFLE, LZ4)
        if number == BITSHUFFLE:
            assert parameters[4] == 2
            assert parameters[2] == data.dtype.itemsize
    assert not data.is_virtual


class Neggia:
    """XDS' plugin of DECTRIS: a parser of its own, of the oldest form of HDF5; integers are unsigned."""

    def __init__(self, master: Path) -> None:
        assert superblock_version(master) == 0
        with h5py.File(master) as file:
            detector = file["entry/instrument/detector"]
            self.pixel_size = float(detector["x_pixel_size"][()]), float(detector["y_pixel_size"][()])
            specific = detector["detectorSpecific"]
            images, triggers = (int(specific[name][()]) for name in ("nimages", "ntrigger"))
            assert images > 0 and triggers > 0
            self.count = images * triggers
            mask = specific["pixel_mask"]
            assert mask.dtype == np.uint32 and mask.chunks is None
            self.mask = mask[()]
            self.sources = []  # (file, path)
            group = file["entry/data"]
            if "data_000001" in group:
                for number in range(1, len(group) + 1):
                    link = group.get(f"data_{number:06}", getlink=True)
                    if link is None:
                        break
                    external = isinstance(link, h5py.ExternalLink)
                    where = master.parent / link.filename if external else master
                    self.sources.append((where, link.path if external else f"/entry/data/data_{number:06}"))
            else:
                self.sources.append((master, "/entry/data/data"))
        for where, path in self.sources:
            assert superblock_version(where) == 0
            with h5py.File(where) as file:
                check_frame_chunks(file[path])
                assert file[path].shape[1:] == self.mask.shape
        with h5py.File(self.sources[0][0]) as file:
            self.per_file = len(file[self.sources[0][1]])

    def image(self, number: int) -> np.ndarray:
        """int32, image 1 is the first."""
        where, path = self.sources[(number - 1) // self.per_file]
        with h5py.File(where) as file:
            stored = file[path][(number - 1) % self.per_file]
        values = stored.view(f"u{stored.dtype.itemsize}").astype(np.int64)
        values[values > INT_MAX] = -1
        values[(self.mask & 1) > 0] = -1
        values[((self.mask & 1) == 0) & ((self.mask & 30) > 0)] = -2
        return values.astype(np.int32)


class Durin:
    """XDS' plugin of Diamond: the HDF5 library; integers are signed."""

    def __init__(self, master: Path) -> None:
        self.file = h5py.File(master)
        entry = next(g for g in self.file.values() if g.attrs.get("NX_class") == "NXentry")
        found = []
        entry.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Group) else None)
        self.data = next(
            g for g in found
            if g.attrs.get("NX_class") in ("NXdata", "NXdetector") and ("data" in g or "data_000001" in g)
        )  # fmt: skip
        detector = next(g for g in found if g.attrs.get("NX_class") == "NXdetector")
        places = [detector, detector.get("detectorSpecific", detector)]
        for name in ("x_pixel_size", "y_pixel_size"):
            sizes = [place[name] for place in places if name in place]
            assert sizes and sizes[0].attrs["units"] in ("m", "mm", "um")
        masks = [place["pixel_mask"] for place in places if "pixel_mask" in place]
        self.mask = masks[0][()]
        self.blocks = (
            [self.data["data"]]
            if "data" in self.data
            else [self.data[name] for name in sorted(self.data) if name.startswith("data_")]
        )
        for block in self.blocks:
            assert block.ndim == 3 and block.dtype.kind in "iu"

    def image(self, number: int) -> np.ndarray:
        number -= 1
        for block in self.blocks:
            if number < len(block):
                break
            number -= len(block)
        stored = block[number]
        values = stored.view(f"i{stored.dtype.itemsize}").astype(np.int32)
        values[(self.mask & 0xFF) > 0] = -1
        values[(self.mask & 30) > 0] = -2
        return values

    def close(self) -> None:
        self.file.close()


class NXmx:
    """As dxtbx's FormatNXmx goes through a file; positions in its frame: x to the right seen along the beam, y up,
    z against the beam, mm."""

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path)
        entry = self._only(self.file, "NXentry")
        assert entry["definition"].asstr()[()] == "NXmx"
        sample, instrument = self._only(entry, "NXsample"), self._only(entry, "NXinstrument")
        assert sample["depends_on"].asstr()[()] == "."
        detector, beam = self._only(instrument, "NXdetector"), self._only(instrument, "NXbeam")
        wavelength = beam["incident_wavelength"]
        assert wavelength.attrs["units"] == "angstrom"
        self.wavelength = float(wavelength[()])
        assert detector["sensor_material"].asstr()[()] in ("Si", "Silicon", "CdTe", "GaAs")
        assert detector["sensor_thickness"].attrs["units"] == "m" and 1e-5 < detector["sensor_thickness"][()] < 1e-2
        self.trusted = int(detector["underload_value"][()]), int(detector["saturation_value"][()])
        self.bits = int(detector["bit_depth_readout"][()])
        mask = detector["pixel_mask"]
        assert mask.ndim == 2 and mask == detector["detectorSpecific/pixel_mask"]  # one array, two names
        self.good = mask[()] == 0
        data = self._only(entry, "NXdata")
        self.data = data[data.attrs["signal"]]
        assert self.data.ndim == 3 and self.data.shape[1:] == mask.shape
        if "frame_time" in detector:
            assert detector["frame_time"].attrs["units"] == "s"
        self.panels = []
        flip = np.diag([-1.0, 1.0, -1.0])
        modules = [g for g in detector.values() if g.attrs.get("NX_class") == "NXdetector_module"]
        for module in modules:
            assert module["data_origin"].shape == module["data_size"].shape == (2,)
            axes = {}
            for name in ("fast_pixel_direction", "slow_pixel_direction"):
                axis = module[name]
                assert axis.attrs["transformation_type"] == "translation"
                assert axis.attrs["units"] == "m" and axis.attrs["offset"].shape == (3,)
                axes[name] = flip @ (axis.attrs["vector"] * axis[()].item() * 1e3)
                origin, depends_on = np.zeros(3), axis.attrs["depends_on"]
                while depends_on != ".":
                    step = module[depends_on]
                    assert step.attrs["transformation_type"] == "translation" and step.attrs["units"] == "m"
                    origin += step.attrs["vector"] * step[()].item() + step.attrs["offset"]
                    depends_on = step.attrs["depends_on"]
            self.panels.append((flip @ origin * 1e3, axes["fast_pixel_direction"], axes["slow_pixel_direction"]))
        assert self.panels

    @staticmethod
    def _only(parent: h5py.Group, nx_class: str) -> h5py.Group:
        found = [g for g in parent.values() if isinstance(g, h5py.Group) and g.attrs.get("NX_class") == nx_class]
        if parent.name == "/":
            found = found[:1]  # the others are CXI's
        assert len(found) == 1, (nx_class, found)
        return found[0]

    def image(self, number: int) -> np.ndarray:
        """int32, 0 is the first."""
        values = self.data[number].astype(np.int32)
        top = 2**31 if self.bits == 32 else 2**self.bits
        values[values == top - 1], values[values == top - 2] = -1, -2
        return values

    def close(self) -> None:
        self.file.close()


def cxi_peaks(path: Path, row: int) -> np.ndarray:
    """float64 (peaks, 3): fast, slow, intensity of image `row` as CrystFEL takes them (corner of the first pixel 0)."""
    with h5py.File(path) as file:
        group = file["entry_1/result_1"]
        count = group["nPeaks"]
        assert count.ndim == 1 and count.dtype.kind == "i"
        columns = []
        for name in ("peakXPosRaw", "peakYPosRaw", "peakTotalIntensity"):
            dataset = group[name]
            assert dataset.ndim == 2 and len(dataset) == len(count) and dataset.shape[1] >= count[row]
            columns.append(dataset[row, : count[row]].astype(float))
    return np.array([columns[0] + 0.5, columns[1] + 0.5, columns[2]]).T
