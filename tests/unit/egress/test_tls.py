"""ClientHellos as they come, in any pieces; and what is refused in them."""

from __future__ import annotations

import contextlib
import random
import ssl
import struct

import pytest

from supervisor.egress import tls
from supervisor.egress.match import Refusal
from tests.escape.egress_attempts import extension, hello, sni


def read(data: bytes, *, step: int = 1 << 20, ech: bool = False) -> str:
    reader = tls.HelloReader()
    for at in range(0, len(data), step):
        if reader.feed(data[at : at + step]):
            return reader.server_name(ech=ech)
    raise AssertionError("not complete")


def real(name: str) -> bytes:
    context, out = ssl.create_default_context(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_real_hello_says_its_name(step: int) -> None:
    assert read(real("Example.TEST"), step=step) == "example.test"


@pytest.mark.parametrize("record", [1, 5, 100])
def test_a_hello_in_many_records_says_its_name(record: int) -> None:
    assert read(hello(sni(b"example.test."), record=record), step=3) == "example.test"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (hello(), "no server name"),
        (hello(sni(b"a.test", b"b.test")), "not exactly one"),
        (hello(sni(b"a.test"), sni(b"a.test")), "twice"),
        (hello(sni(b"a.test\0.b.test")), "no host name"),
        (hello(sni("ä.test".encode())), "no host name"),
        (hello(sni(b"192.0.2.1")), "no host name"),
        (hello(sni(b"")), "no host name"),
        (hello(extension(0, b"\0\4\1\0\1a")), "not exactly one"),
        (hello(sni(b"a.test"), extension(0xFE0D, b"x")), "Encrypted"),
        (hello(sni(b"a.test"), extension(0xFFCE, b"x")), "Encrypted"),
        (b"GET / HTTP/1.1\r\n", "does not begin"),
        (b"\x80\x2e\1\3\1", "does not begin"),
        (b"\x16\3\1\0\0" + hello(sni(b"a.test")), "does not begin"),
        (b"\x16\3\1\xff\xff", "does not begin"),
        (b"\x16\3\1\0\4\2\0\0\0", "not one ClientHello"),
        (hello(sni(b"a.test"))[:3] + b"\xff" + hello(sni(b"a.test"))[4:], "does not begin"),
        (b"\x16\3\1\0\4\1\3\0\0", "more than 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_what_is_unusual_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        read(data)


def test_a_hello_with_more_behind_it_in_its_record_is_refused() -> None:
    whole = hello(sni(b"a.test"))
    longer = whole[:3] + struct.pack("!H", len(whole) - 5 + 4) + whole[5:] + b"\1\0\0\0"
    with pytest.raises(Refusal, match="records of its own"):
        read(longer)


def test_ech_passes_where_the_profile_says_so() -> None:
    assert read(hello(sni(b"a.test"), extension(0xFE0D, b"x")), ech=True) == "a.test"


def test_a_hello_that_never_ends_is_cut_off() -> None:
    reader = tls.HelloReader()
    assert not reader.feed(b"\x16\3\1\0\4\1\0\xff\xf0" + b"\x16\3\1\0\1\0" * 10000)
    with pytest.raises(Refusal, match="64 KiB"):
        reader.feed(b"\x16\3\1\0\1\0" * 10000)


def test_arbitrary_changes_never_raise_anything_else_and_never_change_the_name_unseen() -> None:
    chance, whole = random.Random(2), hello(sni(b"example.test"))
    for _ in range(4000):
        data = bytearray(whole)
        data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            name = read(bytes(data), step=chance.randint(1, 99))
        except (Refusal, AssertionError):
            continue
        assert name == "example.test" or name.encode() in bytes(data).lower()


RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\x16\3\3\0\x26\2\0\0\x22\3\3" + RETRY, "retry"),
        (b"\x16\3\3\0\x26\2\0\0\x22\3\3" + b"r" * 32, "other"),
        (b"\x15\3\3\0\2\1\x70" + b"\x16\3\3\0\x26\2\0\0\x22\3\3" + RETRY, "retry"),
        (b"\x16\3\3\0\5\2\0\0\x22\3" + b"\x16\3\3\0\x21\3" + RETRY, "retry"),
        (b"\x16\3\3\0\x26\2\0\0", "more"),
        (b"", "more"),
        (b"HTTP/1.1 400", "other"),
        (b"\x17\3\3\0\1x", "other"),
    ],
)
def test_the_server_s_first_answer_is_told_apart(body: bytes, what: str) -> None:
    assert tls.first_answer(body) == what
