"""Whatever is done to a log is found, and found where it was done."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.audit import chain
from supervisor.audit.chain import Checkpoint
from supervisor.audit.walk import Fault
from tests.unit.audit import logs

Lines = list[list[bytes]]
Made = tuple[Lines, Checkpoint]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("chain") / "0"
    log = logs.made(folder, 12)
    lines = logs.read(folder)
    assert len(lines) >= 4
    return lines, logs.sign(log)


def first_fault(lines: Lines, checkpoint: Checkpoint | None = None) -> Fault:
    return logs.walk(lines, (checkpoint,) if checkpoint else ()).faults[0]


def copy(lines: Lines) -> Lines:
    return [list(each) for each in lines]


def test_an_untouched_log_has_no_fault(whole: Made) -> None:
    lines, checkpoint = whole
    found = logs.walk(lines, (checkpoint,))
    assert found.faults == []
    assert found.records == sum(map(len, lines)) == checkpoint.seq


@pytest.mark.parametrize("change", [0x01, 0x20, 0x80], ids=["bit", "case", "not ASCII"])
def test_every_single_byte_edit_is_found_in_its_line(whole: Made, change: int) -> None:
    lines, _ = whole
    for segment, inside in enumerate(lines):
        for number, line in enumerate(inside):
            for at in range(len(line)):
                changed = line[:at] + bytes([line[at] ^ change]) + line[at + 1 :]
                edited = copy(lines)
                # a line end that is gone, or one more, makes other lines of the file
                edited[segment] = b"".join([*inside[:number], changed, *inside[number + 1 :]]).splitlines(True)
                fault = first_fault(edited)
                assert fault.segment == segment + 1, (segment, number, at)
                assert fault.line == number + 1, (segment, number, at, str(fault))


def test_every_line_that_is_cut_out_is_named(whole: Made) -> None:
    lines, checkpoint = whole
    for segment, inside in enumerate(lines):
        for number in range(len(inside)):
            cut = copy(lines)
            del cut[segment][number]
            fault = first_fault(cut, checkpoint)
            assert (fault.segment, fault.line) == (segment + 1, number + 1), str(fault)


def test_every_swap_is_found_where_it_begins(whole: Made) -> None:
    lines, checkpoint = whole
    flat = [(segment, number) for segment, inside in enumerate(lines) for number in range(len(inside))]
    for at, (segment, number) in enumerate(flat):
        for other_segment, other in flat[at + 1 :]:
            swapped = copy(lines)
            swapped[segment][number], swapped[other_segment][other] = (
                lines[other_segment][other],
                lines[segment][number],
            )
            fault = first_fault(swapped, checkpoint)
            assert (fault.segment, fault.line) == (segment + 1, number + 1) or number == 0, str(fault)


def test_every_replayed_line_is_found_where_it_was_put(whole: Made) -> None:
    lines, _ = whole
    for segment, inside in enumerate(lines):
        for number in range(len(inside)):
            replayed = copy(lines)
            replayed[-1].append(inside[number])
            fault = first_fault(replayed)
            assert (fault.segment, fault.line) == (len(lines), len(replayed[-1])), (segment, number)
            assert "replayed" in fault.reason


def test_every_truncation_is_found_with_a_checkpoint(whole: Made) -> None:
    lines, checkpoint = whole
    for segment, inside in enumerate(lines):
        data = b"".join(inside)
        for size in range(len(data)):
            cut = [*copy(lines[:segment]), data[:size].splitlines(True)]
            fault = first_fault(cut, checkpoint)
            assert fault.segment == segment + 1, (segment, size)
            cut += copy(lines[segment + 1 :])
            assert logs.walk(cut).faults, (segment, size)


def test_a_segment_cut_at_a_line_s_end_is_named_as_the_one_that_was_cut(whole: Made) -> None:
    lines, _ = whole
    cut = copy(lines)
    cut[1] = cut[1][:-1]
    assert str(first_fault(cut)).startswith(f"log 0 segment 2 line {len(lines[1])}: record")
    assert "was cut before its end" in str(first_fault(cut))


def test_a_missing_segment_is_named(whole: Made) -> None:
    lines, _ = whole
    found = logs.walk(lines[:1])
    found.enter(3)
    for line in lines[2]:
        found.feed(line)
    assert [str(each) for each in found.faults] == ["log 0 segment 2: missing"]


def test_a_beginning_that_is_missing_needs_its_proof(whole: Made) -> None:
    lines, _ = whole
    fault = logs.walk(lines[1:], first=2).faults[0]
    assert str(fault).startswith("log 0 segment 1: records 1 to ")
    assert "no record says that they were retired" in fault.reason


def test_segments_that_changed_places_are_found(whole: Made) -> None:
    lines, _ = whole
    assert first_fault([lines[0], lines[2], lines[1], *lines[3:]]).line == len(lines[0]) + 1
    assert first_fault([lines[1], lines[0], *lines[2:]]).reason.startswith("this is not the first line")


def test_a_log_written_anew_is_told_from_the_one_that_was_signed(whole: Made, tmp_path: Path) -> None:
    lines, checkpoint = whole
    name = checkpoint.log
    head = chain.genesis(name)
    forged: Lines = []
    for segment, inside in enumerate(lines, 1):
        forged.append([])
        for line in inside:
            parsed = chain.parse(line)
            assert parsed
            body = parsed.body.replace(b'"number":3', b'"number":4')
            made, head = chain.make(head, parsed.time, parsed.kind, (parsed.uid, parsed.pid), body)
            forged[segment - 1].append(made)
    assert logs.walk(forged).faults == []
    fault = first_fault(forged, checkpoint)
    assert fault == Fault("0", len(forged), len(forged[-1]), fault.reason)
    assert fault.reason.startswith("rewritten: record")
