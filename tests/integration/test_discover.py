"""discover as a person types it: files, clients and real containers become proposals, and one of them a server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.escape.arena import end
from tests.integration.caller import SECONDS, Caller
from tests.integration.remains import nothing_left

_CONF = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


USER = pytest.mark.parametrize("caller", ["user"], indirect=True)


class Desk:
    """A caller's registry, its watched folder, and what it remembers, in its home."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.lacking = ""
        self.folder = caller.project / "desk"
        self.config = self.folder / "servers.toml"
        self.watched = self.folder / "discover"
        self.environment = {"XDG_STATE_HOME": str(self.folder / "state"), "HOME": str(self.folder / "home")}
        for each in (self.folder, self.watched, self.folder / "home"):
            self.own(each)

    def own(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        os.chown(folder, self.caller.plot.uid, self.caller.plot.gid)

    def write(self, name: str, text: str) -> None:
        path = self.watched / name
        path.write_text(text)
        os.chown(path, self.caller.plot.uid, self.caller.plot.gid)

    def type(self, command: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        argv = self.caller.command(command, *words, "--config", self.config)
        process = self.caller.process(argv, cwd=self.folder, env=self.environment)
        return self.caller.arena.finish(process, seconds=SECONDS)

    def discover(self, *words: str | Path) -> list[tuple[str, str, str]]:
        """(state, name, verdict) of every proposal."""
        done = self.type("discover", "--json", *words)
        assert done.returncode == 0, done.stderr
        return [(each["state"], each["name"], each.get("verdict", "")) for each in self.proposals(done)]

    def proposals(self, done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
        listed: list[dict[str, str]] = json.loads(done.stdout)["proposals"]
        return listed


@pytest.fixture
def desk(caller: Caller) -> Iterator[Desk]:
    made = Desk(caller)
    yield made
    shutil.rmtree(made.folder)


def entry(command: str) -> str:
    return f'[server.one]\nprofile = "none"\ncommand = ["{command}"]\n'


@USER
def test_what_is_new_changed_and_gone_is_said_once(desk: Desk) -> None:
    desk.write("a.toml", entry("/usr/bin/true"))
    assert desk.discover() == [("new", "one", "proposed")]
    assert desk.discover() == [("known", "one", "proposed")]
    desk.write("a.toml", entry("/usr/bin/cat"))
    assert desk.discover() == [("changed", "one", "proposed")]
    (desk.watched / "a.toml").unlink()
    assert desk.discover() == [("gone", "one", "")]
    assert desk.discover() == []


def test_a_proposal_is_no_server_until_its_request_is_accepted(desk: Desk) -> None:
    missing = [word for word in desk.caller.start_options() if word not in ("-q", "--accept-missing")]
    desk.write("a.toml", entry("/usr/bin/cat"))
    assert desk.discover() == [("new", "one", "proposed")]
    listed = desk.type("list")
    assert listed.returncode == 2, listed.stdout
    done = desk.type("discover", "--request", "one")
    assert done.returncode == 0, done.stderr
    request = desk.folder / "servers.d/proposed/one.toml"
    assert request.stat().st_mode & 0o777 == 0o600
    assert desk.type("list").returncode == 2
    if missing:
        # what this host lacks is for whoever accepts it to say
        refused = desk.type("add", "one", "--proposed")
        assert refused.returncode == 4, refused.stderr
        assert request.exists()
        request.write_text(request.read_text() + f"accept_missing = {json.dumps(missing[0].split(','))}\n")
    done = desk.type("add", "one", "--proposed")
    assert done.returncode == 0, done.stderr
    assert "command: /usr/bin/cat" in done.stdout
    assert not request.exists()
    listed = desk.type("list", "--json")
    assert [each["name"] for each in json.loads(listed.stdout)] == ["one"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["add", "one", "--proposed"], "supervisor discover --request makes one"),
        (["add", "../one", "--proposed"], "at most 64 of a-z"),
        (["add", "one", "--proposed", "--allow", "example.com:443"], "--proposed takes the entry"),
        (["discover", "--request", "two"], "no proposal"),
        (["discover", "--source", "kubernetes"], "docker:SOCKET"),
        (["discover", "--bound", "everything"], "ci-runner"),
    ],
)
@USER
def test_what_cannot_be_requested_or_accepted_says_what_would_do(desk: Desk, words: list[str], reason: str) -> None:
    command, *rest = words
    done = desk.type(command, *rest)
    assert done.returncode == 2
    assert reason in done.stderr


@USER
def test_nothing_of_a_stranger_s_reaches_the_terminal(desk: Desk) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    document = {"name": f"x/{evil}", "description": evil, "packages": [{"registryType": evil, "identifier": evil}]}
    desk.write("server.json", json.dumps(document))
    desk.write(f"{evil}.json", json.dumps({"mcpServers": {evil: {"command": evil, "args": [evil]}}}))
    done = desk.type("discover")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "owned" in done.stdout


@USER
def test_watching_tells_what_changes(desk: Desk) -> None:
    argv = desk.caller.command("discover", "--watch", "--json", "--config", desk.config)
    process = desk.caller.process(argv, cwd=desk.folder, env=desk.environment)
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline())["proposals"] == []
        desk.write("a.toml", entry("/usr/bin/true"))
        states: list[str] = []
        while not states:
            states = [each["state"] for each in json.loads(process.stdout.readline())["proposals"]]
        assert states == ["new"]
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    finally:
        end(process)


