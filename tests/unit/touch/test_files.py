"""What was opened, as a bounded set: modes are no more than the kernel's word, and what is left out is said."""

from __future__ import annotations

import json

import pytest

from supervisor.sandbox import syscalls as sc
from supervisor.touch import files
from supervisor.touch.files import EITHER, Files, mode, part

OPEN, EXEC, MODIFY = sc.FAN_OPEN, sc.FAN_OPEN_EXEC, sc.FAN_MODIFY
WRITE, NOWRITE = sc.FAN_CLOSE_WRITE, sc.FAN_CLOSE_NOWRITE


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (OPEN, "r"),
        (OPEN | NOWRITE, "r"),
        (OPEN | EITHER, "rw"),
        (OPEN | EITHER | NOWRITE, "r"),
        (OPEN | EITHER | WRITE, "w"),
        (OPEN | WRITE, "w"),
        (MODIFY, "w"),
        (OPEN | WRITE | NOWRITE, "rw"),
        (OPEN | EXEC, "rx"),
        (OPEN | EXEC | EITHER, "rwx"),
        (OPEN | EXEC | NOWRITE | WRITE, "rwx"),
    ],
)
def test_a_mode_says_what_the_kernel_said_and_what_is_open_where_it_may_be_written_is_both(
    bits: int, expected: str
) -> None:
    assert mode(bits) == expected


def test_what_happens_to_a_file_adds_up_until_it_is_taken() -> None:
    found = Files()
    found.add("/a", OPEN | EITHER)
    found.add("/b", OPEN)
    found.add("/a", WRITE)
    assert found.take() == ([("/b", "r"), ("/a", "w")], True)
    assert found.take() == ([], True)


def test_the_end_of_what_was_opened_before_counts_only_if_it_may_have_been_written() -> None:
    found = Files()
    found.add("/a", NOWRITE)
    found.add("/b", WRITE)
    assert found.take() == ([("/b", "w")], True)


@pytest.mark.parametrize("limit", ["MOST", "ROOM"])
def test_what_does_not_fit_is_said_until_it_is_taken(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, limit, 4)
    found = Files()
    for number in range(6):
        found.add(f"{number}", OPEN)
    found.add("0", WRITE)
    assert found.take() == ([("3", "r"), ("2", "r"), ("1", "r"), ("0", "w")], False)
    found.add("5", OPEN)
    assert found.take() == ([("5", "r")], True)


def test_an_answer_comes_in_parts_that_fit_a_message_and_lose_nothing() -> None:
    whole = [("/\x01" + "\udcff" * 600 + str(number), "r") for number in range(100)]
    rest, parts = list(whole), []
    while rest:
        parts.append(part(rest))
        assert len(json.dumps(parts[-1])) < 1 << 16
    assert len(parts) > 1
    assert [each for taken in parts for each in taken] == whole[::-1]


def test_the_longest_name_in_its_longest_form_fits() -> None:
    rest = [("\x01" * 4096, "rwx")]
    assert part(rest) == [("\x01" * 4096, "rwx")]
