"""The first call of all: written down before its server gets it, and without the secrets that come with that."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.integration.audited import AuditLog, Pipe, piped, waiting
from tests.integration.caller import Caller, stop
from tests.integration.gateway import Gateway

VALUE = f"canary-first-{secrets.token_hex(12)}"


@pytest.fixture(scope="module")
def secret(root: Caller) -> Path:
    path = root.plot.home / "first-token"
    path.write_text(VALUE + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module", params=["window", "exact"])
def gateway(root: Caller, secret: Path, request: pytest.FixtureRequest) -> Gateway:
    rules = {
        "tools": '{ deny = ["forbidden"] }',
        "secrets.TOKEN": f'{{ file = "{secret}", to = "env" }}',
        "audit": f'{{ attribution = "{request.param}" }}',
    }
    return waiting(root, name="first", **rules)


def served(root: Caller, gateway: Gateway, name: str) -> tuple[AuditLog, list[str]]:
    return AuditLog(root, f"first-{name}"), gateway.command("-q")


def test_the_first_call_is_written_without_the_value_and_with_the_rest(root: Caller, gateway: Gateway) -> None:
    log, argv = served(root, gateway, "cold")
    with piped(log, argv) as pipe:
        numbers = [ask(pipe, f"{each} {VALUE} end") for each in ("one", "two")]
        assert all("result" in pipe.answer(each) for each in numbers)
        stop(pipe.process)
    calls = log.query("--tool", "echo")
    assert [each["status"] for each in calls] == ["ok", "ok"]
    for call in calls:
        intent, outcome = log.records(call["call"])
        assert "[redacted: secret TOKEN] end" in intent["api"]["request"]["data"]["text"]
        assert intent["actor"]["session"] == outcome["actor"]["session"] != {"uid": ""}
    assert VALUE not in log.text()
    assert "every record is as it was written" in log.verified()


def ask(pipe: Pipe, text: str) -> int:
    return pipe.ask("tools/call", {"name": "slow__echo", "arguments": {"text": text}})


def test_what_is_refused_before_any_process_is_there_is_written_without_what_it_gave(
    root: Caller, gateway: Gateway
) -> None:
    log, argv = served(root, gateway, "refused")
    with piped(log, argv) as pipe:
        assert "error" in pipe.call("slow__forbidden", text=f"x {VALUE}")
        stop(pipe.process)
    (refused,) = log.query("--verdict", "deny")
    assert (refused["tool"], refused["rule"]) == ("forbidden", "tools.deny")
    assert "its server has secrets, and does not run" in log.show(refused["call"])
    assert VALUE not in log.text()


def test_a_call_whose_process_does_not_come_is_written_all_the_same(
    root: Caller, gateway: Gateway, secret: Path
) -> None:
    log, argv = served(root, gateway, "none")
    with piped(log, argv) as pipe:
        secret.chmod(0o644)
        try:
            assert "others can read" in pipe.answer(ask(pipe, f"x {VALUE}"))["error"]["message"]
        finally:
            secret.chmod(0o600)
        stop(pipe.process)
    (call,) = log.query("--tool", "echo")
    assert call["status"] != "ok"
    assert len(log.records(call["call"])) == 2
    assert VALUE not in log.text()
