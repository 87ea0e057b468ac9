"""Detectors that speak the real protocols, and diffraction with real statistics."""
