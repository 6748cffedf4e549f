"""The end of a session, however it comes: within a second nothing of it is left.

The server ignores every signal and has daemons that left its session; each process of the tree is killed in turn.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.escape.arena import Arena, end
from tests.integration import adversary
from tests.integration.adversary import BINARY, MARKER, Processes, Watch, program, receive, send, server, started

pytestmark = pytest.mark.timeout(60)

STUBBORN = server("deaf", "daemons")
ASK = b'{"jsonrpc":"2.0","id":1,"method":"initialize"}'
HANG = b'{"jsonrpc":"2.0","id":2,"method":"hang"}'
RUN = ("run", "-q", "--profile", "none", "--")
EXEC = ("exec", "-q", "--profile", "none", "--")
# JSON strings are TOML strings
CONFIG = f'[server.stubborn]\nprofile = "none"\ncommand = {json.dumps(STUBBORN)}\n'
# the server's grace of 0.6 s, the end of everything, and a busy machine
WITH_GRACE = 2
ROLES = ("proxy", "monitor", "spawner", "init", "server")


def mounts() -> list[str]:
    """Without those of other tests of this host, which come and go."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "svtest-" not in line]


def sockets() -> set[str]:
    """The named sockets of ours that there are."""
    return {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "supervisor" in line}


def ready(process: subprocess.Popen[bytes]) -> Processes:
    """The tree, once the server has started its daemons and answered."""
    send(process, ASK)
    assert b'"id": 1' in receive(process)
    tree = Processes(process.pid)
    assert len(tree.payloads) == 4
    return tree


@pytest.mark.parametrize("role", [*ROLES, "watcher"])
def test_whichever_process_is_killed_nothing_survives(role: str) -> None:
    before = mounts(), sockets()
    with started(*RUN, *STUBBORN) as process:
        tree = ready(process)
        send(process, HANG)
        with Watch(tree.all) as watch:
            os.kill(tree.role(role), signal.SIGKILL)
            watch.assert_all_end(1)
        adversary.assert_groups_go(tree.spawner, 1)
        assert (mounts(), sockets()) == before
        out, err = process.communicate()
    assert b"Traceback" not in err, err
    if role != "proxy":
        assert b'"id":2,"error"' in out, (out, err)
        assert process.returncode != 0
        assert err.startswith(b"supervisor: ")


@pytest.mark.parametrize("role", ROLES)
def test_an_ordinary_user_s_session_ends_as_completely(arena: Arena, role: str) -> None:
    argv = [*arena.commands["user"], "run", "-q", *arena.accept("user"), "--profile", "none", "--", *STUBBORN]
    process = arena.start(argv, "user", stdin=subprocess.PIPE)
    try:
        tree = ready(process)
        with Watch(tree.all) as watch:
            os.kill(tree.role(role), signal.SIGKILL)
            watch.assert_all_end(1)
        adversary.assert_groups_go(tree.spawner, 1)
        _, err = process.communicate(timeout=10)
        assert b"Traceback" not in err, err
    finally:
        end(process)


@pytest.mark.parametrize("roles", [("monitor", "spawner"), ("proxy", "monitor"), ("proxy", "monitor", "spawner")])
def test_when_several_are_killed_at_once_no_process_survives(roles: tuple[str, ...]) -> None:
    """The groups of a spawner that was killed as well are for the next start to sweep.

    All are stopped first: one that runs on may end by itself, for the end of another, before it is killed.
    """
    with adversary.adopting_orphans(), started(*RUN, *STUBBORN) as process:
        tree = ready(process)
        with Watch(tree.all) as watch:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for role in roles:
                    os.kill(tree.role(role), number)
            watch.assert_all_end(1)
            watch.reap(but=process.pid)
    assert adversary.run(*EXEC, "/bin/true").returncode == 0
    adversary.assert_groups_go(tree.spawner, 1)


def test_the_end_of_a_payload_ends_its_daemons() -> None:
    with started(*RUN, *server("daemons")) as process:
        tree = ready(process)
        with Watch(tree.all) as watch:
            send(process, HANG, b'{"jsonrpc":"2.0","id":3,"method":"quit"}')
            watch.assert_all_end(1)
        out, err = process.communicate()
    assert process.returncode == 5
    assert b'"id":2,"error"' in out
    assert b"exited with status 5" in out
    assert err == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda each: each.name)
