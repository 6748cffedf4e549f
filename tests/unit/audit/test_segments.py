"""The files of a log: one writer, recovery of what a killed one left, rotation, and retirement with its proof."""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path

import pytest

from supervisor.audit import chain, segments, verify
from supervisor.audit.segments import Log, Rules, path_of
from supervisor.errors import SupervisorError
from tests.unit.audit import logs


def faults(folder: Path) -> list[str]:
    return [str(each) for each in verify.verify_log(folder, [logs.PUBLIC], []).faults]


def kinds(folder: Path) -> list[str]:
    return [kind for _, _, kind, _ in verify.verify_log(folder, [], []).remarks]


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    first = logs.made(tmp_path / "0", 5)
    second = Log(tmp_path / "0", logs.SMALL)
    assert (second.name, second.head, second.number) == (first.name, first.head, first.number)
    logs.fill(second, 5, 6)
    report = verify.verify_log(tmp_path / "0", [], [])
    assert report.faults == []
    assert report.head == second.head


def test_the_last_hash_of_a_segment_is_the_first_of_the_next(tmp_path: Path) -> None:
    logs.made(tmp_path / "0")
    lines = logs.read(tmp_path / "0")
    for before, after in itertools.pairwise(lines):
        last, first = chain.parse(before[-1]), chain.parse(after[0])
        assert last
        assert first
        assert first.prev == last.hash


@pytest.mark.parametrize("size", [1, 60, 150])
def test_a_torn_tail_is_kept_aside_and_recorded(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "0"
    log = logs.made(folder, 1, Rules())
    line, _ = chain.make(log.head, 1, "event", (0, 1), b'{"number":2}')
    with open(path_of(folder, 1), "ab") as file:
        file.write(line[:size])
    assert faults(folder) == [f"log 0 segment 1 line 3: cut off after {size} bytes"]
    logs.fill(Log(folder, Rules()), 1, 2)
    report = verify.verify_log(folder, [], [])
    assert report.faults == []
    said = next(body for _, _, kind, body in report.remarks if kind == "torn")
    assert said["bytes"] == size
    assert (folder / str(said["kept"])).read_bytes() == line[:size]


def test_a_tail_of_zeros_after_a_loss_of_power_is_kept_aside(tmp_path: Path) -> None:
    log = logs.made(tmp_path / "0", 3, Rules())
    with open(path_of(tmp_path / "0", 1), "ab") as file:
        file.write(bytes(4096))
    again = Log(tmp_path / "0", Rules())
    assert again.head == log.head
    again.commit()
    assert faults(tmp_path / "0") == []
    assert kinds(tmp_path / "0") == ["segment", "torn"]


def test_a_segment_that_was_made_and_not_begun_is_made_again(tmp_path: Path) -> None:
    for rest in (b"", b'{"hash":"'):
        folder = tmp_path / f"of-{len(rest)}"
        log = logs.made(folder, 2, Rules())
        path_of(folder, 2).write_bytes(rest)
        again = Log(folder, Rules())
        assert (again.number, again.head) == (1, log.head)
        again.rotate()
        logs.fill(again, 1)
        assert faults(folder) == []
    empty = tmp_path / "empty"
    empty.mkdir()
    path_of(empty, 1).write_bytes(b"")
    logs.fill(Log(empty, Rules()), 1)
    assert faults(empty) == []


def test_a_segment_of_another_kind_is_not_continued(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    logs.made(folder, 2, Rules())
    lines = path_of(folder, 1).read_bytes().splitlines(keepends=True)
    path_of(folder, 1).write_bytes(b"".join(lines[1:]))
    with pytest.raises(SupervisorError, match=r"00000001\.jsonl: its first line is not that of a segment; move"):
        Log(folder, Rules())


def test_one_ledger_writes_a_folder_and_another_takes_the_next(tmp_path: Path) -> None:
    first, lock = segments.acquire(tmp_path)
    second, other = segments.acquire(tmp_path)
    assert (first.name, second.name) == ("0", "1")
    assert verify.is_written(first)
    os.close(lock)
    os.close(other)
    assert not verify.is_written(first)
    again, lock = segments.acquire(tmp_path)
    assert again == first
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


def test_what_cannot_be_written_leaves_no_trace_and_the_log_goes_on(tmp_path: Path) -> None:
    log = logs.made(tmp_path / "0", 2, Rules())
    head, size = log.head, log.size
    log.append("event", (1, 2), b'{"x":"' + b"y" * 5000 + b'"}')
    fd, log._fd = log._fd, os.open("/dev/full", os.O_RDWR)
    for _ in range(2):
        with pytest.raises(OSError, match=r"."):
            log.commit()
    os.close(log._fd)
    log._fd = fd
    assert (log.head, log.size) == (head, size)
    logs.fill(log, 1, 3)
    assert faults(tmp_path / "0") == []


def test_old_segments_go_only_when_their_head_hash_is_in_the_chain(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    log = logs.made(folder, 12)
    there = segments.numbers(folder)
    log.rules = Rules(segment_bytes=700, keep_bytes=2000)
    assert log.retire(held=2) == [1]
    assert log.retire(held=1 << 62) == there[1 : 1 + len(there) - 1 - len(segments.numbers(folder))]
    report = verify.verify_log(folder, [], [])
    assert report.faults == []
    assert report.first > 1
    for number in segments.numbers(folder)[:-1]:
        path_of(folder, number).unlink()
        assert "no record says that they were retired" in faults(folder)[0]
        break


def test_segments_older_than_is_kept_go_and_the_current_one_never(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    log = logs.made(folder, 12)
    log.rules = Rules(segment_bytes=700, keep_seconds=3600)
    assert log.retire(held=1 << 62) == []
    for number in segments.numbers(folder):
        os.utime(path_of(folder, number), (0, 0))
    assert log.retire(held=1 << 62) == list(range(1, log.number))
    assert segments.numbers(folder) == [log.number]
    assert faults(folder) == []


@pytest.mark.parametrize("written", [{"segmnt_bytes": 1}, {"segment_bytes": -1}, {"segment_bytes": "1M"}])
def test_a_rule_that_is_none_is_named(written: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"audit rule {next(iter(written))} = "):
        segments.rules(written)
