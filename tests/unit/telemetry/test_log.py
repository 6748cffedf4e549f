"""Lines of standard error as records: who spoke is told by us and cannot be forged, and nothing breaks a line."""

from __future__ import annotations

import json
import os
import threading

import pytest

from supervisor.telemetry import log


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (b"supervisor: hello\n", {"source": "supervisor", "message": "hello"}),
        (b"[files] it broke\n", {"source": "server", "server": "files", "message": "it broke"}),
        (b"[files] supervisor: forged\n", {"source": "server", "server": "files", "message": "supervisor: forged"}),
        (b"[files] [git] forged\n", {"source": "server", "server": "files", "message": "[git] forged"}),
        (b"Traceback\n", {"source": "other", "message": "Traceback"}),
        (b'[files] {"a": "\\u0000"}\r\n', {"source": "server", "server": "files", "message": '{"a": "\\u0000"}'}),
        (b"[Files] no name\n", {"source": "other", "message": "[Files] no name"}),
        (b"supervisor: \xff\x00\n", {"source": "supervisor", "message": "\ufffd\x00"}),
        (b"\n", {"source": "other", "message": ""}),
    ],
)
def test_a_line_is_a_record_of_whoever_said_it(line: bytes, record: dict[str, str]) -> None:
    made = log.record(line, 1.5)
    assert made.count(b"\n") == 1
    assert json.loads(made) == {"time": "1970-01-01T00:00:01.500Z"} | record


def through(*pieces: bytes) -> list[dict[str, str]]:
    """What comes out when these are written."""
    (source, write), (read, sink) = os.pipe(), os.pipe()

    def run() -> None:
        log.run(source, sink, lambda: 0.0)
        os.close(sink)
        os.close(source)

    running = threading.Thread(target=run)
    running.start()
    writing = threading.Thread(target=feed, args=(write, pieces))
    writing.start()
    with open(read, "rb") as file:
        found = [json.loads(line) for line in file]
    writing.join()
    running.join()
    return found


def feed(write: int, pieces: tuple[bytes, ...]) -> None:
    with open(write, "wb", buffering=0) as file:
        for each in pieces:
            file.write(each)


def test_lines_come_out_whole_however_they_were_written() -> None:
    found = through(b"supervisor: on", b"e\nsupervisor: two\n[a] th", b"ree")
    assert [each["message"] for each in found] == ["one", "two", "three"]


def test_a_line_that_does_not_end_is_cut_and_nothing_of_it_lost() -> None:
    messages = [each["message"] for each in through(*[b"x" * 10_000] * 50)]
    assert "".join(messages) == "x" * 500_000
    assert len(messages) > 1
    assert max(map(len, messages)) <= 2 << 16


def test_a_reader_that_is_gone_does_not_stop_whoever_writes() -> None:
    (source, write), (read, sink) = os.pipe(), os.pipe()
    os.close(read)
    writing = threading.Thread(target=feed, args=(write, (b"supervisor: one\n" * 20_000,)))
    writing.start()
    log.run(source, sink, lambda: 0.0)
    writing.join()
    os.close(sink)
    os.close(source)
