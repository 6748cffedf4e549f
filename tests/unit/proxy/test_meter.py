"""How much may be written in all and in a second, and which limit a complaint may be about."""

from __future__ import annotations

import pytest

from supervisor.proxy.hints import Hints
from supervisor.proxy.meter import Meter


def test_everything_passes_up_to_the_total_and_nothing_after_it() -> None:
    meter = Meter(10, 1 << 30)
    assert meter.take(b"123456") == b"123456"
    assert meter.take(b"7890") == b"7890"
    assert [meter.over, meter.take(b""), meter.take(b"x"), meter.over] == [False, b"", b"", True]
    assert meter.take(b"y") == b""
    assert "more than 10 bytes" in meter.reason()
    assert "limits.output" in meter.reason()


def test_what_passes_the_total_is_cut_there() -> None:
    meter = Meter(10, 1 << 30)
    assert meter.take(b"123456789012") == b"1234567890"
    assert meter.over


def test_a_second_s_worth_may_come_at_once_and_then_one_has_to_wait() -> None:
    meter = Meter(1 << 30, 1000)
    meter.take(bytes(1000))
    assert meter.wait() == pytest.approx(0, abs=0.1)
    meter.take(bytes(5000))
    assert meter.wait() == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (b"OSError: [Errno 24] Too many open files: 'x'\n", "limits.files"),
        (b"Error: EMFILE: too many open files, open 'x'\n", "limits.files"),
        (b"sh: 1: Cannot fork\n", "limits.pids"),
        (b"write: No space left on device\n", "[tmp]"),
        (b"write: File too large\n", "limits.file_size"),
    ],
)
def test_a_complaint_is_recognised_however_it_arrives(text: bytes, limit: str) -> None:
    for size in (1, 7, len(text)):
        hints = Hints()
        for start in range(0, len(text), size):
            hints.look(text[start : start + size])
        assert len(hints.found) == 1
        assert limit in hints.found[0]


def test_a_complaint_is_told_once() -> None:
    hints = Hints()
    assert hints.look(b"too many open files\n")
    assert not hints.look(b"too many open files\n")
    assert not hints.look(b"all is well\n")
