"""DNS messages, both ways; and arbitrary bytes never do more than raise Malformed."""

from __future__ import annotations

import random
import struct

import pytest

from supervisor.egress import dns


def asked(name: str = "Example.test", kind: int = dns.A, *, edns: bool = False) -> bytes:
    data = dns.query(7, name, kind)
    return data if edns else data[:10] + b"\0\0" + data[12:-11]


def test_an_answer_repeats_the_question_as_it_was_written() -> None:
    said = dns.answer(dns.question(asked()), dns.NOERROR, "198.18.1.0")
    assert said[12:].startswith(b"\7Example\4test\0")
    found = dns.found(said, 7, "example.test", dns.A)
    assert (found.addresses, found.code, found.cut) == (("198.18.1.0",), 0, False)


@pytest.mark.parametrize(("code", "kind"), [(dns.NXDOMAIN, dns.A), (dns.NOERROR, dns.AAAA), (dns.NOERROR, 65)])
def test_an_answer_without_an_address_is_complete_and_never_cut(code: int, kind: int) -> None:
    found = dns.found(dns.answer(dns.question(asked(kind=kind)), code), 7, "example.test", kind)
    assert (found.addresses, found.code, found.cut) == ((), code, False)


def test_an_option_record_is_echoed() -> None:
    said = dns.answer(dns.question(asked(edns=True)), dns.NOERROR, "198.18.1.0")
    assert struct.unpack_from("!H", said, 10) == (1,)
    assert said[-11:-8] == b"\0\0\x29"
    assert struct.unpack_from("!H", dns.answer(dns.question(asked()), 0), 10) == (0,)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 11, asked()[:-3], asked()[:4] + b"\0\2" + asked()[6:], asked()[:2] + b"\x80\0" + asked()[4:]],
)
def test_what_is_no_question_is_malformed(data: bytes) -> None:
    with pytest.raises(dns.Malformed):
        dns.question(data)


def test_a_pointer_in_a_question_is_malformed() -> None:
    with pytest.raises(dns.Malformed):
        dns.question(asked()[:12] + b"\xc0\x0c\0\1\0\1")


def test_an_answer_to_another_question_is_malformed() -> None:
    said = dns.answer(dns.question(asked()), dns.NOERROR, "192.0.2.1")
    for number, name, kind in ((8, "example.test", 1), (7, "other.test", 1), (7, "example.test", 28)):
        with pytest.raises(dns.Malformed):
            dns.found(said, number, name, kind)


def test_an_alias_is_followed_and_a_stranger_s_record_is_not() -> None:
    question = asked("a.test")[12:]
    alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 9, 8) + b"\1b\4test\0"
    mine = b"\1b\4test\0" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((192, 0, 2, 1))
    stranger = b"\1c\4test\0" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((192, 0, 2, 9))
    said = struct.pack("!6H", 7, 0x8180, 1, 3, 0, 0) + question + alias + stranger + mine
    found = dns.found(said, 7, "a.test", dns.A)
    assert (found.addresses, found.ttl) == (("192.0.2.1",), 9)


def test_arbitrary_bytes_raise_nothing_else() -> None:
    chance = random.Random(1)
    whole = dns.answer(dns.question(asked(edns=True)), dns.NOERROR, "198.18.1.0")
    for _ in range(5000):
        data = bytearray(chance.choice((asked(), whole)))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for read in (dns.question, lambda d: dns.found(d, 7, "example.test", 1)):
            try:
                read(bytes(data[: chance.randint(0, len(data))]))
            except dns.Malformed:
                continue
