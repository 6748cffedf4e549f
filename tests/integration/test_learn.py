"""profile learn with real servers and tasks: what was learned suffices for the same again, and grants no more."""

from __future__ import annotations

import subprocess
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp import Client

from tests.escape.arena import end
from tests.integration.caller import SECONDS, Caller
from tests.integration.real_servers import Call, Scene, Server
from tests.integration.remains import nothing_left

TASK = "cat src/one.txt && mkdir -p build && cp src/one.txt build/two.txt && mv build/two.txt build/three.txt"
# what the bound does not have: a file of the host's, a namespace
REFUSED = "cat {home}/.ssh/id_ed25519; unshare --user true; true"
DIALS = """import socket
socket.create_connection(("example.test", 443)).close()
try:
    socket.getaddrinfo("forbidden.test", 443)
except OSError:
    print("refused")
"""
FILES = Server(
    "filesystem",
    ("--ro", "{folder}", "--rw", "{repo}"),
    ("node_modules/.bin/mcp-server-filesystem", "{folder}"),
    (),
    Call("read_text_file", {"path": "{folder}/hello.txt"}, "nothing secret"),
    Call("list_directory", {"path": "{folder}"}, "hello.txt"),
)
GIT = Server(
    "git",
    ("--rw", "{repo}", "--ro", "{folder}"),
    ("python/bin/mcp-server-git", "--repository", "{repo}"),
    (),
    Call("git_log", {"repo_path": "{repo}"}, "the first commit"),
    Call("git_commit", {"repo_path": "{repo}", "message": "another"}, "committed"),
)


@dataclass(frozen=True)
class Learned:
    """A profile's tables, and its mounts as (source, mode)."""

    tables: dict[str, dict[str, object]]
    mounts: list[tuple[str, str]]


USER = pytest.mark.parametrize("caller", ["user"], indirect=True)
ROOT = pytest.mark.parametrize("caller", ["root"], indirect=True)


class School:
    """Where a caller learns."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.folder = caller.project / "scope"
        self.output = caller.project / "learned.toml"
        self.output.unlink(missing_ok=True)

    def learn(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        argv = self.caller.command(
            "profile", "learn", *self.caller.start_options(), "--output", self.output, *words
        )
        return self.caller.finish(argv, cwd=self.folder)

    def again(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command under what was learned."""
        argv = self.caller.command("exec", *self.caller.start_options(), "--profile", self.output, *words)
        return self.caller.finish(argv, cwd=self.folder)

    def wait(self) -> None:
        """A client may kill what it has started before the profile is written; it is written all the same."""
        deadline = time.monotonic() + SECONDS
        while not (self.output.exists() and self.output.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)

    @property
    def profile(self) -> Learned:
        shown = self.caller.finish(self.caller.command("profile", "show", self.output))
        assert shown.returncode == 0, shown.stderr
        found = tomllib.loads(self.output.read_text())
        mounts = [(each["source"], each["mode"]) for each in found.get("mount", [])]
        return Learned(found, mounts)


@pytest.fixture
def school(caller: Caller) -> School:
    made = School(caller)
    script = "mkdir -p src secret && echo one > src/one.txt && echo two > secret/two.txt"
    done = caller.finish(["/bin/sh", "-euc", script], cwd=made.folder)
    assert done.returncode == 0, done.stderr
    return made


def test_a_task_works_under_what_was_learned_of_it_and_gets_nothing_else(school: School) -> None:
    task = ("--", "sh", "-c", f"{TASK}; {REFUSED.format(home=school.caller.plot.home)}")
    with nothing_left(school.caller, writes=school.caller.project):
        done = school.learn(*task)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "one\n"
        text, profile = school.output.read_text(), school.profile
        again = school.again(*task)
    assert (again.returncode, again.stdout) == (0, "one\n"), again.stderr
    assert profile.mounts == [(str(school.folder), "rw")]
    assert "network" not in profile.tables
    assert profile.tables["process"]["write_execute"] is False
    assert int(str(profile.tables["limits"]["pids"])) <= 16
    assert "system call unshare: EPERM" in text
    assert f"{school.caller.plot.key}: not shown inside; it is on this host" in text


@USER
def test_a_task_that_reads_gets_the_folders_that_it_read_and_no_others(school: School) -> None:
    done = school.learn("--", "sh", "-c", "cat src/one.txt; test ! -e missing.txt")
    assert done.returncode == 0, done.stderr
    assert school.profile.mounts == [(f"{school.folder}/src", "ro")]
    again = school.again("--", "sh", "-c", "cat src/one.txt; cat secret/two.txt; echo x > src/one.txt")
    assert again.stdout == "one\n"
    assert "secret/two.txt: No such file" in again.stderr
    assert "src/one.txt: Read-only file system" in again.stderr


