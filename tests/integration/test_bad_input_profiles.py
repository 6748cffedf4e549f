"""Profiles and registries that somebody wrote wrongly: the message names file and line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from supervisor.registry import planner
from tests.escape.arena import Arena
from tests.integration import adversary
from tests.integration.adversary import assert_refused, assert_told, explained, run, write_profile

pytestmark = pytest.mark.timeout(60)

TRUE = ("--", "/usr/bin/true")
LONG = "9" * 5000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that nobody else writes."""
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("colour = 'red'\n", 5, 'unknown key "colour"'),
        ("[limits]\nmemori = '1G'\n", 6, 'unknown key "limits.memori"'),
        ("[limits]\nmemory = '1T'\n", 6, "a size is written like"),
        ("[limits]\nmemory = 1\n", 6, "a size is written like"),
        ("[limits]\nmemory = '0M'\n", 6, "limits.memory"),
        ("[limits]\nfile_size = '99999999999G'\n", 6, "at most 1048576G"),
        (f"[limits]\nmemory = '{LONG}'\n", 6, "limits.memory"),
        ("[limits]\ncpus = 0.0001\n", 6, "from 0.01"),
        ("[limits]\ncpus = nan\n", 6, "cpus"),
        ("[limits]\ncpus = inf\n", 6, "cpus"),
        ("[limits]\npids = -1\n", 6, "limits.pids"),
        ("[limits]\npids = true\n", 6, "limits.pids"),
        ("[limits]\n\n# why\npids = '64'\n", 8, "limits.pids"),
        ("[session]\nlife = '1 week'\n", 6, "a time is written like"),
        ("[session]\nlife = '9999999999d'\n", 6, "at most 3650d"),
        ("[session]\nshare = 'everybody'\n", 6, "session.share"),
        ("[network]\nmode = 'all'\n", 6, "network.mode"),
        ("[seccomp]\ngroups = ['no-such-group']\n", 6, "no-such-group"),
        ("[seccomp]\ngroups = 'base'\n", 6, "seccomp.groups"),
        ("[process]\nhostname = 'A B'\n", 6, "process.hostname"),
        ("[process]\ncwd = 'work'\n", 6, "relative"),
        ("[[mount]]\nsource = '/srv'\ntarget = '/x'\n", 5, 'key "mount.0.mode" is missing'),
        ("[[mount]]\nsource = '/srv'\ntarget = '/x'\nmode = 'rwx'\n", 8, "mount.0.mode"),
        ("[[mount]]\nsource = '/no/such'\ntarget = '/x'\nmode = 'ro'\n", 5, '"/no/such": no such file'),
        ("[[mount]]\nsource = 'rel'\ntarget = '/x'\nmode = 'ro'\n", 5, "relative"),
        ("[[mount]]\nsource = '${r}'\ntarget = '/x'\nmode = 'ro'\n", 5, "unknown param"),
        ("[[mount]]\nsource = '/srv'\ntarget = 'x'\nmode = 'ro'\n", 5, "absolute path"),
        ("[[mount]]\nsource = '/srv'\ntarget = '/x'\nmode = 'ro'\norigin = 'me'\n", 9, "origin"),
        ("[params.r]\ntype = 'number'\nhelp = 'x'\n", 6, "params.r.type"),
        ("[server]\ndefault = 'no-such-image'\n", 6, "no-such-image"),
        ("name = 'again'\n", 5, "[Oo]verwrite|again"),
        ("a = [\n", 6, "nvalid|Unclosed|Expected"),
        ("= 1\n", 5, "nvalid"),
    ],
)
def test_a_mistake_in_a_profile_is_named_with_file_and_line(folder: Path, body: str, line: int, says: str) -> None:
    path = write_profile(folder, "mine", body)
    tail = () if "server" in body else TRUE
    assert_told(explained("explain", "--profile", path, *tail), 2, rf"mine\.toml:{line}: ", says)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", 'key "profile" is missing|missing'),
        (b"\x00\x01\x02\xff" * 100, r":1: "),
        (b"# fine\n\xff\xfe", r":2: not UTF-8"),
        (b"\x7fELF" + bytes(2000), r":1: "),
        (b"#" * (1 << 20) + b"\n", "larger than"),
        (b"[" * 100_000, ":1: "),
        (b"a = " + b"[\n" * 100_000, ":1: nested"),
        (b"a." * 50_000 + b"b = 1", ":1: a line of more than"),
    ],
    ids=["empty", "binary", "latin", "elf", "huge", "headers", "nested", "dotted"],
)
def test_a_file_that_is_no_profile_is_a_message(folder: Path, data: bytes, says: str) -> None:
    path = folder / "mine.toml"
    path.write_bytes(data)
    path.chmod(0o644)
    assert_told(explained("profile", "show", path), 2, "mine.toml", says)


