"""Choosing OpenCL devices and building kernels for them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import resource
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pyopencl as cl

from .errors import ConfigurationError, HardwareError
from .pocl import is_of_pypi, name_processor
from .pocl_linker import linker_problem
from .threads import inherited_name

log = logging.getLogger(__name__)

ACCEPTED = "'auto', 'all', PLATFORM:DEVICE, PLATFORM:DEVICE/PARTS, or several of these with commas"

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
    found = []
    for p, platform in enumerate(_platforms()):
        with contextlib.suppress(cl.Error):  # a driver without hardware
            devices = _devices_of(platform)
            found += [(f"{p}:{d} {platform.name}: {device.name.strip()}", device) for d, device in enumerate(devices)]
    return found


@functools.cache
def choose_device(choice: str = "auto") -> DeviceChoice:
    """The first of the devices that `choose_devices` finds."""
    return _choose(choice)[0]


@functools.cache
def choose_devices(choice: str = "auto") -> tuple[DeviceChoice, ...]:
    """Find devices that work.

    Parameters
    ----------
    choice
        `auto`: one; GPUs first, then accelerators, then CPUs, the one with the most compute units among equals.

        `all`: every GPU and accelerator, each once, also where several platforms offer it; without any of them, one
        CPU: all platforms compute on the same.

        `PLATFORM:DEVICE`: numbers, or parts of the names in any case, e.g. `0:0`, `nvidia:h200`, `portable:`. Of
        several that fit, the first that works.

        `PLATFORM:DEVICE/PARTS`: this device divided into so many, e.g. `0:0/2`; what CPUs can, as a rule.

        Several of the last two, with commas: `0:0,1:0`.

    Raises
    ------
    ConfigurationError
        There is none, or none of that name; lists what there is, and what works.
    HardwareError
        What was named cannot run a kernel.
    """
    return _choose(choice)


def _choose(choice: str) -> tuple[DeviceChoice, ...]:
    devices = list_devices()
    if not devices:
        raise ConfigurationError(
            "no OpenCL device: install the driver of the GPU, or 'pip install pocl-binary-distribution' for the CPU"
            + "".join(f"; {problem}" for problem in _problems())
        )
    wanted = choice.strip().lower()
    if wanted in ("", "auto"):
        return (_best(devices),)
    if wanted == "all":
        return _all(devices)
    chosen: dict[str, list[DeviceChoice]] = {}  # by PLATFORM:DEVICE
    for part in wanted.split(","):
        found = _named(choice, part.strip(), devices)
        numbers = found[0].name.partition(" ")[0].partition("/")[0]
        if numbers in chosen:
            raise ConfigurationError(f"opencl_device = {choice!r}: {found[0].name} is named twice")
        chosen[numbers] = found
    return tuple(one for found in chosen.values() for one in found)


def _best(devices: list[tuple[str, cl.Device]]) -> DeviceChoice:
    errors = []
    for name, device in _ranked(devices):
        if problem := _problem_of(device):
            errors.append(f"{name} ({problem})")
        else:
            for error in errors:
                log.warning("%s is passed over", error)
            return DeviceChoice(device, name)
    raise HardwareError("no OpenCL device works: " + "; ".join(errors + _problems()))


def _all(devices: list[tuple[str, cl.Device]]) -> tuple[DeviceChoice, ...]:
    """See `choose_devices`. Devices that do not work are passed over."""
    chosen: list[DeviceChoice] = []
    for name, device in _ranked(devices):
        if chosen and _kind(device) < _KINDS.index(cl.device_type.ACCELERATOR):
            break
        same = next((one for one in chosen if _is_same(name, device, one, devices)), None)
        if same is not None:
            log.info("%s is the same device as %s", name, same.name)
        elif problem := _problem_of(device):
            log.warning("%s is left out: %s", name, problem)
        else:
            chosen.append(DeviceChoice(device, name))
    return tuple(chosen) or (_best(devices),)


def _named(choice: str, part: str, devices: list[tuple[str, cl.Device]]) -> list[DeviceChoice]:
    """The device that one part of the choice names, or the parts into which it is to be divided."""
    platform_part, colon, rest = part.partition(":")
    device_part, slash, count = rest.rpartition("/")
    if not slash or not (count.isascii() and count.isdigit()):
        device_part, count = rest, ""
    if not colon or part in ("auto", "all"):
        raise ConfigurationError(f"opencl_device = {choice!r}: accepted is {ACCEPTED}{_there_are(devices)}")
    fitting = [(name, device) for name, device in devices if _fits(name, platform_part, device_part)]
    if not fitting:
        raise ConfigurationError(f"opencl_device = {choice!r}: no such device{_there_are(devices)}")
    problems = []
    for name, device in fitting:
        if problem := _problem_of(device):
            problems.append(f"{name} ({problem})")
            continue
        if problems or len(fitting) > 1:
            log.warning("opencl_device = %r fits %s: %s is taken", choice, "; ".join(n for n, _ in fitting), name)
        chosen = DeviceChoice(device, name)
        return _divided(choice, chosen, int(count)) if count else [chosen]
    raise HardwareError(f"opencl_device = {choice!r}: {'; '.join(problems)}{_there_are(devices)}")


def _fits(name: str, platform_part: str, device_part: str) -> bool:
    numbers, _, words = name.partition(" ")
    p, d = numbers.split(":")
    platform_name, _, device_name = words.lower().partition(": ")
    return _matches(platform_part, p, platform_name) and _matches(device_part, d, device_name)


def _matches(wanted: str, number: str, name: str) -> bool:
    return wanted == number if (wanted.isascii() and wanted.isdigit()) else wanted in name


def _divided(choice: str, whole: DeviceChoice, count: int) -> list[DeviceChoice]:
    units = whole.device.max_compute_units
    if not 1 <= count <= units:
        raise ConfigurationError(f"opencl_device = {choice!r}: {whole.name} can have 1 to {units} parts")
    try:
        parts = whole.device.create_sub_devices([cl.device_partition_property.EQUALLY, units // count])[:count]
    except cl.Error as error:
        raise ConfigurationError(f"opencl_device = {choice!r}: {whole.name} cannot be divided ({error})") from None
    numbers, _, words = whole.name.partition(" ")
    return [DeviceChoice(part, f"{numbers}/{count} {words}, part {k}") for k, part in enumerate(parts, 1)]


# ---- one device or another ------------------------------------------------------------------------------------------

_KINDS = (cl.device_type.CPU, cl.device_type.ACCELERATOR, cl.device_type.GPU)  # the last are the fastest


def _kind(device: cl.Device) -> int:
    if "FPGA Emulation" in device.name:  # announces itself as an accelerator, and is a slow CPU
        return -1
    return next((rank for rank, bit in enumerate(_KINDS) if device.type & bit), -1)


def _ranked(devices: list[tuple[str, cl.Device]]) -> list[tuple[str, cl.Device]]:
    """The fastest first, as far as one can tell; equals in the order of their numbers."""
    return sorted(devices, key=lambda item: (_kind(item[1]), item[1].max_compute_units), reverse=True)


def _is_same(name: str, device: cl.Device, other: DeviceChoice, devices: list[tuple[str, cl.Device]]) -> bool:
    """Whether two entries of the list are one piece of hardware: they sit in the same place of the computer, or, where
    a driver does not tell, both are the n-th device of that name on their platforms."""
    if device == other.device:
        return True
    places = _place(device), _place(other.device)
    if None not in places:
        return places[0] == places[1]
    return _platform_number(name) != _platform_number(other.name) and (
        _counted_name(name, devices) == _counted_name(other.name, devices)
    )


def _platform_number(name: str) -> str:
    return name.partition(":")[0]


def _counted_name(name: str, devices: list[tuple[str, cl.Device]]) -> tuple[str, int]:
    """The name of a device in words, and which one of that name on its platform it is."""
    siblings = [other for other, _ in devices if _platform_number(other) == _platform_number(name)]
    alike = [other for other in siblings if _device_name(other) == _device_name(name)]
    return _device_name(name), alike.index(name)


def _device_name(name: str) -> str:
    return name.partition(" ")[2].rpartition(": ")[2]


def _place(device: cl.Device) -> tuple[int, ...] | None:
    """Domain, bus and slot of a device on PCI; None where its driver does not tell."""
    with contextlib.suppress(cl.Error, AttributeError):  # NVIDIA; older drivers have no domain
        domain = 0
        with contextlib.suppress(cl.Error, AttributeError):
            domain = device.pci_domain_id_nv
        return domain, device.pci_bus_id_nv, device.pci_slot_id_nv
    with contextlib.suppress(cl.Error, AttributeError):  # AMD does not tell the domain
        topology = device.topology_amd
        return 0, topology.bus, topology.device
    return None


# ---- what there is, and what works ----------------------------------------------------------------------------------


def _platforms() -> list[cl.Platform]:
    try:
        with inherited_name("opencl"):
            return cl.get_platforms()
    except cl.Error:
        return []


def _devices_of(platform: cl.Platform) -> list[cl.Device]:
    with inherited_name("opencl"):
        return platform.get_devices()


def _there_are(devices: list[tuple[str, cl.Device]]) -> str:
    """The end of an error message: all devices, with which of them work, and drivers that do not."""
    entries = [f"{name} ({_problem_of(device) or 'works'})" for name, device in devices]
    return "; there are: " + "; ".join(entries + _problems())


def _problems() -> list[str]:
    """Platforms without devices, and drivers that are registered and cannot be loaded."""
    problems = []
    for p, platform in enumerate(_platforms()):
        name = ""
        try:
            name = platform.name
            _devices_of(platform)
        except cl.Error as error:
            problems.append(f"platform {p} {name} has no device ({_first_line(error)})")
    return problems + [f"{path} names {library}, which cannot be loaded" for path, library in _broken_drivers()]


def _broken_drivers() -> Iterator[tuple[Path, str]]:
    """(file, library) of what is registered as a driver and is none."""
    where = Path(os.environ.get("OCL_ICD_VENDORS") or "/etc/OpenCL/vendors")
    files = [where] if where.suffix == ".icd" else sorted(where.glob("*.icd"))
    for file in files:
        try:
            library = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            yield file, "an unreadable name"
            continue
        try:
            if library:  # an empty name would stand for this program
                ctypes.CDLL(library)
                continue
        except OSError:
            pass
        yield file, library or "nothing"


def _problem_of(device: cl.Device) -> str:
    """Why a device cannot be used, '' where it can."""
    try:
        _try_out(device)
    except HardwareError as error:
        return str(error)
    return ""


def _try_out(device: cl.Device) -> None:
    """Build and run a tiny kernel."""
    if is_of_pypi(device) and (problem := linker_problem()):
        raise HardwareError(
            f"{device.name.strip()}: PoCL cannot link kernels ({problem}): "
            "install gcc and what is needed to link with the C library; on Debian apt install gcc libc6-dev"
        )
    _run_trial(device)


def try_out_pocl() -> None:
    """The same with the PoCL of PyPI, without asking whether it can: where it cannot, this process ends by a signal."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # and leaves no core file of 200 MB where it was started
    for _, device in list_devices():
        if is_of_pypi(device):
            _run_trial(device)
            return


