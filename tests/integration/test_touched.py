"""Which files a session opens, as the kernel tells it: what is seen and what is not, whatever a server does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.sandbox.syscalls import FIRST_UID
from tests.escape.arena import PYTHON, Arena
from tests.integration.adversary import write_profile
from tests.integration.caller import Caller
from tests.integration.host import Host
from tests.integration.remains import nothing_left
from tests.integration.touching import OBEDIENT, Session, queues, session, watchers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel tells root alone")

MANY, MORE = 10_000, 25_000
IO_URING_SETUP = 425


def entry(name: str, profile: str | Path, host: Host, script: Path | None = None) -> str:
    plot = host.root.plot
    scope = "" if script else f', scope = "{plot.scope}"'
    params = f'params = {{ root = "{plot.folder}"{scope} }}'
    command = json.dumps([*PYTHON, str(script)] if script else [*PYTHON, "-c", OBEDIENT])
    return f'[server.{name}]\nprofile = "{profile}"\n{params}\ncommand = {command}\n'


@pytest.fixture(scope="module")
def host(arena: Arena) -> Iterator[Host]:
    """A daemon with the same program under four profiles; after its end nothing of it is left."""
    root, user = Caller(arena, "root"), Caller(arena, "user")
    for caller in (root, user):
        caller.reset()
    made = Host(root, user, Path("/nonexistent"))
    made.folder.mkdir(exist_ok=True)
    written = {name: f"[audit]\n{text}\n" for name, text in PROFILES.items()}
    paths = {name: write_profile(made.folder, name, text, extends="fs-scoped") for name, text in written.items()}
    beside = made.root.plot.folder / "beside.py"
    beside.write_text(OBEDIENT)
    made.config.write_text(
        "\n".join(
            [
                entry("plain", "ci-runner", made),
                entry("beside", "fs-readonly", made, beside),
                *(entry(name, path, made) for name, path in paths.items()),
            ]
        )
    )
    with nothing_left(root, writes=root.plot.scope):
        try:
            made.start()
            yield made
        finally:
            made.close()


PROFILES = {"needed": 'files = "required"', "unwatched": 'files = "off"', "whole": "system = true"}


@pytest.fixture(scope="module")
def running(host: Host) -> Iterator[Session]:
    with session(host, "plain") as made:
        made.do("import errno, mmap, os, shutil, subprocess, threading")
        made.do(f"scope = {str(host.root.plot.scope)!r}")
        made.since()
        yield made


SEEN = {
    "read": ("open('/data/hello.txt').read()", {"/data/hello.txt": "r"}),
    "written": ("open(scope + '/new', 'w').close()", {"{}/new": "w"}),
    "read and written, one after the other": (
        "open(scope + '/own.txt').close(), open(scope + '/own.txt', 'a').close()",
        {"{}/own.txt": "rw"},
    ),
    "removed at once": ("open(scope + '/gone', 'w').close(), os.unlink(scope + '/gone')", {"{}/gone": "w"}),
    "by its second name": (
        "os.link(scope + '/own.txt', scope + '/second'), open(scope + '/second').close()",
        {"{}/second": "r"},
    ),
    "renamed before": (
        "os.rename(scope + '/second', scope + '/third'), open(scope + '/third').close()",
        {"{}/third": "r"},
    ),
    "through a descriptor": (
        "f = open('/data/victim-1'); open(f'/proc/self/fd/{f.fileno()}').close(); f.close()",
        {"/data/victim-1": "r"},
    ),
    "by a grandchild": (
        "subprocess.run(['/bin/sh', '-c', '(cat /data/victim-2 >/dev/null) & wait'])",
        {"/data/victim-2": "r"},
    ),
    "executed": (
        "shutil.copy('/usr/bin/true', scope + '/true'), os.chmod(scope + '/true', 0o700), "
        "subprocess.run([scope + '/true'], check=True)",
        {"{}/true": "rwx"},
    ),
    "listed": ("os.listdir('/data')", {"/data": "r"}),
    "of its own": ("open('/tmp/x', 'w').close()", {"/tmp/x": "w"}),
    "with a strange name": ("open(scope + '/a\\n\\udcff\"', 'w').close()", {'{}/a\n\udcff"': "w"}),
    "named as if it were gone": ("open(scope + '/x (deleted)', 'w').close()", {"{}/x (deleted)": "w"}),
    "only looked at": ("os.stat('/data/hello.txt'), os.close(os.open('/data/hello.txt', os.O_PATH))", {}),
    "refused": ("os.access('/nowhere', 0), os.path.exists('/etc/shadow')", {}),
    "of the system": ("open('/usr/bin/env', 'rb').close()", {}),
}


@pytest.mark.parametrize("case", SEEN)
def test_what_is_opened_is_told_by_name_and_mode(case: str, running: Session) -> None:
    code, expected = SEEN[case]
    scope = str(running.host.root.plot.scope)
    named = {path.replace("{}", scope): mode for path, mode in expected.items()}
    assert running.opens(code) == (named, True)


def test_a_file_that_stays_open_may_be_either_until_its_end_tells(running: Session) -> None:
    path = f"{running.host.root.plot.scope}/page"
    running.opens(f"p = {path!r}; open(p, 'wb').write(b'x' * 4096)")
    assert running.opens("f = open(p, 'r+b')") == ({path: "rw"}, True)
    assert running.opens("f.write(b'y'), f.flush()") == ({path: "w"}, True)
    assert running.opens("f.close()") == ({path: "w"}, True)


def test_what_is_written_through_memory_is_told_when_that_ends(running: Session) -> None:
    path = f"{running.host.root.plot.scope}/mapped"
    running.opens(f"p = {path!r}; open(p, 'wb').write(b'x' * 4096)")
    assert running.opens("f = open(p, 'r+b'); m = mmap.mmap(f.fileno(), 4096); f.close()") == ({path: "rw"}, True)
    assert running.opens("m[0] = 65") == ({}, True)
    assert running.opens("m.close()") == ({path: "w"}, True)


def test_files_are_not_opened_past_the_kernel_s_own_calls(running: Session) -> None:
    running.do("import ctypes; libc = ctypes.CDLL(None, use_errno=True)")
    running.do(
        f"assert libc.syscall({IO_URING_SETUP}, 8, 0) == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)"
    )


def test_calls_at_the_same_time_have_what_either_opened(running: Session) -> None:
    async def play() -> list[set[str]]:
        first, second = running.watch.window(), running.watch.window()
        running.do("open('/data/victim-3').close()")
        early = {each.path for each in (await first.close())[0]}
        running.do("open('/data/victim-4').close()")
        late = {each.path for each in (await second.close())[0]}
        return [early, late]

    assert running.runner.run(play()) == [{"/data/victim-3"}, {"/data/victim-3", "/data/victim-4"}]


def test_every_one_of_ten_thousand_is_told(running: Session) -> None:
    scope = running.host.root.plot.scope
    (scope / "many").mkdir()
    os.chown(scope / "many", *scope.stat()[4:6])
    files, complete = running.opens(f"[open(f'{{scope}}/many/{{n}}', 'w').close() for n in range({MANY})]")
    assert (len(files), set(files.values()), complete) == (MANY, {"w"}, True)


def test_a_question_while_files_are_opened_is_answered_in_time(running: Session) -> None:
    """The watcher stops at what was there when it was asked."""
    running.do("go = True")
    running.do("def spin():\n while go: [open(f'{scope}/many/{n}').close() for n in range(5000)]")
    running.do("t = threading.Thread(target=spin); t.start()")
    try:
        began = time.monotonic()
        for _ in range(5):
            running.since()
        assert time.monotonic() - began < 10
    finally:
        running.do("go = False; t.join()")
        running.since()


def test_a_flood_is_said_to_be_one_and_costs_bounded_memory(host: Host) -> None:
    with session(host, "plain") as made:
        made.do(f"import os; scope = {str(host.root.plot.scope)!r}; os.mkdir(scope + '/flood')")
        files, complete = made.opens(f"[open(f'{{scope}}/flood/{{n}}', 'w').close() for n in range({MORE})]")
        assert not complete
        assert len(files) <= 20_000
        [pid] = made.watchers
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["VmHWM"].split()[0]) < 64 << 10
        # what comes after it is whole again, and nothing of it is lost
        made.since()
        assert made.opens("open('/data/hello.txt').close()") == ({"/data/hello.txt": "r"}, True)


def test_a_name_longer_than_a_path_can_be_is_said_to_be_missing(running: Session) -> None:
    running.do("here = os.getcwd(); os.chdir(scope)")
    running.do("[(os.mkdir('d' * 250), os.chdir('d' * 250)) for _ in range(20)]")
    try:
        assert running.opens("open('deep', 'w').close()") == ({}, False)
    finally:
        running.do("os.chdir(here); shutil.rmtree(scope + '/' + 'd' * 250)")
        running.since()


def test_a_pipe_in_a_folder_does_not_hold_the_watcher_up(running: Session) -> None:
    running.do("os.mkfifo(scope + '/pipe'); os.close(os.open(scope + '/pipe', os.O_RDWR))")
    assert running.opens("open('/data/victim-5').close()") == ({"/data/victim-5": "r"}, True)


def test_the_watcher_has_no_power_and_can_read_nothing_but_its_queue(running: Session) -> None:
    [pid] = running.watchers
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == [str(FIRST_UID + pid)] * 4
    assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"].strip()) == ("1", "2", "")
    held = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    assert queues(pid) == ["255"]
    streams = [what for what in held.values() if what.startswith(("/dev/null", "pipe:"))]
    sockets = [what for what in held.values() if what.startswith("socket:")]
    paths = [name for name, what in held.items() if what not in (*streams, *sockets) and name != "255"]
    assert len(sockets) == 2
    assert all(flags(pid, name) & os.O_PATH for name in paths), held


def flags(pid: int, name: str) -> int:
    """How a descriptor of a process was opened."""
    lines = Path(f"/proc/{pid}/fdinfo/{name}").read_text().splitlines()
    return int(dict(line.split(":\t", 1) for line in lines)["flags"], 8)


def test_the_queue_is_the_watcher_s_alone(running: Session) -> None:
    """Whoever ends it has ended the marks: the daemon keeps nothing of it, and its spawner has never had it."""
    daemon = running.host.process.pid
    assert queues(daemon) == []
    assert watchers(running.host) == running.watchers


def test_a_profile_may_ask_for_the_system_as_well_or_for_nothing(host: Host) -> None:
    with session(host, "whole") as made:
        files, complete = made.opens("open('/usr/bin/env', 'rb').close(), open('/etc/passwd').close()")
        assert ({"/usr/bin/env", "/etc/passwd"} <= files.keys(), complete) == (True, True)
    with session(host, "unwatched") as made:
        assert not made.watch.on
        assert made.opens("open('/data/hello.txt').close()") == ({}, False)
        assert made.watchers == []


def test_a_granted_folder_is_watched_under_its_other_name_too(host: Host) -> None:
    """The program lies in it: then its folder is shown under its own name as well."""
    folder = host.root.plot.folder
    with session(host, "beside") as made:
        assert made.opens("open('/data/hello.txt').close()") == ({"/data/hello.txt": "r"}, True)
        assert made.opens(f"open('{folder}/hello.txt').close()") == ({f"{folder}/hello.txt": "r"}, True)


def test_a_session_ends_with_its_watcher_and_the_watcher_with_its_session(host: Host) -> None:
    with session(host, "needed") as made:
        [pid] = made.watchers
        os.kill(pid, signal.SIGKILL)
        assert os.read(made.opened.stdout, 1) == b""
        assert made.since() == ({}, False)
        assert pid not in watchers(host)
    with session(host, "needed") as made:
        [pid] = made.watchers
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(made.opened.pidfd, signal.SIGKILL)
        asyncio.run(_readable(pidfd))


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_what_a_server_opened_before_it_died_is_told(end: str, host: Host) -> None:
    with session(host, "plain") as made:
        assert made.say(f"import os; f = open('/data/hello.txt'); open('/tmp/x', 'w').write('x'); {end}") == b""
        assert made.since() == ({"/data/hello.txt": "r", "/tmp/x": "w"}, True)
        assert made.since() == ({}, True)


async def _readable(fd: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, ended.set)
    await asyncio.wait_for(ended.wait(), 10)
    asyncio.get_running_loop().remove_reader(fd)
    os.close(fd)


def test_an_ordinary_user_is_told_that_nobody_sees_it(arena: Arena) -> None:
    user = Caller(arena, "user")
    user.reset()
    path = write_profile(user.project, "needed", '[audit]\nfiles = "required"\n')
    os.chown(path, user.plot.uid, user.plot.gid)
    gaps = user.arena.accept("user")
    plain = user.finish(user.command("exec", "--profile", "none", *gaps, "--", "/usr/bin/true"))
    assert (plain.returncode, "not recorded: which files it opens" in plain.stderr) == (0, True), plain.stderr
    told = user.finish(user.command("explain", "--profile", "none", *gaps, "--", "/usr/bin/true"))
    assert "not recorded: which files it opens (fanotify: Operation not permitted" in told.stdout
    refused = user.finish(user.command("exec", "--profile", path, *gaps, "--", "/usr/bin/true"))
    assert refused.returncode == 4
    assert "file-audit: fanotify: Operation not permitted" in refused.stderr
    assert "--accept-missing file-audit" in refused.stderr
    names = ",".join([*gaps[1:], "file-audit"])
    accepted = user.finish(
        user.command("exec", "--profile", path, "--accept-missing", names, "--", "/usr/bin/true")
    )
    assert accepted.returncode == 0, accepted.stderr
    assert "WITHOUT file-audit" in accepted.stderr
