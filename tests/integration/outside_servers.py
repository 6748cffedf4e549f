"""The world outside a sandbox, in one process: a name server, web servers, a banner.

Runs as root in a network namespace of the tests, under the system's Python. Arguments: the certificate, and the
zone as JSON. Every question and every request is a line on standard output, which is the tests' evidence.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address

WEB, RESOLVER, ELSEWHERE = "203.0.113.10", "203.0.113.53", "198.51.100.7"
PLACES = (WEB, ELSEWHERE, "10.0.0.5", "169.254.169.254", "100.64.0.1", "168.63.129.16", "192.168.1.1")
PLACES6 = ("2001:db8:1::10", "2002:a00:5::1", "fd00:ec2::254")
KINDS = {1: "A", 5: "CNAME", 28: "AAAA"}
NUMBERS = {name: number for number, name in KINDS.items()}


def say(*words: object) -> None:
    print(*words, flush=True)


def start(function: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def listener(address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    return sock


def packed(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def resolve(data: bytes, zone: dict[str, dict[str, list[str]]]) -> bytes:
    at, labels = 12, []
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode(errors="replace"))
        at += 1 + data[at]
    kind = struct.unpack("!H", data[at + 1 : at + 3])[0]
    name, section = ".".join(labels).lower(), data[12 : at + 5]
    say("dns", name, KINDS.get(kind, kind))
    records = []
    owner = name
    while "CNAME" in zone.get(owner, {}):
        target = zone[owner]["CNAME"][0]
        records.append((owner, 5, packed(target)))
        owner = target
    turn = zone.get(owner, {}).get("TURN", [])
    if turn and kind == NUMBERS["A"]:
        turn.append(turn.pop(0))
        records.append((owner, kind, ip_address(turn[-1]).packed))
    for value in zone.get(owner, {}).get(KINDS.get(kind, ""), []):
        records.append((owner, kind, ip_address(value).packed))
    head = struct.pack(
        "!6H", int.from_bytes(data[:2], "big"), 0x8180 | (0 if name in zone else 3), 1, len(records), 0, 0
    )
    body = b"".join(
        packed(own) + struct.pack("!HHIH", number, 1, 0 if turn else 5, len(raw)) + raw
        for own, number, raw in records
    )
    return head + section + body


def names(zone: dict[str, dict[str, list[str]]]) -> None:
    sock = listener(RESOLVER, 53, socket.SOCK_DGRAM)
    while True:
        data, peer = sock.recvfrom(4096)
        said = resolve(data, zone)
        # what is long is cut, so that it is asked for again over TCP
        sock.sendto(said if len(said) < 400 else said[:2] + b"\x83\x80" + said[4:6] + b"\0" * 6 + said[12:40], peer)


def names_by_stream(zone: dict[str, dict[str, list[str]]]) -> None:
    sock = listener(RESOLVER, 53)
    while True:
        client, _ = sock.accept()
        with client:
            size = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
            said = resolve(client.recv(size, socket.MSG_WAITALL), zone)
            client.sendall(len(said).to_bytes(2, "big") + said)


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 20

    def answer(self) -> None:
        host = self.headers.get("Host", "nobody")
        say("web", self.connection.getsockname()[0], self.command, self.path, host)
        for field in self.headers.get_all("Authorization", []) + self.headers.get_all("X-Api-Key", []):
            say("credential", host, self.path, field)
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.wfile.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            self.wfile.flush()
            self.wfile.write(b"raw:" + self.connection.recv(64))
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                sent += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        text = f"served {host} {self.command} {self.path} {len(sent)}\n".encode()
        if self.path == "/where":
            text = f"served at {self.connection.getsockname()[0]}".encode()
        if self.path.startswith("/echo"):
            self.echo()
            return
        if self.path.startswith("/size/"):
            text = b"x" * int(self.path[6:])
        if self.path.startswith("/drip/"):
            self.drip(int(self.path[6:]))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(text)

    def echo(self) -> None:
        """What was said, as the body and in a field: in one piece, in chunks of a byte, elsewhere, or packed."""
        said = self.headers.get("Authorization", "none")
        self.send_response(302 if self.path == "/echo/elsewhere" else 200)
        self.send_header("Location", f"https://another.test/?{said}")
        body = said.encode()
        if self.path == "/echo/packed":
            self.send_header("Content-Encoding", "gzip")
            body = gzip.compress(body)
        pieces = self.path == "/echo/pieces"
        self.send_header(*(("Transfer-Encoding", "chunked") if pieces else ("Content-Length", str(len(body)))))
        self.end_headers()
        for byte in body if pieces else b"":
            self.wfile.write(b"1\r\n%c\r\n" % byte)
        self.wfile.write(b"0\r\n\r\n" if pieces else body)

    def drip(self, count: int) -> None:
        """A body of so many bytes, one every 400 ms."""
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        for _ in range(count):
            self.wfile.flush()
            time.sleep(0.4)
            self.wfile.write(b"x")

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        return


def web(address: str, port: int, context: ssl.SSLContext | None) -> None:
    Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = Server((address, port), Web)
    if context:
        # the handshake is made by the connection's own thread
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    start(server.serve_forever)


def banner(port: int) -> None:
    sock = listener(WEB, port)
    while True:
        start(greet, sock.accept()[0], port)


def greet(client: socket.socket, port: int) -> None:
    with client, contextlib.suppress(OSError):
        say("banner", port)
        client.sendall(b"220 served banner\r\n")
        client.sendall(b"echo " + client.recv(100))


def echo(address: str, port: int) -> None:
    sock = listener(address, port, socket.SOCK_DGRAM)
    while True:
        data, peer = sock.recvfrom(2048)
        say("udp", port)
        sock.sendto(b"served " + data, peer)


def tls(certificate: str, *curves: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    for curve in curves:
        context.set_ecdh_curve(curve)
    context.sni_callback = lambda _socket, name, _context: say("sni", name)
    return context


def main(certificate: str, zone: dict[str, dict[str, list[str]]]) -> None:
    start(names, zone)
    start(names_by_stream, zone)
    context = tls(certificate)
    for address in PLACES + PLACES6:
        web(address, 443, context)
        web(address, 80, None)
    web(WEB, 8443, context)
    web(WEB, 8080, None)
    web(WEB, 9443, tls(certificate, "secp384r1"))
    for port in (25, 2525):
        start(banner, port)
    for port in (443, 8443):
        start(echo, WEB, port)
    say("ready")
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
