"""Canaries: a secret of every kind in every place where one may come from, and a search wherever none may be.

Each canary is followed from its source to its target in a host's daemon and in a gateway; then everything of ours
that can be read is read: command lines, environments, memory, standard error, JSON, metrics, files in folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisor.audit.redact import Redactor
from supervisor.proxy.link import Link, connect
from supervisor.secrets.marks import Marks
from tests.escape.arena import Arena, end
from tests.integration.caller import Caller
from tests.integration.gateway import Entry, Gateway, give
from tests.integration.raw_http import META, MODERN, post
from tests.unit.proxy.stand import SERVER

KINDS = ("file", "env", "credential", "command", "header")
# says the digest of everything that it was given, and then nothing any more; a line on standard input ends it
HOLDER = """
import hashlib, os, sys
said = {name: hashlib.sha256(open(f"/run/secrets/{name}", "rb").read().strip()).hexdigest()
        for name in os.listdir("/run/secrets")}
said |= {name: hashlib.sha256(os.environ[name].encode()).hexdigest() for name in ("BY_ENV", "BY_COMMAND")}
print(*(f"{name}={value}" for name, value in sorted(said.items())), flush=True)
sys.stdin.readline()
"""
REGISTRY = """
[server.holder]
profile = "net-allowlist"
command = ["/usr/bin/python3", "-I", "-c", {program}]
[server.holder.secrets]
BY_FILE = {{ file = "{folder}/token", to = "file" }}
BY_CREDENTIAL = {{ credential = "token", to = "file" }}
BY_ENV = {{ env = "SVTEST_CANARY", to = "env" }}
BY_COMMAND = {{ command = ["/usr/bin/cat", "{folder}/printed"], to = "env" }}
BY_HEADER = {{ file = "{folder}/header", to = "header", host = "example.com" }}
[server.broken]
profile = "none"
command = ["/usr/bin/true"]
secrets.GONE = {{ file = "{folder}/gone", to = "env" }}
"""


@dataclass
class Planted:
    """Values nobody else has, and where they were put; `folder` is the test's own."""

    folder: Path
    values: dict[str, str] = field(default_factory=dict)

    def plant(self) -> None:
        """New values."""
        self.values = {kind: f"canary-{kind}-{secrets.token_hex(12)}" for kind in KINDS}
        for name, kind in (("token", "file"), ("printed", "command"), ("header", "header")):
            self.write(self.folder / name, self.values[kind])
        (self.folder / "credentials").mkdir(exist_ok=True)
        self.write(self.folder / "credentials" / "token", self.values["credential"])

    @staticmethod
    def write(path: Path, value: str) -> None:
        path.write_text(value + "\n", encoding="utf-8")
        path.chmod(0o600)

    @property
    def environment(self) -> dict[str, str]:
        folder = str(self.folder / "credentials")
        return {"SVTEST_CANARY": self.values["env"], "CREDENTIALS_DIRECTORY": folder}

    def found(self, data: bytes) -> list[str]:
        """Which of them are in there."""
        return [kind for kind, value in self.values.items() if value.encode() in data]

    def digests(self) -> str:
        """What the holder says when it has got them."""
        given = {"BY_FILE": "file", "BY_CREDENTIAL": "credential", "BY_ENV": "env", "BY_COMMAND": "command"}
        said = {name: hashlib.sha256(self.values[kind].encode()).hexdigest() for name, kind in given.items()}
        return " ".join(f"{name}={value}" for name, value in sorted(said.items()))


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    made = Planted(tmp_path)
    made.plant()
    return made


class Daemon:
    """A host's daemon over the registry above; everything that it says is kept."""

    def __init__(self, planted: Planted) -> None:
        folder = planted.folder
        self.config, self.log = folder / "servers.toml", folder / "log"
        self.config.write_text(REGISTRY.format(program=json.dumps(HOLDER), folder=folder), encoding="utf-8")
        self.runtime = folder / "run"
        argv = [sys.executable, "-m", "supervisor", "daemon", "--config", str(self.config), "--log", "json"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, "--runtime-dir", str(self.runtime)],
                stdout=log,
                stderr=log,
                env=os.environ | planted.environment,
            )
        deadline = time.monotonic() + 20
        while b"listening" not in self.log.read_bytes():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def link(self) -> Link:
        link = connect(f"{self.runtime}/proxy.sock")
        link.hello()
        return link

    def tree(self) -> dict[int, str]:
        """Its processes, and what each is."""
        return {pid: name for pid, name in ((each, role(each)) for each in descendants(self.process.pid)) if name}

    def settled(self) -> dict[int, str]:
        """The same when the forks that read secrets have ended."""
        deadline = time.monotonic() + 10
        while list((tree := self.tree()).values()).count("reader") > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return tree


@pytest.fixture
def daemon(planted: Planted) -> Iterator[Daemon]:
    if os.geteuid() != 0:
        pytest.skip("runs a host's daemon and reads the memory of others: run it as root")
    made = Daemon(planted)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(10)
        end(made.process)


