"""What a person may write wrongly on the command line: one message with the next step, the documented status."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.escape.arena import Arena
from tests.integration.adversary import BINARY, assert_refused, assert_told, explained, run

pytestmark = pytest.mark.timeout(60)

TRUE = ("--", "/usr/bin/true")
TRUSTING = ("--trust", "FOLDER/trust.toml", "--store", "FOLDER/store")
IN_PROCESS = ("explain", "profile", "list", "admin")


@pytest.fixture
def folder(arena: Arena) -> Path:
    """A folder of root's with one of everything that is not a folder."""
    made = arena.base / "odd"
    if not made.exists():
        made.mkdir()
        (made / "real").mkdir()
        (made / "file").write_text("text")
        (made / "link").symlink_to(made / "real")
        (made / "loop").symlink_to(made / "loop")
        (made / "out").symlink_to("/etc")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(made / "socket"))
        os.mkfifo(made / "fifo")
        os.mknod(made / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return made


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (("exec", *TRUE), 2, ("name a profile", "--profile fs-readonly")),
        (("exec", "--profile", "bogus", *TRUE), 2, ('unknown profile "bogus"', "fs-readonly")),
        (("exec", "--profile", "x" * 5000, *TRUE), 2, ('unknown profile "xxx', "fs-readonly")),
        (("exec", "--profile", "net-allowlist", "--allow", "\udcff", *TRUE), 2, ("write HOST:PORT",)),
        (("pending", "--config", "/tmp/\udcff"), 2, ("there is no registry yet",)),
        (("discover", "--source", "/tmp/\udcff"), 2, ("one of docker",)),
        (("audit", "show", "\udcff"), 1, ("there is no call", "audit query")),
        (("explain", "--profile", "", *TRUE), 2, ('unknown profile ""', "fs-readonly")),
        (("explain", "--profile", "../none", *TRUE), 2, ("none", "No such file")),
        (("exec", "--profile", "none"), 2, ("name a command after --",)),
        (("exec", "--profile", "none", "--"), 2, ("nothing follows --",)),
        (("explain", "--profile", "none", "--", ""), 2, ("command",)),
        (("run", "--profile", "none"), 2, ("starts no server of its own", "name a command after --")),
        (("explain", "--profile", "none", "--param", "x=1", *TRUE), 2, ('no param "x"', "it has: none")),
        (("explain", "--profile", "fs-readonly", "--param", "rot=/srv", *TRUE), 2, ('no param "rot"', "root")),
        (("explain", "--profile", "fs-readonly", "--param", "root", *TRUE), 2, ("write --param name=value",)),
        (("explain", "--profile", "none", "--env", "SVTEST_NOT_SET", *TRUE), 2, ("SVTEST_NOT_SET=VALUE",)),
        (("explain", "--profile", "none", "--env", "A B=x", *TRUE), 2, ("no name for an environment variable",)),
        (("explain", "--profile", "none", "--env", "=x", *TRUE), 2, ("no name for an environment variable",)),
        (("exec", "--profile", "none", "--env", b"A=\xff", *TRUE), 2, ("not UTF-8",)),
        (("explain", "--profile", "none", "--ro", b"/srv/\xff", *TRUE), 2, ("not UTF-8",)),
        (("explain", "--profile", "none", "--", "/usr/bin/echo", b"\xff"), 2, ("not UTF-8",)),
        (("exec", "--profile", "none", "--", "no-such-command"), 2, ("no-such-command", "install it")),
        (("exec", "--profile", "none", "--", "/no/such/command"), 2, ("/no/such/command", "install it|path")),
        (("explain", "--profile", "none", "--", "/etc"), 2, ("/etc",)),
        (
            ("explain", "--profile", "none", "--", "/etc/passwd"),
            2,
            ("/etc/passwd", "not an executable file", "chmod"),
        ),
        (("run", "--profile", "none", "--", "npx", "-y", "some-server"), 3, ("npm install", "node_modules/.bin")),
        (("run", "--profile", "none", "--", "uvx", "mcp-server-git"), 3, ("pip install", "mcp-server-git")),
        (("exec", "--profile", "none", "--accept-missing", "bogus", *TRUE), 2, ("landlock", "limits.memory")),
        (("explain", "--profile", "none", "--accept-missing", "bogus", *TRUE), 2, ("landlock", "limits.memory")),
        (("profile", "show"), 2, ("name one",)),
        (("profile", "show", "bogus"), 2, ('unknown profile "bogus"',)),
        (("profile", "list", "--", "x"), 2, ("takes no command",)),
        (("run", "files", "--profile", "none"), 2, ("registered server",)),
        (("run", "files", "--runtime-dir", "/var/tmp/none"), 1, ("/var/tmp/none/proxy.sock", "No such file")),
        (("list", "--runtime-dir", "/var/tmp/" + "x" * 200), 1, ("proxy.sock", "too long")),
        (("admin", "inspect", "--runtime-dir", "/var/tmp/none"), 1, ("admin.sock", "No such file")),
        (("admin", "kill"), 2, ("number of a session",)),
        (("exec", "--profile", "none", "true"), 2, ("exec: it takes no 'true'", "after --, as in")),
        (("profile", "list", "--nonsense"), 2, ("profile list: it takes no '--nonsense'", "profile list --help")),
        (("audit", "query", "--nonsense"), 2, ("audit query: it takes no '--nonsense'", "audit query --help")),
        (("policy", "check", "--nonsense"), 2, ("policy check: it takes no", "policy check --help")),
        (("call", "--server", "files", "--runtime-dir", "/var/tmp/none"), 1, ("no daemon is there", "run files")),
        (("add", "a b", "--profile", "none", *TRUE), 2, ('^supervisor: "a b": at most 64',)),
        (("daemon", "--config", "/no/such/file", "--runtime-dir", "/var/tmp/svtest-rt"), 2, ("/no/such/file",)),
    ],
    ids=lambda each: " ".join(os.fsdecode(word) for word in each)[:60] if isinstance(each, tuple) else "",
)
def test_a_mistake_is_answered_with_the_next_step(
    argv: tuple[str, ...], status: int, says: tuple[str, ...]
) -> None:
    assert_told(explained(*argv) if argv[0] in IN_PROCESS else run(*argv), status, *says)
    with suppress(FileNotFoundError):
        Path("/var/tmp/svtest-rt").rmdir()  # which is made, and stays empty


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "soon"])
def test_a_timeout_is_a_positive_number(text: str) -> None:
    done = run("call", "--profile", "fs-readonly", "--timeout", text, "x")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "seconds" in done.stderr or "--timeout" in done.stderr


