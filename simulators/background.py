"""What a detector counts without a crystal in the beam: mean counts per pixel, smooth but for the beam stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .experiment import Experiment


@dataclass(frozen=True)
class Scattering:
    """Diffuse scattering of a jet or drop of mother liquor in air, as mean counts per pixel and frame.

    Each term is the count of a pixel that faces the sample; solid angle and polarization come on top.

    Parameters
    ----------
    ring, ring_spacing, ring_width
        Solvent ring: height (counts), spacing at the maximum (Å), rms width in 1/d (Å⁻¹). Water orders at
        about 3.3 Å.
    air, air_range
        Air scatter, a·exp(−s/s₀): height at the beam (counts) and s₀ (Å⁻¹), s = 1/d.
    floor
        Incoherent (Compton) scattering and fluorescence, the same at every angle (counts).
    """

    ring: float = 5.0
    ring_spacing: float = 3.3
    ring_width: float = 0.045
    air: float = 12.0
    air_range: float = 0.08
    floor: float = 0.4

    def intensity(self, s: np.ndarray) -> np.ndarray:
        """Counts at s = 1/d (Å⁻¹), without the factors of the geometry."""
        ring = self.ring * np.exp(-0.5 * ((s - 1 / self.ring_spacing) / self.ring_width) ** 2)
        return ring + self.air * np.exp(-s / self.air_range) + self.floor


@dataclass(frozen=True)
class BeamStop:
    """A disk around the beam, held by an arm that comes from the top; both dark, with a soft edge.

    Parameters
    ----------
    radius, arm_width
        m; the shadow's own, on the detector. A radius of 0 means none.
    penumbra
        Width of the soft edge, m.
    transmission
        What still comes through.
    """

    radius: float = 1.8e-3
    arm_width: float = 0.6e-3
    penumbra: float = 0.15e-3
    transmission: float = 0.01

    def shadow(self, experiment: Experiment) -> np.ndarray:
        """Share of the intensity that reaches each pixel, float32 (rows, columns)."""
        if self.radius <= 0:
            return np.ones(experiment.shape, np.float32)
        x, y = experiment.offsets()
        disk = np.hypot(x, y) - self.radius
        arm = np.where(y < 0, np.abs(x) - self.arm_width / 2, np.inf)
        outside = np.clip(np.minimum(disk, arm) / self.penumbra + 0.5, 0, 1)
        return (self.transmission + (1 - self.transmission) * outside).astype(np.float32)


def background_mean(experiment: Experiment, scattering: Scattering, shadow: np.ndarray | float = 1.0) -> np.ndarray:
    """Mean counts of every pixel, float32 (rows, columns).

    scattering(1/d) · cos³2θ · polarization · shadow; cos³2θ is the solid angle of a pixel of a flat detector
    relative to one that the beam would hit.
    """
    mean = np.empty(experiment.shape, np.float32)
    for first in range(0, experiment.shape[0], 256):  # in strips: the intermediate arrays stay small
        rows = slice(first, first + 256)
        two_theta = experiment.two_theta(rows)
        s = 2 * np.sin(two_theta / 2) / experiment.wavelength
        polarization = experiment.polarization_factor(*experiment.offsets(rows))
        mean[rows] = scattering.intensity(s) * np.cos(two_theta) ** 3 * polarization
    return mean * np.asarray(shadow, np.float32)
