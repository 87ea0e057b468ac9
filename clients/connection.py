"""The devices of one pipeline: found, asked, and asked again when their server has been restarted."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tango

from .errors import NotReachedError, ReductionError, UnknownNameError, as_python, is_slow, is_unreachable

#: class → what the client calls the device
MEMBERS = {
    "AcquisitionDevice": "acquisition",
    "SparsifierDevice": "sparsifier",
    "PeakFinderDevice": "peakfinder",
    "VetoDevice": "veto",
    "CalibrationDevice": "calibration",
}
#: those that every server has
NEEDED = ("acquisition", "sparsifier", "peakfinder", "veto")
_ADDRESS = re.compile(r"(?P<prefix>tango://[^/]+/)?(?P<name>[^/#]+(/[^/#]+/[^/#]+)?)(?P<suffix>#dbase=(no|yes))?", re.I)
_PAUSE = 0.2  # s between two tries
_ONLY_OF_TANGO = ("State", "Status")  # attributes that every device has

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of one of the devices, as the device describes it.

    Attributes
    ----------
    device
        acquisition, sparsifier, peakfinder, veto or calibration.
    name
        Its name there.
    writable
        Whether it is a setting.
    kind
        Its type in Tango.
    labels
        What an enum can be, in the order of its numbers; empty for others.
    label
        What panels call it; some units are in it, in brackets.
    unit
        As `pint` understands it, or empty.
    description
        What it means; of a setting also what is accepted.
    """

    device: str
    name: str
    writable: bool
    kind: tango.CmdArgType
    labels: tuple[str, ...]
    label: str
    unit: str
    description: str


