"""What is written is read back to the bit, and the tables say what became of every frame."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from formats_helpers import BINS, SHAPE, reduced_frame, run_info
from framesieve.formats import layout
from framesieve.formats.parted_writer import PartedSparseWriter
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import PIXELS_PER_CHUNK, SparseWriter, fill_gaps
from framesieve.processing.errors import ConfigurationError, NotAllowedError
from framesieve.processing.frames import EMPTY_PEAKS, ReducedFrame, Verdict
from framesieve.processing.parameters import Parameters, ParameterSet

VERDICTS = [Verdict.KEPT, Verdict.VETOED, Verdict.LOST, Verdict.CONTROL, Verdict.FAILED, Verdict.KEPT, Verdict.DROPPED]


def assert_same_frame(read: ReducedFrame, written: ReducedFrame) -> None:
    for name in ReducedFrame.__dataclass_fields__:
        expected, got = getattr(written, name), getattr(read, name)
        if isinstance(expected, np.ndarray):
            assert got.dtype == expected.dtype, name
            assert np.array_equal(got, expected), name
        else:
            assert got == expected, name


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32"])
@pytest.mark.parametrize("batch", [1, 50])
def test_round_trip(tmp_path, dtype, batch):
    frames = [
        reduced_frame(i, VERDICTS[i % 7], dtype="uint8" if dtype == "uint8" else dtype, peaks=i) for i in range(100)
    ]
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info(dtype))
        for start in range(0, len(frames), batch):
            writer.append(frames[start : start + batch])
        rows = writer.rows
    saved = [frame for frame in frames if frame.verdict in (Verdict.KEPT, Verdict.CONTROL)]
    with SparseFile(tmp_path / "a.h5") as file:
        assert len(file) == rows == len(saved)
        assert file.shape == SHAPE
        assert file.dtype == np.dtype(dtype)
        assert file.n_pixels == sum(frame.n_pixels for frame in saved)
        for row, frame in enumerate(saved):
            assert_same_frame(file.frame(row), frame)
            assert np.array_equal(file.peaks(row), frame.peaks)
        assert_same_frame(file.frame(-1), saved[-1])
        with pytest.raises(IndexError):
            file.frame(len(saved))

        ledger = file.ledger
        assert ledger["frame"].tolist() == list(range(100))
        assert ledger["verdict"].tolist() == [frame.verdict for frame in frames]
        assert [reason.decode() for reason in ledger["reason"]] == [frame.reason for frame in frames]
        kept = ledger["row"] >= 0
        assert ledger["row"][kept].tolist() == list(range(len(saved)))
        assert ledger["frame"][kept].tolist() == [frame.number for frame in saved]


def test_types_of_the_datasets(tmp_path):
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append([reduced_frame(0)])
    with h5py.File(tmp_path / "a.h5") as file:
        frames = file["entry_0000/sparse_frames"]
        assert {name: frames[name].dtype.str for name in frames if name not in ("script", "dummy")} == {
            "frame_ptr": "<u8",
            "index": "<u4",
            "intensity": "<u2",
            "radius": "<f4",
            "mask": "<f4",
            "background_avg": "<f4",
            "background_std": "<f4",
            "errors": "<f4",
        }
        assert frames["errors"] == frames["background_std"]
        assert frames["radius"].attrs["unit"] == "r_m"
        assert frames["dummy"][()] == 0
        # words, not numbers, and readable without a plugin
        assert (
            file["entry_0000/ledger"]["verdict"].tolist()
            == [b"kept", b"vetoed", b"control", b"lost", b"kept"][: len(file["entry_0000/ledger"])]
        )
        assert file["entry_0000/ledger"].compression == "gzip"
        geometry = file["entry_0000/geometry"]
        assert geometry["poni"].asstr()[()] == run_info().poni_text
        assert np.array_equal(geometry["mask"], np.isnan(run_info().radius_image))
        assert geometry["wavelength"][()] == 1e-10
        for name in ("index", "intensity", "background_avg"):
            assert "32008" in frames[name]._filters  # bitshuffle


def test_masked_background_is_nan_for_floats(tmp_path):
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info("float32"))
        writer.append([reduced_frame(0, dtype="float32")])
    with SparseFile(tmp_path / "a.h5") as file:
        assert np.isnan(file.densify(0)[7]).all()


def test_more_peaks_than_columns(tmp_path):
    counts = [3, 2049, 0, 10_000]
    frames = [reduced_frame(i, peaks=count) for i, count in enumerate(counts)]
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        for frame in frames:
            writer.append([frame])
    with SparseFile(tmp_path / "a.h5") as file:
        for row, frame in enumerate(frames):
            assert np.array_equal(file.peaks(row), frame.peaks)
        assert file.h5["entry_1/result_1/peakXPosRaw"].shape == (4, 10_240)


def test_parameter_sets(tmp_path):
    first, second = Parameters(), Parameters(snr_pick=4.5, error_model="hybrid")
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.add_parameter_set(ParameterSet(3, first), 0, 1.7e9)
        writer.append([reduced_frame(0)])
        writer.add_parameter_set(ParameterSet(4, second), 17, 1.7e9 + 2.5)
    with SparseFile(tmp_path / "a.h5") as file:
        sets = file.parameter_sets
        assert [(s.parameter_set, s.first_frame, s.time) for s in sets] == [
            (ParameterSet(3, first), 0, 1.7e9),
            (ParameterSet(4, second), 17, 1.7e9 + 2.5),
        ]


def test_long_texts_are_cut_between_characters(tmp_path):
    frame = reduced_frame(0, Verdict.FAILED)
    frame.reason, frame.series_id = "σ" * 100, "x" * 63 + "σ"
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append([frame])
    with SparseFile(tmp_path / "a.h5") as file:
        assert file.ledger["reason"][0].decode() == "σ" * 64
        assert file.ledger["series"][0].decode() == "x" * 63


def test_frames_without_pixels_or_curves(tmp_path):
    empty = ReducedFrame(5, "s", 1.0, Verdict.KEPT)
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append([empty])
        writer.append([])
        writer.append([reduced_frame(6)])
    with SparseFile(tmp_path / "a.h5") as file:
        assert len(file.frame(0).index) == 0
        assert not file.frame(0).background_mean.any()
        assert np.array_equal(file.peaks(0), EMPTY_PEAKS)
        assert np.array_equal(file.frame(1).index, reduced_frame(6).index)


def test_a_refused_frame_leaves_nothing_behind(tmp_path):
    wrong = reduced_frame(1)
    wrong.background_mean = np.zeros(BINS + 1, np.float32)
    short = reduced_frame(2)
    short.intensity = short.intensity[:-1]
    floating = reduced_frame(3)
    floating.intensity = floating.intensity.astype(np.float64)  # does not fit uint16
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        for bad in (wrong, short, floating):
            with pytest.raises(ValueError, match=f"frame {bad.number}"):
                writer.append([reduced_frame(0), bad])
        writer.append([reduced_frame(4)])
    with SparseFile(tmp_path / "a.h5") as file:
        assert len(file) == len(file.ledger) == 1
        assert_same_frame(file.frame(0), reduced_frame(4))
        assert file.h5["entry_0000/sparse_frames/index"].size == reduced_frame(4).n_pixels


def test_gaps_in_curves_are_bridged(tmp_path):
    frame = reduced_frame(0)
    curve = np.arange(BINS, dtype=np.float32)
    frame.background_mean = curve.copy()
    frame.background_mean[[0, 1, 10, 11, BINS - 1]] = np.nan
    frame.background_std = np.full(BINS, np.nan, np.float32)
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append([frame])
    with SparseFile(tmp_path / "a.h5") as file:
        mean = file.frame(0).background_mean
        assert np.allclose(mean[2:-1], curve[2:-1])  # the bins are equidistant
        assert (mean[:2] == 2).all() and mean[-1] == BINS - 2
        assert not file.frame(0).background_std.any()


def test_fill_gaps_keeps_values_to_the_bit():
    rng = np.random.default_rng(1)
    curve = rng.random(50).astype(np.float32)
    curve[20] = np.nan
    filled = fill_gaps(np.linspace(0, 1, 50, dtype=np.float32), curve)
    kept = np.arange(50) != 20
    assert filled.dtype == np.float32
    assert np.array_equal(filled[kept], curve[kept])
    assert filled[20] == pytest.approx((curve[19] + curve[21]) / 2, rel=1e-5)


def test_order_of_calls(tmp_path):
    writer = SparseWriter(tmp_path / "a.h5")
    with pytest.raises(NotAllowedError, match="begin"):
        writer.append([reduced_frame(0)])
    writer.begin(run_info())
    with pytest.raises(NotAllowedError, match="begun"):
        writer.begin(run_info())
    writer.close()
    writer.close()
    with pytest.raises(NotAllowedError, match="closed"):
        writer.append([reduced_frame(0)])


def test_visible_after_flush_and_after_the_interval(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    writer = SparseWriter(path)
    with h5py.File(path) as file:
        assert not len(file)
    writer.begin(run_info())
    size = writer.bytes_written
    writer.append([reduced_frame(0)])
    with SparseFile(path) as file:
        assert len(file) == 0
    writer.flush()
    with SparseFile(path) as file:
        assert len(file) == 1
    assert writer.bytes_written > size
    monkeypatch.setattr("framesieve.formats.hdf5_writer.COMMIT_INTERVAL", 0)
    writer.append([reduced_frame(1)])
    with SparseFile(path) as file:
        assert len(file) == 2
    writer.close()
    assert path.stat().st_size == writer.bytes_written


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist"):
        SparseFile(tmp_path / "none.h5")
    with pytest.raises(ConfigurationError, match="is not a file"):
        SparseFile(tmp_path)
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ConfigurationError, match="HDF5"):
        SparseFile(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ConfigurationError, match="no sparse frames"):
        SparseFile(tmp_path / "other.h5")


MANY = 5_000_000_000 // PIXELS_PER_CHUNK * PIXELS_PER_CHUNK  # pixels, more than 32 bits count


def append_large_frame(writer: SparseWriter, whole: SparseWriter | None = None) -> None:
    """As if frame 0 had so many pixels; nothing is allocated for them. `whole`: the master of the part `writer`."""
    frame = reduced_frame(0)
    frame.index, frame.intensity = frame.index[:0], frame.intensity[:0]
    both = {writer, whole or writer}
    for one in both:
        one._last_commit = np.inf  # not now
    (whole or writer).append([frame])
    for one in both:
        one._pixels = one._frame_ptr._chunk[1] = MANY
    writer._index._first = writer._intensity._first = MANY
    (whole or writer).flush()


def test_more_pixels_than_32_bits_count(tmp_path):
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        append_large_frame(writer)
        for number in range(1, 100):
            writer.append([reduced_frame(number)])
            writer.flush()
    with h5py.File(tmp_path / "a.h5") as file:
        frame_ptr = file[layout.SPARSE_FRAMES]["frame_ptr"][()]
        counts = [MANY, *(reduced_frame(number).n_pixels for number in range(1, 100))]
        assert frame_ptr.dtype == np.uint64
        assert frame_ptr.tolist() == [sum(counts[:n]) for n in range(101)]
        assert file[layout.SPARSE_FRAMES]["index"].shape == (frame_ptr[-1],)
    with SparseFile(tmp_path / "a.h5") as file:
        assert file.n_pixels > 2**32
        for row in (1, 50, 99):
            assert_same_frame(file.frame(row), reduced_frame(row))
    assert (tmp_path / "a.h5").stat().st_size < 20_000_000


def test_more_pixels_than_32_bits_count_in_parts(tmp_path):
    with PartedSparseWriter(tmp_path / "a.h5", 40) as writer:
        writer.begin(run_info())
        append_large_frame(writer._part, writer)
        for number in range(1, 100):
            writer.append([reduced_frame(number)])
    with SparseFile(tmp_path / "a.h5") as file:
        assert file.n_pixels > 2**32
        for row in (1, 39, 40, 99):
            assert_same_frame(file.frame(row), reduced_frame(row))
