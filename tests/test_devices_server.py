"""The server as a program: with a database, without one, with a property file; restarted."""

import subprocess
import sys
from pathlib import Path

import pytest
import tango
from devices_helpers import DEVICES, FAKE_RUN, MEMBERS, ON_FAKE, refused, wait_until, without_database
from framesieve.devices.properties import PROPERTIES
from framesieve.devices.server import CLASSES, with_endpoint
from framesieve.tango_db.embedded import EmbeddedDatabase, ServerProcess
from tango import DevState


@pytest.fixture
def database(monkeypatch):
    """A Tango database that knows the four devices of `FrameSieve/test`."""
    with EmbeddedDatabase() as embedded:
        monkeypatch.setenv("TANGO_HOST", embedded.host)
        database = embedded.database()
        for cls, member in MEMBERS.items():
            info = tango.DbDevInfo()
            info.server, info._class, info.name = "FrameSieve/test", cls, f"test/framesieve/{member}"
            database.add_device(info)
        yield embedded


def proxies(database):
    return [tango.DeviceProxy(f"tango://{database.host}/test/framesieve/{member}") for member in MEMBERS.values()]


def test_settings_survive_a_restart(database, tmp_path):
    mask = tmp_path / "mask.npy"
    mask.write_text("x")
    with ServerProcess("test", database.host, server=ON_FAKE) as server:
        acquisition, sparsifier, peakfinder, veto = proxies(database)
        acquisition.mask = str(mask)
        acquisition.dark = str(mask)
        acquisition.dark = ""
        acquisition.solid_angle = True
        acquisition.polarization = 0.99
        acquisition.number_of_frames = 12
        sparsifier.error_model = "hybrid"
        sparsifier.radial_bins = 500
        peakfinder.patch_size = 9
        peakfinder.min_pixels = 70
        veto.enabled = False
        veto.min_peaks = 4
        veto.max_peaks = 8
        acquisition.SaveSettings("first")
        acquisition.Start()
        acquisition.Stop()
        wait_until(lambda: memorised(database, "acquisition", "saving_next_number") == "1")
        mask.unlink()
        server.restart()

        assert acquisition.state() == DevState.STANDBY
        assert "mask.npy" in acquisition.status()
        assert (acquisition.mask, acquisition.dark, acquisition.solid_angle) == (str(mask), "", True)
        assert (acquisition.polarization, acquisition.number_of_frames) == (0.99, 0)
        assert acquisition.saving_next_number == 1
        assert (sparsifier.error_model.name, sparsifier.radial_bins) == ("hybrid", 500)
        assert (peakfinder.patch_size, peakfinder.min_pixels) == (9, 70)
        assert (veto.enabled, veto.min_peaks, veto.max_peaks) == (False, 4, 8)
        with refused("CONFIGURATION_ERROR", "mask.npy"):
            acquisition.Prepare()

        # a preset comes back as well, and what it loads is memorised
        mask.write_text("x")
        sparsifier.error_model = "poisson"
        veto.enabled = True
        acquisition.LoadSettings("first")
        server.restart()
        assert (sparsifier.error_model.name, veto.enabled) == ("hybrid", False)
        assert list(acquisition.settings_available) == ["first"]
        assert acquisition.status() == "Idle."


def memorised(database, member, name):
    properties = database.database().get_device_attribute_property(f"test/framesieve/{member}", name)
    return properties[name].get("__value", [None])[0]


def test_a_wrong_property_is_corrected_and_reset(database):
    database.database().put_device_property("test/framesieve/acquisition", {"RingSize": ["many"]})
    with ServerProcess("test", database.host, server=ON_FAKE):
        acquisition, sparsifier, _, _ = proxies(database)
        assert acquisition.state() == sparsifier.state() == DevState.FAULT
        assert "RingSize" in acquisition.status()
        with refused("CONFIGURATION_ERROR", "RingSize"):
            acquisition.Reset()
        database.database().put_device_property("test/framesieve/acquisition", {"RingSize": ["64"]})
        acquisition.Reset()
        assert acquisition.state() == sparsifier.state() == DevState.STANDBY
        assert acquisition.ring_size == 64

        # a value spoilt in the database, taken in by DevRestart while a run is on
        acquisition.Start()
        values = {"snr_clip": {"__value": ["1e9"]}, "noise": {"__value": ["4"]}}
        database.database().put_device_attribute_property("test/framesieve/sparsifier", values)
        tango.DeviceProxy(sparsifier.adm_name()).DevRestart("test/framesieve/sparsifier")
        assert (sparsifier.snr_clip, sparsifier.noise) == (0, 4)
        assert "snr_clip" in sparsifier.status()
        assert acquisition.state() == DevState.RUNNING
        with refused("DATA_OUT_OF_RANGE"):
            sparsifier.snr_clip = -1