def test_a_profile_that_is_no_file_does_not_hang(folder: Path) -> None:
    (folder / "folder.toml").mkdir()
    os.mkfifo(folder / "pipe.toml")
    for name in ("folder.toml", "pipe.toml"):
        assert_refused(2, "exec", "--profile", folder / name, *TRUE, says=(name, "not a regular file"))
        assert_refused(2, "profile", "show", folder / name, says=(name, "not a regular file"))
    assert_refused(2, "exec", "--profile", "/dev/zero", *TRUE, says=("/dev/zero", "not a regular file"))


def test_a_chain_that_is_too_long_or_comes_back_is_refused(folder: Path) -> None:
    write_profile(folder, "one", extends="two")
    write_profile(folder, "two", extends="one")
    assert_refused(2, "exec", "--profile", folder / "one.toml", *TRUE, says=("two.toml:3", "comes back"))
    for number in range(5):
        write_profile(folder, f"p{number}", extends=f"p{number + 1}")
    assert_refused(2, "exec", "--profile", folder / "p0.toml", *TRUE, says=(r"\.toml:3", "more than 4"))


def test_a_profile_with_another_s_name_is_refused(folder: Path) -> None:
    write_profile(folder, "one").rename(folder / "two.toml")
    assert_refused(2, "exec", "--profile", folder / "two.toml", *TRUE, says=('name is "one"', "two.toml:2"))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_profile_that_others_can_write_is_refused(folder: Path, mode: int) -> None:
    path = write_profile(folder, "mine")
    path.chmod(mode)
    assert_refused(3, "exec", "--profile", path, *TRUE, says=("others can write it", "chmod go-w"))


def test_a_profile_that_extends_one_that_others_can_write_is_refused(folder: Path) -> None:
    write_profile(folder, "below").chmod(0o666)
    path = write_profile(folder, "mine", extends="below")
    assert_refused(3, "exec", "--profile", path, *TRUE, says=("below.toml", "chmod go-w"))


@pytest.mark.parametrize("owner", ["user", "nobody"])
def test_a_profile_of_somebody_else_s_is_refused(folder: Path, arena: Arena, owner: str) -> None:
    path = write_profile(folder, "mine")
    os.chown(path, arena.plots["user"].uid if owner == "user" else 65534, -1)
    assert_refused(3, "exec", "--profile", path, *TRUE, says=("owned by uid", "chown it"))


def test_an_ordinary_user_trusts_root_and_itself_only(arena: Arena) -> None:
    plot, head = arena.plots["user"], arena.commands["user"]
    options = ("-q", *arena.accept("user"), "--profile")
    for uid, status in ((plot.uid, 0), (0, 0), (65534, 3), (plot.uid + 1, 3)):
        path = write_profile(plot.home / "project", "mine")
        os.chown(path, uid, -1)
        done = arena.finish(arena.start([*head, "exec", *options, str(path), *TRUE], "user"))
        path.unlink()
        assert done.returncode == status, done.stderr
        assert not status or "owned by uid" in done.stderr


