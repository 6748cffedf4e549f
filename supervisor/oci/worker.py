"""One-shot processes: one question on standard input, progress and one answer on standard output, JSON by the line.

The parent's side runs as root or as the user and takes the answer for a stranger's word; the worker's side runs
before and after its power is given up. A worker ends with its parent, and with its answer.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import supervisor
from supervisor.errors import SupervisorError
from supervisor.oci.document import Reader, Table, parse
from supervisor.sandbox import rights

Progress = Callable[[str], None]
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.oci import worker; worker.main(sys.argv[2])"
_MAX_LINE = 8 << 20
MODULES = ("fetch", "verifier", "keyless", "unpacker")


class Failed(SupervisorError):
    """What a worker found wrong, with its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


def ask(module: str, question: Table, program: bytes, *, fds: Sequence[int] = (), progress: Progress) -> Reader:
    """Run a worker to its end; `program` is the system call filter that it puts itself under.

    Failed with its own message; SupervisorError when it ended without an answer.
    """
    root = str(Path(supervisor.__file__).resolve().parent.parent)
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _CODE, root, module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=fds,
        env={"LC_ALL": "C.UTF-8", "PYDANTIC_DISABLE_PLUGINS": "1"},
    ) as process:
        try:
            return _converse(process, module, {**question, "filter": base64.b64encode(program).decode()}, progress)
        finally:
            process.kill()


def _converse(process: subprocess.Popen[bytes], module: str, question: Table, progress: Progress) -> Reader:
    what = f"the image {module}"
    if process.stdin is None or process.stdout is None:
        raise ValueError("a worker without pipes")
    try:
        with process.stdin as writer:
            writer.write(json.dumps(question).encode())
    except BrokenPipeError:
        raise SupervisorError(f"{what} ended at once; its own message is above") from None
    while line := process.stdout.readline(_MAX_LINE):
        said = Reader(parse(line, what, limit=_MAX_LINE), what)
        if "progress" in said.table:
            progress(said.text("progress"))
        elif "error" in said.table:
            error = said.one("error")
            raise Failed(error.text("message"), error.number("status"))
        else:
            return said.one("answer")
    status = process.wait()
    if status == -signal.SIGSYS:
        raise SupervisorError(f"{what} was ended by its system call filter")
    raise SupervisorError(f"{what} ended without an answer (status {status})")


def say(kind: str, value: object) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


def report(text: str) -> None:
    """Progress, for the person who waits."""
    say("progress", text)


def main(module: str) -> None:
    """The worker's side: `supervisor.oci.MODULE.serve(question, confined)` does the rest.

    It drops its power, then calls `confined`, which leaves it the calls of its filter, and only then reads on.
    """
    if module not in MODULES:
        raise ValueError(module)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve = importlib.import_module(f"supervisor.oci.{module}").serve
    question = sys.stdin.buffer.read()
    if question:
        try:
            asked = json.loads(question)
            program = base64.b64decode(asked.pop("filter"), validate=True)
            say("answer", serve(asked, lambda: rights.load_seccomp(program)))
        except SupervisorError as error:
            say("error", {"status": error.exit_status, "message": str(error)})
        except MemoryError:
            say("error", {"status": 3, "message": f"the image {module} ran out of the memory it may use"})
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            say("error", {"status": 1, "message": f"the image {module}: {name}{error.strerror or error}"})
    os._exit(0)