@pytest.mark.parametrize(
    "command",
    [
        [str(Path(sys.executable).with_name("FrameSieve"))],
        [sys.executable, "-m", "framesieve.devices.server"],
    ],
    ids=["FrameSieve", "python -m framesieve.devices.server"],
)
def test_without_database(command):
    with without_database(command, "-nodb", "-dlist", ",".join(DEVICES)) as devices:
        acquisition, sparsifier, *_ = devices.all
        assert acquisition.adm_name().lower().split("#")[0].endswith("/dserver/framesieve/test")
        assert acquisition.state() in (DevState.STANDBY, DevState.FAULT)
        sparsifier.noise = 3
        assert sparsifier.noise == 3


LOOPBACK = ["-ORBendPoint", "giop:tcp:127.0.0.1:"]


@pytest.mark.parametrize(
    "arguments, tango_host, added",
    [
        (["a"], "localhost:10000", LOOPBACK),
        (["a", "-v4"], "127.0.0.1:40123", LOOPBACK),
        (["a"], "tango-db.example.org:10000", []),
        (["a"], "localhost:10000,tango-db.example.org:10000", []),
        (["a", "-nodb", "-dlist", "X::a/b/c"], "tango-db.example.org:10000", LOOPBACK),
        (["a", "-nodb", "-port", "15000"], "", ["-host", "127.0.0.1"]),
        (["a", "-file=x.res"], "", LOOPBACK),
        (["a", "-nodb", "-host", "0.0.0.0", "-port", "15000"], "", []),
        (["a", "-ORBendPoint", "giop:tcp::"], "localhost:10000", []),
    ],
)
def test_it_listens_on_loopback_unless_told_otherwise(arguments, tango_host, added):
    assert with_endpoint(arguments, tango_host) == [*arguments, *added]


def test_listening_on_loopback_is_what_the_system_says():
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "framesieve.devices.server", "test", "-nodb", "-dlist", ",".join(DEVICES)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("Ready to accept request" in line for line in server.stdout)
        inodes = {
            link.readlink().name.removeprefix("socket:[").rstrip("]")
            for link in Path(f"/proc/{server.pid}/fd").iterdir()
            if link.readlink().name.startswith("socket:")
        }
        rows = [line.split() for line in Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]]
        listening = {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}
        assert "0100007F" in listening  # 127.0.0.1
        assert "00000000" not in listening
    finally:
        server.kill()
        server.wait()


def test_presets_without_database_are_kept_in_memory():
    with without_database([sys.executable, ON_FAKE], "-nodb", "-dlist", ",".join([*DEVICES, FAKE_RUN])) as devices:
        acquisition = devices.acquisition
        acquisition.SaveSettings("first")
        assert list(acquisition.settings_available) == ["first"]
        assert "in memory only" in acquisition.status()
        acquisition.saving_prefix = "other"
        acquisition.LoadSettings("first")
        assert devices.evaluate("controller.disconnected") == 0
        acquisition.Init()
        assert acquisition.saving_prefix == "frames"
        assert devices.evaluate("controller.disconnected") == 1  # a connection from the last run is not kept


def test_with_a_property_file(tmp_path):
    file = tmp_path / "properties"
    lines = [f"FrameSieve/test/DEVICE/{device.replace('::', ': ')}" for device in (*DEVICES, FAKE_RUN)]
    file.write_text("\n".join([*lines, "test/framesieve/acquisition->RingSize: 17", ""]))
    with without_database([sys.executable, ON_FAKE], f"-file={file}") as devices:
        acquisition, sparsifier, *_ = devices.all
        assert acquisition.ring_size == 17
        sparsifier.noise = 3
        acquisition.mask = ""  # an empty text must not spoil the file
        acquisition.SaveSettings("first, with 'quotes'")
        acquisition.LoadSettings("first, with 'quotes'")
        wait_until(lambda: "mask->__value" not in file.read_text())
    with without_database([sys.executable, ON_FAKE], f"-file={file}") as devices:
        acquisition, sparsifier, *_ = devices.all
        assert acquisition.status() == "Idle."
        assert sparsifier.noise == 3
        assert list(acquisition.settings_available) == ["first, with 'quotes'"]


def test_the_list_of_properties_is_that_of_the_classes():
    for cls in CLASSES:
        declared = {name for name, value in vars(cls).items() if isinstance(value, tango.server.device_property)}
        assert declared == {entry.name for entry in PROPERTIES[cls.__name__]}
        assert all(entry.doc.endswith(".") for entry in PROPERTIES[cls.__name__])
