"""The commands of `supervisor audit` on a log that a real ledger writes, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit import record
from supervisor.audit.confine import Place
from supervisor.audit.reached import Reached
from supervisor.audit.record import Answer, Call, Context, Decision, Opened, Touched
from supervisor.audit.segments import path_of
from tests.escape.arena import Arena
from tests.unit.audit import ledgers
from tests.unit.audit.ledgers import Started, started

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the ledger's own uid needs root")
SUPERVISOR = Path(sys.executable).parent / "supervisor"
CONTEXT = Context("uid:1000", "7", "claude", "files", profile="fs-readonly", spec="ab" * 32)
CALL = Call(CONTEXT, "call-7", "read_file")
TOUCHED = Touched([Opened("/data/a.txt"), Opened("/etc/shadow", denied=True)], [Reached("example.com", 443, 5, 6)])


@pytest.fixture
def ledger(place: Place) -> Iterator[Started]:
    with started(place) as made:
        peer = made.peer()
        for number in range(5):
            call = Call(Context("uid:1001", "3", "other", "web"), f"call-{number}", "fetch")
            peer.ask(body=record.intent(call, b'{"url":"https://example.com/"}'))
            peer.ask("outcome", body=record.outcome(call, 1000))
        peer.ask(
            body=record.intent(CALL, b'{"path":"/data/a.txt","x":"\\u001b[2J"}', Decision("allow", "grants.toml:3"))
        )
        answer = Answer(content=b'{"text":"some"}', first=100)
        peer.ask("outcome", body=record.outcome(CALL, 2500, answer, TOUCHED))
        yield made


@pytest.fixture
def place() -> Iterator[Place]:
    with ledgers.place() as made:
        yield made


def run(place: Place, *argv: str, status: int = 0) -> str:
    done = subprocess.run(
        [str(SUPERVISOR), "audit", *argv, "--folder", str(place.root)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status in (0, 1) and done.stdout else done.stderr


def test_query_shows_who_called_what_as_a_table_and_as_json(place: Place, ledger: Started) -> None:
    lines = run(place, "query").splitlines()
    assert lines[0].split() == ["TIME", "USER", "SERVER", "TOOL", "VERDICT", "STATUS", "MS", "CALL"]
    assert lines[1].split()[1:] == ["uid:1000", "files", "read_file", "allow", "ok", "2.5", "call-7"]
    assert len(lines) == 7
    for asked in (["--path", "/data"], ["--path", "/etc/shadow"], ["--user", "uid:1000"], ["--tool", "read_file"],
                  ["--text", "some"], ["--server", "files", "--host", "example.com", "--since", "1h"]):  # fmt: skip
        (found,) = (json.loads(line) for line in run(place, "query", "--json", *asked).splitlines())
        assert found["call"] == "call-7", asked
    assert len(run(place, "query", "--limit", "2").splitlines()) == 3
    none = subprocess.run(
        [str(SUPERVISOR), "audit", "query", "--until", "2020-01-01", "--folder", str(place.root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (len(none.stdout.splitlines()), none.stderr) == (1, "no record is as asked for\n")
    assert "write 90m, 2d" in run(place, "query", "--since", "yesterday", status=2)


def test_whatever_the_ledger_took_is_found(place: Place, ledger: Started) -> None:
    peer, taken = ledger.peer(), 0
    for deep in range(900, 1000):
        data = b'{"path":' + b"[" * deep + b"]" * deep + b"}"
        body = ledgers.sample(f"deep-{deep}").replace(b'{"path":"/data/a.txt"}', data)
        taken = deep if "ok" in peer.ask(body=body) else taken
    assert 900 < taken < 999, "what is too deep is refused"
    assert f"deep-{taken}" in run(place, "query", "--limit", "0")
    assert f'"call": "deep-{taken}"' in run(place, "show", "--json", f"deep-{taken}")
    assert f'"deep-{taken}"' in run(place, "export")


def test_show_tells_everything_about_a_call_and_nothing_to_the_terminal(place: Place, ledger: Started) -> None:
    text = run(place, "show", "call-7")
    assert "\x1b" not in text
    told = {line[2:12].strip(): line[13:] for line in text.splitlines()[1:]}
    assert told["who"] == "uid:1000, session 7, claude"
    assert told["over"] == f"stdio; told by uid 0, pid {os.getpid()}"
    assert told["what"] == "tools/call read_file of files"
    assert told["verdict"] == "allow by grants.toml:3"
    assert told["outcome"] == "ok"
    assert told["begins"] == '{"text":"some"}'
    assert told["host"] == "example.com (port 443, 5 bytes out, 6 in)"
    assert "DENIED /etc/shadow (r)" in text
    whole = json.loads(run(place, "show", "call-7", "--json"))
    assert [each["kind"] for each in whole["records"]] == ["intent", "outcome"]
    assert "there is no call 'nothing'" in run(place, "show", "nothing", status=1)


def test_tail_shows_the_last_and_then_what_comes(place: Place, ledger: Started) -> None:
    assert [line.split()[-1] for line in run(place, "tail", "-n", "3").splitlines()] == [
        "call-4",
        "call-7",
        "touched",
    ]
    argv = [str(SUPERVISOR), "audit", "tail", "-f", "-n", "1", "--json", "--folder", str(place.root)]
    following = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout
        assert json.loads(following.stdout.readline())["kind"] == "outcome"
        ledger.peer().ask(body=ledgers.sample("new"))
        assert select.select([following.stdout], [], [], 20)[0]
        assert json.loads(following.stdout.readline())["body"]["metadata"]["correlation_uid"] == "new"
    finally:
        following.kill()
        following.communicate()


def test_what_reads_a_log_for_root_is_not_root(place: Place, ledger: Started) -> None:
    argv = [str(SUPERVISOR), "audit", "tail", "-f", "--folder", str(place.root)]
    following = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert following.stdout
        following.stdout.readline()
        text = Path(f"/proc/{following.pid}/status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert set(status["Uid"].split()) == {str(place.indexes.stat().st_uid)}
        assert int(status["CapEff"], 16) == 1 << 2  # CAP_DAC_READ_SEARCH
        assert int(status["CapBnd"], 16) == 0
    finally:
        following.kill()
        following.communicate()


def test_verify_finds_what_was_changed_and_a_checkpoint_finds_what_was_written_anew(
    place: Place, ledger: Started, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.write_text(run(place, "checkpoint"))
    checkpoint = json.loads(kept.read_text())
    assert checkpoint["seq"] == 13
    ledger.end()
    text = run(place, "verify", "--against", str(kept))
    assert f"log 0 ({checkpoint['log']}): 14 records, 1 to 14; signed up to record 14 at" in text
    assert text.endswith("every record is as it was written\n")
    key = (place.key / "signing.pub").read_text()
    (tmp_path / "key").write_text(key)
    path = path_of(ledger.folder, 1)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"/etc/shadow"', b'"/etc/shadox"'))
    text = run(place, "verify", "--key", str(tmp_path / "key"), status=1)
    assert "FAULT log 0 segment 1 line 13: changed: its hash is not the one that it states\n1 faults\n" in text
    assert json.loads(run(place, "verify", "--json", status=1).splitlines()[0])["faults"][0]["line"] == 13
    assert (
        "1 lines of the log are not whole"
        in subprocess.run(
            [str(SUPERVISOR), "audit", "query", "--folder", str(place.root)], capture_output=True, text=True
        ).stderr
    )
    # the end, the stored checkpoints and what the signer kept, all cut to the same length
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:12]))
    (ledger.folder / "checkpoints.jsonl").unlink()
    (place.key / f"last-{checkpoint['log']}").unlink()
    assert "every record is as it was written" in run(place, "verify")
    text = run(place, "verify", "--against", str(kept), status=1)
    assert "FAULT log 0 segment 1 line 13: cut: it ends with record 12, and record 13 was there when" in text


def test_what_is_exported_goes_on_where_it_was(place: Place, ledger: Started, tmp_path: Path) -> None:
    out = tmp_path / "out.cef"
    assert run(place, "export", "--to", f"file:{out}", "--format", "cef") == "12 records exported\n"
    assert out.read_text().count("CEF:0|supervisor|") == 12
    ledger.peer().ask()
    assert run(place, "export", "--to", f"file:{out}", "--format", "cef") == "1 records exported\n"
    assert run(place, "export", "--forget") == "1 cursors removed\n"
    assert len(run(place, "export", "--format", "leef").splitlines()) == 13
    assert "is no destination" in run(place, "export", "--to", "nowhere", status=2)


def test_where_there_is_no_log_it_is_said(tmp_path: Path) -> None:
    for argv in (["tail"], ["query"], ["verify"], ["show", "x"], ["checkpoint"]):
        assert "there is no audit log (yet); --folder names another place" in run(
            Place(tmp_path / "nowhere"), *argv, status=1
        )


USER = """
import os, socket, sys
from pathlib import Path
from supervisor import wire
from supervisor.audit import confine, record
from supervisor.monitor import children
from supervisor.profile.audit import ledger_filter
code = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.audit.ledger import main; main(3)"
ledger = children.start(code)
wire.send(ledger.socket, {"folder": str(confine.default_root()), "filter": ledger_filter()})
assert wire.receive(ledger.socket)[0]["event"] == "ready"
ours, theirs = wire.pair()
ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
wire.send(ledger.socket, {"req": "peer"}, [theirs.fileno()])
call = record.Call(record.Context("uid:1", "1", "t", "files"), "c", "read_file")
ours.send(b'{"id":1,"kind":"intent","policy":"power","record":' + record.intent(call, b"{}") + b"}")
assert ours.recv(999) == b'{"ok":[1]}'
ours.close(); ledger.socket.close(); os.waitpid(ledger.pid, 0)
"""


def test_an_ordinary_user_has_a_log_of_its_own(arena: Arena) -> None:
    (command,) = arena.commands["user"]
    python = Path(command).read_text().splitlines()[0].removeprefix("#!")
    plot = arena.plots["user"]
    plot.reset()
    folder = plot.home / ".local/state/supervisor/audit"
    shutil.rmtree(folder, ignore_errors=True)  # another test may have written there

    def user(*argv: str) -> str:
        done = arena.finish(arena.start(("/usr/bin/env", "-u", "XDG_STATE_HOME", *argv), "user"))
        assert done.returncode == 0, done.stderr
        return done.stdout

    user(python, "-c", USER)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "read_file" in user(command, "audit", "query")
    assert "signed up to record 3" in user(command, "audit", "verify")
    line = json.loads(user(command, "audit", "tail", "--json").splitlines()[1])
    assert (line["uid"], line["kind"]) == (plot.uid, "intent")
    assert abs(line["time"] / 1e6 - time.time()) < 60
