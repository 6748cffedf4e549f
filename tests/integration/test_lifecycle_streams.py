"""Standard streams of every kind, passed through whole and given back as they came; exit statuses."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.escape.arena import end
from tests.integration.adversary import (
    BINARY,
    SERVER,
    Processes,
    Watch,
    program,
    receive,
    run,
    send,
    server,
    started,
    write_profile,
)  # fmt: skip

pytestmark = pytest.mark.timeout(60)

EXEC = ("exec", "-q", "--profile", "none", "--")
RUN = ("run", "-q", "--profile", "none", "--")
ASK = b'{"jsonrpc":"2.0","id":1,"method":"initialize"}\n'
SHELL = ("/bin/sh", "-c")


def test_the_exit_status_of_a_command_is_passed_on() -> None:
    for status in (0, 1, 2, 3, 4, 77, 127, 255):
        done = run(*EXEC, *SHELL, f"exit {status}")
        assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("number", [1, 2, 9, 11, 13, 15, 34, 40, 64])
def test_a_signal_that_kills_a_command_is_passed_on(number: int) -> None:
    done = run(*EXEC, *SHELL, f"kill -{number} $$")
    assert done.returncode == 128 + number
    assert "Traceback" not in done.stderr


def test_ten_megabytes_come_through_unchanged() -> None:
    data = os.urandom(10 << 20)
    process = subprocess.run(
        [BINARY, *EXEC, "/usr/bin/cat"], input=data, capture_output=True, cwd="/var/tmp", timeout=50
    )
    assert process.returncode == 0
    assert hashlib.sha256(process.stdout).digest() == hashlib.sha256(data).digest()


def test_output_is_not_cut_for_a_slow_reader() -> None:
    """The command has ended long before its output has been read."""
    with started(
        *EXEC, *program("import os, sys\nos.write(1, b'x' * 150000); os.write(2, b'end')\nos.read(0, 1)")
    ) as process:
        assert process.stdout
        assert process.stderr
        # two pipes and what is between them hold all of it
        assert process.stderr.read(3) == b"end"
        with Watch([Processes(process.pid).init]) as watch:
            send(process, b"")
            watch.assert_all_end(5)
        assert process.poll() is None
        assert len(process.stdout.read()) == 150000
        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_has_ended_while_its_reader_is_slow(number: int) -> None:
    # more than the reader's pipe and we hold, less than the command's own pipe holds as well
    code = "import os; os.write(1, bytes(140_000)); os.write(2, b'written'); os.read(0, 1)"
    read, write = os.pipe()
    argv, pipe = [BINARY, *EXEC, *program(code)], subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=write, stderr=pipe, cwd="/var/tmp")
    os.close(write)
    try:
        assert process.stdin
        assert process.stderr
        assert process.stderr.read(7) == b"written"
        with Watch([Processes(process.pid).init]) as watch:
            process.stdin.close()
            watch.assert_all_end(5)
        # it has been told of the end, and waits for whoever copies (futex)
        while not Path(f"/proc/{process.pid}/syscall").read_text().startswith("202 "):
            continue
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    finally:
        end(process)
        os.close(read)


def test_a_command_whose_reader_is_gone_ends_by_sigpipe() -> None:
    line = f"{BINARY} {' '.join(EXEC)} /usr/bin/yes | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, cwd="/var/tmp", timeout=30)
    assert done.stdout.split() == ["y", "141"]
    assert "Traceback" not in done.stderr


def test_a_list_that_is_piped_into_head_is_no_traceback() -> None:
    done = subprocess.run(
        [*SHELL, f"{BINARY} profile list | head -1"], capture_output=True, text=True, cwd="/var/tmp", timeout=30
    )
    assert done.stdout.startswith("ci-runner")
    assert done.stderr == ""


def test_standard_input_can_be_a_file_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "asked").write_bytes(ASK)
    with (tmp_path / "asked").open("rb") as file:
        done = run(*RUN, *server(), stdin=file.fileno())
    assert (done.returncode, json.loads(done.stdout)["id"], done.stderr) == (0, 1, "")
    for mode, expected in ((RUN, ""), (EXEC, "")):
        done = run(*mode, *server())
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_standard_output_can_be_a_file(tmp_path: Path) -> None:
    for mode in (RUN, EXEC):
        with (tmp_path / "said").open("w+b") as file:
            done = subprocess.run(
                [BINARY, *mode, *server()],
                input=ASK,
                stdout=file,
                stderr=subprocess.PIPE,
                cwd="/var/tmp",
                timeout=30,
            )
            assert (done.returncode, done.stderr) == (0, b"")
            file.seek(0)
            assert json.loads(file.read())["id"] == 1


def test_a_full_disk_under_standard_output_ends_the_session() -> None:
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [BINARY, *RUN, *server("deaf")],
            stdin=subprocess.PIPE,
            stdout=full,
            stderr=subprocess.PIPE,
            cwd="/var/tmp",
        )
        send(process, ASK)
        _, err = process.communicate(timeout=20)
    assert b"Traceback" not in err


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("mode", ["run", "exec"])
def test_descriptors_that_others_share_are_left_blocking(kind: str, mode: str) -> None:
    if kind == "pipe":
        (stdin, write), (read, stdout) = os.pipe(), os.pipe()
    else:
        pairs = [socket.socketpair() for _ in range(2)]
        (stdin, write), (read, stdout) = [(a.detach(), b.detach()) for a, b in pairs]
    try:
        flags = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (stdin, stdout)]
        process = subprocess.Popen(
            [BINARY, mode, "-q", "--profile", "none", "--", *server()],
            stdin=stdin,
            stdout=stdout,
            stderr=stdout,
            cwd="/var/tmp",
        )
        os.write(write, ASK)
        assert json.loads(os.read(read, 65536))["id"] == 1
        process.terminate()
        assert process.wait(10) == 143
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (stdin, stdout)] == flags
    finally:
        for fd in (stdin, write, read, stdout):
            os.close(fd)


def test_standard_error_that_shares_the_pipe_of_standard_output_loses_nothing() -> None:
    """Non-blocking for one is non-blocking for both: a full pipe must be waited for."""
    code = "import os, sys\nfor _ in range(200): os.write(2, b'e' * 4096)\nsys.stdin.readline()"
    read, write = os.pipe()
    argv = [BINARY, *RUN, *program(code)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=write, stderr=write, cwd="/var/tmp")
    os.close(write)
    with os.fdopen(read, "rb") as both:
        first = both.read(200 * 4096)
        send(process, b"{}")
        process.communicate(timeout=20)
    assert first == b"e" * (200 * 4096)
    assert process.returncode == 0


def test_what_follows_a_run_in_the_same_script_reads_the_rest_of_its_input() -> None:
    """A command that reads nothing leaves the input to the next one, as far as it was not read ahead."""
    with subprocess.Popen(
        [*SHELL, f"{BINARY} {' '.join(RUN)} /usr/bin/true; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/var/tmp",
    ) as process:
        assert process.stderr
        out, err = process.communicate(b"", timeout=20)
        assert (out, err, process.returncode) == (b"", b"", 0)


def test_a_command_that_closes_its_input_early_is_no_error() -> None:
    done = run(*EXEC, "/usr/bin/head", "-c", "1", stdin=b"x" * (1 << 20))
    assert (done.returncode, done.stdout, done.stderr) == (0, "x", "")


def asked(*command: str, profile: Path | str = "none") -> tuple[int, list[dict[str, Any]]]:
    """What a one-shot with a handshake and a call on its input gets: the status, and the answers."""
    call = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}\n'
    done = run("run", "-q", "--profile", profile, "--", *command, stdin=ASK + call)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_request_whose_server_ends_because_the_input_did_is_answered_with_that_reason() -> None:
    code = """import sys
