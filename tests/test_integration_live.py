"""Thresholds turned while frames flow: every frame is explained by the parameter set that the ledger names for it."""

from __future__ import annotations

import numpy as np
import pytest
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.experiment import Experiment
from integration_helpers import (
    SHAPE,
    STANDBY,
    Detector,
    Images,
    Recomputed,
    Sender,
    check_against,
    check_ledger,
    small_images,
    wait_until,
)
from sources_helpers import end, image, start

pytest_plugins = ["integration_fixtures"]


def test_a_hundred_changes_of_snr_pick_in_500_frames(beamline, tmp_path):
    shape = (512, 512)
    simulator = StillSimulator(shape, hit_share=0.5, n_frames=25, seed=3)
    images = [simulator.frame(i) for i in range(25)]
    poni = tmp_path / "detector.poni"
    poni.write_text(Experiment(shape).poni_text())
    beamline.set(geometry=str(poni), saving_directory=str(tmp_path))
    beamline.set("sparsifier", radial_bins=200)

    written = 2 + 4 * np.random.default_rng(5).permutation(100) / 100  # different numbers, in any order
    applied = [float(beamline.sparsifier.snr_pick)]
    with Detector(Images(images, range(500)), n_frames=500, rate=100) as detector:
        beamline.set(source=detector.url)
        beamline.acquisition.Start()
        beamline.wait_for_frames(1)
        for i, value in enumerate(written):
            # spread over the run; a change does not wait for frames that are under way
            wait_until(lambda i=i: beamline.acquisition.frame_count > 4.9 * i, "more frames")
            beamline.sparsifier.snr_pick = value
            applied.append(float(value))
        beamline.wait_for_end()

    assert beamline.counters == {"frame_count": 500, "frames_lost": 0, "frames_dropped": 0, "frames_failed": 0}
    with SparseFile(beamline.output) as file:
        check_ledger(file.ledger, beamline.counters)
        sets = file.parameter_sets
        picks = [row.parameter_set.values.snr_pick for row in sets]
        assert len(file) == 500
        assert len(sets) > 50  # some changes come so close to each other that no frame sees the first of them
        assert [value for value in applied if value in picks] == picks  # those that were written, in that order
        used = file.ledger["parameter_set"]
        assert np.all(np.diff(used.astype(int)) >= 0)
        assert np.unique(used).tolist() == [row.parameter_set.number for row in sets]
        for row in sets:
            assert row.first_frame == file.ledger["frame"][np.argmax(used == row.parameter_set.number)]

        recomputed = Recomputed(poni, images, 200)
        check_against(recomputed, file)
        for row in range(0, 500, 7):
            check_pixels(file, row, images, picks[np.searchsorted(np.unique(used), used[row])])
        recomputed.close()


def check_pixels(file: SparseFile, row: int, images: list[np.ndarray], snr_pick: float) -> None:
    """The pixels kept, from the curves in the file alone: those above the interpolated background."""
    frame = file.frame(row)
    raw = images[frame.number % len(images)]
    radius = file.h5["/entry_0000/sparse_frames/mask"][()].astype(np.float64)
    mean = np.interp(radius, file.radius, frame.background_mean)
    spread = np.sqrt(np.interp(radius, file.radius, frame.background_std) ** 2 + 1)
    margin = raw - mean - snr_pick * spread
    valid = np.isfinite(radius) & (raw != np.iinfo(raw.dtype).max)
    kept = np.zeros(raw.shape, bool)
    kept.ravel()[frame.index] = True
    # pixels on the very threshold may be rounded either way
    clear = np.abs(margin) > 1e-3 * spread
    assert np.array_equal(kept[clear & valid], (margin > 0)[clear & valid])
    assert not kept[~valid].any()
    assert np.array_equal(raw[kept], frame.intensity)