# which way of showing a path is used with which one; `{}` is the folder of odd things
PATHS = [
    ("{}/missing", 2, "no such file"),
    ("{}/file/below", 2, "not a directory"),
    ("{}/loop", 2, "too many levels of symbolic links"),
    ("{}/link", 3, r"leads through a symbolic link to .*/real"),
    ("{}/out/ssl", 3, "leads through a symbolic link to"),
    ("{}/socket", 2, "neither a folder nor a regular file"),
    ("{}/fifo", 2, "neither a folder nor a regular file"),
    ("{}/device", 2, "neither a folder nor a regular file"),
    ("/", 3, "the whole host"),
    ("//", 3, "the whole host"),
    ("/proc/self", 3, "symbolic link|never granted"),
    ("/sys", 3, "never granted"),
    ("/root", 3, "whole home folder"),
    ("/root/../root/", 3, "whole home folder"),
    ("/dev/null", 2, "neither a folder nor a regular file"),
    ("", 2, "not a path"),
    ("x" * 300, 2, "name too long"),
]


@pytest.mark.parametrize(("path", "status", "says"), PATHS, ids=[path[:20] for path, _, _ in PATHS])
@pytest.mark.parametrize("way", ["param", "ro"])
def test_a_path_that_is_not_granted_is_named(folder: Path, path: str, status: int, says: str, way: str) -> None:
    written = path.format(folder)
    if way == "ro":
        argv, named = ("--profile", "none", "--ro", written), "--ro"
    else:
        argv, named = ("--profile", "fs-readonly", "--param", f"root={written}"), 'param "root"'
    assert_told(explained("explain", *argv, *TRUE), status, named, says)


