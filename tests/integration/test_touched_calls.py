"""The files that a call opened, in the audit log: through `run`, `call` and `serve`, one at a time and several."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.escape.arena import PYTHON
from tests.integration.audited import AuditLog, Json, piped
from tests.integration.caller import Caller, stop
from tests.integration.gateway import Entry, Gateway, give

SERVER = Path(__file__).parent / "opening_server.py"


@pytest.fixture
def command(caller: Caller) -> tuple[str, ...]:
    """The server, from a folder of the caller's own."""
    shutil.copy(SERVER, caller.project / "opening.py")
    give(caller, caller.project / "opening.py")
    return (*PYTHON, str(caller.project / "opening.py"))


def touched(outcome: Json) -> dict[str, str]:
    """{path: mode} of an outcome."""
    return {each["name"]: each["data"]["mode"] for each in outcome.get("resources", [])}


def test_what_a_call_opened_is_found_by_its_path(caller: Caller, command: tuple[str, ...]) -> None:
    log = AuditLog(caller, "opened")
    folder, scope = caller.plot.folder, caller.plot.scope
    options = (
        *caller.start_options(),
        "--profile",
        "fs-scoped",
        "--param",
        f"root={folder}",
        "--param",
        f"scope={scope}",
    )
    with piped(log, caller.command("run", *options, "--", *command)) as pipe:
        assert "result" in pipe.call("open", paths=["/data/hello.txt"])
        assert "result" in pipe.call("open", paths=[f"{scope}/new"], mode="w")
        stop(pipe.process)
    calls = [log.records(each["call"])[1] for each in reversed(log.query("--tool", "open"))]
    seen = [each["unmapped"]["files"] for each in calls]
    if caller.mode == "user":
        assert (seen, [touched(each) for each in calls]) == (["none", "none"], [{}, {}])
        assert all(each["unmapped"]["posture"] == "ok, files unseen" for each in calls)
        return
    assert seen == ["all", "all"]
    for each, own in zip(calls, ({"/data/hello.txt": "r"}, {f"{scope}/new": "w"}), strict=True):
        # a second call that comes before the watcher has answered for the first is told together with it
        exact = each["unmapped"]["attribution"] == "exact"
        assert touched(each) == own if exact else own.items() <= touched(each).items()
    assert log.query("--path", "/data/hello.txt")
    assert f"{scope}/new" in log.show(log.query("--path", str(scope))[0]["call"])
    log.verified()


@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_a_single_call_has_its_files_as_well(caller: Caller, command: tuple[str, ...]) -> None:
    log = AuditLog(caller, "single")
    words = ("call", *caller.start_options(), "--profile", "fs-readonly", "--param", f"root={caller.plot.folder}")
    argv = caller.command(*words, "open", 'paths=["/data/hello.txt"]', "--", *command)
    done = caller.arena.finish(caller.process(argv, env=log.env), seconds=40)
    assert done.returncode == 0, done.stderr
    [found] = log.query("--path", "/data/hello.txt")
    assert touched(log.records(found["call"])[1]) == {"/data/hello.txt": "r"}


@pytest.mark.parametrize("caller", ["root"], indirect=True)
def test_calls_at_the_same_time_are_told_apart_where_they_take_turns_and_named_where_not(
    caller: Caller, command: tuple[str, ...]
) -> None:
    log = AuditLog(caller, "turns")
    params = {"root": str(caller.plot.folder)}
    servers = [
        Entry(name, command, profile="fs-readonly", params=params, rules={"audit": f'{{ attribution = "{name}" }}'})
        for name in ("exact", "window")
    ]
    gateway = Gateway(caller, servers, "turns")
    gateway.write()
    gateway.pin()
    paths = [f"/data/victim-{number}" for number in range(4)]
    with piped(log, gateway.command("-q")) as pipe:
        for name in ("exact", "window"):
            calls = [{"name": f"{name}__open", "arguments": {"paths": [path], "seconds": 0.3}} for path in paths]
            numbers = {pipe.ask("tools/call", each) for each in calls}
            while numbers:
                numbers.discard(pipe.read().get("id"))
        stop(pipe.process)
    outcomes = {
        name: [log.records(each["call"])[1] for each in log.query("--server", name)] for name in ("exact", "window")
    }
    assert sorted(map(sorted, map(touched, outcomes["exact"]))) == [[path] for path in paths]
    assert {each["unmapped"]["attribution"] for each in outcomes["exact"]} == {"exact"}
    assert [sorted(touched(each)) for each in outcomes["window"]] == [paths] * 4
    assert {len(each["unmapped"]["during"]) for each in outcomes["window"]} == {3}
