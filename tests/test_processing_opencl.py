"""Choosing OpenCL devices: several platforms, broken drivers, devices that do not work, parts of a device."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pyopencl as cl
import pytest
from framesieve.processing import opencl, pocl_linker
from framesieve.processing.errors import ConfigurationError, HardwareError
from framesieve.processing.opencl import choose_device, choose_devices, list_devices

KINDS = {"cpu": cl.device_type.CPU, "gpu": cl.device_type.GPU, "accelerator": cl.device_type.ACCELERATOR}


class FakeDevice:
    """What the choice looks at; `works` False: no kernel runs on it. `bus` None: the driver does not tell the place."""

    def __init__(self, name, kind="gpu", units=10, bus=None, works=True, domain=0):
        self.name, self.type, self.max_compute_units, self.works = name, KINDS[kind], units, works
        if bus is not None:
            self.pci_domain_id_nv, self.pci_bus_id_nv, self.pci_slot_id_nv = domain, bus, 0


class FakePlatform:
    def __init__(self, name, *devices, error=None):
        self.name, self._devices, self._error = name, devices, error

    def get_devices(self):
        if self._error:
            raise self._error
        return list(self._devices)


@pytest.fixture
def computer(monkeypatch):
    """Makes the platforms of a computer."""

    def make(*platforms):
        def try_out(device):
            if not device.works:
                raise HardwareError("it smokes")

        monkeypatch.setattr(cl, "get_platforms", lambda: list(platforms))
        monkeypatch.setattr(opencl, "_try_out", try_out)

    return make


def names(choice: str) -> list[str]:
    """The choice as numbers; not from the cache."""
    return [one.name.split(" ")[0] for one in choose_devices.__wrapped__(choice)]


def refused(choice: str) -> str:
    with pytest.raises((ConfigurationError, HardwareError)) as caught:
        choose_devices.__wrapped__(choice)
    return str(caught.value)


A100, CPU = "NVIDIA A100", "AMD EPYC"


def device_error(text="DEVICE_NOT_FOUND"):
    return cl.RuntimeError(text)


# ---- one device -----------------------------------------------------------------------------------------------------


def test_auto_takes_the_fastest_kind_and_then_the_largest(computer):
    computer(
        FakePlatform("Portable Computing Language", FakeDevice(CPU, "cpu", 128)),
        FakePlatform("NVIDIA CUDA", FakeDevice("T4", units=40), FakeDevice(A100, units=108)),
        FakePlatform("Intel", FakeDevice("Intel(R) FPGA Emulation Device", "accelerator", 500)),
    )
    assert names("auto") == names("") == names(" AUTO ") == ["1:1"]


def test_auto_passes_over_what_does_not_work_and_says_so(computer, caplog):
    computer(FakePlatform("NVIDIA CUDA", FakeDevice(A100, works=False)), FakePlatform("PoCL", FakeDevice(CPU, "cpu")))
    assert names("auto") == ["1:0"]
    assert "0:0 NVIDIA CUDA: NVIDIA A100" in caplog.text and "it smokes" in caplog.text


def test_two_platforms_of_one_name_are_told_apart_by_number(computer, caplog):
    computer(
        FakePlatform("NVIDIA CUDA", FakeDevice("T4")),
        FakePlatform("NVIDIA CUDA", FakeDevice(A100)),
        FakePlatform("NVIDIA CUDA", FakeDevice(A100)),
    )
    assert [names("0:0"), names("1:0"), names("2:0")] == [["0:0"], ["1:0"], ["2:0"]]
    assert caplog.text == ""
    assert names("nvidia:a100") == ["1:0"]
    assert "fits 1:0 NVIDIA CUDA: NVIDIA A100; 2:0" in caplog.text and "is taken" in caplog.text


def test_of_two_that_fit_the_first_that_works_is_taken(computer, caplog):
    computer(FakePlatform("NVIDIA CUDA", FakeDevice(A100, works=False)), FakePlatform("NVIDIA CUDA", FakeDevice(A100)))
    assert names("nvidia:a100") == ["1:0"]
    assert "0:0" in caplog.text and "1:0 NVIDIA CUDA: NVIDIA A100 is taken" in caplog.text
    message = refused("0:0")  # asked for by number: no other will do
    assert "it smokes" in message and "1:0 NVIDIA CUDA: NVIDIA A100 (works)" in message


def test_errors_list_what_there_is_and_what_works(computer):
    computer(
        FakePlatform("NVIDIA CUDA", FakeDevice(A100, works=False)),
        FakePlatform("Broken", error=device_error()),
        FakePlatform("PoCL", FakeDevice(CPU, "cpu")),
    )
    for choice in ("amd:", "1:0", "nonsense"):
        message = refused(choice)
        assert f"opencl_device = '{choice}'" in message
        assert "0:0 NVIDIA CUDA: NVIDIA A100 (it smokes)" in message
        assert "platform 1 Broken has no device" in message and "DEVICE_NOT_FOUND" in message
        assert "2:0 PoCL: AMD EPYC (works)" in message
    assert names("2:0") == ["2:0"]


def test_nothing_works(computer):
    computer(FakePlatform("NVIDIA CUDA", FakeDevice(A100, works=False)), FakePlatform("Broken", error=device_error()))
    for choice in ("auto", "all"):
        message = refused(choice)
        assert "no OpenCL device works: 0:0 NVIDIA CUDA: NVIDIA A100 (it smokes); platform 1 Broken" in message


def test_platforms_without_devices(computer):
    computer(FakePlatform("NVIDIA CUDA", error=device_error()))
    message = refused("auto")
    assert "no OpenCL device: install the driver" in message and "platform 0 NVIDIA CUDA has no device" in message


# ---- several devices ------------------------------------------------------------------------------------------------


def test_all_are_the_gpus_and_accelerators(computer):
    computer(
        FakePlatform("PoCL", FakeDevice(CPU, "cpu", 64)),
        FakePlatform(
            "NVIDIA CUDA", FakeDevice(A100, bus=1), FakeDevice(A100, bus=2), FakeDevice(A100, bus=2, domain=1)
        ),
        FakePlatform("Other", FakeDevice("Card", "accelerator", 5)),
        FakePlatform("Intel", FakeDevice("Intel(R) FPGA Emulation Device", "accelerator", 500)),
    )
    assert names("all") == ["1:0", "1:1", "1:2", "2:0"]


def test_all_without_gpu_is_one_cpu(computer):
    computer(
        FakePlatform("PoCL", FakeDevice("pthread-AMD EPYC", "cpu", 64)),
        FakePlatform("Intel(R) OpenCL", FakeDevice("AMD EPYC 7502", "cpu", 64)),
        FakePlatform("Intel", FakeDevice("Intel(R) FPGA Emulation Device", "accelerator", 64)),
    )
    assert names("all") == ["0:0"]


@pytest.mark.parametrize("told", [True, False], ids=["place is told", "place is not told"])
def test_a_device_that_two_platforms_offer_is_used_once(computer, told):
    """Two drivers of one name for the same two cards, in another order where they tell which is which."""
    buses = (3, 4) if told else (None, None)
    here = [FakeDevice(A100, bus=bus) for bus in buses]
    there = [FakeDevice(A100, bus=bus) for bus in reversed(buses)]
    computer(FakePlatform("NVIDIA CUDA", *here), FakePlatform("NVIDIA CUDA", *there))
    assert names("all") == ["0:0", "0:1"]


def test_equal_cards_of_one_driver_are_two(computer):
    computer(FakePlatform("NVIDIA CUDA", FakeDevice(A100), FakeDevice(A100)))
    assert names("all") == ["0:0", "0:1"]


def test_the_second_platform_serves_where_the_first_fails(computer, caplog):
    computer(
        FakePlatform("NVIDIA CUDA", FakeDevice(A100, bus=3, works=False), FakeDevice("T4", bus=4, units=4)),
        FakePlatform("PoCL", FakeDevice(A100, bus=3)),
    )
    assert names("all") == ["1:0", "0:1"]
    assert "0:0 NVIDIA CUDA: NVIDIA A100 is left out: it smokes" in caplog.text


def test_gpus_that_fail_leave_a_cpu(computer):
    computer(
        FakePlatform("NVIDIA CUDA", FakeDevice(A100, works=False)),
        FakePlatform("PoCL", FakeDevice(CPU, "cpu")),
        FakePlatform("PoCL", FakeDevice(CPU, "cpu")),
    )
    assert names("all") == ["1:0"]


def test_places_that_amd_tells(computer):
    def card(bus):
        device = FakeDevice("gfx90a")
        device.topology_amd = SimpleNamespace(bus=bus, device=0, function=0)
        return device

    computer(FakePlatform("AMD", card(1), card(2)), FakePlatform("AMD", card(2), card(3)))
    assert names("all") == ["0:0", "0:1", "1:1"]


def test_a_list(computer):
    computer(
        FakePlatform("NVIDIA CUDA", FakeDevice(A100), FakeDevice(A100)), FakePlatform("PoCL", FakeDevice(CPU, "cpu"))
    )
    assert names("0:1, pocl:,0:0") == ["0:1", "1:0", "0:0"]
    assert "0:1 NVIDIA CUDA: NVIDIA A100 is named twice" in refused("0:1,0:0,0:1")
    for wrong in ("0:0,", "0:0,auto", "all,0:0", "0:0 1:0,1"):
        assert "PLATFORM:DEVICE/PARTS" in refused(wrong) or "no such device" in refused(wrong)
    assert "no such device" in refused("0:0,7:0")


# ---- the devices of this computer -----------------------------------------------------------------------------------


def test_parts_of_a_device():
    whole = choose_device("0:0")
    units = whole.device.max_compute_units
    if not whole.is_cpu or units < 2:
        pytest.skip("the device cannot be divided")
    parts = choose_devices("0:0/2")
    assert [part.name for part in parts] == [
        whole.name.replace("0:0 ", "0:0/2 ", 1) + f", part {k}" for k in (1, 2)
    ]  # fmt: skip
    for part in parts:
        assert part.device.parent_device == whole.device
        assert part.device.max_compute_units == units // 2
    assert parts[0].device != parts[1].device
    for wrong in ("0:0/0", f"0:0/{units + 1}"):
        assert f"1 to {units} parts" in refused(wrong)
    assert "named twice" in refused("0:0/2,0:0")


def test_what_cannot_be_divided(computer, monkeypatch):
    def refuse(properties):
        raise cl.LogicError("INVALID_VALUE")

    device = FakeDevice(A100)
    device.create_sub_devices = refuse
    computer(FakePlatform("NVIDIA CUDA", device))
    message = refused("0:0/2")
    assert "0:0 NVIDIA CUDA: NVIDIA A100 cannot be divided" in message and "INVALID_VALUE" in message


ASK = """
import sys
from framesieve.processing.errors import FrameSieveError
from framesieve.processing.opencl import choose_devices
try:
    for device in choose_devices(sys.argv[1]):
        print(device.name)