def test_somebody_else_s_home_and_what_holds_it_is_not_granted(arena: Arena) -> None:
    plot = arena.plots["user"]
    for path in (plot.home, plot.base, arena.base, Path("/var")):
        argv = ("exec", "--profile", "none", "--rw", path, *TRUE)
        assert_refused(3, *argv, says=("whole home folder", "name a folder inside it"))


@pytest.mark.parametrize("target", ["/usr/x", "//usr", "/", "/proc", "x", "/a/../b", "/etc", "/dev/x", "/tmp/.."])
def test_a_place_inside_that_belongs_to_the_sandbox_is_not_given_away(folder: Path, target: str) -> None:
    done = explained("explain", "--profile", "none", "--ro", f"{folder}/real:{target}", *TRUE)
    assert_told(done, 2 if target in ("x", "/a/../b", "//usr", "/tmp/..") else 3, "target")


def test_two_folders_at_one_place_are_told_apart(folder: Path) -> None:
    (folder / "other").mkdir(exist_ok=True)
    argv = ("exec", "--profile", "none", "--ro", f"{folder}/real:/x", "--ro", f"{folder}/other:/x", *TRUE)
    assert_refused(2, *argv, says=("would show both", "SRC:DST"))


def test_a_working_directory_that_is_gone_is_named() -> None:
    code = (
        f"mkdir svtest-gone && cd svtest-gone && rmdir ../svtest-gone && exec {BINARY} exec --profile none -- true"
    )
    done = subprocess.run(["/bin/sh", "-c", code], capture_output=True, text=True, cwd="/var/tmp", timeout=30)
    assert_told(done, 2, "working directory is gone", "cd to one that exists")


def test_a_working_directory_with_an_odd_name_is_named(arena: Arena) -> None:
    place = arena.base / os.fsdecode(b"odd-\xff")
    place.mkdir(exist_ok=True)
    assert_refused(2, "exec", "--profile", "none", *TRUE, cwd=place, says=("not UTF-8", "start from another"))


