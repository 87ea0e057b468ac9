"""Frames and single images from files: which are found, how they are read, what is said when they are not."""

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import ArrayPayload, BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources.file import FileSource
from framesieve.sources.images import read_image
from framesieve.sources.payload import EncodedPayload
from framesieve.sources.registry import check_source, open_source
from measured_data import data_file
from sources_helpers import pixels_of, random_pixels


def stack(count: int = 4, shape: tuple[int, int] = (30, 40), dtype: str = "uint16") -> np.ndarray:
    return np.stack([random_pixels(dtype, shape, seed) for seed in range(count)])


def read_all(*inputs: str) -> tuple[SeriesStart, list[Frame | BrokenFrame]]:
    source = FileSource([str(item) for item in inputs])
    assert not source.live
    begin, events = source.open(), []
    while not isinstance(event := source.read(0), SeriesEnd):
        events.append(event)
    assert source.read(0) is None
    assert event.series_id == begin.series_id
    assert begin.number_of_frames == len(events)
    source.close()
    source.close()
    return begin, events


def pixels(events: list[Frame]) -> np.ndarray:
    return np.stack([pixels_of(event.payload) for event in events])


FILTERS = {
    "none": ({}, EncodedPayload),
    "bslz4": (dict(hdf5plugin.Bitshuffle()), EncodedPayload),
    "bszstd": (dict(hdf5plugin.Bitshuffle(cname="zstd")), EncodedPayload),
    "lz4": (dict(hdf5plugin.LZ4()), EncodedPayload),
    "bitshuffle alone": (dict(hdf5plugin.Bitshuffle(cname="none")), ArrayPayload),
    "gzip": ({"compression": "gzip"}, ArrayPayload),
    "gzip and shuffle": ({"compression": "gzip", "shuffle": True}, ArrayPayload),
    "zstd": (dict(hdf5plugin.Zstd()), ArrayPayload),
}


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "uint32", "int16", "int32", "float32", ">f4"])
@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_and_pixel_type(tmp_path, name, dtype):
    options, payload = FILTERS[name]
    frames = np.random.default_rng(0).poisson(3, (4, 30, 40)).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=frames, chunks=(1, 30, 40), **options)
    begin, events = read_all(tmp_path / "a.h5")
    assert (begin.shape, begin.dtype) == ((30, 40), frames.dtype.newbyteorder("="))
    assert begin.dtype.isnative
    assert [event.number for event in events] == [0, 1, 2, 3]
    assert all(isinstance(event.payload, payload) for event in events)
    np.testing.assert_array_equal(pixels(events), frames)


@pytest.mark.parametrize("chunks", [None, (2, 30, 40), (1, 15, 40), True])
def test_other_chunks_are_sliced(tmp_path, chunks):
    frames = stack()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=frames, chunks=chunks)
    np.testing.assert_array_equal(pixels(read_all(tmp_path / "a.h5")[1]), frames)


def test_one_frame_in_two_dimensions(tmp_path):
    frame = random_pixels("uint16")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("only/one", data=frame, chunks=frame.shape, **hdf5plugin.Bitshuffle())
    begin, events = read_all(tmp_path / "a.h5")
    assert begin.number_of_frames == 1
    assert isinstance(events[0].payload, EncodedPayload)
    np.testing.assert_array_equal(pixels(events)[0], frame)


def test_chunks_never_written_hold_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("data", (3, 8, 8), "u2", chunks=(1, 8, 8), fillvalue=7, **hdf5plugin.Bitshuffle())
        data[0] = 1
    assert pixels(read_all(tmp_path / "a.h5")[1])[:, 0, 0].tolist() == [1, 7, 7]


