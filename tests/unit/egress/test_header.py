"""What comes back from a host does not bring its secret along, however it is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.egress import header, http
from supervisor.egress.dial import Unreachable
from supervisor.egress.header import Added, Answer, Mask
from supervisor.egress.match import Refusal

SECRET = b"abcabcabd-1234"
ADDED = [Added("Authorization", b"Bearer " + SECRET, SECRET)]


@given(st.lists(st.sampled_from([SECRET, b"abc", b"abd", b"-1234", b"x", b"a"]), max_size=12), st.integers(1, 7))
def test_a_secret_is_masked_however_the_stream_is_cut(parts: list[bytes], step: int) -> None:
    whole = b"".join(parts)
    mask = Mask(ADDED)
    passed = b"".join(mask.feed(whole[at : at + step]) for at in range(0, len(whole), step)) + mask.whole(b"")
    assert passed == whole.replace(SECRET, b"*" * len(SECRET))


def test_what_cannot_be_the_beginning_of_a_secret_does_not_wait() -> None:
    assert Mask(ADDED).feed(b"data: hello\n\n") == b"data: hello\n\n"
    assert Mask(ADDED).feed(b"data: abcabc") == b"data: "


def test_a_request_goes_out_with_the_secret_and_without_what_the_server_says_of_it() -> None:
    raw = (
        b"GET /a HTTP/1.1\r\nHost: h.test\r\nauthorization: mine\r\nX_Y: z\r\nConnection: authorization\r\n"
        b"Range: bytes=1-\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    made = header.request(http.head(raw), ADDED, "h.test", 8443)
    assert made == (
        b"GET /a HTTP/1.1\r\nHost: h.test:8443\r\nAuthorization: Bearer " + SECRET + b"\r\nX_Y: z\r\n"
        b"Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
    )
    key = [Added("X-Y", b"k", b"k")]
    assert b"X_Y" not in header.request(http.head(raw), key, "h.test", 443), (
        "to some servers that is the same field"
    )


def answered(data: bytes, method: str = "GET") -> bytes:
    """What a server gets of an answer."""
    passed: list[bytes] = []

    async def send(piece: bytes) -> None:
        passed.append(piece)

    async def run() -> None:
        reader = asyncio.StreamReader(limit=http.LIMIT)
        reader.feed_data(data)
        reader.feed_eof()
        await Answer(reader, send, method, Mask(ADDED)).run()

    asyncio.run(run())
    return b"".join(passed)


@pytest.mark.parametrize(
    ("data", "method", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcEXTRA", "GET", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", b""),
        (b"HTTP/1.1 204 None\r\n\r\n", "GET", b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "GET", b"until the end"),
        (
            b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nT: u\r\n\r\n",
            "GET",
            b"1\r\na\r\n0\r\n\r\n",
        ),
    ],
)
def test_an_answer_is_framed_anew(data: bytes, method: str, body: bytes) -> None:
    head, _, passed = answered(data, method).partition(b"\r\n\r\n")
    # what could begin a secret is held back until it is none
    assert passed.replace(b"\r\n", b"") == body.replace(b"\r\n", b"")
    assert head.endswith(b"\r\nConnection: close")


def test_what_comes_before_an_answer_is_passed_on() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert answered(data).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


REFUSED: Sequence[tuple[bytes, str]] = (
    (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "changes the protocol"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n", "compressed"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "another coding"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "two lengths"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "repeated"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "malformed length"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed chunk size"),
)


@pytest.mark.parametrize(("data", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_an_answer_that_cannot_be_looked_through_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        answered(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 200 OK\r\nA: b"],
)
def test_what_is_no_whole_answer_is_told(data: bytes) -> None:
    with pytest.raises(Unreachable):
        answered(data)