class Connection:
    """Proxies of the devices of one server, and the names of their attributes.

    Parameters
    ----------
    address
        A domain (`id00`: the device `id00/framesieve/acquisition`), or the full name of any device of the server; with
        `tango://HOST:PORT/` in front of it where it is not in the database of $TANGO_HOST, and `#dbase=no` after it
        where there is no database.
    timeout
        Seconds that a device may take to answer.
    patience
        Seconds for which a server that does not answer is tried again.
    check
        Called before each further try; what it raises ends the trying.

    Raises
    ------
    ReductionError
        The address cannot be understood, or the devices are not there.
    """

    def __init__(
        self, address: str, *, timeout: float = 3.0, patience: float = 10.0, check: Callable[[], None] | None = None
    ) -> None:
        matched = _ADDRESS.fullmatch(address.strip())
        if matched is None:
            raise ReductionError(
                "CONFIGURATION_ERROR",
                f"{address!r}: accepted is a domain (id00) or the name of a device (id00/framesieve/acquisition), with "
                "tango://HOST:PORT/ in front and #dbase=no behind where there is no database",
            )
        self.address = address
        self.timeout, self.patience, self._check = timeout, patience, check
        self._prefix, self._suffix = matched["prefix"] or "", matched["suffix"] or ""
        name = matched["name"] if "/" in matched["name"] else f"{matched['name']}/framesieve/acquisition"
        self.devices = self._find(name)
        self._attributes: dict[str, Attribute] = {}
        self._ambiguous: dict[str, list[str]] = {}
        for member in self.devices:
            self._learn(member)

    # ---- which devices there are -----------------------------------------------------------------------------

    def _find(self, name: str) -> dict[str, tango.DeviceProxy]:
        """The devices that are served together with this one, whatever they are called."""
        one = self._proxy(name)
        admin = self._proxy(self.reach(one.adm_name))
        found = {}
        for line in self.reach(lambda: admin.command_inout("QueryDevice")):
            device_class, _, device = line.partition("::")
            if device_class in MEMBERS:
                found[MEMBERS[device_class]] = self._proxy(device)
        missing = [member for member in NEEDED if member not in found]
        if missing:
            raise ReductionError(
                "CONFIGURATION_ERROR",
                f"{self.address}: the server {admin.dev_name()} has no {', '.join(missing)} device; is it FrameSieve?",
            )
        return found

    def _proxy(self, name: str) -> tango.DeviceProxy:
        if name.startswith("tango:"):
            name = _ADDRESS.fullmatch(name)["name"]
        proxy = self.reach(lambda: tango.DeviceProxy(f"{self._prefix}{name}{self._suffix}"))
        proxy.set_timeout_millis(round(1e3 * self.timeout))
        return proxy

    def _learn(self, member: str) -> None:
        for config in self.reach(self.devices[member].attribute_list_query_ex):
            if config.name in _ONLY_OF_TANGO:
                continue
            attribute = Attribute(
                device=member,
                name=config.name,
                writable=config.writable != tango.AttrWriteType.READ,
                kind=tango.CmdArgType.values[config.data_type],
                labels=tuple(config.enum_labels),
                label=config.label,
                unit="" if config.unit == "No unit" else config.unit,
                description=config.description,
            )
            self._attributes[f"{member}_{attribute.name}"] = attribute
            if attribute.name in self._ambiguous:
                self._ambiguous[attribute.name].append(member)
            elif attribute.name in self._attributes:
                self._ambiguous[attribute.name] = [self._attributes.pop(attribute.name).device, member]
            else:
                self._attributes[attribute.name] = attribute

    # ---- names -----------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The shortest name of each attribute, device by device."""
        short = {}
        for name, attribute in self._attributes.items():
            if (attribute.device, attribute.name) not in short or name == attribute.name:
                short[attribute.device, attribute.name] = name
        return list(short.values())

    def attribute(self, name: str) -> Attribute:
        """The attribute of a name: its own, or `<device>_<name>`, which two devices with one name need."""
        try:
            return self._attributes[name]
        except KeyError:
            pass
        if name in self._ambiguous:
            full = " or ".join(f"{member}_{name}" for member in self._ambiguous[name])
            raise UnknownNameError(f"{name} is an attribute of several devices: say {full}")
        near = difflib.get_close_matches(name, self._attributes, n=3)
        hint = f"; do you mean {' or '.join(near)}?" if near else ""
        raise UnknownNameError(f"{name} is not an attribute of {self.address}{hint}")

    def setting(self, name: str) -> Attribute:
        """The same, refused where it cannot be written."""
        attribute = self.attribute(name)
        if not attribute.writable:
            raise UnknownNameError(f"{name} can be read only; it is not a setting")
        return attribute

    # ---- asking ----------------------------------------------------------------------------------------------

    def reach(self, ask: Callable[[], Answer], *, again: bool = True) -> Answer:
        """What `ask` returns; tried again for `patience` seconds while nobody answers, so that a server that is being
        restarted, or is busy, goes unnoticed. Not `again`: only where it is sure that the request has not arrived."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return ask()
            except tango.DevFailed as error:
                not_arrived = error.args[0].reason.startswith(("API_CantConnect", "API_DeviceNotExported"))
                worth_it = not_arrived or (again and (is_unreachable(error) or is_slow(error)))
                if not worth_it or time.monotonic() > deadline:
                    raise self._explained(error) from None
            time.sleep(_PAUSE)
            if self._check is not None:
                self._check()

    def _explained(self, error: tango.DevFailed) -> ReductionError:
        plain = as_python(error)
        if is_slow(error):
            return NotReachedError(
                plain.reason, f"{self.address}: the server is there, but does not answer within {self.timeout:g} s"
            )
        if isinstance(plain, NotReachedError):
            first = plain.description.splitlines()[0]
            return NotReachedError(plain.reason, f"{self.address}: not reached within {self.patience:g} s ({first})")
        return plain

    def read(self, name: str) -> Any:
        """The value of an attribute; None while it has none."""
        attribute = self.attribute(name)
        value = self.read_several(attribute.device, [attribute.name])[0]
        if attribute.labels and value is not None:
            return attribute.labels[int(value)]
        return value

    def read_several(self, device: str, names: list[str]) -> list[Any]:
        """Values of attributes of one device, in one request."""
        return self.reach(lambda: [answer.value for answer in self.devices[device].read_attributes(names)])

    def write(self, attribute: Attribute, value: Any) -> None:
        try:
            self.reach(lambda: self.devices[attribute.device].write_attribute(attribute.name, value))
        except (TypeError, ValueError, OverflowError) as error:
            # PyTango's own, before anything is sent
            raise ReductionError("DATA_OUT_OF_RANGE", f"{attribute.name} = {value!r}: {_sentence(error)}") from None

    def command(self, name: str, argument: Any = None, *, again: bool = True) -> Any:
        """A command of the acquisition device."""
        return self.reach(lambda: self.devices["acquisition"].command_inout(name, argument), again=again)


def _sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
