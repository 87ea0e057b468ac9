"""A crystal lattice: which reflections a still excites, and how strongly.

Vectors are in the laboratory frame (x fast, y slow, z beam), reciprocal lengths in Å⁻¹ without 2π: |q| = 1/d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: tetragonal hen egg-white lysozyme, P4₃2₁2: a = b, c in Å
LYSOZYME = (78.8, 38.0)

#: reflections further from the Ewald sphere than so many widths are left out: exp(−4²/2) = 3·10⁻⁴
CUTOFF = 4.0

#: spacing (Å) at which the scale of the intensities is defined
REFERENCE_SPACING = 5.0


def random_orientation(rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix (3, 3), uniform over all orientations (Shoemake 1992, Graphics Gems III, 124)."""
    u, v, w = rng.random(3)
    a, b = np.sqrt(1 - u), np.sqrt(u)
    q0, q1 = a * np.sin(2 * np.pi * v), a * np.cos(2 * np.pi * v)
    q2, q3 = b * np.sin(2 * np.pi * w), b * np.cos(2 * np.pi * w)
    return np.array(
        [
            [1 - 2 * (q2**2 + q3**2), 2 * (q1 * q2 - q0 * q3), 2 * (q1 * q3 + q0 * q2)],
            [2 * (q1 * q2 + q0 * q3), 1 - 2 * (q1**2 + q3**2), 2 * (q2 * q3 - q0 * q1)],
            [2 * (q1 * q3 - q0 * q2), 2 * (q2 * q3 + q0 * q1), 1 - 2 * (q1**2 + q2**2)],
        ]
    )


@dataclass(frozen=True)
class Imperfection:
    """What gives a reflection its width across the Ewald sphere; all rms values.

    Parameters
    ----------
    bandwidth
        Δλ/λ of the beam.
    mosaicity
        Misorientation of the blocks of the crystal, rad.
    size
        Edge of a coherent block, Å.
    """

    bandwidth: float = 1e-3
    mosaicity: float = np.deg2rad(0.05)
    size: float = 5000.0

    def width(self, q: np.ndarray, wavelength: float) -> np.ndarray:
        """Rms distance (Å⁻¹) from the Ewald sphere over which a reflection at |q| (Å⁻¹) is excited.

        The three add in quadrature: (1 − cos 2θ)/λ · Δλ/λ, the shift of the sphere with the wavelength;
        |q| cos θ · mosaicity, the part of the arc that is normal to the sphere; 0.376/size, the width of the
        Gaussian with the full width at half maximum, 0.886/size, of a block's shape transform (Scherrer 1918).
        """
        sin2 = (np.asarray(q) * wavelength / 2) ** 2  # sin² θ
        bandwidth = 2 * sin2 / wavelength * self.bandwidth
        mosaicity = q * np.sqrt(np.clip(1 - sin2, 0, 1)) * self.mosaicity
        return np.sqrt(bandwidth**2 + mosaicity**2 + (0.376 / self.size) ** 2)


@dataclass(frozen=True)
class Reflections:
    """What one orientation excites: `hkl` int16 (n, 3), direction `k` float64 (n, 3) in Å⁻¹ of the diffracted
    beam, `excitation` error |k| − 1/λ in Å⁻¹ (n,), `intensity` (n,) relative to a mean reflection at 5 Å that lies
    on the Ewald sphere."""

    hkl: np.ndarray
    k: np.ndarray
    excitation: np.ndarray
    intensity: np.ndarray


