"""Entries, canonical names, the table of addresses: what is meant is reached, nothing that looks like it."""

from __future__ import annotations

import pytest

from supervisor.egress import match
from supervisor.egress.match import Rules, canonical, parse
from supervisor.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "kind", "meant"),
    [
        ("example.test:443", "tls", "example.test:443"),
        ("EXAMPLE.test.:443", "tls", "example.test:443"),
        ("bücher.test:443", "tls", "xn--bcher-kva.test:443"),
        ("example.test:80", "http", "example.test:80"),
        ("http:example.test:8080", "http", "http:example.test:8080"),
        ("http:example.test:80", "http", "example.test:80"),
        ("tcp:db.test:5432", "tcp", "tcp:db.test:5432"),
        ("tcp: db.test:5432", "tcp", "tcp:db.test:5432"),
        ("*.example.test:443", "tls", "*.example.test:443"),
        ("**.example.test:443", "tls", "**.example.test:443"),
        ("192.0.2.7:443", "tcp", "192.0.2.7:443"),
        ("10.1.2.3:22", "tcp", "10.1.2.3:22"),
        ("[2001:DB8::1]:443", "tcp", "[2001:db8::1]:443"),
        ("tcp:127.0.0.1:5432", "tcp", "127.0.0.1:5432"),
        ("http.test:443", "tls", "http.test:443"),
        ("_srv.example.test:443", "tls", "_srv.example.test:443"),
    ],
)
def test_an_entry_is_taken_as_it_is_meant(written: str, kind: str, meant: str) -> None:
    entry = parse(written)
    assert (entry.kind, str(entry)) == (kind, meant)
    assert parse(str(entry)) == entry


@pytest.mark.parametrize(
    "written",
    [
        *("", "example.test", "example.test:", "example.test:0", "example.test:65536", "example.test:https"),
        *("example.test:٤٤٣", ":443", "*:443", "**:443", "*.*.test:443", "a.*.test:443", "*example.test:443"),
        *("***.test:443", "tcp:*.test:443", "exa mple.test:443", "-a.test:443", "a-.test:443", "a..test:443"),
        *("127.1:443", "0x7f.1:443", "2130706433:443", "0177.0.0.1:443", "1.2.3.4.5:443", "a.0x:443"),
        *("2001:db8::1:443", "[2001:db8::1]", "[fe80::1%lo]:443", "[::ffff:10.0.0.1]:443", "[x]:443"),
        *("224.0.0.1:80", "0.0.0.0:80", "255.255.255.255:80", "198.18.0.1:53", "[ff02::1]:80", "[::]:80"),
        *("http:192.0.2.1:80", "https://example.test/", "example.test:443/path", "user@example.test:443"),
        *("a" * 64 + ".test:443", ".".join(["a" * 60] * 5) + ":443", "exam\0ple.test:443", "tcp::443"),
    ],
)
def test_what_is_no_entry_is_refused_by_name(written: str) -> None:
    with pytest.raises(ConfigError, match=r"^network: "):
        parse(written)


@pytest.mark.parametrize(
    ("entry", "yes", "no"),
    [
        ("a.test:1", ["a.test"], ["b.a.test", "xa.test", "a.test.b"]),
        ("*.a.test:1", ["b.a.test"], ["a.test", "c.b.a.test", "ba.test", ".a.test"]),
        ("**.a.test:1", ["b.a.test", "c.b.a.test"], ["a.test", "ba.test", "a.test.evil"]),
    ],
)
def test_patterns_match_whole_labels(entry: str, yes: list[str], no: list[str]) -> None:
    assert all(parse(entry).matches(name) for name in yes)
    rules = Rules.of([entry])
    assert not any(rules.knows(name) and canonical(name) for name in no if not name.startswith("."))


def test_of_several_entries_the_one_that_checks_least_decides() -> None:
    rules = Rules.of(["a.test:80", "tcp:a.test:80", "*.test:80", "10.0.0.1:80"])
    found = rules.find("a.test", 80)
    assert found is not None
    assert found.kind == "tcp"
    assert rules.find("a.test", 81) is None
    assert rules.find("10.0.0.1", 80) is not None
    assert not rules.knows("10.0.0.1")


def test_every_name_has_an_address_with_its_own_ports() -> None:
    layout = Rules.of(
        ["a.test:443", "a.test:80", "b.test:22", "*.test:8443", "192.0.2.1:5", "127.0.0.1:6"]
    ).layout()
    assert layout.names == {"a.test": "198.18.1.0", "b.test": "198.18.1.1"}
    assert ("198.18.1.0", 443) in layout.listen
    assert ("198.18.1.0", 8443) in layout.listen
    assert ("198.18.1.1", 80) not in layout.listen
    assert len(layout.pool) == match.POOL
    assert layout.addresses == ("192.0.2.1",)
    assert {("192.0.2.1", 5), ("127.0.0.1", 6), ("198.18.0.1", 3128)} < set(layout.listen)
    assert len(set(layout.listen)) == len(layout.listen)


def test_too_many_sockets_are_refused() -> None:
    with pytest.raises(ConfigError, match="over the limit"):
        Rules.of(f"*.test:{port}" for port in range(1000, 1020)).layout()
