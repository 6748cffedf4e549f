"""The types: what comes from outside is closed and strict, however it comes; a fault is told with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest

from supervisor.errors import ConfigError
from supervisor.model import Frozen, Mount, Planned, SessionRules, Tmp
from supervisor.monitor import dispatch, requests  # noqa: F401 - for their types
from supervisor.profile import load, plan, seccomp, toml  # noqa: F401
from supervisor.profile.entry import ServerEntry
from supervisor.registry import approvals, catalog  # noqa: F401

TMP: dict[str, object] = {"size": 1, "inodes": 1, "noexec": True}
MOUNT: dict[str, object] = {"source": "/a", "target": "/b"}


def kinds(base: type[Frozen] = Frozen) -> Iterator[type[Frozen]]:
    for each in base.__subclasses__():
        yield each
        yield from kinds(each)


@pytest.mark.parametrize("kind", [*kinds()], ids=lambda kind: kind.__qualname__)
def test_every_type_is_closed_and_frozen(kind: type[Frozen]) -> None:
    assert kind.__struct_config__.forbid_unknown_fields
    assert kind.__struct_config__.frozen
    with pytest.raises(msgspec.ValidationError, match="unknown field `surplus`"):
        msgspec.convert({"surplus": 1}, kind, dec_hook=lambda of, given: given)


def patterns(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (each for key, each in schema.items() if key == "pattern" and isinstance(each, str))
        for each in schema.values():
            yield from patterns(each)
    for each in schema if isinstance(schema, list) else []:
        yield from patterns(each)


@pytest.mark.parametrize("kind", [*kinds()], ids=lambda kind: kind.__qualname__)
def test_no_pattern_lets_a_newline_follow(kind: type[Frozen]) -> None:
    found = patterns(msgspec.json.schema(kind, schema_hook=lambda _: {"title": "ours"}))
    assert [each for each in found if "$" in each] == []


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Tmp, TMP | {"size": 1.0}),
        (Tmp, TMP | {"size": True}),
        (Tmp, TMP | {"size": "1"}),
        (Tmp, TMP | {"size": 0}),
        (Tmp, TMP | {"noexec": 1}),
        (Tmp, TMP | {"noexec": None}),
        (Tmp, TMP | {"more": 1}),
        (Tmp, {"size": 1}),
        (Tmp, [1, 1, True]),
        (Mount, MOUNT | {"source": "a"}),
        (Mount, MOUNT | {"source": b"/a".hex()}),
        (Mount, MOUNT | {"mode": "RW"}),
        (SessionRules, {"start": True, "idle": 1.0, "life": 1.0, "grace": 1.0}),
        (SessionRules, {"start": "1", "idle": 1.0, "life": 1.0, "grace": 1.0}),
        (ServerEntry, {"name": "a\n", "origin": "x", "profile": "none"}),
        (Planned, {"sealed": [f"sha256:{'0' * 64}\n"]}),
        (Planned, {"servers": {"a": 1}}),
    ],
)
def test_no_kind_is_taken_for_another(kind: type[Frozen], given: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        toml.made(given, kind)
    with pytest.raises(msgspec.ValidationError):
        toml.decoded(json.dumps(given), kind)


def test_what_is_no_json_is_a_value_error() -> None:
    for data in (b"", b"{", b'{"error": "\xff"}', b'{"status": NaN}', b'{"error": "\\ud800"}', b"{} {}"):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
            toml.decoded(data, Planned)


def test_a_number_that_a_file_s_state_makes_survives() -> None:
    made = Planned(watched=(("/a", 1 << 190),))
    assert toml.decoded(msgspec.json.encode(made), Planned) == made


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[server.a]\nprofile = "none"\n[server.b]\nprofile = 1\n', 4, "server.b.profile: expected a text"),
        ('[server.a]\nprofile = "none"\n[server.b]\nx = 1\n', 4, 'unknown key "server.b.x"'),
        ("[server.a]\nprofile = 'x'\nenv = { A = 'b', C = 1 }\n", 3, "server.a.env.C: expected a text"),
        ("[server.a]\nprofile = 'x'\nsession = { idle = '1x' }\n", 3, "server.a.session.idle: a time is"),
        ("[server.a]\nprofile = 'x'\ntools = { grant = { b = ['a', 'b c'] } }\n", 3, "tools.grant.b.1: expected"),
        ("[server.a]\nprofile = 'x'\ntools = { grant = { 'b c' = ['a'] } }\n", 3, "not 'b c'"),
        ("[server.a]\nprofile = 'x'\n[server.b__c]\nprofile = 'x'\n", 3, '"b__c" holds "__"'),
        ("[server.a]\nprofile = 2026-01-01\n", 2, "server.a.profile: expected a text"),
        ("[server.a]\nprofile = 'x'\nquota = { calls = 1.0 }\n", 3, "server.a.quota.calls: expected a number"),
        ("[server.a]\nprofile = 'x'\nenabled = 1\n", 3, "server.a.enabled: expected `bool`"),
        ("[server.a]\nro = []\n", 1, 'key "server.a.profile" is missing'),
    ],
)
def test_a_fault_below_a_table_of_names_is_told_with_the_name(text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalog.parsed(toml.parse("servers.toml", text.encode()))
    assert str(caught.value).startswith(f"servers.toml:{line}: ")
    assert said in str(caught.value)