def eiger_master(folder, frames: np.ndarray, per_file: int) -> str:
    with h5py.File(folder / "x_master.h5", "w") as master:
        entry = master.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        group = entry.create_group("data")
        group.attrs["NX_class"] = "NXdata"
        entry["instrument/detector/x_pixel_size"] = 7.5e-5
        entry["instrument/detector/y_pixel_size"] = 7.5e-5
        entry["instrument/detector/detector_distance"] = 123.0
        entry["instrument/detector/detector_distance"].attrs["units"] = "mm"
        entry["instrument/beam/incident_wavelength"] = 1.5
        entry["instrument/detector/description"] = np.bytes_("Eiger")
        for index, start in enumerate(range(0, len(frames), per_file), 1):
            name = f"x_data_{index:06d}.h5"
            group[f"data_{index:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            part = frames[start : start + per_file]
            with h5py.File(folder / name, "w") as file:
                chunks = (1, *frames.shape[1:])
                file.create_dataset("entry/data/data", data=part, chunks=chunks, **hdf5plugin.Bitshuffle())
    return str(folder / "x_master.h5")


def test_eiger_master(tmp_path):
    frames = stack(7)
    begin, events = read_all(eiger_master(tmp_path, frames, 3))
    assert all(isinstance(event.payload, EncodedPayload) for event in events)
    np.testing.assert_array_equal(pixels(events), frames)
    assert begin.metadata["wavelength"] == pytest.approx(1.5e-10)
    assert begin.metadata["distance"] == pytest.approx(0.123)
    assert begin.metadata["pixel_size"] == [7.5e-5, 7.5e-5]
    assert begin.metadata["detector"] == "Eiger"


def test_eiger_master_without_a_data_file(tmp_path):
    master = eiger_master(tmp_path, stack(7), 3)
    (tmp_path / "x_data_000002.h5").unlink()
    with pytest.raises(ConfigurationError, match=r"data_000002: the data it links to are missing \(x_data_000002.h5"):
        FileSource(master).open()


def test_nexus_default_and_signal_are_followed(tmp_path):
    frames = stack()
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file.attrs["default"] = "scan"
        scan = file.create_group("scan")
        scan.attrs["NX_class"], scan.attrs["default"] = "NXentry", "plot"
        plot = scan.create_group("plot")
        plot.attrs["NX_class"], plot.attrs["signal"] = "NXdata", "counts"
        plot["counts"] = frames
        plot["other"] = frames[::-1]
        file["data"] = frames * 0
    np.testing.assert_array_equal(pixels(read_all(tmp_path / "a.nxs")[1]), frames)


def test_virtual_datasets(tmp_path):
    frames = stack(4)
    layout = h5py.VirtualLayout(frames.shape, frames.dtype)
    for index, frame in enumerate(frames):
        with h5py.File(tmp_path / f"{index}.h5", "w") as file:
            file["one"] = frame
        layout[index] = h5py.VirtualSource(str(tmp_path / f"{index}.h5"), "one", frame.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    np.testing.assert_array_equal(pixels(read_all(tmp_path / "a.h5")[1]), frames)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([3, 5, 9], [3, 5, 9]), ([3, 3, 9], [0, 1, 2]), ([-1, 0, 1], [0, 1, 2]), ([1, 2], [0, 1, 2])],
)
def test_frame_numbers_beside_the_frames(tmp_path, numbers, expected):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data/data"] = stack(3)
        file["entry/data/frame_number"] = np.array(numbers)
    assert [event.number for event in read_all(tmp_path / "a.h5")[1]] == expected


@pytest.mark.parametrize(("second", "expected"), [([7, 8], [3, 5, 7, 8]), ([1, 2], [0, 1, 2, 3])])
def test_several_files_are_one_series(tmp_path, second, expected):
    frames = stack(4)
    for name, part, numbers in (("a.h5", frames[:2], [3, 5]), ("b.h5", frames[2:], second)):
        with h5py.File(tmp_path / name, "w") as file:
            file["entry/data/data"] = part
            file["entry/data/frame_number"] = numbers
    for inputs in ((tmp_path / "a.h5", tmp_path / "b.h5"), (tmp_path / "*.h5",)):
        _, events = read_all(*inputs)
        assert [event.number for event in events] == expected
        np.testing.assert_array_equal(pixels(events), frames)


