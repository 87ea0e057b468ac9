"""Every message that users can meet has a row in docs/troubleshooting.md, and every row is about one that there is."""

from __future__ import annotations

import pytest
from messages_in_code import PAGE, covers, messages, quotations, strings, uncovered

#: met by who writes code that uses the package, or only as a part of another message
INTERNAL = {
    "…: begin() comes first",
    "…: a run has begun in this file already",
    "… is closed",
    "the file is not open",
    "the stream is not open",
    "… is not open",
    "… has not been started",
    "it is cut off",
    "unknown parameter …",
    "the dark image has … pixels, the frames have …",
    "… peaks of SNR … and width …: positive, lowest SNR first",
    "… peaks: there is room for … on this detector",
}

#: said by other programs, in rows of ours
FOREIGN = {
    "can't synchronously read data … filter …",
    "not enough values to unpack (expected 2, got 1)",
    "Device not available any more. Please fix exception reason",
}


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_message_has_a_row():
    missing = {text: where for text, where in uncovered(page()).items() if text not in INTERNAL}
    assert not missing, f"add rows to {PAGE.name}, or change those that were meant for these messages"


def test_internal_messages_are_few_and_there():
    assert set(messages()) >= INTERNAL
    assert set(uncovered(page())) >= INTERNAL  # what has a row need not be on the list


def test_every_row_is_about_a_message_that_there_is():
    quotes = set(quotations(page())) - FOREIGN
    assert len(quotes) > 250
    assert not {quote for quote in quotes if not any(covers(quote, text) for text in strings())}


def test_most_messages_are_seen():
    """The reading of the code has not gone blind."""
    found = messages()
    assert len(found) > 400
    for text in (
        "source is not set (accepted: …)",  # ConfigurationError of an f-string
        "… = … was written, but it is … already",  # ReductionError(REASON, text)
        "Frames are being lost: see frames_lost and frames_dropped.",  # a line of Status
        "… failed on a batch: …",  # the log, with %s
    ):
        assert text in found


@pytest.mark.parametrize(
    ("quote", "message", "is_covered"),
    [
        ("… = … has … pixels", "… = … has … pixels, the detector has …", True),
        ("the detector has … pixels", "… has … pixels, the detector has …", False),  # another order
        ("… = …: …", "… = …: accepted is …", False),  # it would cover anything
    ],
)
def test_what_covers(quote, message, is_covered):
    assert covers(quote, message) is is_covered
