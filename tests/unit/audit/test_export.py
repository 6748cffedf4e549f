"""Exports: at least once and in order, whatever the receiver does; what has not been taken stays."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.audit import cursors, export, formats, segments, send
from supervisor.audit.confine import Place
from supervisor.audit.export import Export
from supervisor.audit.segments import Log, Rules
from supervisor.errors import ConfigError, SupervisorError
from tests.unit.audit import logs

RULES = Rules(segment_bytes=20_000, reserve=0)


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = Place(tmp_path / "audit")
    for folder in (made.logs, made.cursors, made.logs / "0"):
        folder.mkdir(parents=True)
    return made


@pytest.fixture
def log(here: Place) -> Log:
    made = Log(here.logs / "0", RULES)
    logs.fill(made, 200)
    return made


def exporting(place: Place, to: str, **files: str) -> Export:
    def tls() -> ssl.SSLContext:
        return send.context(files.get("ca"), files.get("cert"), files.get("key"))

    return Export(place, "siem", send.sender(to, formats.ocsf, tls, {"X-Key": "k"}), lambda _: None)


def said(data: bytes) -> list[int]:
    """The numbers of the records in lines of JSON."""
    found = [json.loads(each) for each in re.findall(rb'\{"activity_.*', data)]
    return [each["metadata"]["sequence"] for each in found]


def wanted(log: Log) -> list[int]:
    """All records but the first lines of segments."""
    inside = [line for each in logs.read(log.folder) for line in each]
    return [number for number, line in enumerate(inside, 1) if b'"kind":"segment"' not in line]


class Receiver(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Reads frames to the end. `breaks` connections are reset in the midst of it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, breaks: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.messages: list[bytes] = []
        self.breaks, self.context = breaks, context
        super().__init__(("127.0.0.1", 0), Frames)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A handshake that failed is what some tests are about."""