class Lattice:
    """All reflections of a tetragonal primitive lattice to a resolution, with squared structure factors.

    The squared structure factors follow Wilson's distribution of acentric reflections (exponential; Wilson 1949,
    Acta Cryst. 2, 318), times exp(−B/(2d²)) for the displacement factor. They are a fixed function of hkl, equal for
    the reflections that are equivalent in the Laue group 4/mmm, and zero where the screw axes of P4₃2₁2 make
    them so. Centric reflections are not treated apart.

    Parameters
    ----------
    a, c
        Cell edges, Å.
    d_min
        Smallest spacing, Å.
    b_factor
        Å².
    structure_seed
        Another number is another structure.
    """

    def __init__(
        self,
        a: float = LYSOZYME[0],
        c: float = LYSOZYME[1],
        *,
        d_min: float = 1.6,
        b_factor: float = 20.0,
        structure_seed: int = 1,
    ) -> None:
        self.cell = (a, a, c)
        self.d_min = d_min
        edges = [int(edge / d_min) for edge in self.cell]
        grid = np.meshgrid(*(np.arange(-n, n + 1) for n in edges), indexing="ij")
        hkl = np.stack([axis.ravel() for axis in grid], axis=1)
        q2 = ((hkl / np.array(self.cell)) ** 2).sum(axis=1)
        h, k, l = np.abs(hkl).T  # noqa: E741
        screw = ((h == 0) & (k == 0) & (l % 4 != 0)) | ((l == 0) & (h == 0) & (k % 2 != 0))
        screw |= (l == 0) & (k == 0) & (h % 2 != 0)
        wanted = (q2 > 0) & (q2 <= d_min**-2) & ~screw
        #: Miller indices, int16 (n, 3)
        self.hkl = hkl[wanted].astype(np.int16)
        #: reciprocal-lattice vectors of the unrotated crystal, float64 (n, 3)
        self.q = hkl[wanted] / np.array(self.cell)
        self.q2 = q2[wanted]
        #: squared structure factors relative to their mean at d = ∞, float64 (n,)
        self.f_squared = structure_factors(self.hkl, structure_seed) * np.exp(-b_factor / 2 * self.q2)
        self._reference = float(np.exp(-b_factor / 2 / REFERENCE_SPACING**2))

    def excite(self, orientation: np.ndarray, wavelength: float, imperfection: Imperfection) -> Reflections:
        """The reflections near the Ewald sphere of radius 1/λ in `orientation` (3, 3).

        A reflection at the excitation error ε = |k₀ + q| − 1/λ is recorded with exp(−ε²/2σ²)/σ of its intensity,
        σ the width by `imperfection`: a still cuts through the profile, and a wider profile is a thinner one.
        """
        radius = 1 / wavelength
        along_beam = self.q @ orientation[2]
        # |k|² − r² = q² + 2 r q_z; divided by 2r it is ε but for a term in ε²: enough to choose by
        near = np.abs((self.q2 + 2 * radius * along_beam) / (2 * radius))
        widest = float(imperfection.width(1 / self.d_min, wavelength))
        chosen = np.flatnonzero(near < 1.1 * CUTOFF * widest)
        k = self.q[chosen] @ orientation.T
        k[:, 2] += radius
        excitation = np.linalg.norm(k, axis=1) - radius
        width = imperfection.width(np.sqrt(self.q2[chosen]), wavelength)
        inside = np.abs(excitation) < CUTOFF * width
        chosen, k, excitation, width = chosen[inside], k[inside], excitation[inside], width[inside]
        reference = imperfection.width(1 / REFERENCE_SPACING, wavelength)
        recorded = reference / width * np.exp(-0.5 * (excitation / width) ** 2)
        return Reflections(self.hkl[chosen], k, excitation, self.f_squared[chosen] / self._reference * recorded)


def structure_factors(hkl: np.ndarray, structure_seed: int) -> np.ndarray:
    """Squared structure factors with the mean 1, exponentially distributed, a fixed function of hkl (n, 3).

    The uniform number behind each is a hash of the indices: the finalizer of MurmurHash3 (Appleby, public domain).
    """
    h, k, l = np.abs(hkl.astype(np.int64)).T.astype(np.uint64)  # noqa: E741
    low, high = np.minimum(h, k), np.maximum(h, k)  # 4/mmm: signs and the order of h and k do not matter
    bits = (high << np.uint64(40)) | (low << np.uint64(20)) | l
    bits ^= np.uint64((structure_seed * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits ^= bits >> np.uint64(33)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(33)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    return -np.log(uniform)