def test_a_signal_ends_a_session_that_ignores_all_of_them(number: signal.Signals) -> None:
    with started(*RUN, *STUBBORN) as process:
        tree = ready(process)
        send(process, HANG)
        with Watch(tree.all) as watch:
            process.send_signal(number)
            watch.assert_all_end(WITH_GRACE)
        adversary.assert_groups_go(tree.spawner, 1)
        out, err = process.communicate()
    assert process.returncode == 128 + number
    assert b'"id":2,"error"' in out
    assert err == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda each: each.name)
@pytest.mark.parametrize("times", [1, 3])
def test_signals_end_exec_with_128_and_their_number(number: signal.Signals, times: int) -> None:
    with started(*EXEC, *program("import signal\nprint('up', flush=True)\nsignal.pause()")) as process:
        assert receive(process) == b"up\n"
        tree = Processes(process.pid)
        with Watch(tree.all) as watch:
            for _ in range(times):
                process.send_signal(number)
            watch.assert_all_end(WITH_GRACE)
        _, err = process.communicate()
    assert process.returncode in (128 + number, -number)
    assert err == b""


@pytest.mark.parametrize("times", [1, 5])
def test_a_signal_while_it_starts_leaves_nothing_and_no_traceback(times: int) -> None:
    for delay in (0.03, 0.08, 0.12, 0.2):
        with started(*EXEC, *program("import signal; signal.pause()")) as process:
            # a moment of the start cannot be awaited from outside: it is sampled
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(delay)
            with Watch(adversary.below(process.pid)) as watch:
                for _ in range(times):
                    process.send_signal(signal.SIGTERM)
                watch.assert_all_end(WITH_GRACE)
            _, err = process.communicate()
        assert process.returncode in (143, -15)
        assert b"Traceback" not in err
    assert adversary.marked() == []


def test_the_end_of_the_client_s_input_ends_a_server_that_ignores_it() -> None:
    with started(*RUN, *STUBBORN) as process:
        tree = ready(process)
        send(process, HANG)
        with Watch(tree.all) as watch:
            assert process.stdin
            process.stdin.close()
            process.stdin = None
            watch.assert_all_end(WITH_GRACE)
        adversary.assert_groups_go(tree.spawner, 1)
        out, err = process.communicate()
    assert process.returncode == 0
    assert b'"id":2,"error"' in out
    assert err == b""


def test_a_client_that_stops_reading_in_the_middle_of_a_call_ends_the_session() -> None:
    with started(*RUN, *STUBBORN) as process:
        tree = ready(process)
        with Watch(tree.all) as watch:
            assert process.stdout
            process.stdout.close()
            process.stdout = None
            send(process, *[ASK] * 3)
            watch.assert_all_end(WITH_GRACE)
        _, err = process.communicate()
    assert b"Traceback" not in err


def test_a_client_that_is_killed_takes_the_session_with_it() -> None:
    client = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        f"child.stdin.write({ASK!r} + b'\\n' + {HANG!r} + b'\\n'); child.stdin.flush()\n"
        "child.stdout.readline(); print(child.pid, flush=True); child.stdout.readline()\n"
    )
    argv = ["/usr/bin/python3", "-c", client, BINARY, *RUN, *STUBBORN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd="/var/tmp") as process:
        assert process.stdout
        tree = Processes(int(process.stdout.readline()))
        with Watch(tree.all) as watch:
            process.kill()
            watch.assert_all_end(WITH_GRACE)
    adversary.assert_groups_go(tree.spawner, 1)


@pytest.mark.parametrize("mode", ["exec", "run"])
def test_ctrl_c_on_a_terminal_ends_everything_and_leaves_it_usable(mode: str) -> None:
    leader, terminal = pty.openpty()
    try:
        argv = [BINARY, mode, "-q", "--profile", "none", "--", *STUBBORN]
        process = subprocess.Popen(
            ["/usr/bin/setsid", "--ctty", "--wait", *argv],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd="/var/tmp",
            start_new_session=True,
        )
        os.write(leader, ASK + b"\n")
        until(leader, b'"result"')
        proxy = next(
            pid for pid in adversary.below(process.pid) if BINARY in adversary.command_of(pid).split()[1:2]
        )
        tree = Processes(proxy)
        with Watch(tree.all) as watch:
            os.write(leader, b"\x03")
            watch.assert_all_end(WITH_GRACE)
        assert process.wait(5) == 130
        for fd in (leader, terminal):
            assert os.get_blocking(fd)
        adversary.assert_groups_go(tree.spawner, 1)
    finally:
        os.close(leader)
        os.close(terminal)


