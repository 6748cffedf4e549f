"""Request heads and the ends of bodies: what two parsers could read differently is refused."""

from __future__ import annotations

import pytest

from supervisor.egress import http
from supervisor.egress.match import Refusal

HOST = "Host: a.test"


def raw(*lines: str) -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def test_an_ordinary_head_is_read() -> None:
    data = raw("POST /x?y HTTP/1.1", "hOsT:  A.Test:8080 ", "Content-Length: 3", "X: y") + b"abc"
    end = http.end_of_head(data)
    head = http.head(data[:end])
    assert (head.method, head.host, head.port, head.length, data[end:]) == ("POST", "a.test", 8080, 3, b"abc")


@pytest.mark.parametrize(
    "lines",
    [
        ("GET / HTTP/1.1",),
        ("GET / HTTP/1.1", HOST, HOST),
        ("GET / HTTP/1.1", HOST, " b.test"),
        ("GET / HTTP/1.1", "Host : a.test"),
        ("GET / HTTP/1.1", "Host: a.test, b.test"),
        ("GET / HTTP/1.1", "Host: a.test:x"),
        ("GET / HTTP/1.1", "Host: a.test:80:81"),
        ("GET / HTTP/1.1", "Host: \xe4.test"),
        ("GET / HTTP/1.1", "Host: a.test@b.test"),
        ("GET / HTTP/2.0", HOST),
        ("GET  / HTTP/1.1", HOST),
        ("GET /\tx HTTP/1.1", HOST),
        ("GET http://a.test/ HTTP/1.1", HOST),
        ("CONNECT a.test:443 HTTP/1.1", HOST),
        ("PRI * HTTP/2.0",),
        ("GET / HTTP/1.1", HOST, "Upgrade: h2c"),
        ("GET / HTTP/1.1", HOST, "HTTP2-Settings: x"),
        ("GET / HTTP/1.1", HOST, "Content-Length: 1", "Content-Length: 1"),
        ("GET / HTTP/1.1", HOST, "Content-Length: 1", "Transfer-Encoding: chunked"),
        ("GET / HTTP/1.1", HOST, "Content-Length: +1"),
        ("GET / HTTP/1.1", HOST, "Content-Length: 1, 1"),
        ("GET / HTTP/1.1", HOST, "Transfer-Encoding: gzip, chunked"),
        ("GET / HTTP/1.1", HOST, "X: a\nb"),
        ("GET / HTTP/1.1", HOST, "X: a\rb"),
        ("GET / HTTP/1.1", HOST, "X: \0"),
        ("GET / HTTP/1.1", HOST, "no colon"),
        ("POST / HTTP/1.0", HOST, "Transfer-Encoding: chunked"),
        ("POST / HTTP/1.1", HOST, "Content-Length: 3", "Connection: close", "Connection: x , content-length"),
        ("GET / HTTP/1.1", HOST, "Connection: Host"),
    ],
)
def test_an_ambiguous_head_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(Refusal):
        http.head(raw(*lines))


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\nHost: a\n\n", b"x" * (http.LIMIT + 1)])
def test_a_head_that_cannot_end_is_refused(data: bytes) -> None:
    with pytest.raises(Refusal):
        http.end_of_head(data)


def test_a_head_that_has_not_ended_is_waited_for() -> None:
    data = raw("GET / HTTP/1.1", HOST)
    assert [http.end_of_head(data[:at]) for at in range(len(data))] == [0] * len(data)


def test_a_proxy_request_goes_on_in_the_form_of_its_server() -> None:
    head = http.head(raw("GET http://a.test:81/x HTTP/1.1", "Host: a.test:81", "Proxy-Connection: x"), proxy=True)
    assert (head.host, head.port) == ("a.test", 81)
    assert head.rewritten() == raw("GET /x HTTP/1.1", "Host: a.test:81", "Connection: close")
    head = http.head(raw("CONNECT [2001:db8::1]:443 HTTP/1.1", "Host: x"), proxy=True)
    assert (head.method, head.host, head.port) == ("CONNECT", "2001:db8::1", 443)
    for lines in (
        ("GET http://a.test/ HTTP/1.1", "Host: b.test"),
        ("GET / HTTP/1.1", HOST),
        ("CONNECT a HTTP/1.1",),
    ):
        with pytest.raises(Refusal):
            http.head(raw(*lines), proxy=True)


@pytest.mark.parametrize("step", [1, 2, 100])
@pytest.mark.parametrize(
    ("length", "body"),
    [
        (5, b"abcde"),
        (0, b""),
        (http.CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"),
        (http.CHUNKED, b"A;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"),
    ],
)
def test_the_end_of_a_body_is_found_in_any_pieces(length: int, body: bytes, step: int) -> None:
    reader, data, at = http.Body(length), body + b"GET", 0
    while not reader.done:
        at += reader.feed(data[at : at + step])
    assert data[at:] == b"GET"


@pytest.mark.parametrize(
    "body", [b"x\r\n", b"3\nabc", b"1\r\nabc\r\n", b"-1\r\n", b" 1\r\n", b"1" * 5000, b"0\r\na\rb\r\n"]
)
def test_a_malformed_chunked_body_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        http.Body(http.CHUNKED).feed(body)