def descendants(pid: int) -> list[int]:
    """This process and those below it, whichever of its threads has started them; none when it has ended."""
    if not os.path.exists(f"/proc/{pid}"):
        return []
    children = [
        child
        for path in Path(f"/proc/{pid}/task").glob("*")
        for child in of(pid, f"task/{path.name}/children").split()
    ]
    return [pid, *(each for child in children for each in descendants(int(child)))]


def of(pid: int, file: str) -> bytes:
    """A file of a process in /proc; nothing when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{file}").read_bytes()
    return b""


def role(pid: int) -> str:
    """What a process of ours is, by its command line; "" when it has ended."""
    with contextlib.suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        known = {"supervisor\0daemon": "monitor", "sandbox.spawner": "spawner", "egress.broker": "broker"}
        known |= {"secrets.reader": "reader", "/run/secrets": "payload", "touch.watch": "watcher"}
        known |= {f"audit.{name}": name for name in ("keeper", "signer")}
        found = next((name for part, name in known.items() if part in line), "?")
        # the first process of a sandbox is a fork of the spawner
        status = Path(f"/proc/{pid}/status").read_text()
        inside = len(re.findall(r"^NSpid:(.*)$", status, re.M)[0].split()) > 1
        return "init" if found == "spawner" and inside else found
    return ""


def memory(pid: int) -> bytes:
    """What a process has in memory of its own: everything but what it maps of files and cannot change."""
    found = []
    with contextlib.suppress(ProcessLookupError), open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in of(pid, "maps").decode().splitlines():
            bounds, rights, _, _, _, *path = line.split()
            start, stop = (int(each, 16) for each in bounds.split("-"))
            if rights.startswith("rw") or (rights.startswith("r") and not path):
                file.seek(start)
                with contextlib.suppress(OSError):  # it has ended, or nobody may read this
                    found.append(file.read(stop - start) or b"")
    return b"".join(found)


def seen_in_proc(planted: Planted, tree: dict[int, str]) -> list[str]:
    """In whose command line or environment a canary is."""
    found = []
    for pid, name in tree.items():
        for file in ("cmdline", "environ"):
            found += [f"{kind} in {file} of {name}" for kind in planted.found(of(pid, file))]
    return found


def test_values_reach_their_targets_and_nobody_else(daemon: Daemon, planted: Planted) -> None:
    link = daemon.link()
    opened = link.open("holder")
    assert os.read(opened.stdout, 4096).decode().strip() == planted.digests()
    tree = daemon.settled()
    # the ledger is a fork of its keeper
    ours = {"broker", "init", "keeper", "monitor", "payload", "reader", "signer", "spawner", "watcher"}
    assert set(tree.values()) == ours
    assert sorted(seen_in_proc(planted, tree)) == ["command in environ of payload", "env in environ of payload"]
    # the broker takes what it is handed in a turn of its own
    (broker,) = (pid for pid, name in tree.items() if name == "broker")
    deadline = time.monotonic() + 20
    while not planted.found(memory(broker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    held = {name: set[str]() for name in tree.values()}
    for pid, name in tree.items():
        held[name].update(planted.found(memory(pid)))
    assert held["broker"] == {"header"}, "the control: where a value is, this finds it"
    assert {"env", "command"} <= held["payload"]
    assert "header" not in held["payload"] | held["init"], "the server never has what the broker adds"
    assert not set().union(*(held[name] for name in ours - {"broker", "init", "payload"}))
    # the gateway can find values that it does not know
    assert not planted.found(json.dumps(opened.secrets).encode())
    redactor = Redactor(secrets=Marks(opened.secrets))
    for kind, value in planted.values.items():
        assert redactor.text(f"x{value}y") == f"x[redacted: secret BY_{kind.upper()}]y"
    link.close()


def test_a_new_value_counts_from_the_next_session_on(daemon: Daemon, planted: Planted) -> None:
    before = planted.values
    link = daemon.link()
    link.open("holder")
    planted.plant()
    planted.values["env"] = before["env"]  # the daemon's own, from its start to its end
    assert os.read(link.open("holder").stdout, 4096).decode().strip() == planted.digests()
    link.close()


def test_a_secret_that_cannot_be_read_starts_nothing_and_is_named(daemon: Daemon, planted: Planted) -> None:
    link = daemon.link()
    line = 1 + daemon.config.read_text().splitlines().index(
        f'secrets.GONE = {{ file = "{planted.folder}/gone", to = "env" }}'
    )
    with pytest.raises(
        Exception, match=re.escape(f'{daemon.config}:{line}: secret "GONE": {planted.folder}/gone: no such file')
    ):
        link.open("broken")
    (planted.folder / "token").chmod(0o644)
    with pytest.raises(Exception, match=r"others can read or write .*/token \(mode 644\): chmod 600"):
        link.open("holder")
    planted.write(planted.folder / "token", "x" * 70_000)
    with pytest.raises(Exception, match="longer than 64 KiB"):
        link.open("holder")
    (planted.folder / "token").write_text("")
    with pytest.raises(Exception, match="/token is empty"):
        link.open("holder")
    assert "payload" not in daemon.tree().values()
    link.close()


def test_what_is_said_and_written_holds_no_value(daemon: Daemon, planted: Planted) -> None:
    link = daemon.link()
    opened = link.open("holder")
    os.read(opened.stdout, 4096)
    said = []
    where = ["--runtime-dir", str(daemon.runtime)]
    config = ["--config", str(daemon.config)]
    for words in (
        ["secrets", "list", "--json", *config],
        ["secrets", "check", "--json", *config],
        ["secrets", "check", *config],
        ["list", "--json", *where],
        ["ps", "--json", *where],
        ["admin", "inspect", *where],
        [
            "explain",
            "--json",
            "--profile",
            "none",
            f"--secret=T=file:{planted.folder}/token",
            "--",
            "/usr/bin/true",
        ],
    ):
        argv = [sys.executable, "-m", "supervisor", *words]
        done = subprocess.run(argv, capture_output=True, env=os.environ | planted.environment, timeout=60)
        assert done.returncode == (1 if "check" in words else 0), done.stderr
        said.append(done.stdout + done.stderr)
    link.close()
    checked = json.loads(said[1])
    assert {row["name"]: row["error"] for row in checked if row["name"] != "GONE"} == dict.fromkeys(
        ("BY_FILE", "BY_CREDENTIAL", "BY_ENV", "BY_COMMAND", "BY_HEADER")
    )
    said.append(daemon.log.read_bytes())
    assert not planted.found(b"".join(said))


def test_a_gateway_says_and_keeps_no_value(arena: Arena, planted: Planted) -> None:
    caller = Caller(arena, "user")
    caller.reset()
    token = caller.plot.home / "token"
    planted.write(token, planted.values["file"])
    os.chown(token, caller.plot.uid, caller.plot.gid)
    rules = {
        "secrets.BY_FILE": f'{{ file = "{token}", to = "file" }}',
        "secrets.BY_ENV": '{ env = "SVTEST_CANARY", to = "env" }',
    }
    small = ("/usr/bin/python3", "-S", "-c", SERVER.read_text(encoding="utf-8"), "legacy")
    made = Gateway(caller, [Entry("small", small, rules=rules)])
    made.write()
    give(caller, made.folder)
    done = caller.finish(caller.command("pin", "small", "--config", made.config, "--yes"))
    assert "SVTEST_CANARY was not set when the supervisor was started" in done.stderr
    pinned = caller.process(
        caller.command("pin", "small", "--config", made.config, "--yes"), env=planted.environment
    )
    assert arena.finish(pinned).returncode == 0
    try:
        made.start("--log", "json", env=planted.environment)
        params = {"name": "small__echo", "arguments": {}, "_meta": META}
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "small__echo"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        assert "result" in post(made.port, "/mcp", body, headers).response(1)
        tree = {pid: name for pid, name in ((each, role(each)) for each in descendants(made.process.pid)) if name}
        payloads = {pid for pid in tree if b"legacy" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        assert len(payloads) == 1
        ours = {pid: name for pid, name in tree.items() if pid not in payloads}
        assert seen_in_proc(planted, ours) == []
        inits = {int(each) for pid in payloads for each in [parent(pid)]}
        holders = {pid for pid in ours.keys() - inits if planted.found(memory(pid))}
        assert not holders, [tree[pid] for pid in holders]
        metrics = subprocess.run(["curl", "-s", f"{made.base}/metrics"], capture_output=True, timeout=20).stdout
        assert b"supervisor" in metrics
    finally:
        made.close()
    kept = [path.read_bytes() for path in caller.plot.home.rglob("*") if path.is_file() and path != token]
    assert not planted.found(b"".join([*kept, metrics, made.said().encode()]))


def parent(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1]


def test_a_variable_of_the_caller_s_leaves_the_caller_s_own_process(planted: Planted) -> None:
    program = (
        "import os; print(os.environ['SVTEST_CANARY'] == open('/run/secrets/AGAIN').read(), flush=True); input()"
    )
    argv = [sys.executable, "-m", "supervisor", "exec", "-q", "--profile", "none"]
    options = ["--secret=SVTEST_CANARY=env:SVTEST_CANARY", "--secret=file/AGAIN=env:SVTEST_CANARY"]
    process = subprocess.Popen(
        [*argv, *options, "--", "/usr/bin/python3", "-I", "-c", program],
        env=os.environ | planted.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == b"True\n"
        holders = [pid for pid in descendants(process.pid) if planted.found(of(pid, "environ"))]
        assert len(holders) == 1, "the payload"
        assert b"AGAIN').read()" in of(holders[0], "cmdline")
    finally:
        out, said = process.communicate(b"\n", timeout=20)
    assert not planted.found(out + said)


def test_a_mount_that_shows_the_secret_s_file_is_refused(planted: Planted) -> None:
    argv = [sys.executable, "-m", "supervisor", "exec", "--profile", "none", "--ro", str(planted.folder)]
    secret = f"--secret=T@example.com=file:{planted.folder}/token"
    done = subprocess.run([*argv, secret, "--", "/usr/bin/true"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "network" in done.stderr
    secret = f"--secret=T=file:{planted.folder}/token"
    done = subprocess.run([*argv, secret, "--", "/usr/bin/true"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "which the server is shown: put it elsewhere" in done.stderr