def test_a_person_who_types_run_is_told_that_it_waits_for_a_client() -> None:
    leader, terminal = pty.openpty()
    argv = [BINARY, "run", "--profile", "none", "--", *server()]
    process = subprocess.Popen(
        argv, stdin=terminal, stdout=terminal, stderr=terminal, cwd="/var/tmp", start_new_session=True
    )
    try:
        assert b"spec " in until(leader, b"waiting for an MCP client on standard input")
        os.write(leader, b"\x04")
        assert process.wait(10) == 0
    finally:
        end(process)
        os.close(leader)
        os.close(terminal)


def until(fd: int, text: bytes) -> bytes:
    """What a terminal shows, up to a text."""
    shown, deadline = b"", time.monotonic() + 20
    while text not in shown:
        assert select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], shown
        shown += os.read(fd, 65536)
    return shown


def test_a_terminal_that_is_closed_ends_the_session() -> None:
    leader, terminal = pty.openpty()
    argv = ["/usr/bin/setsid", "--ctty", "--wait", BINARY, *EXEC, *STUBBORN]
    process = subprocess.Popen(
        argv, stdin=terminal, stdout=terminal, stderr=terminal, cwd="/var/tmp", start_new_session=True
    )
    os.close(terminal)
    os.write(leader, ASK + b"\n")
    until(leader, b'"result"')
    with Watch(adversary.below(process.pid)) as watch:
        os.close(leader)
        watch.assert_all_end(WITH_GRACE)
    process.wait(5)


def test_a_background_job_that_ignores_hangup_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys\nprint('up', flush=True)\nsys.stdin.readline()\nprint('done', flush=True)"
    with out.open("wb") as file:
        argv = ["/usr/bin/nohup", BINARY, *EXEC, *program(code)]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, cwd="/var/tmp"
        ) as process:
            assert receive(process) == b"up\n"
            process.send_signal(signal.SIGHUP)
            send(process, b"")
            assert receive(process) == b"done\n"
    assert process.returncode == 0


def test_the_end_of_the_daemon_ends_its_sessions(tmp_path: Path) -> None:
    argv = ("run", "-q", "stubborn", "--runtime-dir", tmp_path / "run")
    with adversary.daemon(tmp_path, CONFIG) as host, started(*argv) as process:
        send(process, ASK, HANG)
        receive(process)
        tree = adversary.below(host.process.pid)
        with Watch(tree) as watch:
            host.process.kill()
            watch.assert_all_end(1)
        out, err = process.communicate()
    assert process.returncode == 1
    assert b'"id":2,"error"' in out
    assert re.search(rb"^supervisor: the monitor ended unexpectedly", err)
    assert MARKER not in " ".join(adversary.command_of(pid) for pid in tree)


def test_a_daemon_outlives_a_killed_proxy_and_loses_no_other_session(tmp_path: Path) -> None:
    with adversary.daemon(tmp_path, CONFIG) as host:
        argv = ("run", "-q", "stubborn", "--runtime-dir", host.folder)
        with started(*argv) as first, started(*argv) as second:
            for each in (first, second):
                send(each, ASK)
                receive(each)
            first.kill()
            send(second, ASK)
            assert b'"result"' in receive(second)
            second.stdin.close()  # type: ignore[union-attr]
            second.stdin = None
            assert second.wait(5) == 0
            host.until_idle()
        # the daemon, its spawner, and the sandbox that the spawner has made ahead for nobody yet; who
        # keeps the log, and who reads secrets, are always there
        left = [adversary.command_of(pid) for pid in adversary.below(host.process.pid)]
        assert len([each for each in left if not re.search(r"supervisor\.(audit|secrets)\.", each)]) <= 3
