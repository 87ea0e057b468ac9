"""What the server is made of: shown by `DeviceProxy.info()`, the admin device and the attribute `version`."""

from __future__ import annotations

import functools
from importlib import metadata

from ..processing.opencl import list_devices
from ..processing.revision import revision
from .errors import as_latin

PACKAGES = ("framesieve", "pytango", "pyopencl", "h5py", "hdf5plugin", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """Name → version of the packages in use and of each OpenCL device with its driver; git → commit, where the server
    runs from a checkout."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if package == PACKAGES[0] and (commit := revision()):
            found["git"] = commit
    try:
        devices = list_devices()
    except Exception as error:  # a broken driver is no reason to have no server
        return found | {"OpenCL": as_latin(str(error))}
    for name, device in devices:
        place, _, text = name.partition(" ")
        about = (f"{text}; {device.platform.version.strip()}", f"driver {device.driver_version.strip()}")
        found[f"OpenCL {place}"] = as_latin("; ".join(about))
    return found
