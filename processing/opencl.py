"""Choosing the OpenCL device and building kernels for it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pyopencl as cl

from .errors import ConfigurationError, HardwareError
from .pocl import name_processor

_TRIAL = "kernel void trial(global int *out) { out[get_global_id(0)] = 42; }"


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device that has proven that it can build and run a kernel."""

    device: cl.Device
    name: str  # PLATFORM:DEVICE, numbers, followed by the names in words

    @property
    def is_cpu(self) -> bool:
        return bool(self.device.type & cl.device_type.CPU)


def list_devices() -> list[tuple[str, cl.Device]]:
    """(name, pyopencl.Device) of all devices; a platform that fails is left out."""
    try:
        platforms = cl.get_platforms()
    except cl.Error:
        return []
    found = []
    for p, platform in enumerate(platforms):
        try:
            devices = platform.get_devices()
        except cl.Error:  # a driver without hardware
            continue
        found += [(f"{p}:{d} {platform.name}: {device.name.strip()}", device) for d, device in enumerate(devices)]
    return found


@functools.cache
def choose_device(choice: str = "auto") -> DeviceChoice:
    """Find a device that works.

    Parameters
    ----------
    choice
        `auto`: GPUs first, then accelerators, then CPUs, the one with the most compute units among equals.
        `PLATFORM:DEVICE`: numbers, or parts of the names in any case, e.g. `0:0`, `nvidia:h200`, `portable:`.

    Raises
    ------
    ConfigurationError
        There is none, or none of that name; lists what there is.
    HardwareError
        The one that was named cannot run a kernel.
    """
    devices = list_devices()
    there_are = "; there are: " + "; ".join(name for name, _ in devices) if devices else "; there are none"
    if not devices:
        raise ConfigurationError(
            "no OpenCL device: install the driver of the GPU, or 'pip install pocl-binary-distribution' for the CPU"
        )
    if choice.strip().lower() in ("", "auto"):
        errors = []
        for name, device in sorted(devices, key=lambda item: _rank(item[1]), reverse=True):
            try:
                _try_out(device)
            except HardwareError as error:
                errors.append(f"{name} ({error})")
            else:
                return DeviceChoice(device, name)
        raise HardwareError("no OpenCL device works: " + "; ".join(errors))

    platform_part, colon, device_part = choice.strip().lower().partition(":")
    if not colon:
        raise ConfigurationError(f"opencl_device = {choice!r}: accepted is 'auto' or PLATFORM:DEVICE{there_are}")
    for name, device in devices:
        numbers, _, words = name.partition(" ")
        p, d = numbers.split(":")
        platform_name, _, device_name = words.lower().partition(": ")
        if _matches(platform_part, p, platform_name) and _matches(device_part, d, device_name):
            _try_out(device)
            return DeviceChoice(device, name)
    raise ConfigurationError(f"opencl_device = {choice!r}: no such device{there_are}")


def _matches(wanted: str, number: str, name: str) -> bool:
    return wanted == number if wanted.isdigit() else wanted in name


def _rank(device: cl.Device) -> tuple[int, int]:
    kinds = (cl.device_type.CPU, cl.device_type.ACCELERATOR, cl.device_type.GPU)
    kind = next((rank for rank, bit in enumerate(kinds) if device.type & bit), -1)
    if "FPGA Emulation" in device.name:  # announces itself as an accelerator, and is a slow CPU
        kind = -1
    return kind, device.max_compute_units


def _try_out(device: cl.Device) -> None:
    """Build and run a tiny kernel."""
    name_processor(device)
    try:
        context = cl.Context([device])
        queue = cl.CommandQueue(context)
        program = cl.Program(context, _TRIAL).build(cache_dir=False)
        out = np.zeros(4, dtype=np.int32)
        buffer = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, out.nbytes)
        cl.Kernel(program, "trial")(queue, out.shape, None, buffer)
        cl.enqueue_copy(queue, out, buffer)
    except cl.Error as error:
        raise HardwareError(f"{device.name.strip()}: it cannot run a kernel: {str(error).splitlines()[0]}") from None
    if not np.all(out == 42):
        raise HardwareError(f"{device.name.strip()}: a trial kernel gave a wrong result")


def build(context: cl.Context, names: tuple[str, ...], options: list[str]) -> cl.Program:
    """Build the named `.cl` files, in that order, as one program.

    Sums are to be the same on every device, so divisions and roots are correctly rounded where the device can.
    """
    folder = resources.files(__package__) / "kernels"
    source = "\n".join((folder / f"{name}.cl").read_text(encoding="utf-8") for name in names)
    (device,) = context.devices
    options = ["-cl-std=CL1.2", *options]
    if device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT:
        options.append("-cl-fp32-correctly-rounded-divide-sqrt")
    try:
        return cl.Program(context, source).build(options)
    except cl.Error as error:
        raise HardwareError(f"{device.name.strip()}: the kernels cannot be built: {error}") from None
