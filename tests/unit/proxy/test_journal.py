"""What servers write on their standard error: kept, passed on, and never in the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from supervisor.proxy import journal
from supervisor.proxy.journal import Journal


@contextlib.contextmanager
def our_errors() -> Iterator[int]:
    """The reading end of our own standard error."""
    read, write = os.pipe()
    saved = os.dup(2)
    os.dup2(write, 2)
    os.close(write)
    os.set_blocking(read, False)
    try:
        yield read
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(read)


def test_lines_are_kept_up_to_a_number_and_followers_get_each() -> None:
    made, heard = Journal(quiet=True), list[bytes]()
    made.followers["s"] = [heard.append, lambda _: made.followers["s"].clear()]
    made.add("s", b"first\r\n")
    for n in range(journal.KEPT):
        made.add("s", b"%d\n" % n)
    assert heard == [b"first"]
    assert made.lines("s")[0] == b"0"
    assert len(made.lines("s")) == journal.KEPT
    assert made.lines("other") == []


def test_what_is_passed_on_names_its_server_and_cannot_act_on_a_terminal() -> None:
    with our_errors() as errors:
        Journal().add("s", b"\x1b[31mred\xff\n")
        assert os.read(errors, 1000) == "[s] \\x1b[31mred\ufffd\n".encode()


def test_every_line_is_one_line_however_long() -> None:
    with our_errors() as errors:
        Journal().add("s", b"\x1b" * 10_000)
        line = os.read(errors, 10_000)
    assert (len(line), line.count(b"\n"), line[-1:]) == (journal.LINE, 1, b"\n")


def test_a_quiet_line_is_kept_and_not_passed_on() -> None:
    with our_errors() as errors:
        made = Journal()
        made.add("s", b"quiet\n", False)
        assert made.lines("s") == [b"quiet"]
        with pytest.raises(BlockingIOError):
            os.read(errors, 1)


def test_a_reader_that_does_not_read_costs_lines_and_nothing_else() -> None:
    with our_errors():
        made = Journal()
        for _ in range(1000):
            made.add("s", b"x" * 1000)
    assert len(made.lines("s")) == 1000


def test_without_a_standard_error_lines_are_kept() -> None:
    saved = os.dup(2)
    os.close(2)
    try:
        made = Journal()
        made.add("s", b"x\n")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    assert made.lines("s") == [b"x"]
