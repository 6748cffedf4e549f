"""What the two eras add to a message, and take from it."""

from __future__ import annotations

import json

import msgspec
import pytest

from supervisor.proxy import eras, message
from supervisor.proxy.message import Fields

KEY = "io.modelcontextprotocol/"
META: dict[str, object] = {
    KEY + "protocolVersion": "2026-07-28",
    KEY + "clientCapabilities": {},
    "traceparent": "00-1",
}


def table(value: dict[str, object]) -> Fields:
    return {name: message.raw(each) for name, each in value.items()}


def plain(found: msgspec.Raw | Fields) -> dict[str, object]:
    made: dict[str, object] = json.loads(bytes(found) if isinstance(found, msgspec.Raw) else message.encode(found))
    return made


@pytest.mark.parametrize(
    ("asked", "most", "agreed"),
    [
        ("2025-06-18", "2025-11-25", "2025-06-18"),
        ("2024-11-05", "2025-11-25", "2024-11-05"),
        ("2025-11-25", "2025-03-26", "2025-03-26"),
        ("2026-07-28", "2025-11-25", "2025-11-25"),
        ("1.0", "2025-11-25", "2025-11-25"),
        (None, "2025-06-18", "2025-06-18"),
    ],
)
def test_a_handshake_agrees_on_a_version_that_both_know(asked: str | None, most: str, agreed: str) -> None:
    assert eras.negotiated(asked, most) == agreed


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({KEY + "clientInfo": 5}, None),
        ({KEY + "protocolVersion": "v9"}, message.UNSUPPORTED_VERSION),
        ({KEY + "protocolVersion": "2025-11-25"}, message.UNSUPPORTED_VERSION),
        ({KEY + "protocolVersion": 7}, message.UNSUPPORTED_VERSION),
        ({KEY + "clientCapabilities": []}, message.INVALID_PARAMS),
        ({KEY + "clientCapabilities": None}, message.INVALID_PARAMS),
    ],
)
def test_a_modern_request_says_its_version_and_capabilities(change: dict[str, object], code: int | None) -> None:
    wrong = eras.problem(table(META | change))
    assert (wrong and wrong[0]) == code


def test_a_version_that_is_not_known_is_answered_with_those_that_are() -> None:
    wrong = eras.problem(table(META | {KEY + "protocolVersion": "v9"}))
    assert wrong is not None
    assert wrong[2] == {"supported": ["2026-07-28"], "requested": "v9"}


def test_a_legacy_server_does_not_see_what_is_of_the_other_era() -> None:
    meta = META | {KEY + "logLevel": "debug", KEY + "clientInfo": {}, "progressToken": 1}
    assert plain(eras.stripped(table(meta))) == {"traceparent": "00-1", "progressToken": 1}


@pytest.mark.parametrize("level", ["", "debug"])
def test_a_modern_server_sees_a_request_of_its_era(level: str) -> None:
    made = plain(
        eras.stamped(table({"a": 1}), "2026-07-28", message.raw({"roots": {}}), message.raw({"name": "c"}), level)
    )
    assert made == {
        "a": 1,
        KEY + "protocolVersion": "2026-07-28",
        KEY + "clientCapabilities": {"roots": {}},
        KEY + "clientInfo": {"name": "c"},
    } | ({KEY + "logLevel": level} if level else {})


def test_a_legacy_result_gets_what_the_new_era_requires_and_loses_nothing() -> None:
    result = msgspec.Raw(b'{"contents":[1.50],"x":{"y":1e5},"_meta":{"a":1},"ttlMs":7}')
    made = eras.completed(result, "resources/read", message.raw({"name": "s"}))
    assert b'"contents":[1.50],"x":{"y":1e5}' in bytes(made)
    assert plain(made) == {
        "contents": [1.5],
        "x": {"y": 1e5},
        "_meta": {"a": 1, KEY + "serverInfo": {"name": "s"}},
        "ttlMs": 7,
        "resultType": "complete",
        "cacheScope": "private",
    }


def test_only_what_may_be_kept_says_for_how_long() -> None:
    assert plain(eras.completed(message.EMPTY, "tools/call", None)) == {"resultType": "complete"}


@pytest.mark.parametrize("written", [b"[]", b"5", b'"x"', b"null"])
def test_a_result_that_is_no_object_stays_as_it_is(written: bytes) -> None:
    raw = msgspec.Raw(written)
    assert bytes(eras.completed(raw, "tools/call", None)) == written
    assert plain(eras.as_discovery(raw))["supportedVersions"] == ["2026-07-28"]
    assert plain(eras.as_handshake(raw, "2025-11-25"))["serverInfo"] == {"name": "unknown", "version": "0"}


def test_the_two_handshakes_are_told_as_one_another() -> None:
    info = {"name": "s", "version": "1", "x": 1}
    capabilities: dict[str, object] = {"tools": {}, "tasks": {}, "experimental": {"v": {}}}
    legacy = {
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "serverInfo": info,
        "instructions": "i",
    }
    modern = eras.as_discovery(message.raw(legacy))
    assert plain(modern) == {
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}, "experimental": {"v": {}}},
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "instructions": "i",
        "_meta": {KEY + "serverInfo": info},
    }
    back = eras.as_handshake(modern, "2025-06-18")
    assert plain(back)["serverInfo"] == info
    assert plain(back)["protocolVersion"] == "2025-06-18"
    found = [eras.server_info(modern, modern=True), eras.server_info(message.raw(legacy), modern=False)]
    assert [plain(each) for each in found if each is not None] == [info, info]
