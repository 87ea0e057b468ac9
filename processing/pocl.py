"""What the PoCL of PyPI lacks: names of processors that are younger than it. (And a linker: `pocl_linker`.)

The PoCL that PyPI offers (3.0) brings LLVM 14 along. Where LLVM does not know the processor it calls it
"generic", a name which its own compiler then refuses ("unknown target CPU 'generic'"): no kernel can be built,
although PoCL has chosen the right library of built-in functions from the processor's features. There is no
setting to correct the name, so it is corrected where PoCL keeps it: in the description of the device.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pyopencl as cl

#: size of the memory behind a `cl_device_id` that is searched for the name
_DESCRIPTION_BYTES = 1024

# the names must outlive every device
_names = {name: ctypes.create_string_buffer(name.encode()) for name in ("skylake-avx512", "haswell", "x86-64")}


def name_processor(device: cl.Device) -> bool:
    """Give PoCL a processor name that it can build for, where it has none; whether it had to be done.

    Does nothing to devices of other platforms or versions, and nothing to PoCLs that know their processor.
    """
    if not is_of_pypi(device):
        return False
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            for address, pointer in _pointers(memory, device.int_ptr):
                if _read(memory, pointer, 8) == b"generic\0":
                    name = _names[_processor()]
                    ctypes.c_void_p.from_address(address).value = ctypes.addressof(name)
                    return True
    except OSError:  # no /proc: not Linux
        pass
    return False


def is_of_pypi(device: cl.Device) -> bool:
    """Whether it belongs to the PoCL that PyPI offers."""
    return device.platform.name == "Portable Computing Language" and "PoCL 3." in device.platform.version


def _pointers(memory, start: int):
    """(where it stands, its value) of everything in the description that could be a pointer."""
    description = _read(memory, start, _DESCRIPTION_BYTES)
    for offset in range(0, len(description) - 7, 8):
        (value,) = struct.unpack_from("<Q", description, offset)
        if 0x10000 < value < 1 << 47:
            yield start + offset, value


def _read(memory, address: int, size: int) -> bytes:
    """Memory of this process; empty, rather than a crash, where there is none."""
    try:
        memory.seek(address)
        return memory.read(size)
    except (OSError, ValueError, OverflowError):
        return b""


def _processor() -> str:
    """The LLVM name that matches the built-in library which PoCL chooses by the same features."""
    flags = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            break
    if {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags:
        return "skylake-avx512"
    if {"avx2", "bmi2", "fma"} <= flags:
        return "haswell"
    return "x86-64"
