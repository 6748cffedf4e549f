"""The attempts of test_egress_bypass, which travel into the sandbox as text. Standard library only.

An attempt returns what it got hold of, or raises. Runs as whoever starts it, inside and outside.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable

WEB, RESOLVER, OTHER = "203.0.113.10", "203.0.113.53", "forbidden.test"
GOOD = "example.test"
CA = ""


class Held(Exception):
    """Nothing was got hold of."""


def place(name: str = GOOD) -> str:
    """The address that the allowed name has here."""
    return socket.gethostbyname(name)


def talk(address: str, port: int, said: bytes, *, pause: float = 0.0) -> bytes:
    """Everything that a TCP server answers within a moment."""
    got = b""
    with socket.create_connection((address, port), 3) as sock:
        sock.sendall(said)
        time.sleep(pause)
        sock.settimeout(0.4)
        try:
            while more := sock.recv(65536):
                got += more
                if b"served" in got and b"Content-Length" not in said:
                    sock.settimeout(0.1)
        except OSError:
            pass
    return got


def take(sock: socket.socket) -> bytes:
    """What comes until there is an answer."""
    got = b""
    try:
        while b"served" not in got and (more := sock.recv(65536)):
            got += more
    except TimeoutError:
        pass
    return got


def served(got: bytes, what: bytes = b"served") -> str:
    if what not in got:
        raise Held(repr(got[:80]))
    return repr(got[-60:])


def secure(address: str, port: int, name: str | None) -> str:
    """One request over TLS."""
    context = ssl.create_default_context(cafile=CA)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((address, port), 3)
    with raw, context.wrap_socket(raw, server_hostname=name) as sock:
        sock.settimeout(2)
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {name or OTHER}\r\n\r\n".encode())
        return served(take(sock))


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body


def sni(*names: bytes) -> bytes:
    listed = b"".join(b"\0" + struct.pack("!H", len(name)) + name for name in names)
    return extension(0, struct.pack("!H", len(listed)) + listed)


def hello(*extensions: bytes, record: int = 16384) -> bytes:
    """A ClientHello of TLS 1.2 and 1.3 that OpenSSL answers with a ServerHello."""
    more = extension(10, b"\0\2\0\x17") + extension(11, b"\1\0")
    more += extension(13, b"\0\4\4\3\\8\4".replace(rb"\8", b"\x08"))
    body = b"".join((*extensions, more))
    body = (
        b"\3\3" + os.urandom(32) + b"\0" + b"\0\4\xc0\x2b\xc0\x2f" + b"\1\0" + struct.pack("!H", len(body)) + body
    )
    message = b"\1" + len(body).to_bytes(3, "big") + body
    parts = [message[at : at + record] for at in range(0, len(message), record)]
    return b"".join(b"\x16\3\1" + struct.pack("!H", len(part)) + part for part in parts)


def greeted(got: bytes) -> str:
    """Whether a ServerHello came back."""
    if got[:1] != b"\x16":
        raise Held(got[:16].hex())
    return "ServerHello"


def ask(name: str, kind: int, address: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0" + struct.pack("!HH", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(question, (address, 53))
        return sock.recv(4096)


def resolver() -> str:
    with open("/etc/resolv.conf", encoding="utf-8") as file:
        return file.read().split()[1]


def plain(*lines: str, then: bytes = b"") -> bytes:
    return "\r\n".join((*lines, "", "")).encode() + then


def try_another_name() -> str:
    return str(socket.getaddrinfo(OTHER, 443))


def try_another_name_ipv6() -> str:
    return served(ask("onlysix.test", 28, resolver()), b"\x20\x01\x0d\xb8")


def try_the_resolver_itself() -> str:
    return served(ask(OTHER, 1, RESOLVER), socket.inet_aton(WEB))


def try_the_resolver_over_tcp() -> str:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in OTHER.split("."))
    question = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    return served(talk(RESOLVER, 53, len(question).to_bytes(2, "big") + question), socket.inet_aton(WEB))


def try_a_message_in_labels_of_an_allowed_name() -> str:
    return served(ask("leaked.example.test", 1, resolver()), b"\x81\x83")


def try_a_message_in_labels_of_another_name() -> str:
    return served(ask("leaked.forbidden.test", 16, resolver()), b"\x81\x83")


def try_a_message_in_a_question_of_an_allowed_name() -> str:
    return served(ask("leaked.example.test", 16, resolver()), b"\x81\x83")


def try_an_address_by_number() -> str:
    return secure(WEB, 443, GOOD)


def try_an_address_by_number_plain() -> str:
    return served(talk(WEB, 80, plain("GET / HTTP/1.1", f"Host: {GOOD}")))


def try_another_address() -> str:
    return secure("198.51.100.7", 443, OTHER)


def try_ipv6_by_number() -> str:
    return secure("2001:db8:1::10", 443, GOOD)


def try_metadata() -> str:
    return served(talk("169.254.169.254", 80, plain("GET / HTTP/1.1", "Host: x")))


def try_the_host_itself() -> str:
    return served(talk("203.0.113.1", 80, plain("GET / HTTP/1.1", "Host: x")))


def try_the_host_s_loopback() -> str:
    return served(talk("127.0.0.1", 80, plain("GET / HTTP/1.1", "Host: x")))


def try_another_port() -> str:
    return secure(place(), 8443, GOOD)


def try_plain_http_at_another_port() -> str:
    return served(talk(place(), 8080, plain("GET / HTTP/1.1", f"Host: {GOOD}")))


def try_another_protocol_at_an_allowed_name() -> str:
    return served(talk(place(), 25, b"hello"))


def try_another_sni() -> str:
    return secure(place(), 443, OTHER)


def passed(said: bytes) -> str:
    """Whether a hello got to the server at port 80, which speaks no TLS and says so in HTML."""
    got = talk(place(), 80, said)
    if b"html" not in got.lower():
        raise Held(got.hex())
    return "answered"


def try_another_sni_at_port_80() -> str:
    return passed(hello(sni(OTHER.encode())) + b"\r\n\r\n")


def try_no_sni() -> str:
    return secure(place(), 443, None)


def try_a_nul_in_the_sni() -> str:
    return passed(hello(sni(b"example.test\0.forbidden.test")) + b"\r\n\r\n")


def try_two_names_in_the_sni() -> str:
    return passed(hello(sni(GOOD.encode(), OTHER.encode())) + b"\r\n\r\n")


def try_two_sni_extensions() -> str:
    return passed(hello(sni(GOOD.encode()), sni(OTHER.encode())) + b"\r\n\r\n")


def try_another_sni_in_small_records() -> str:
    return greeted(talk(place(), 443, hello(sni(OTHER.encode()), record=7)))


def try_another_sni_byte_by_byte() -> str:
    with socket.create_connection((place(), 443), 3) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for each in hello(sni(OTHER.encode())):
            sock.sendall(bytes([each]))
        sock.settimeout(2)
        return greeted(sock.recv(4096))


def try_encrypted_client_hello() -> str:
    return greeted(talk(place(), 443, hello(sni(GOOD.encode()), extension(0xFE0D, b"\0" * 32))))


def try_an_oversized_hello() -> str:
    padding = [extension(0x7A00 + number, b"\0" * 16000) for number in range(5)]
    return greeted(talk(place(), 443, oversized(padding)))


def oversized(padding: list[bytes]) -> bytes:
    # extensions hold 64 KiB; the list of ciphers holds the rest
    more = extension(10, b"\0\2\0\x17") + extension(13, b"\0\2\4\3")
    body = sni(OTHER.encode()) + b"".join(padding[:3]) + more
    ciphers = b"\xc0\x2b" + b"\x7a\x7a" * 20000
    body = (
        b"\3\3" + os.urandom(32) + b"\0" + struct.pack("!H", len(ciphers)) + ciphers + b"\1\0"
        + struct.pack("!H", len(body)) + body
    )  # fmt: skip
    message = b"\1" + len(body).to_bytes(3, "big") + body
    parts = [message[at : at + 16000] for at in range(0, len(message), 16000)]
    return b"".join(b"\x16\3\1" + struct.pack("!H", len(part)) + part for part in parts)


def try_another_sni_in_the_second_hello() -> str:
    """The server at 9443 takes P-384 only and asks for another hello; that one names another host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=GOOD)
    with socket.create_connection((place(), 9443), 3) as sock:
        sock.settimeout(2)
        hellos = []
        for _ in range(2):
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                hellos.append(outgoing.read())
            if len(hellos) == 1:
                sock.sendall(hellos[0])
                incoming.write(sock.recv(65536))
        assert GOOD.encode() in hellos[1], "no second hello"
        sock.sendall(hellos[1].replace(GOOD.encode(), b"another.test"))
        return greeted(sock.recv(65536)[:1])


def attempt(function: Callable[[], str]) -> str:
    try:
        got = function()
    except (Held, OSError) as error:
        return f"HELD {type(error).__name__} {error}"
    except Exception as error:  # noqa: BLE001 - what is wrong with an attempt is told, and proves nothing
        return f"BROKEN {type(error).__name__} {error}"
    return got if got.startswith("needs root") else f"CROSSED {got}"


def main(names: list[str], authority: str) -> None:
    global CA  # noqa: PLW0603
    CA = authority
    results = {name: attempt(globals()[name]) for name in names}
    results["allowed"] = "served " + secure(place(), 443, GOOD).rpartition("served ")[2].split(" ")[0]
    print(json.dumps(results))
