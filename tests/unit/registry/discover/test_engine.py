"""What listens on an engine's socket may be anybody: its answers are bounded in size and time."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.registry.discover import engine

OK = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"
Listen = Callable[[bytes], str]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    """Start a listener that gives each caller the same bytes; an empty answer is none, and no end."""
    threads: list[threading.Thread] = []
    ended = threading.Event()
    listeners: list[tuple[socket.socket, str]] = []

    def serve(listener: socket.socket, answer: bytes) -> None:
        while not ended.is_set():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                try:
                    connection.sendall(answer)
                except OSError:
                    continue  # it has hung up
                if not answer:
                    ended.wait()

    def start(answer: bytes) -> str:
        path = str(tmp_path / f"{len(threads)}.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listeners.append((listener, path))
        threads.append(threading.Thread(target=serve, args=[listener, answer]))
        threads[-1].start()
        return path

    yield start
    ended.set()
    for listener, path in listeners:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(path)
        listener.close()
    for each in threads:
        each.join()


def test_containers_are_listed_as_the_engine_says(listen: Listen) -> None:
    answer = [{"Id": "a", "Labels": {"supervisor.server": "x"}}]
    assert engine.Engine(listen(OK + json.dumps(answer).encode())).containers() == answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"garbage", "no HTTP"),
        (OK + b"{}", "no list"),
        (OK + b"[1]", "no list"),
        (OK + b"[" * 100000, "no JSON"),
        (OK + b"\xff", "no JSON"),
        (OK + b" " * (engine.LIMIT + 1), "more than 4 MiB"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]", "not all of it"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n\x1b[2J", "answered 403 to GET /containers/json"),
    ],
)
def test_an_answer_that_is_no_list_is_refused_with_the_reason(listen: Listen, answer: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        engine.Engine(listen(answer)).containers()


def test_an_engine_that_does_not_answer_is_given_up(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SECONDS", 0.2)
    with pytest.raises(ConfigError, match="no whole answer within"):
        engine.Engine(listen(b"")).containers()


def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.sock: No such file"):
        engine.Engine(str(tmp_path / "nothing.sock")).containers()