class Frames(socketserver.BaseRequestHandler):
    """One connection."""

    server: Receiver

    def handle(self) -> None:
        sock = self.request
        if self.server.breaks:
            self.server.breaks -= 1
            sock.recv(1000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            return
        if self.server.context:
            sock = self.server.context.wrap_socket(sock, server_side=True)
        with sock:
            data = b""
            while more := sock.recv(1 << 16):
                data += more
            while data:
                size, _, rest = data.partition(b" ")
                self.server.messages.append(rest[: int(size)])
                data = rest[int(size) :]
            if isinstance(sock, ssl.SSLSocket):
                sock.unwrap().close()


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_file_gets_everything_once_and_then_what_is_new(here: Place, log: Log, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    running = exporting(here, f"file:{out}")
    assert running.once() == len(wanted(log))
    assert said(out.read_bytes()) == wanted(log)
    assert running.once() == 0
    logs.fill(log, 30, 201)
    assert exporting(here, f"file:{out}").once() == 30
    assert said(out.read_bytes()) == wanted(log)


@pytest.mark.parametrize("breaks", [0, 1, 3])
def test_a_receiver_that_breaks_off_gets_everything_again(
    here: Place, log: Log, breaks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH", 50)
    receiver = Receiver(breaks)
    with serving(receiver):
        running = exporting(here, f"tcp://127.0.0.1:{receiver.port}")
        for _ in range(breaks):
            with pytest.raises(send.Undelivered, match=rf"127\.0\.0\.1:{receiver.port}: "):
                running.once()
        running.once()
    assert said(b"\n".join(receiver.messages)) == wanted(log)
    assert receiver.messages[0].startswith(b"<110>1 ")


def test_nobody_there_is_said_and_nothing_is_lost(here: Place, log: Log) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(send.Undelivered, match=f"127.0.0.1:{port}: Connection refused"):
        exporting(here, f"tcp://127.0.0.1:{port}").once()
    # from the first try on the ledger keeps everything
    assert cursors.oldest(here.cursors, log.name) == 1


def test_a_stop_between_delivery_and_cursor_delivers_again_and_skips_nothing(
    here: Place, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BATCH", 50)
    out = tmp_path / "out.json"
    written = cursors.write
    count = 0

    def stop(folder: Path, name: str, log: str, cursor: cursors.Cursor) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        written(folder, name, log, cursor)

    monkeypatch.setattr(cursors, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        exporting(here, f"file:{out}").once()
    exporting(here, f"file:{out}").once()
    got = said(out.read_bytes())
    assert list(dict.fromkeys(got)) == wanted(log)
    assert len(got) > len(wanted(log))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, *name, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_tls_delivers_only_to_who_it_is_meant_for(here: Place, log: Log, certificate: tuple[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    receiver = Receiver(context=context)
    with serving(receiver):
        for host, files in (("localhost", {}), ("127.0.0.1", {"ca": certificate[0]})):
            with pytest.raises(send.Undelivered, match="its certificate is not to be trusted"):
                exporting(here, f"tls://{host}:{receiver.port}", **files).once()
        assert receiver.messages == []
        exporting(here, f"tls://localhost:{receiver.port}", ca=certificate[0]).once()
    assert said(b"\n".join(receiver.messages)) == wanted(log)


def test_a_unix_socket_is_served_whichever_kind_it_is(here: Place, log: Log, tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    messages: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)

        def hear() -> None:
            messages.extend(sock.recv(1 << 17) for _ in wanted(log))

        thread = threading.Thread(target=hear)
        thread.start()
        exporting(here, f"unix:{path}").once()
        thread.join(20)
    assert said(b"\n".join(messages)) == wanted(log)
    os.unlink(path)
    assert cursors.forget(here.cursors, "siem") == 1

    class Stream(Receiver):
        address_family = socket.AF_UNIX

        def server_bind(self) -> None:
            self.socket.bind(path)

    receiver = Stream()
    with serving(receiver):
        exporting(here, f"unix:{path}").once()
    assert said(b"\n".join(receiver.messages)) == wanted(log)


class Collector(http.server.BaseHTTPRequestHandler):
    """An OTLP receiver that answers what it is told to."""

    answers: list[tuple[int, bytes]]
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, text = self.answers.pop(0) if self.answers else (200, b"{}")
        if status == 200:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/logs", "application/json")
            assert self.headers["X-Key"] == "k"
            self.bodies.append(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def collector(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []
    handler = type("Handler", (Collector,), {"answers": list(answers), "bodies": bodies})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies


def test_an_otlp_receiver_that_is_busy_is_asked_again_and_one_that_rejects_stops_the_export(
    here: Place, log: Log
) -> None:
    rejected = b'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}'
    with collector((503, b""), (429, b""), (400, b"bad"), (200, rejected)) as (url, bodies):
        running = exporting(here, url)
        for _ in range(2):
            with pytest.raises(send.Undelivered, match="HTTP"):
                running.once()
        with pytest.raises(SupervisorError, match="HTTP 400: b'bad'; nothing more is exported"):
            running.once()
        with pytest.raises(SupervisorError, match="rejected 3 records: too old"):
            running.once()
        bodies.clear()
        running.once()
    (request,) = (json.loads(each) for each in bodies)
    records = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert [json.loads(each["body"]["stringValue"])["metadata"]["sequence"] for each in records] == wanted(log)


def test_retired_segments_are_missed_and_told(here: Place, log: Log, tmp_path: Path) -> None:
    told: list[str] = []
    cursors.write(here.cursors, "siem", log.name, cursors.Cursor(1, 0, ""))
    log.rules = Rules(segment_bytes=20_000, keep_bytes=20_000)
    log.retire(held=1 << 62)
    first = segments.numbers(log.folder)[0]
    assert first > 1
    sender = send.File(str(tmp_path / "out"), formats.ocsf)
    Export(here, "siem", sender, told.append).once()
    assert told == ["log 0: records after segment 1 were removed before they were exported"]


@pytest.mark.parametrize("to", ["x", "tcp://host", "tcp://host:port", "file:relative", "ftp://h:1", "http://", ""])
def test_what_is_no_destination_is_said(here: Place, to: str) -> None:
    with pytest.raises(ConfigError, match="is no destination: file:/PATH"):
        exporting(here, to)


def test_a_name_and_a_cursor_that_are_none_are_refused(here: Place, log: Log) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        cursors.read(here.cursors, "../x", log.name)
    (here.cursors / f"siem.{log.name}").write_text("{}")
    with pytest.raises(SupervisorError, match="not a cursor; remove it"):
        exporting(here, "file:/dev/null").once()
    # what cannot be understood holds everything
    assert cursors.oldest(here.cursors, log.name) == 0