@pytest.mark.parametrize(("dtype", "reduced"), [("int64", "int32"), ("uint64", "uint32"), ("int8", "int16")])
def test_wide_integers_are_converted_only_where_they_fit(tmp_path, dtype, reduced):
    frames = np.arange(3 * 8 * 8).reshape(3, 8, 8).clip(max=100).astype(dtype)
    if dtype != "int8":
        frames[1, 2, 3] = 1 << 40
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=frames, chunks=(1, 8, 8), **hdf5plugin.Bitshuffle())
    begin, events = read_all(tmp_path / "a.h5")
    assert begin.dtype == np.dtype(reduced)
    np.testing.assert_array_equal(pixels([events[0], events[2]]), frames[::2])
    if dtype != "int8":
        assert isinstance(events[1], BrokenFrame)
        assert f"the value 1099511627776 ({dtype}) does not fit into {reduced}" in events[1].reason


def test_a_corrupt_chunk_costs_its_frame_only(tmp_path):
    frames = stack(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("data", frames.shape, "u2", chunks=(1, 30, 40), **hdf5plugin.Bitshuffle())
        data[...] = frames
        data.id.write_direct_chunk((1, 0, 0), b"\0" * 40)
    _, events = read_all(tmp_path / "a.h5")
    assert isinstance(events[1], BrokenFrame)
    assert events[1].number == 1
    assert "header announces 0" in events[1].reason
    np.testing.assert_array_equal(pixels([events[0], events[2]]), frames[::2])


@pytest.mark.parametrize("suffix", ["edf", "tif", "cbf"])
def test_images_that_fabio_reads(tmp_path, suffix):
    frames = stack(3, dtype="int32") // 4  # CBF stores differences, they have to fit into 32 bits as well
    kinds = {"edf": fabio.edfimage.EdfImage, "tif": fabio.tifimage.TifImage, "cbf": fabio.cbfimage.CbfImage}
    for index, frame in enumerate(frames):
        kinds[suffix](data=frame).write(str(tmp_path / f"f{index}.{suffix}"))
    begin, events = read_all(tmp_path / f"f?.{suffix}")
    assert begin.dtype == np.int32
    assert [event.number for event in events] == [0, 1, 2]
    np.testing.assert_array_equal(pixels(events), frames)


def test_edf_with_several_frames(tmp_path):
    frames = stack(3, dtype="uint16")
    image = fabio.edfimage.EdfImage(data=frames[0])
    for frame in frames[1:]:
        image.append_frame(data=frame)
    image.write(str(tmp_path / "a.edf"))
    np.testing.assert_array_equal(pixels(read_all(tmp_path / "a.edf")[1]), frames)


def test_an_image_that_became_broken_costs_its_frame_only(tmp_path):
    frame = random_pixels("int32")
    for name in ("a.cbf", "b.cbf", "c.cbf", "d.cbf"):
        fabio.cbfimage.CbfImage(data=frame).write(str(tmp_path / name))
    (tmp_path / "b.cbf").write_bytes(b"no longer an image")
    fabio.cbfimage.CbfImage(data=frame[1:]).write(str(tmp_path / "c.cbf"))
    _, events = read_all(tmp_path / "*.cbf")
    assert [type(event) for event in events] == [Frame, BrokenFrame, BrokenFrame, Frame]
    assert "b.cbf: is neither HDF5 nor an image" in events[1].reason
    assert "36 × 53 int32, but the series has 37 × 53 int32" in events[2].reason


@pytest.fixture
def bad_files(tmp_path):
    with h5py.File(tmp_path / "several.h5", "w") as file:
        file["a"], file["b"] = stack(2), stack(3)
        file["line"], file["deep"] = np.zeros(5), np.zeros((2, 2, 2, 2))
        file["empty"], file["none"] = np.zeros((0, 4, 4), "u2"), np.zeros((2, 0, 4), "u2")
        file["double"], file["complex"] = np.zeros((2, 2)), np.zeros((2, 2), complex)
    with h5py.File(tmp_path / "nothing.h5", "w") as file:
        file["text"] = "no image"
    (tmp_path / "cut.h5").write_bytes((tmp_path / "several.h5").read_bytes()[:1500])
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "empty.cbf").write_bytes(b"")
    return tmp_path


