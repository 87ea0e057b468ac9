"""Reading CBOR (RFC 8949) without copying the pixels.

Libraries copy every byte string, and act on tags that a detector never sends (regular expressions, shared
references, huge decimals). This reader hands byte strings out as views into the message, keeps tags as they
are, and bounds nesting and number of items, so that no message can cost more than its own size.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

MAX_DEPTH = 64
MAX_ITEMS = 65536

_UINT = {24: struct.Struct(">B"), 25: struct.Struct(">H"), 26: struct.Struct(">I"), 27: struct.Struct(">Q")}
_FLOAT = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_SIMPLE = {20: False, 21: True, 22: None, 23: None}  # 23 is `undefined`
_INDEFINITE = 31
_BREAK = object()


class CborError(ValueError):
    """The bytes are not the CBOR that this reader takes; the text says where and why."""


class Tagged(NamedTuple):
    """A tagged item, its tag not interpreted."""

    tag: int
    value: Any


def loads(message: bytes | memoryview) -> Any:
    """Decode one CBOR item that fills `message`.

    Parameters
    ----------
    message : bytes-like
        Kept alive by the byte strings of the result.

    Returns
    -------
    dict, list, str, int, float, bool, None, memoryview or Tagged
        Byte strings are `memoryview`s into `message`; map keys are text or integers.

    Raises
    ------
    CborError
        Truncated or malformed bytes, bytes left over, deeper than `MAX_DEPTH`, more than `MAX_ITEMS` items.
    """
    reader = _Reader(message)
    value = reader.item(0)
    if value is _BREAK:
        raise CborError("a break code where an item should be, at byte 0")
    if reader.position != reader.size:
        raise CborError(f"{reader.size - reader.position} bytes are left over behind the item")
    return value


class _Reader:
    def __init__(self, message: bytes | memoryview) -> None:
        self.view = memoryview(message).toreadonly().cast("B")
        self.size = len(self.view)
        self.position = 0
        self.items = 0

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        start, end = self.position, self.position + count
        if end > self.size:
            raise CborError(f"truncated: byte {start} begins {count} bytes, but only {self.size - start} are left")
        self.position = end
        return self.view[start:end]

    def item(self, depth: int) -> Any:
        self.items += 1
        if self.items > MAX_ITEMS:
            raise CborError(f"more than {MAX_ITEMS} items")
        if depth > MAX_DEPTH:
            raise CborError(f"nested deeper than {MAX_DEPTH}")
        start = self.position
        if start >= self.size:
            raise CborError(f"truncated: it ends at byte {start}, where an item should begin")
        self.position = start + 1
        head = self.view[start]
        major, info = head >> 5, head & 31
        if info < 24 and major != 7:
            argument = info
        elif major == 7:
            return self.simple(info, start)
        elif info == _INDEFINITE and major in (2, 3, 4, 5):
            argument = None
        else:
            argument = self.argument(info, start)
        if major == 0:
            return argument
        if major == 3:
            return self.text(argument, depth, start)
        if major == 4:
            return self.array(argument, depth)
        if major == 5:
            return self.map(argument, depth)
        if major == 6:
            return Tagged(argument, self.content(depth))
        if major == 1:
            return -1 - argument
        return self.take(argument) if argument is not None else memoryview(b"".join(self.chunks(major, depth)))

    def content(self, depth: int) -> Any:
        """An item inside of another one, where a break code is an error."""
        value = self.item(depth + 1)
        if value is _BREAK:
            raise CborError(f"a break code where an item should be, at byte {self.position - 1}")
        return value

    def argument(self, info: int, start: int) -> int:
        if info < 24:
            return info
        if info not in _UINT:
            raise CborError(f"a reserved length code ({info}) at byte {start}")
        return self.number(_UINT[info])

    def number(self, code: struct.Struct) -> Any:
        """The next bytes as a number."""
        start = self.position
        if start + code.size > self.size:
            self.take(code.size)  # raises
        self.position = start + code.size
        return code.unpack_from(self.view, start)[0]

    def simple(self, info: int, start: int) -> Any:
        if info in _SIMPLE:
            return _SIMPLE[info]
        if info in _FLOAT:
            return self.number(_FLOAT[info])
        if info == _INDEFINITE:
            return _BREAK
        raise CborError(f"an unknown simple value ({info}) at byte {start}")

    def text(self, length: int | None, depth: int, start: int) -> str:
        data = self.take(length) if length is not None else b"".join(self.chunks(3, depth))
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise CborError(f"the text at byte {start} is not UTF-8: {error.reason}") from None

    def chunks(self, major: int, depth: int) -> list[memoryview]:
        """The pieces of a byte or text string of indefinite length."""
        pieces = []
        while True:
            self.items += 1
            if self.items > MAX_ITEMS:
                raise CborError(f"more than {MAX_ITEMS} items")
            start = self.position
            head = self.take(1)[0]
            if head == 0xFF:
                return pieces
            if head >> 5 != major or head & 31 == _INDEFINITE:
                raise CborError(f"a string of indefinite length holds something else at byte {start}")
            pieces.append(self.take(self.argument(head & 31, start)))

    def array(self, length: int | None, depth: int) -> list[Any]:
        # one by one: a list of the stated length could be far bigger than the message
        values: list[Any] = []
        while length is None or len(values) < length:
            value = self.item(depth + 1)
            if value is _BREAK:
                if length is None:
                    break
                raise CborError(f"a break code where an item should be, at byte {self.position - 1}")
            values.append(value)
        return values

    def map(self, length: int | None, depth: int) -> dict[str | int, Any]:
        values: dict[str | int, Any] = {}
        while length is None or len(values) < length:
            start = self.position
            key = self.item(depth + 1)
            if key is _BREAK and length is None:
                break
            if not isinstance(key, str | int):
                raise CborError(f"the map key at byte {start} is neither text nor integer")
            if key in values:
                raise CborError(f"the map key {key!r} at byte {start} occurs twice")
            values[key] = self.content(depth)
        return values
