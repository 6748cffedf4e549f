"""`supervisor why` over a log that a real ledger writes: each denial, and the line that would allow it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.audit import record
from supervisor.audit.confine import Place
from supervisor.audit.reached import Reached
from supervisor.audit.record import Answer, Call, Context, Decision, Opened, Touched
from tests.unit.audit import ledgers
from tests.unit.audit.ledgers import started

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the ledger's own uid needs root")
SUPERVISOR = Path(sys.executable).parent / "supervisor"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one server, which may read one folder."""
    made = tmp_path_factory.mktemp("why")
    (made / "notes").mkdir()
    (made / "servers.toml").write_text(
        f"""[server.files]
profile = "none"
command = ["/usr/bin/true"]
ro = ["{made}/notes"]
tools = {{ deny = ["write_*"] }}
"""
    )
    return made


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[Place]:
    """A log in which everything was denied once."""
    context = Context("uid:1000", "m-7", "claude", "files", profile="none", spec="ab" * 32)
    with ledgers.place() as made, started(made) as ledger:
        peer = ledger.peer()

        def call(name: str, decision: Decision = Decision(), *ends: tuple[Answer, Touched]) -> None:  # noqa: B008
            peer.ask(body=record.intent(Call(context, name, "read"), b"{}", decision))
            for answer, touched in ends:
                peer.ask("outcome", body=record.outcome(Call(context, name, "read"), 5, answer, touched))

        said = f'{folder}/servers.toml:5: tools.deny "write_*" forbids "write_file"; remove the pattern to allow it'
        call("policy", Decision("deny", "tools.deny", said))
        files = [
            Opened(f"{folder}/notes/a", "w", denied=True),
            Opened("/srv/x/b", denied=True),
            Opened("/usr/bin/ls"),
        ]
        call("files", Decision(), (Answer(), Touched(files)))
        hosts = [Reached("api.example.com", 443, denied=True), Reached("good.example.com", 443, 5, 5)]
        call("hosts", Decision(), (Answer(), Touched((), hosts)))
        ended = "killed by the kernel: it used more than its 512 MiB of memory (limits.memory)"
        call("limit", Decision(), (Answer("lost", -32000, ended), Touched(limits=("limits.memory",))))
        call("quota", Decision(), (Answer("refused", -32000, "too many calls in flight (quota.calls)"), Touched()))
        call("calls", Decision(), (Answer("failed", 0, "unshare: Operation not permitted"), Touched()))
        nothing = Decision("deny", "not listed", "Unknown tool: files__nothing")
        call("unlisted", nothing)
        stray = Call(Context("uid:1000", "", "claude", ""), "stray", "nothing")
        peer.ask(body=record.intent(stray, b"{}", Decision("deny", "not listed", "Unknown tool: nothing")))
        call("fine", Decision(), (Answer(), Touched()))
        about = Call(context, "event-1", "", method="session")
        told = {
            "name": "evil.example.com",
            "port": "443",
            "reason": "no rule",
            "rule": "--allow evil.example.com:443",
        }
        peer.ask("event", body=record.event(about, "egress.refused", {"told": told | {"event": "refused"}}))
        yield made


def why(place: Place, folder: Path, name: str, status: int = 0) -> list[dict[str, str]]:
    argv: list[str | Path] = [
        SUPERVISOR,
        "why",
        name,
        "--folder",
        place.root,
        "--config",
        folder / "servers.toml",
        "--json",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return [each["answer"] for each in json.loads(done.stdout)["denials"]] if status == 0 else [{"": done.stderr}]


@pytest.mark.parametrize(
    ("call", "what", "where", "line"),
    [
        ("policy", "policy: tools.deny", "{folder}/servers.toml:5", "take the pattern out"),
        ("hosts", "host: api.example.com:443", "{folder}/servers.toml:1", 'allow = ["api.example.com:443"]'),
        ("limit", "limit: limits.memory", "a profile of your own that extends none", "memory = ...   # more than"),
        ("quota", "limit: quota.calls", "{folder}/servers.toml:1", "quota = { calls = N }"),
        ("calls", "answer: failed", "[seccomp] groups", "supervisor profile learn --bound none"),
        ("unlisted", "policy: not listed", "{folder}/servers.toml:1", "supervisor pin files"),
        ("stray", "policy: not listed", "{folder}/servers.toml", "supervisor list   # of the servers: files"),
        ("event-1", "host: evil.example.com:443", "{folder}/servers.toml:1", 'allow = ["evil.example.com:443"]'),
    ],
)  # fmt: skip
def test_each_kind_of_denial_is_explained_with_the_line_that_would_allow_it(
    place: Place, folder: Path, call: str, what: str, where: str, line: str
) -> None:
    (said,) = why(place, folder, call)
    assert said["what"] == what
    assert said["where"].startswith(where.replace("{folder}", str(folder)))
    assert line in said["allow"]


def test_a_file_is_granted_as_it_was_wanted_and_under_the_host_s_name(place: Place, folder: Path) -> None:
    written, read = why(place, folder, "files")
    assert written["what"] == f"file: write {folder}/notes/a"
    assert written["allow"].startswith(f'rw = ["{folder}/notes"]')
    assert read["why"] == "no mount shows it"
    assert read["allow"].startswith('ro = ["/srv/x"]')


def test_a_session_is_explained_whole_and_a_call_that_was_let_pass_has_nothing_to_explain(
    place: Place, folder: Path
) -> None:
    assert why(place, folder, "fine") == []
    assert len(why(place, folder, "m-7")) == 9
    assert "no call and no session 'nothing'" in why(place, folder, "nothing", status=1)[0][""]


def test_a_person_reads_it_in_lines_that_a_terminal_does_not_obey(place: Place, folder: Path) -> None:
    argv: list[str | Path] = [
        SUPERVISOR,
        "why",
        "policy",
        "--folder",
        place.root,
        "--config",
        folder / "servers.toml",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines()] == ["policy", "why", "where", "line"]
    assert done.stdout.isascii()