except FrameSieveError as error:
    print("refused:", error)
"""


def ask(choice: str, vendors) -> str:
    environment = os.environ | {"OCL_ICD_VENDORS": str(vendors)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, choice], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_drivers_that_cannot_be_loaded(tmp_path):
    """PoCL from PyPI is found whatever the registered drivers are."""
    if not any("Portable" in name for name, _ in list_devices()):
        pytest.skip("there is no PoCL")
    (tmp_path / "gone.icd").write_text("/nowhere/libgone.so\n")
    (tmp_path / "text.icd").write_text(f"{tmp_path / 'readme.txt'}\n")
    (tmp_path / "readme.txt").write_text("this is no library")
    (tmp_path / "empty.icd").write_text("")
    assert "Portable Computing Language" in ask("auto", tmp_path)
    assert "Portable Computing Language" in ask("all", tmp_path)
    message = ask("gone:", tmp_path)
    assert message.startswith("refused: opencl_device = 'gone:': no such device; there are: 0:0 Portable")
    assert "(works)" in message
    assert f"{tmp_path / 'gone.icd'} names /nowhere/libgone.so, which cannot be loaded" in message
    assert f"{tmp_path / 'text.icd'} names {tmp_path / 'readme.txt'}, which cannot be loaded" in message
    assert "empty.icd" in message


def test_a_library_that_is_no_opencl_driver(tmp_path):
    import _ctypes

    (tmp_path / "wrong.icd").write_text(f"{_ctypes.__file__}\n")
    assert "Portable Computing Language" in ask("auto", tmp_path)


def test_no_driver_at_all(computer, tmp_path, monkeypatch):
    computer()
    (tmp_path / "gone.icd").write_text("libgone.so.1")
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    message = refused("auto")
    assert "no OpenCL device: install the driver" in message
    assert "gone.icd names libgone.so.1, which cannot be loaded" in message


def test_get_platforms_fails(monkeypatch):
    def fail():
        raise cl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(cl, "get_platforms", fail)
    assert "no OpenCL device" in refused("all")


def test_a_trial_kernel_that_computes_nonsense(monkeypatch):
    monkeypatch.setattr(opencl, "_TRIAL", opencl._TRIAL.replace("42", "41"))
    assert "wrong result" in refused("auto")


@pytest.fixture
def pocl_device() -> cl.Device:
    """Of the PoCL of PyPI, which can link here."""
    platforms = [one for one in cl.get_platforms() if "PoCL 3." in one.version]
    if not platforms:
        pytest.skip("PoCL is not that of PyPI")
    device = platforms[0].get_devices()[0]
    opencl._try_out(device)
    return device


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (None, "there is no linker ld in PATH"),
        (
            "ld: cannot find -lgcc_s: No such file\nld: cannot find -lc: No such file\nld: cannot find -lc\n",
            "the linker ld does not find -lgcc_s, -lc",
        ),
    ],
)
def test_a_pocl_that_cannot_link_is_refused(pocl_device, monkeypatch, tmp_path, says, reason):
    """It would end the process with the first kernel."""
    if says is not None:
        (tmp_path / "ld").write_text(f"#!/bin/sh\nprintf '{says}' >&2\nexit 1\n")
        (tmp_path / "ld").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HardwareError, match=rf"PoCL cannot link kernels \({reason}\): .* apt install gcc libc6-dev"):
        opencl._try_out(pocl_device)


def test_where_nothing_can_be_tried_out_pocl_is_believed(monkeypatch):
    """A server may have no directory for temporary files."""

    def none(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(pocl_linker.tempfile, "TemporaryDirectory", none)
    assert pocl_linker.linker_problem() == ""


def test_a_pocl_that_can_link_is_believed(pocl_device, monkeypatch):
    """Also where it finds gcc at places that are not looked at here; a process is spent on it in this case only."""
    monkeypatch.setattr(pocl_linker, "_folders", lambda: ["/nowhere"])
    assert not pocl_linker._links() and pocl_linker.linker_problem() == ""
    monkeypatch.undo()
    monkeypatch.setattr(pocl_linker, "_problem_of_a_kernel", lambda: "asked in vain")
    assert pocl_linker.linker_problem() == ""