BAD = [
    ("absent.h5", "absent.h5: there is no such file"),
    ("absent.h5::/data", "absent.h5: there is no such file"),
    ("absent*.h5", "no file matches"),
    (".", r"several kinds: 3 HDF5 \(cut.h5 …\), 1 cbf \(empty.cbf …\); name one kind"),
    ("text.txt", "neither HDF5 nor an image that fabio reads"),
    ("empty.cbf", "is empty"),
    ("cut.h5", "cannot be read as HDF5"),
    ("several.h5", r"which dataset\? Append ::NAME \(there are: /a \(2, 30, 40\) uint16, /b"),
    ("several.h5::nope", r"no dataset 'nope' \(there are: /a"),
    ("several.h5::line", "has 1 dimensions, not 2"),
    ("several.h5::deep", "has 4 dimensions, not 2"),
    ("several.h5::empty", "holds no frames"),
    ("several.h5::none", "holds no pixels"),
    ("several.h5::double", "pixel type float64 is not supported .accepted: uint8, .*float32"),
    ("several.h5::complex", "pixel type complex128 is not supported"),
    ("nothing.h5", "no dataset with 2 or 3 dimensions"),
    ("text.txt::data", "is no HDF5 file, it has no dataset 'data'"),
]


@pytest.mark.parametrize(("name", "text"), BAD)
def test_what_is_wrong_with_a_file_is_said(bad_files, name, text):
    with pytest.raises(ConfigurationError, match=text):
        FileSource(f"{bad_files}/{name}").open()


def test_files_that_do_not_fit_together(tmp_path):
    for name, shape in (("a.h5", (8, 8)), ("b.h5", (8, 9))):
        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = np.zeros((2, *shape), "u2")
    with pytest.raises(ConfigurationError, match=r"b\.h5: 8 × 9 uint16, but .*a\.h5 has 8 × 8 uint16"):
        FileSource([str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]).open()


def test_no_file_at_all():
    with pytest.raises(ConfigurationError, match="no input file"):
        FileSource([]).open()


def test_pilatus_image():
    path = data_file("pilatus6m_x06sa.cbf.gz")
    begin, (frame,) = read_all(path)
    assert (begin.shape, begin.dtype) == ((2527, 2463), np.int32)
    np.testing.assert_array_equal(pixels_of(frame.payload), fabio.open(str(path)).data)


def test_thaumatin_grid():
    path = data_file("thaumatin_grid.h5")
    source = open_source(f"file:{path}")
    begin = source.open()
    assert (begin.shape, begin.dtype, begin.number_of_frames) == ((2527, 2463), np.int32, 9)
    frames = [source.read(0) for _ in range(9)]
    assert [frame.number for frame in frames] == [1, 3, 6, 9, 12, 14, 15, 17, 19]
    with h5py.File(path) as file:
        for index in (0, 8):
            np.testing.assert_array_equal(pixels_of(frames[index].payload), file["entry/data/data"][index])
    source.close()
    assert read_image(f"{path}::/entry/data/mask").shape == begin.shape


def test_read_image(tmp_path):
    image = random_pixels("float32")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dark"], file["mask"] = image[np.newaxis], (image > 3)
    np.save(tmp_path / "a.npy", image.astype(">f8"))
    np.savez(tmp_path / "one.npz", mask=image)
    np.savez(tmp_path / "two.npz", mask=image, other=image + 1)
    fabio.edfimage.EdfImage(data=image).write(str(tmp_path / "a.edf"))
    for spec in ("a.h5::dark", "a.npy", "one.npz", "two.npz::mask", "a.edf"):
        found = read_image(f"{tmp_path}/{spec}")
        np.testing.assert_array_equal(found, image)
        assert found.dtype.isnative
        assert found.flags.c_contiguous
    assert read_image(f"{tmp_path}/a.h5::mask").dtype == bool