def _run_trial(device: cl.Device) -> None:
    name_processor(device)
    try:
        with inherited_name("opencl"):
            context = cl.Context([device])
            queue = cl.CommandQueue(context)
        program = cl.Program(context, _TRIAL).build(cache_dir=False)
        out = np.zeros(4, dtype=np.int32)
        buffer = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, out.nbytes)
        cl.Kernel(program, "trial")(queue, out.shape, None, buffer)
        cl.enqueue_copy(queue, out, buffer)
    except cl.Error as error:
        raise HardwareError(f"{device.name.strip()}: it cannot run a kernel: {_first_line(error)}") from None
    if not np.all(out == 42):
        raise HardwareError(f"{device.name.strip()}: a trial kernel gave a wrong result")


def _first_line(error: cl.Error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def build(context: cl.Context, names: tuple[str, ...], defines: Mapping[str, int | str]) -> cl.Program:
    """Build the named `.cl` files, in that order, as one program, with these macros defined.

    Sums are to be the same on every device, so divisions and roots are correctly rounded where the device can.
    """
    folder = resources.files(__package__) / "kernels"
    source = "\n".join((folder / f"{name}.cl").read_text(encoding="utf-8") for name in names)
    (device,) = context.devices
    options = ["-cl-std=CL1.2", "-w", *(f"-D{name}={value}" for name, value in defines.items())]
    if device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT:
        options.append("-cl-fp32-correctly-rounded-divide-sqrt")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            return cl.Program(context, source).build(options)
    except cl.Error as error:
        raise HardwareError(f"{device.name.strip()}: the kernels cannot be built: {error}") from None