@ROOT
def test_hosts_that_were_reached_are_written_down_and_refused_ones_named(school: School) -> None:
    allow = ("--allow", "example.test:443", "--allow", "another.test:443", "--allow", "example.test:8443")
    task = ("--", "python3", "-c", DIALS)
    done = school.learn("--bound", "net-allowlist", *allow, *task)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
    assert school.profile.tables["network"]["allow"] == ["example.test:443"]
    assert "forbidden.test" in school.output.read_text().partition("# Refused by the bound")[2]
    again = school.again(*task)
    assert (again.returncode, again.stdout) == (0, "refused\n"), again.stderr


@pytest.mark.parametrize(("server", "caller"), [(FILES, "user"), (GIT, "root")], indirect=["caller"], ids=str)
def test_a_real_server_works_under_what_was_learned_of_it(
    server: Server, caller: Caller, servers: Path, tmp_path: Path
) -> None:
    scene, school = Scene(caller, servers, ""), School(caller)
    scene.prepare()
    command = ["--", *map(scene.fill, server.command)]
    options = [*caller.start_options(), *map(scene.fill, server.options)]

    async def scenario(client: Client) -> None:
        for call in (server.reads, server.forbidden):
            failed, text = await scene.answer(client, call)
            assert not failed, text
            assert call.expect in text

    learn = caller.command("profile", "learn", "--bound", "none", "--output", school.output, *options, *command)
    log = tmp_path / "log"
    caller.talk(learn, scenario, cwd=servers, log=log, mode="legacy")
    school.wait()
    profile = school.profile
    work = [(str(scene.repo), "ro"), (f"{scene.repo}/.git", "rw")]
    assert profile.mounts == ([(str(caller.plot.folder), "ro")] if server is FILES else work)
    if server is GIT:
        # something to commit once more
        done = caller.finish(["/bin/sh", "-euc", "echo 3 > three.txt && git add three.txt"], cwd=scene.repo)
        assert done.returncode == 0, done.stderr
        # the bound keeps them, and so does what was learned within it
        hook = school.again("--", "sh", "-c", f"echo x > {scene.repo}/.git/hooks/pre-commit")
        assert "Read-only file system" in hook.stderr
    again = caller.command("run", *caller.start_options(), "--profile", school.output, *command)
    caller.talk(again, scenario, cwd=servers, log=log, mode="legacy")


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("--output", "learned.txt", "--", "true"), 2, "NAME.toml"),
        (("--output", "Learned.toml", "--", "true"), 2, "NAME.toml"),
        (("--output", "/nonexistent/x.toml", "--", "true"), 2, "cannot be written"),
        (("--bound", "fs-readonly", "--rw", "/etc", "--", "true"), 3, "/etc"),
        (("--bound", "nothing", "--", "true"), 2, "unknown profile"),
    ],
)
@USER
def test_what_cannot_be_learned_is_said_before_anything_runs(
    school: School, words: tuple[str, ...], status: int, reason: str
) -> None:
    done = school.learn(*words)
    assert done.returncode == status, done.stderr
    assert reason in done.stderr
    assert not school.output.exists()


@USER
def test_a_profile_that_is_there_is_never_overwritten(school: School) -> None:
    school.output.write_text("mine\n")
    done = school.learn("--", "true")
    assert done.returncode == 2
    assert "it is there already" in done.stderr
    assert school.output.read_text() == "mine\n"


@USER
def test_without_strace_the_package_is_named(school: School) -> None:
    argv = school.caller.command("profile", "learn", "--output", school.output, "--", "/usr/bin/true")
    process = school.caller.process(argv, cwd=school.folder, env={"PATH": "/nonexistent"})
    done = school.caller.arena.finish(process)
    assert done.returncode == 1
    assert "apt-get install strace" in done.stderr


@ROOT
def test_what_was_learned_is_written_also_when_its_front_is_killed(school: School) -> None:
    words = ("--output", str(school.output), "--", "sh", "-c", "cat src/one.txt; sleep 1000")
    argv = school.caller.command("profile", "learn", *school.caller.start_options(), *words)
    process = school.caller.process(argv, cwd=school.folder)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"one\n"
        process.kill()
    finally:
        end(process)
    school.wait()
    assert school.profile.mounts == [(f"{school.folder}/src", "ro")]