def test_read_image_says_what_is_wrong(bad_files):
    np.save(bad_files / "line.npy", np.zeros(5))
    np.save(bad_files / "object.npy", np.array([[{}]]), allow_pickle=True)
    np.savez(bad_files / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    (bad_files / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    for name, text in [
        ("line.npy", "is no image"),
        ("object.npy", "cannot be read as a numpy file"),
        ("two.npz", r"which array\? Append ::NAME \(there are: a, b\)"),
        ("two.npz::c", r"which array\?"),
        ("bad.npz", "cannot be read as a numpy file"),
        ("several.h5::a", "is a stack of shape"),
        ("several.h5::line", "is no image"),
        ("several.h5::complex", "is no image"),
        ("absent.edf", "there is no such file"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            read_image(f"{bad_files}/{name}")


@pytest.mark.parametrize(
    "url",
    [
        "stream2://dcu:31001",
        "stream2://10.0.0.1:31001?channel=threshold_2&queue=50",
        "stream2://[::1]:31001",
        "stream1://dcu:9999",
        "stream1://10.0.0.1:9999?queue=50",
        "file:/data/x.h5",
        "file:///data/x.h5::/entry/data/data",
        "file:relative.cbf",
        "follow:/data/x_master.h5",
        "follow:///data/x.h5::/entry/data/data?timeout=2.5",
    ],
)
def test_sources_as_written(url):
    check_source(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "not understood .accepted: stream2://HOST:PORT.*, file:PATH.* and follow:PATH"),
        ("/data/x.h5", "not understood"),
        ("http://a:1", "not understood"),
        ("stream1://dcu", "must be written stream1://HOST:PORT, e.g. stream1://detector.example.org:9999"),
        ("stream1://dcu:9999?channel=x", "unknown option 'channel' .accepted: queue"),
        ("sls://dcu:30001?modules=0", "modules must be from 1 to 256"),
        ("tango://a/b/c", "must be written DOMAIN/FAMILY/MEMBER/NAME"),
        ("stream2://dcu", "must be written stream2://HOST:PORT"),
        ("stream2://:31001", "must be written"),
        ("stream2://dcu:0", "must be written"),
        ("stream2:dcu:31001", "must be written"),
        ("stream2://dcu:31001/x", "must be written"),
        ("stream2://dcu:port", "stream2://HOST:PORT"),
        ("stream2://dcu:99999", "stream2://HOST:PORT"),
        ("stream2://dcu:31001?chanel=x", "unknown option 'chanel' .accepted: channel, queue"),
        ("stream2://dcu:31001?channel=", "channel is empty"),
        ("stream2://dcu:31001?queue=0", "queue must be from 1"),
        ("stream2://dcu:31001?queue=many", "queue must be from 1"),
        ("file:", "names no file"),
        ("follow:", "names no file"),
        ("follow:/data/x.h5?timeout=no", "timeout must be from 0.1 to 1e.06 seconds, not 'no'"),
        ("follow:/data/x.h5?timeout=0", "timeout must be from"),
        ("follow:/data/x.h5?wait=3", "unknown option 'wait' .accepted: timeout"),
        ("file:::/data", "names no file"),
    ],
)
def test_sources_that_are_not_understood(url, text):
    with pytest.raises(ConfigurationError, match=text):
        check_source(url)


def test_options_reach_the_source():
    source = open_source("stream2://DCU.example.org:31001?channel=threshold_2&queue=50")
    assert (source.host, source.port, source.channel, source.queue) == ("dcu.example.org", 31001, "threshold_2", 50)
    source = open_source("stream1://dcu:9999?queue=7")
    assert (type(source).__name__, source.host, source.port, source.queue) == ("Stream1Source", "dcu", 9999, 7)
    assert open_source("file:///data/x.h5").inputs == ("/data/x.h5",)
    source = open_source("follow:/data/x_????.cbf?timeout=5")
    assert (source.path, source.dataset, source.timeout) == ("/data/x_????.cbf", None, 5.0)
    source = open_source("follow:/data/x.h5::/entry/data/data")
    assert (source.path, source.dataset, source.timeout) == ("/data/x.h5", "/entry/data/data", 30.0)
