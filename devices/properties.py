"""The device properties of each class: name, type, default, meaning. Written here once, for the devices and for
whoever checks a beamline description against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tango.server import device_property


@dataclass(frozen=True, slots=True)
class Property:
    """One device property. `dtype` as for `tango.server.device_property`."""

    name: str
    dtype: Any
    default: Any
    doc: str

    def declare(self) -> device_property:
        return device_property(dtype=self.dtype, default_value=self.default, doc=self.doc)


SAVING_ROOT = Property(
    "SavingRoot", str, "", "Directory below which files may be written, with its full path; empty: anywhere."
)
RING_SIZE = Property("RingSize", int, 32, "Frames that can wait in host memory for the OpenCL device (2 to 100000).")
BATCH_SIZE = Property("BatchSize", int, 4, "Frames that the OpenCL device takes at once (1 to RingSize).")
DECODE_THREADS = Property(
    "DecodeThreads",
    int,
    0,
    "Frames that are decoded at once (0 to 64); 0: as many as there are cores, up to 4.",
)
OPENCL_DEVICE = Property("OpenCLDevice", str, "auto", "What opencl_device is until it is written, e.g. all or 0:0.")
PRESETS = Property(
    "Presets", (str,), [], "Named settings as SaveSettings stores them, one JSON object per line. Not to be edited."
)

#: class → its properties
PROPERTIES: dict[str, tuple[Property, ...]] = {
    "AcquisitionDevice": (SAVING_ROOT, RING_SIZE, BATCH_SIZE, DECODE_THREADS, OPENCL_DEVICE, PRESETS),
    "SparsifierDevice": (),
    "PeakFinderDevice": (),
    "VetoDevice": (),
}