@pytest.mark.parametrize("argv", [("profile", "list"), ("--help",), ("explain", "--profile", "none", *TRUE)])
@pytest.mark.parametrize("sink", ["pipe", "full", "closed"])
def test_output_that_nobody_takes_is_no_traceback(argv: tuple[str, ...], sink: str) -> None:
    redirect = {"pipe": "| true", "full": "> /dev/full", "closed": ">&-"}[sink]
    code = f'"$0" "$@" {redirect}'
    done = subprocess.run(
        ["/bin/sh", "-c", code, BINARY, *argv], capture_output=True, text=True, cwd="/var/tmp", timeout=30
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("mode", ["exec", "run"])
def test_standard_streams_that_are_closed_are_not_mistaken_for_ours(closed: str, mode: str) -> None:
    code = f'"$0" {mode} -q --profile none -- /usr/bin/echo hi {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", code, BINARY], capture_output=True, text=True, cwd="/var/tmp", timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ("hi\n" if mode == "exec" and ">&-" not in closed.split() else "")


def test_an_ordinary_user_gets_the_same_messages(arena: Arena, folder: Path) -> None:
    plot, head = arena.plots["user"], arena.commands["user"]
    cases = [
        (("--profile", "bogus"), 2, "unknown profile"),
        (("--profile", "none", "--ro", str(plot.home)), 3, "whole home folder"),
        (("--profile", "none", "--ro", "/root/.ssh"), 2, "permission denied|no such file"),
        (("--profile", "none", "--ro", f"{folder}/link"), 3, "symbolic link"),
        (("--profile", "none", "--accept-missing", "bogus"), 2, "no such layer"),
    ]
    for options, status, says in cases:
        done = arena.finish(arena.start([*head, "exec", *options, *TRUE], "user"))
        assert_told(done, status, says)


@pytest.mark.parametrize("number", [1, 8])
def test_an_ordinary_user_who_may_start_no_process_gets_a_message(arena: Arena, number: int) -> None:
    limited = ["/usr/bin/prlimit", f"--nproc={number}", *arena.commands["user"]]
    done = arena.finish(
        arena.start([*limited, "exec", "-q", *arena.accept("user"), "--profile", "none", *TRUE], "user")
    )
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert not done.returncode or "Resource temporarily unavailable" in done.stderr


def test_a_command_that_is_too_long_for_a_message_is_told_so() -> None:
    done = run("exec", "--profile", "none", *TRUE, *["x" * 100] * 1000)
    assert_told(done, 2, "too long", "put what is long in a file")


@pytest.mark.parametrize("number", [12, 16])
def test_too_few_descriptors_is_a_message(number: int) -> None:
    argv = ["/usr/bin/prlimit", f"--nofile={number}", BINARY, "exec", "-q", "--profile", "none", *TRUE]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/var/tmp", timeout=30)
    assert_told(done, 1, "Too many open files")


@pytest.mark.parametrize(
    "argv",
    [
        ("adopt", "NAMED"),
        ("release", "NAMED"),
        ("audit", "verify", "--key", "NAMED"),
        ("audit", "verify", "--against", "NAMED"),
        ("audit", "export", "--to", "tls://127.0.0.1:1", "--ca", "NAMED"),
        ("audit", "export", "--to", "http://127.0.0.1:1/v1/logs", "--header", "A: @NAMED"),
        ("token", "ann", "--file", "NAMED/more"),
        ("list", "--config", "NAMED"),
        ("policy", "check", "--config", "NAMED"),
        ("serve", "--auth", "NAMED", "--http", "127.0.0.1:0"),
        ("explain", "--profile", "NAMED.toml", *TRUE),
        ("exec", "--profile", "none", "--secret", "A=file:NAMED", *TRUE),
        ("image", "add", "oci:NAMED", "--as", "localhost/a", *TRUSTING),
        ("image", "add", "oci-archive:NAMED", "--as", "localhost/a", *TRUSTING),
        ("image", "sign", "oci-archive:NAMED", "--as", "localhost/a", "--output", "NAMED", "--key", "NAMED"),
    ],
    ids=lambda argv: "-".join(argv[:2]),
)
def test_a_file_that_is_not_there_is_the_same_status_everywhere(argv: tuple[str, ...], tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert_told(run(*_filled(argv, tmp_path, missing)), 2, missing)


def _filled(argv: tuple[str, ...], folder: Path, named: str) -> list[str]:
    """The words of a command about a file, with a policy that trusts what nobody signed, and a store."""
    (folder / "trust.toml").write_text('trust = 1\n[[repository]]\npattern = "localhost/*"\naccept = "unsigned"\n')
    return [each.replace("NAMED", named).replace("FOLDER", str(folder)) for each in argv]


@pytest.mark.parametrize("named", ["fifo", "device", "/proc/kmsg", "/dev/zero"])
@pytest.mark.parametrize(
    "argv",
    [
        ("run", "--config", "NAMED", "x"),
        ("serve", "--config", "NAMED"),
        ("secrets", "check", "--config", "NAMED"),
        ("serve", "--auth", "NAMED", "--http", "127.0.0.1:0"),
        ("audit", "verify", "--key", "NAMED"),
        ("audit", "export", "--to", "tls://127.0.0.1:1", "--ca", "NAMED"),
        ("exec", "--profile", "none", "--secret", "A=file:NAMED", *TRUE),
        ("image", "add", "oci:NAMED", "--as", "localhost/a", *TRUSTING),
        ("image", "add", "docker-archive:NAMED", "--as", "localhost/a", *TRUSTING),
        ("image", "sign", "oci-archive:NAMED", "--as", "localhost/a", "--output", "NAMED", "--key", "NAMED"),
    ],
    ids=lambda argv: "-".join(argv[:2]),
)
def test_what_is_no_file_is_refused_by_name_and_not_waited_for(
    folder: Path, tmp_path: Path, argv: tuple[str, ...], named: str
) -> None:
    path = str(folder / named)
    done = run(*_filled(argv, tmp_path, path), seconds=15)
    assert done.returncode == 2
    assert f"{path}: not a " in done.stderr
