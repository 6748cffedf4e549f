"""The tables of requests: what is in them is done, anything else ends the peer, no shape has room for policy."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from supervisor import wire
from supervisor.errors import ConfigError, Refused, WireError
from supervisor.model import Frozen
from supervisor.monitor import dispatch
from tests.unit.monitor.recorder import Line


@pytest.fixture
def proxy() -> Iterator[Line]:
    line = Line(admin=False)
    yield line
    line.close()


@pytest.fixture
def admin() -> Iterator[Line]:
    line = Line(admin=True)
    yield line
    line.close()


def test_a_proxy_may_ask_for_what_is_in_its_table(proxy: Line) -> None:
    proxy.greeted()
    assert proxy.says({"id": 2, "req": "open", "server": "files"}) is None
    assert proxy.says({"id": 3, "req": "close", "session": 7}) == {"id": 3, "ok": {}}
    assert proxy.says({"id": 4, "req": "list"}) == {"id": 4, "ok": {}}
    assert proxy.says({"id": 5, "req": "ask", "server": "files"}) == {"id": 5, "ok": {}}
    assert proxy.monitor.asked == [("open", 2, "files"), ("close", 7), ("list",), ("ask", "files")]


def test_an_operator_may_ask_for_what_is_in_its_table(admin: Line) -> None:
    admin.greeted()
    for req in ("inspect", "reload", "drain"):
        assert admin.says({"id": 2, "req": req}) == {"id": 2, "ok": {}}
    assert admin.says({"id": 3, "req": "kill", "session": 7}) == {"id": 3, "ok": {}}
    assert admin.monitor.asked == [("inspect",), ("reload",), ("drain",), ("kill", 7)]


@pytest.mark.parametrize("req", ["approve", "deny", "revoke"])
def test_an_operator_decides_about_what_was_reviewed(admin: Line, req: str) -> None:
    about: wire.Message = {"id": 2, "req": req, "server": "files", "approval": "0123456789ab"}
    assert admin.greeted().says(about | {"reason": "why", "until": 5.0}) == {"id": 2, "ok": {}}
    assert admin.monitor.asked == [(req, "files", "0123456789ab", "why", 5.0)]
    wrong: dict[str, object] = {
        "approval": "0123456789aB",
        "until": float("inf"),
        "reason": "x" * 1001,
        "person": 0,
    }
    for key, value in wrong.items():
        with pytest.raises(WireError):
            admin.says(about | {key: value})


def test_the_tables_have_nothing_in_common_but_the_greeting() -> None:
    assert set(dispatch.PROXY) & set(dispatch.ADMIN) == {"hello"}


@pytest.mark.parametrize("req", [*sorted(set(dispatch.ADMIN) - {"hello"}), "load", "spawn", "", "Open"])
def test_an_operator_s_request_from_a_proxy_ends_it(proxy: Line, req: str) -> None:
    with pytest.raises(WireError, match="unknown request"):
        proxy.greeted().says({"id": 2, "req": req, "session": 1})
    assert proxy.monitor.asked == []


@pytest.mark.parametrize("req", sorted(set(dispatch.PROXY) - {"hello"}))
def test_a_proxy_s_request_from_the_operator_ends_it(admin: Line, req: str) -> None:
    with pytest.raises(WireError, match="unknown request"):
        admin.greeted().says({"id": 2, "req": req, "server": "files"})


@pytest.mark.parametrize("req", sorted(set(dispatch.PROXY) - {"hello"}))
def test_nothing_is_done_before_the_greeting(proxy: Line, req: str) -> None:
    with pytest.raises(WireError, match="hello comes first"):
        proxy.says({"id": 2, "req": req, "server": "files", "session": 1})
    assert proxy.monitor.asked == []


def test_a_second_greeting_ends_the_peer(proxy: Line) -> None:
    with pytest.raises(WireError, match="hello"):
        proxy.greeted().says({"id": 2, "req": "hello", "version": 1})


OPEN: wire.Message = {"id": 2, "req": "open", "server": "files"}


@pytest.mark.parametrize(
    "change",
    [
        {"command": ["/bin/sh"]},
        {"argv": []},
        {"env": {}},
        {"mounts": []},
        {"profile": "none"},
        {"params": {"root": "/"}},
        {"uid": 0},
        {"server": ""},
        {"server": None},
        {"server": 5},
        {"server": ["files"]},
        {"server": "../files"},
        {"server": "files\n"},
        {"server": "files\0"},
        {"server": "FILES"},
        {"server": "f" * 65},
        {"server": "\ud800"},
        {"id": "\ud800"},
        {"\ud800": 1},
        {"id": -1},
        {"id": 2**53 + 1},
        {"id": 1.0},
        {"id": "2"},
        {"id": True},
        {"id": None},
        {"id": [1]},
        {"req": ["open"]},
        {"req": None},
        {"req": 1},
    ],
    ids=str,
)
def test_a_request_of_another_shape_ends_the_peer(proxy: Line, change: wire.Message) -> None:
    with pytest.raises(WireError):
        proxy.greeted().says(OPEN | change)
    assert proxy.monitor.asked == []


@pytest.mark.parametrize("key", ["id", "req", "server"])
def test_a_request_that_lacks_a_key_ends_the_peer(proxy: Line, key: str) -> None:
    with pytest.raises(WireError):
        proxy.greeted().says({name: value for name, value in OPEN.items() if name != key})


@pytest.mark.parametrize("version", [0, 2, 1.0, "1", True, None])
def test_a_greeting_of_another_version_ends_the_peer(proxy: Line, version: object) -> None:
    with pytest.raises(WireError):
        proxy.says({"id": 1, "req": "hello", "version": version})


def test_no_request_has_a_field_for_anything_but_names_and_numbers() -> None:
    rules = [*dispatch.PROXY.values(), *dispatch.ADMIN.values()]
    fields = {name for rule in rules if issubclass(rule.shape, Frozen) for name in rule.shape.__struct_fields__}
    assert fields == {"id", "req", "version", "server", "session", "approval", "reason", "until"}
    assert all(rule.shape.__struct_config__.forbid_unknown_fields for rule in rules)


@pytest.mark.parametrize(("error", "status"), [(Refused("no"), 3), (ConfigError("no"), 2)])
def test_a_refusal_is_an_answer_with_its_status(proxy: Line, error: Exception, status: int) -> None:
    proxy.greeted().monitor.error = error
    assert proxy.says(OPEN) == {"id": 2, "error": {"status": status, "message": "no"}}


def test_what_is_refused_is_named_harmlessly(proxy: Line) -> None:
    with pytest.raises(WireError) as caught:
        proxy.greeted().says({"id": 2, "req": "\x1b[2J" + "x" * 10_000})
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("key", ["id", "req", "server"])
def test_a_value_as_deep_as_the_parser_takes_it_ends_the_peer(proxy: Line, key: str) -> None:
    """Whatever was read can be judged and named: no depth passes one and breaks the other."""
    proxy.greeted()
    refused = 0
    for depth in range(700, 1010):
        deep = json.dumps(OPEN | {key: "?"}).replace('"?"', "[" * depth + "]" * depth)
        try:
            message = wire.decode(deep.encode())
        except WireError:
            refused += 1
            continue
        with pytest.raises(WireError):
            proxy.says(message)
    assert 0 < refused < 300


def test_a_peer_that_does_not_read_is_marked_and_not_waited_for(proxy: Line) -> None:
    proxy.greeted()
    for _ in range(100_000):
        dispatch.handle(proxy.monitor, proxy.peer, {"id": 3, "req": "list"})
        if proxy.peer.closed:
            break
    assert proxy.peer.closed