sys.stdin.readline()
print('{"jsonrpc":"2.0","id":1,"result":{}}', flush=True)
import signal
signal.pause()"""
    status, (first, second) = asked(*program(code))
    assert "result" in first
    assert "its client's input ended" in second["error"]["message"]
    assert status == 0


def test_the_grace_of_a_one_shot_counts_from_when_its_server_is_there() -> None:
    # longer than the grace: imports, of which nothing is seen outside
    status, answers = asked(*program(f"import time; time.sleep(1.5)\n{SERVER}"))
    assert (status, [each["id"] for each in answers]) == (0, [1, 2])
    assert all("result" in each for each in answers), answers


def test_a_call_that_is_still_being_written_down_when_the_input_ends_is_made() -> None:
    for _ in range(3):
        status, answers = asked(*server())
        assert (status, [each["result"] for each in answers]) == (
            0,
            [{"method": "initialize"}, {"method": "tools/call"}],
        )


def test_a_one_shot_does_not_wait_longer_for_a_start_than_its_profile_says(tmp_path: Path) -> None:
    profile = write_profile(tmp_path, "short", '[session]\nstart = "1s"')
    status, answers = asked(*server("silent"), profile=profile)
    assert status == 1
    assert all("(session.start)" in each["error"]["message"] for each in answers), answers


def test_standard_error_of_a_command_stays_standard_error() -> None:
    done = run(*EXEC, *SHELL, "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_quiet_run_says_nothing_and_a_loud_one_says_what_it_built() -> None:
    with started("run", "--profile", "none", "--", *server()) as process:
        send(process, ASK)
        receive(process)
        _, err = process.communicate(timeout=20)
    assert err.startswith(b"supervisor: profile none, spec ")
    assert process.returncode == 0