@dataclass(frozen=True)
class Podman:
    """A real engine with a store of its own; containers are made and never started."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "podman.sock"

    def argv(self, *words: str | Path) -> list[str]:
        store = ("--root", self.folder / "store", "--runroot", self.folder / "run", "--storage-driver", "vfs")
        return ["podman", *map(str, (*store, *words))]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "CONTAINERS_CONF": str(self.folder / "conf"), "HOME": str(self.folder)}

    def do(self, *words: str | Path) -> None:
        done = subprocess.run(self.argv(*words), capture_output=True, text=True, env=self.environment)
        assert done.returncode == 0, done.stderr

    def create(self, name: str, **labels: str) -> None:
        own = [f"--label=supervisor.{key.replace('_', '.')}={value}" for key, value in labels.items()]
        self.do("create", "--network", "none", "--name", name, *own, "localhost/tiny:1", "/true")

    @contextmanager
    def service(self) -> Iterator[None]:
        """Listening; it binds before it says so, and a client may connect from then on."""
        argv = self.argv("system", "service", "--time", "0", f"unix://{self.socket}")
        with subprocess.Popen(
            argv, env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                for _ in range(SECONDS * 20):
                    with socket.socket(socket.AF_UNIX) as probe:
                        if probe.connect_ex(str(self.socket)) == 0:
                            break
                    signal.sigtimedwait([], 0.05)
                yield
            finally:
                process.terminate()


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    if not shutil.which("podman"):
        pytest.skip("no podman here: apt-get install podman runc")
    # podman takes no run root of more than 50 characters
    made = Podman(folder := Path(tempfile.mkdtemp(prefix="svtest-", dir="/var/tmp")))
    (folder / "conf").write_text(_CONF)
    with tarfile.open(folder / "root.tar", "w") as archive:
        archive.add("/usr/bin/true", "true")
    made.do("import", folder / "root.tar", "localhost/tiny:1")
    with made.service():
        yield made
    made.do("rm", "--all", "--force")
    made.do("rmi", "--all", "--force")
    shutil.rmtree(folder)


def test_real_containers_are_proposed_by_their_labels_and_digest(root_desk: Desk, podman: Podman) -> None:
    desk = root_desk
    podman.create("plain")
    podman.create("good", server="files", tools_allow="read_*", summary="reads")
    podman.create("wide", server="wide", profile="ci-runner")
    podman.create("evil", server="evil", mount="/:/host", command="sh")
    done = desk.type("discover", "--json", "--source", f"podman:{podman.socket}")
    assert done.returncode == 0, done.stderr
    rows = {each["name"]: each for each in json.loads(done.stdout)["proposals"]}
    assert set(rows) == {"files", "wide", "evil"}
    assert rows["files"]["entry"].pop("image").startswith("localhost/tiny@sha256:")
    assert rows["files"]["entry"] == {"profile": "none", "tools": {"allow": ["read_*"]}, "summary": "reads"}
    assert "grants more than the bound, none" in rows["wide"]["refused"]
    assert "labels name no command, mount" in rows["evil"]["refused"]
    podman.do("rm", "good")
    states = desk.discover("--source", f"podman:{podman.socket}")
    assert {(state, name) for state, name, _ in states} == {("gone", "files"), ("known", "wide"), ("known", "evil")}


def test_an_engine_that_is_gone_takes_no_proposal_with_it(root_desk: Desk, podman: Podman) -> None:
    source = f"podman:{podman.socket}"
    podman.create("stays", server="stays")
    assert ("new", "stays", "proposed") in root_desk.discover("--source", source)
    hidden = podman.socket.rename(podman.folder / "hidden.sock")
    try:
        done = root_desk.type("discover", "--source", source)
        assert done.returncode == 1
        assert "No such file" in done.stderr
    finally:
        hidden.rename(podman.socket)
    assert ("known", "stays", "proposed") in root_desk.discover("--source", source)


@pytest.fixture
def root_desk(root_caller: Caller) -> Iterator[Desk]:
    made = Desk(root_caller)
    with nothing_left(root_caller, writes=root_caller.project):
        yield made
    shutil.rmtree(made.folder)


@pytest.fixture
def root_caller(request: pytest.FixtureRequest) -> Caller:
    made = Caller(request.getfixturevalue("arena"), "root")
    made.reset()
    return made