def test_a_life_of_a_month_is_one(folder: Path) -> None:
    path = write_profile(folder, "mine", "[session]\nlife = '30d'\n")
    done = run("exec", "-q", "--profile", path, "--", "/usr/bin/echo", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")


def test_limits_that_nothing_can_run_in_say_so(folder: Path) -> None:
    path = write_profile(folder, "mine", "[limits]\npids = 1\n")
    assert_told(
        run("exec", "-q", "--profile", path, *TRUE), 1, "could not start the sandbox", "temporarily unavailable"
    )
    path = write_profile(folder, "mine", "[process]\ncwd = '/nope'\n")
    assert_told(
        run("exec", "-q", "--profile", path, *TRUE), 1, "could not start the sandbox", "in /nope: No such file"
    )


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("x", 2, r"servers\.toml:1: "),
        ("[server.a]\n", 2, r'servers\.toml:1: .*"server.a.profile" is missing'),
        ("[server.a]\nprofile = 'none'\ncmd = []\n", 2, r'servers\.toml:3: unknown key "server.a.cmd"'),
        ("[server.'A B']\nprofile = 'none'\n", 2, r"servers\.toml:\d+: "),
        ("[server.a]\nprofile = 'bogus'\n", 2, 'servers.toml.*unknown profile "bogus"'),
        ("[server.a]\nprofile = 'x\\u0000/y'\n".replace("'", '"'), 2, "not a path"),
        ("[server.a]\nprofile = 'none'\n", 2, r"servers\.toml:1: .*starts no server"),
        ("[server.a]\nprofile = 'none'\ncommand = []\n", 2, r"servers\.toml:1: .*starts no server"),
        ('[server.a]\nprofile = "none"\ncommand = ["/usr/bin/echo", "\\u0000"]\n', 2, "NUL"),
        ('[server.a]\nprofile = "none"\ncommand = ["/usr/bin/echo"]\nenv = { A = "\\u0000" }\n', 2, "NUL"),
        ("[server.a]\nprofile = 'fs-readonly'\n", 2, r'servers\.toml:1: param "root" is not set'),
        ("[server.a]\nprofile = 'fs-readonly'\nparams = { root = 'data' }\n", 2, r'"data" is relative'),
        ("[server.a]\nprofile = 'fs-readonly'\nparams = { root = '.' }\n", 2, r'"\." is relative'),
        ("[server.a]\nprofile = 'fs-readonly'\nparams = { root = '/' }\n", 3, "the whole host"),
        ("[server.a]\nprofile = 'none'\ncommand = ['/usr/bin/cat']\nro = ['x']\n", 2, r'ro "x": "x" is relative'),
        ("[server.a]\nprofile = 'none'\ncommand = ['/usr/bin/cat']\nrw = ['/root']\n", 3, "whole home folder"),
        ("[server.a]\nprofile = 'none'\ncommand = ['npx', 'x']\n", 3, "npm install"),
    ],
)
def test_a_mistake_in_a_registry_is_named(folder: Path, text: str, status: int, says: str) -> None:
    config = folder / "servers.toml"
    config.write_text(text)
    config.chmod(0o644)
    planned = planner.answer({"catalog": str(config)}, planner.Planning())
    assert planned.status == status
    assert re.search(says, planned.error), planned.error


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("[server.a]\nprofile = 'bogus'\n", 2, 'unknown profile "bogus"'),
        ("[server.a]\nprofile = 'none'\ncommand = ['npx', 'x']\n", 3, "npm install"),
        ("[server.a]\nprofile = 'none'\ncommand = ['cat']\naccept_missing = ['bogus']\n", 2, "no such layer"),
    ],
)
def test_a_daemon_does_not_start_from_a_registry_with_a_mistake(
    folder: Path, text: str, status: int, says: str
) -> None:
    config = folder / "servers.toml"
    config.write_text(text)
    config.chmod(0o644)
    done = run("daemon", "--config", config, "--runtime-dir", folder / "run")
    assert_told(done, status, says)
    assert not list((folder / "run").iterdir())


def test_a_registry_that_others_can_write_is_refused(folder: Path) -> None:
    config = folder / "servers.toml"
    config.write_text("")
    config.chmod(0o666)
    done = run("daemon", "--config", config, "--runtime-dir", folder / "run")
    assert_told(done, 3, "servers.toml", "chmod go-w")


def test_a_reload_with_a_mistake_changes_nothing(folder: Path) -> None:
    good = '[server.a]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n'
    with adversary.daemon(folder, good) as host:
        host.config.write_text(good + "[server.b]\nprofile = 'bogus'\n")
        done = run("admin", "reload", "--runtime-dir", host.folder)
        assert_told(done, 2, 'unknown profile "bogus"')
        assert host.inspect()["servers"] == ["a"]
        assert run("exec", "--profile", "none", *TRUE).returncode == 0
