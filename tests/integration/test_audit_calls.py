"""Calls and what the audit log says of them, through every way there is; and that no call is made without it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.escape.arena import Arena, end
from tests.integration.audited import AuditLog, Json, Pipe, piped, waiting
from tests.integration.caller import Caller, stop
from tests.integration.gateway import Gateway
from tests.integration.host import children
from tests.integration.remains import nothing_left

KILLS = int(os.environ.get("SUPERVISOR_KILLS", "4"))
DENY = {"tools": '{ deny = ["forbidden"] }'}
SECRET = "hunter2hunter2"


@pytest.fixture(scope="module")
def gateway(root: Caller) -> Gateway:
    """Not started: every test starts one over a log of its own."""
    return waiting(root, **DENY)


def test_a_call_through_run_is_found_with_who_what_verdict_and_outcome_and_nothing_is_left(caller: Caller) -> None:
    log = AuditLog(caller, "run")
    argv = caller.command("run", *caller.start_options(), "--profile", "fs-readonly")
    argv += ["--param", f"root={caller.plot.folder}"]
    with nothing_left(caller), piped(log, argv) as pipe:
        pipe.call("read_file", path="hello.txt", api_key=SECRET, note="Bearer abcdefgh12345678")
        assert "result" in pipe.call("list_directory", path=".")
    listed, read = log.query()
    assert (listed["user"], listed["tool"], listed["verdict"], listed["status"]) == (
        f"uid:{caller.plot.uid}",
        "list_directory",
        "allow",
        "ok",
    )
    assert listed["client"] == "tester 7"
    assert listed["microseconds"] > 0
    assert read["tool"] == "read_file"
    assert "[redacted: key api_key]" in log.show(read["call"])
    assert SECRET not in log.text()
    assert "abcdefgh12345678" not in log.text()
    intent, outcome = log.records(listed["call"])
    assert intent["unmapped"]["spec"] == outcome["unmapped"]["spec"] != ""
    assert outcome["unmapped"]["posture"] == ("ok" if caller.mode == "root" else "ok, files unseen")
    assert outcome["unmapped"]["response"]["bytes"] > 0
    assert "every record is as it was written" in log.verified()


def test_a_call_that_is_cancelled_is_found_as_such(root: Caller) -> None:
    log = AuditLog(root, "cancel")
    code = """import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request and request.get("params", {}).get("name") != "hang":
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {}}), flush=True)"""
    argv = root.command("run", *root.start_options(), "--profile", "none", "--", "/usr/bin/python3", "-c", code)
    with piped(log, argv) as pipe:
        number = pipe.ask("tools/call", {"name": "hang", "arguments": {}})
        about = {"method": "notifications/cancelled", "params": {"requestId": number}}
        pipe.send({"jsonrpc": "2.0"} | about)
        assert "result" in pipe.call("other")
    other, cancelled = log.query()
    assert (other["tool"], other["status"]) == ("other", "ok")
    assert (cancelled["tool"], cancelled["status"]) == ("hang", "lost")
    outcome = log.records(cancelled["call"])[1]
    assert outcome["api"]["response"]["error_message"] == "its client did not wait for it"


def test_one_call_is_written_down_and_without_a_log_only_if_that_is_accepted_by_name(root: Caller) -> None:
    log = AuditLog(root, "call")
    words = ("call", "--profile", "fs-readonly", "--param", f"root={root.plot.folder}", "list_directory", "path=.")
    argv = root.command(*words)
    assert root.arena.finish(root.process(argv, env=log.env), seconds=40).returncode == 0
    assert [each["status"] for each in log.query("--tool", "list_directory")] == ["ok"]
    # a log that others can exchange is none
    log.root.chmod(0o777)
    refused = root.arena.finish(root.process(argv, env=log.env), seconds=40)
    assert refused.returncode == 1
    assert "no audit, no call" in refused.stderr
    assert "chown and chmod go-w it" in refused.stderr
    accepted = root.arena.finish(root.process([*argv, "--accept-missing", "audit"], env=log.env), seconds=40)
    assert accepted.returncode == 0
    assert "WITHOUT audit" in accepted.stderr


@pytest.fixture
def serving(root: Caller, gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[tuple[AuditLog, Pipe]]:
    """`serve` on standard streams, and its log."""
    log = AuditLog(root, request.node.name[:40])
    with piped(log, gateway.command("-q")) as pipe:
        yield log, pipe


def closed(pipe: Pipe) -> None:
    """The end of a client, and of everything that it had started."""
    stop(pipe.process)


def test_what_a_gateway_refuses_is_recorded_with_the_rule(serving: tuple[AuditLog, Pipe]) -> None:
    log, pipe = serving
    assert "result" in pipe.call("slow__echo", text="x")
    assert "error" in pipe.call("slow__forbidden")
    assert "error" in pipe.call("slow__nothing")
    numbers = [pipe.ask("tools/call", {"name": "net__wait", "arguments": {"seconds": 1}}) for _ in range(9)]
    assert "quota.calls" in pipe.answer(numbers[-1])["error"]["message"]
    closed(pipe)
    denied = {each["tool"] or each["reason"]: each["rule"] for each in log.query("--verdict", "deny")}
    assert denied == {"forbidden": "tools.deny", "nothing": "not listed", "wait": "quota.calls"}
    assert [each["server"] for each in log.query("--tool", "nothing")] == ["slow"]
    echo = log.query("--tool", "echo")[0]
    intent, outcome = log.records(echo["call"])
    assert intent["unmapped"]["manifest"]
    assert intent["activity_id"] == 2
    assert outcome["actor"]["session"]["uid"]
    log.verified()


def test_calls_that_overlap_name_each_other_and_a_host_that_was_refused_is_found(
    serving: tuple[AuditLog, Pipe],
) -> None:
    log, pipe = serving
    pipe.call("slow__echo")
    # what it touched is known, and none of the next
    (echo,) = log.query("--tool", "echo")
    while len(log.records(echo["call"])) < 2:
        continue
    numbers = {pipe.ask("tools/call", {"name": "slow__wait", "arguments": {"seconds": 0.3}}) for _ in range(3)}
    while numbers:
        numbers.discard(pipe.read()["id"])
    pipe.call("net__resolve", name="denied.example")
    closed(pipe)
    waits = {each["call"]: log.records(each["call"])[1]["unmapped"] for each in log.query("--tool", "wait")}
    assert len(waits) == 3
    for call, about in waits.items():
        assert about["attribution"] == "window"
        assert set(about["during"]) == waits.keys() - {call}
    assert log.records(echo["call"])[1]["unmapped"]["attribution"] == "exact"
    found = log.query("--host", "denied.example")
    assert [each["tool"] for each in found] == ["resolve"]
    assert "DENIED denied.example" in log.show(found[0]["call"])


def test_where_attribution_is_exact_calls_take_turns(root: Caller) -> None:
    log = AuditLog(root, "exact")
    made = waiting(root, name="exact", audit='{ attribution = "exact" }')
    with piped(log, made.command("-q")) as pipe:
        pipe.call("slow__echo")
        began = time.monotonic()
        numbers = {pipe.ask("tools/call", {"name": "slow__wait", "arguments": {"seconds": 0.2}}) for _ in range(4)}
        while numbers:
            numbers.discard(pipe.read()["id"])
        assert time.monotonic() - began >= 0.8
        closed(pipe)
    about = [log.records(each["call"])[1]["unmapped"] for each in log.query("--tool", "wait")]
    assert [each["attribution"] for each in about] == ["exact"] * 4


def refused(answer: Json) -> bool:
    """Whether a call was not made because it could not be written down."""
    return "no audit, no call" in answer.get("error", {}).get("message", "")


def test_a_ledger_that_is_killed_costs_calls_until_it_is_there_again_and_the_gap_is_recorded(
    serving: tuple[AuditLog, Pipe],
) -> None:
    log, pipe = serving
    assert "result" in pipe.call("slow__echo")
    first = pipe.ledger()
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 20
    answers = [pipe.call("slow__echo")]
    while "result" not in answers[-1] and time.monotonic() < deadline:
        answers.append(pipe.call("slow__echo"))
    assert all(refused(each) or "result" in each for each in answers)
    assert "result" in answers[-1]
    assert pipe.ledger() != first
    closed(pipe)
    assert "the ledger was ended from outside" in log.verified()
    count = sum("result" in each for each in answers) + 1
    assert len([each for each in log.query("--tool", "echo") if each["status"] == "ok"]) == count


def test_a_full_disk_refuses_calls_says_so_and_lets_them_pass_when_there_is_room_again(
    root: Caller, gateway: Gateway
) -> None:
    log = AuditLog(root, "full")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", log.parent], check=True)
    try:
        with piped(log, gateway.command("-q")) as pipe:
            assert "result" in pipe.call("slow__echo")
            filler = log.parent / "filler"
            with suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(b"x" * 65536)
            time.sleep(1.1)  # the ledger asks for room once a second
            answer = pipe.call("slow__echo")
            assert refused(answer), answer
            assert "No space left on device" in answer["error"]["message"]
            assert str(log.root) in answer["error"]["message"]
            filler.unlink()
            time.sleep(1.1)
            assert "result" in pipe.call("slow__echo")
            closed(pipe)
        assert [each["status"] for each in log.query("--tool", "echo")].count("ok") == 2
        assert '"refused": 1' in log.verified()
    finally:
        subprocess.run(["umount", log.parent], check=True)


def test_no_call_that_was_answered_is_lost_whatever_is_killed(root: Caller, gateway: Gateway) -> None:
    log = AuditLog(root, "kills")
    dice = random.Random(7)
    answered = 0
    for number in range(KILLS):
        victim = ("ledger", "proxy", "monitor")[number % 3]
        process = root.process(gateway.command("-q"), stdin=subprocess.PIPE, env=log.env)
        orphans = []
        try:
            pipe = Pipe(process)
            pipe.hello()
            pipe.call("slow__echo")
            answered += 1
            orphans = children(process.pid)
            for each in range(60):
                pipe.ask("tools/call", {"name": "slow__echo", "arguments": {"number": each}})
            for _ in range(dice.randrange(50)):
                answered += "result" in pipe.read()
            os.kill({"ledger": pipe.ledger(), "proxy": process.pid, "monitor": _monitor(orphans)}[victim], 9)
            with suppress(EOFError, OSError, json.JSONDecodeError):
                while "result" in (found := pipe.read()) or refused(found) or "error" in found:
                    answered += "result" in found
                    if found["id"] == 62:
                        break
        finally:
            stop(process)
            _reap(orphans)
    assert answered > KILLS
    calls = [each for each in log.query("--tool", "echo") if each["verdict"] == "allow"]
    assert len(calls) >= answered
    log.verified()


def _monitor(pids: list[str]) -> int:
    """The monitor among the children of a gateway."""
    for pid in pids:
        if b"supervisor.monitor.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise AssertionError("no monitor")


def _reap(pids: list[str]) -> None:
    """Wait until none of these runs: whoever adopts them has its own pace."""
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_host_s_log_has_its_users_calls_and_what_its_monitor_did(root: Caller, arena: Arena) -> None:
    log, user = AuditLog(root, "host"), Caller(arena, "user")
    user.reset()
    folder = arena.base / "audited-host"
    folder.mkdir()
    text = '[server.files]\nprofile = "fs-readonly"\n'
    text += f'params = {{ root = "{user.plot.folder}" }}\nusers = ["{arena.account}"]\n'
    (folder / "servers.toml").write_text(f'{text}[server.private]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n')
    run = folder / "run"
    argv = root.command("daemon", "--config", folder / "servers.toml", "--runtime-dir", run)
    daemon = root.process(argv, env=log.env)
    try:
        assert daemon.stderr
        assert b"listening in" in daemon.stderr.readline()
        call = ("call", "-q", "--runtime-dir", run, "--server")
        assert user.finish(user.command(*call, "files", "list_directory", "path=/data")).returncode == 0
        assert user.finish(user.command(*call, "private", "x")).returncode == 3
        assert root.finish(root.command("admin", "--runtime-dir", run, "reload")).returncode == 0
    finally:
        daemon.terminate()
        status = daemon.wait(40)
        end(daemon)
    assert status == 0
    called = log.query("--tool", "list_directory")
    assert [(each["user"], each["status"]) for each in called] == [(f"uid:{user.plot.uid}", "ok")]
    # by the kernel's word
    assert called[0]["speaker"].startswith(f"{user.plot.uid}:")
    events = [each["reason"] for each in reversed(log.query()) if each["kind"] == "event"]
    # what a session opened is told when its watcher has ended, which nobody waits for
    told = [each for each in events if each != "session.files"]
    assert told == ["session.opened", "session.ended", "session.refused", "configuration.read"]
    assert "session.files" in events
    assert "/data" in log.text()
    opened = next(each for each in log.query() if each["reason"] == "session.opened")
    assert opened["speaker"].startswith("0:")
    assert log.records(called[0]["call"])[1]["actor"]["session"]["uid"] == opened["session"]
    log.verified()
