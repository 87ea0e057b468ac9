"""Still diffraction of randomly oriented crystals, as in serial crystallography."""

from __future__ import annotations

import numpy as np

from ..processing.errors import OutOfRangeError
from .background import BeamStop, Scattering, background_mean
from .counting import CountingSimulator
from .detector_layout import DetectorLayout
from .experiment import EIGER2_4M_SHAPE, Experiment
from .lattice import Imperfection, Lattice, random_orientation
from .spots import SPOT_DTYPE, FrameTruth, describe

SEED_HITS = 4
SEED_CRYSTAL = 5

#: spots expected to have fewer counts than this are not planted
MIN_COUNTS = 1.0


class StillSimulator(CountingSimulator):
    """Frames of a serial experiment: a share of them shows a crystal of lysozyme, the others only background.

    See `CountingSimulator` for the frames' statistics and the other attributes.

    Parameters
    ----------
    shape
        (rows, columns).
    hit_share
        Share of frames with a crystal, 0 … 1. Of every `n_frames` frames exactly round(share · n_frames) are hits,
        in random places.
    n_frames
        Length of the series; beyond it a new draw of the places begins.
    seed, dtype, pool
        See `CountingSimulator`.
    background_scale
        Factor on all of the background.
    spot_counts
        Expected counts of a mean reflection at 5 Å that lies on the Ewald sphere, of a crystal of mean size.
    crystal_spread
        Rms spread of the logarithm of the crystals' diffracting power.
    spot_sigma
        Rms width of a spot on the detector, pixels.
    experiment
        Geometry; by default an EIGER2 4M at 150 mm and 1 Å.
    lattice, imperfection, scattering, beam_stop, layout
        The crystal, its widths, the background, the shadow and the detector; the defaults suit.
    """

    def __init__(
        self,
        shape: tuple[int, int] = EIGER2_4M_SHAPE,
        *,
        hit_share: float = 0.3,
        n_frames: int = 1000,
        seed: int = 0,
        dtype: np.dtype | type | str = np.uint16,
        pool: int = 8,
        background_scale: float = 1.0,
        spot_counts: float = 2000.0,
        crystal_spread: float = 0.5,
        spot_sigma: float = 0.8,
        experiment: Experiment | None = None,
        lattice: Lattice | None = None,
        imperfection: Imperfection | None = None,
        scattering: Scattering | None = None,
        beam_stop: BeamStop | None = None,
        layout: DetectorLayout | None = None,
    ) -> None:
        if not 0 <= hit_share <= 1:
            raise OutOfRangeError(f"hit share {hit_share}: 0 … 1 is expected")
        if n_frames < 1:
            raise OutOfRangeError(f"{n_frames} frames: at least 1 is expected")
        if background_scale < 0 or spot_counts < 0 or spot_sigma <= 0:
            raise OutOfRangeError("background scale and spot counts must not be negative, the spot width positive")
        experiment = experiment or Experiment(shape)
        self.shadow = (beam_stop or BeamStop()).shadow(experiment)
        super().__init__(
            experiment,
            layout or DetectorLayout(experiment.shape, seed=seed),
            background_scale * background_mean(experiment, scattering or Scattering(), self.shadow),
            shadowed=self.shadow < 1,
            dtype=dtype,
            seed=seed,
            pool=pool,
        )
        self.hit_share = hit_share
        self.n_frames = n_frames
        self.lattice = lattice or Lattice(d_min=max(experiment.highest_resolution(), 1.5))
        self.imperfection = imperfection or Imperfection()
        self.spot_counts = spot_counts
        self.crystal_spread = crystal_spread
        self.spot_sigma = spot_sigma

    def is_hit(self, i: int) -> bool:
        """Whether frame `i` shows a crystal."""
        block, place = divmod(i, self.n_frames)
        order = np.random.default_rng([self.seed, SEED_HITS, block]).permutation(self.n_frames)
        return bool(order[place] < round(self.hit_share * self.n_frames))

    def truth(self, i: int) -> FrameTruth:
        """What frame `i` is made of; spots expected to have less than one count are not planted."""
        if not self.is_hit(i):
            return FrameTruth(i, False, np.zeros(0, SPOT_DTYPE))
        rng = np.random.default_rng([self.seed, SEED_CRYSTAL, i])
        orientation = random_orientation(rng)
        # a lognormal factor with the mean 1
        power = np.exp(rng.normal(-0.5 * self.crystal_spread**2, self.crystal_spread))
        return FrameTruth(i, True, self.spots(orientation, power), orientation)

    def spots(self, orientation: np.ndarray, power: float = 1.0) -> np.ndarray:
        """The spots (`SPOT_DTYPE`, the strongest first) of a crystal in `orientation` (3, 3)."""
        experiment = self.experiment
        reflections = self.lattice.excite(orientation, experiment.wavelength, self.imperfection)
        x, y = experiment.project(reflections.k)
        rows, columns = self.shape
        with np.errstate(invalid="ignore"):
            inside = (x > -0.5) & (x < columns - 0.5) & (y > -0.5) & (y < rows - 0.5)
        x, y, intensity = x[inside], y[inside], reflections.intensity[inside]
        offset = (np.array([x, y]) - np.array(experiment.beam_center)[:, None]) * experiment.pixel_size
        counts = self.spot_counts * power * intensity * experiment.polarization_factor(*offset)
        counts *= self.shadow[np.rint(y).astype(int), np.rint(x).astype(int)]
        order = np.argsort(-counts, kind="stable")
        order = order[counts[order] >= MIN_COUNTS]
        spots = describe(x[order], y[order], counts[order], self.spot_sigma, self.background, self.bad)
        for column, name in enumerate("hkl"):
            spots[name] = reflections.hkl[inside][order, column]
        return spots