def test_every_live_setting_in_mid_run(beamline, poni, tmp_path):
    """Frames are sent step by step, so that it is known which of them a change must hold for."""
    images = small_images(24, (40, 12))
    changes = [
        ("sparsifier", {}),
        ("sparsifier", {"error_model": 1}),
        ("peakfinder", {"snr_peak": 8.0}),
        ("veto", {"min_peaks": 20}),
        ("peakfinder", {"radius_max": 6.0}),
        ("sparsifier", {"error_model": 2, "noise": 5.0, "snr_clip": 3.0, "clip_cycles": 2, "surroundings": 9}),
        ("peakfinder", {"patch_size": 7, "min_pixels": 6, "max_peaks": 5, "radius_min": 2.0}),
        ("veto", {"max_peaks": 30, "control_fraction": 100.0}),
    ]
    step = len(images) // len(changes)
    beamline.set(geometry=str(poni), saving_directory=str(tmp_path))
    numbers = []
    with Sender() as sender:
        beamline.set(source=sender.url)
        beamline.acquisition.Start()
        sender.send(start(SHAPE, number_of_images=len(images)))
        for i, (device, values) in enumerate(changes):
            beamline.set(device, **values)
            frames = range(i * step, (i + 1) * step)
            sender.send(*(image(n, images[n]) for n in frames))
            beamline.wait_for_frames(frames.stop)
            numbers += [beamline.acquisition.parameter_set] * step
        sender.send(end())
        beamline.wait_for_end()

    with SparseFile(beamline.output) as file:
        ledger = file.ledger
        check_ledger(ledger, beamline.counters)
        assert ledger["parameter_set"].tolist() == numbers
        sets = {row.parameter_set.number: row.parameter_set.values for row in file.parameter_sets}
        expected = {}
        names = {"min_peaks": "veto_min_peaks"}
        for i, (device, values) in enumerate(changes):
            for name, value in values.items():
                name = "veto_max_peaks" if (device, name) == ("veto", "max_peaks") else names.get(name, name)
                expected[name] = value
            used = sets[numbers[i * step]]
            assert {name: getattr(used, name) for name in expected} == expected
        recomputed = Recomputed(poni, images)
        check_against(recomputed, file)
        for row in ledger:
            p = sets[row["parameter_set"]]
            n_peaks = recomputed.reduce(int(row["frame"]), p).n_peaks
            assert row["n_peaks"] == n_peaks
            hit = p.veto_min_peaks <= n_peaks and (not p.veto_max_peaks or n_peaks <= p.veto_max_peaks)
            other = Verdict.CONTROL if p.control_fraction == 100 else Verdict.VETOED
            assert row["verdict"] == (Verdict.KEPT if hit else other)
        # each of the changes has done something
        used = [sets[frame.parameter_set] for frame in file]
        alone = [
            recomputed.reduce(frame.number, p.replace(surroundings=0)) for frame, p in zip(file, used, strict=True)
        ]
        more = [frame.n_pixels > one.index.size for frame, one in zip(file, alone, strict=True)]
        assert any(more) and not any(m for m, p in zip(more, used, strict=True) if not p.surroundings)
        recomputed.close()
        assert len(set(ledger["verdict"].tolist())) == 3
        assert len(set(ledger["n_peaks"].tolist())) > 3
    assert beamline.state == STANDBY


def test_a_change_between_runs_is_in_the_next_file(beamline, poni, tmp_path):
    images = small_images(4)
    beamline.set(geometry=str(poni), saving_directory=str(tmp_path))
    for pick in (3.5, 5.5):
        beamline.set("sparsifier", snr_pick=pick)
        with Detector(Images(images)) as detector:
            path = beamline.run(detector.url)
        with SparseFile(path) as file:
            assert [row.parameter_set.values.snr_pick for row in file.parameter_sets] == [pick]


@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
def test_every_pixel_type_and_compression(beamline, poni, tmp_path, dtype, encoding):
    images = [pixels.astype(dtype) for pixels in small_images(3)]
    beamline.set(geometry=str(poni), saving_directory=str(tmp_path))
    with Detector(Images(images), encoding=encoding) as detector:
        path = beamline.run(detector.url)
    with SparseFile(path) as file:
        assert len(file) == 3 and file.dtype == dtype
        recomputed = Recomputed(poni, images)
        check_against(recomputed, file)
        recomputed.close()
