"""Every limit of a session holds, and whoever started it is told which one it was."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.adversary import (
    BINARY,
    PYTHON,
    assert_told,
    receive,
    run,
    send,
    server,
    started,
    write_profile,
)

pytestmark = pytest.mark.timeout(60)

ASK = b'{"jsonrpc":"2.0","id":1,"method":"initialize"}'
NOTE = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * 1000}})
# notifications without end, as fast as the pipe takes them
FLOOD = f"import os\nblock = {NOTE!r}.encode() + b'\\n'\nwhile True: os.write(1, block * 30)"
TOTAL = 3 << 20
LARGE = "open('/tmp/x', 'wb').write(bytes(2 << 20))"
THREAD = "threading.Thread(target=threading.Event().wait, daemon=True)"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    limits = f'[limits]\noutput = "{TOTAL >> 20}M"\npids = 20\nfiles = 40\nfile_size = "1M"\n'
    return write_profile(tmp_path, "tight", limits + '[tmp]\nsize = "2M"\nfiles = 50\n')


def quiet(command: str, profile: Path, *argv: str) -> tuple[str, ...]:
    return (command, "-q", "--profile", str(profile), "--", *argv)


def python(code: str) -> list[str]:
    return [*PYTHON, code]


def to_the_end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What it says as long as its client does not hang up."""
    assert process.stdout
    assert process.stderr
    return process.stdout.read(), process.stderr.read()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """As much as one likes, but not faster than half a megabyte a second."""
    return write_profile(tmp_path, "slow", '[limits]\noutput_rate = "512K"\n')


def test_a_command_that_writes_too_much_is_ended_at_its_total(profile: Path) -> None:
    done = run(*quiet("exec", profile, "/usr/bin/yes"))
    assert len(done.stdout) == TOTAL
    assert (done.returncode, "3145728 bytes to its standard output (limits.output)" in done.stderr) == (1, True)


def test_a_server_that_floods_its_client_is_ended_at_its_total(profile: Path) -> None:
    with started(*quiet("run", profile, *python(FLOOD))) as process:
        out, err = to_the_end(process)
        process.wait(10)
    assert TOTAL - len(NOTE) - 1 <= len(out) <= TOTAL
    assert out.endswith(b"\n")
    assert err.endswith(b"(limits.output)\n")
    assert process.returncode == 1


def test_a_call_of_a_flooding_server_is_an_error_that_names_the_limit(profile: Path) -> None:
    done = run("call", "-q", "--profile", profile, "x", "--", *python(FLOOD))
    assert_told(done, 1, r"\(limits\.output\)")


def test_who_waits_for_an_answer_of_a_flooding_server_gets_the_reason(profile: Path) -> None:
    with started(*quiet("run", profile, *python(f"input()\n{FLOOD}"))) as process:
        send(process, ASK)
        out, _ = to_the_end(process)
    answer = json.loads(out.splitlines()[-1])
    assert answer["id"] == 1
    assert "(limits.output)" in answer["error"]["message"]


@pytest.mark.parametrize("command", ["exec", "run"])
def test_a_fast_server_waits_and_nothing_is_dropped(slow: Path, command: str) -> None:
    code = f"import sys\nsys.stdout.write(({NOTE!r} + '\\n') * 1024)"
    begin = time.monotonic()
    with started(*quiet(command, slow, *python(code))) as process:
        assert process.stdout
        out = process.stdout.read()
        process.communicate()
    assert len(out) == (len(NOTE) + 1) * 1024
    # the first half megabyte comes at once
    assert time.monotonic() - begin > 1
    assert process.returncode == 0


def test_a_slow_flood_does_not_keep_the_client_s_own_requests_from_the_server(slow: Path) -> None:
    code = f"import os, sys\nos.write(1, ({NOTE!r} + '\\n').encode() * 700)\nprint(sys.stdin.readline(), end='')"
    with started(*quiet("run", slow, *python(code))) as process:
        send(process, ASK)
        lines = [receive(process) for _ in range(701)]
        process.communicate()
    assert json.loads(lines[-1])["id"] == 1


def test_the_end_of_a_life_is_told(tmp_path: Path) -> None:
    profile = write_profile(tmp_path, "short", '[session]\nlife = "1500ms"\n')
    with started(*quiet("run", profile, *server())) as process:
        send(process, ASK)
        receive(process)
        begin = time.monotonic()
        _, err = to_the_end(process)
        process.wait(10)
    assert time.monotonic() - begin < 5
    assert b"its life of 1.5 s is over (session.life)" in err
    assert process.returncode == 137


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("import os\nwhile True: os.open('/', 0)", 1, "limits.files"),
        (LARGE, 1, "limits.file_size"),
        (f"import signal\nsignal.signal(25, signal.SIG_DFL)\n{LARGE}", 153, "limits.file_size"),
        ("for n in range(5): open(f'/tmp/{n}', 'wb').write(bytes(900 << 10))", 1, r"size or files of \[tmp\]"),
        ("for n in range(99): open(f'/tmp/{n}', 'wb')", 1, r"size or files of \[tmp\]"),
        (f"import threading\nfor n in range(99): {THREAD}.start()", 1, "limits.pids"),
    ],
    ids=["descriptors", "file size", "SIGXFSZ", "/tmp size", "/tmp inodes", "processes"],
)
def test_a_limit_that_only_the_server_hears_of_is_named(profile: Path, code: str, status: int, says: str) -> None:
    done = run(*quiet("exec", profile, *python(code)))
    assert done.returncode == status
    assert re.search(f"supervisor: .*{says}", done.stderr), done.stderr
    with started(*quiet("run", profile, *python(code))) as process:
        _, err = process.communicate(timeout=30)
    assert re.search(f"supervisor: .*{says}", err.decode()), err


def test_a_command_that_succeeds_is_not_commented_on(profile: Path) -> None:
    done = run(*quiet("exec", profile, "/bin/sh", "-c", "echo too many open files >&2"))
    assert (done.returncode, done.stderr) == (0, "too many open files\n")


@pytest.mark.parametrize("policy", ["--fifo", "--rr"])
def test_real_time_is_not_passed_on_because_no_limit_would_hold_it(policy: str) -> None:
    # field 41 of proc(5)'s stat: the policy, 0 is SCHED_OTHER
    code = "print(open('/proc/self/stat').read().rsplit(')', 1)[1].split()[38])"
    argv = ["/usr/bin/chrt", policy, "5", BINARY, "exec", "-q", "--profile", "none", "--", *python(code)]
    outside = subprocess.run(["/usr/bin/chrt", policy, "5", *python(code)], capture_output=True, text=True)
    if outside.returncode:
        pytest.skip("nothing may run in real time here")
    assert outside.stdout != "0\n"
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/var/tmp", timeout=30)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert "real-time scheduling is not passed on" in done.stderr
