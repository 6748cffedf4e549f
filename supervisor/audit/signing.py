"""The ledger's end of its signer: when a checkpoint is due, what is asked, what is made of the answer.

Runs in the ledger, which has no key: whoever takes the ledger over can have the log's next lines signed, and none
that were signed before exchanged. Only what is on disk for good is ever signed, so that no loss of power makes an
honest log look cut.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

import supervisor
from supervisor import wire
from supervisor.audit import chain, segments
from supervisor.audit.chain import Head
from supervisor.audit.segments import Log
from supervisor.errors import WireError

_FIRST, PERIOD = 1.0, 10.0
_LAST_SECONDS = 5.0
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.audit.signer import main; main(3, sys.argv[2])"
)


def start(root: Path) -> socket.socket:
    """Execute the signer of the audit log at `root`; while this process may still start one."""
    ours, theirs = wire.pair()
    code = str(Path(supervisor.__file__).resolve().parent.parent)
    argv = [sys.executable, "-I", "-c", _CODE, code, str(root)]
    os.posix_spawn(
        sys.executable,
        argv,
        {"LC_ALL": "C.UTF-8"},
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
        setsid=True,
    )
    theirs.close()
    return ours


class Signing:
    """`problem` is why nothing may be written any more; `gone` says that there is no signer (any more)."""

    def __init__(self, sock: socket.socket | None, log: Log, filter_: str) -> None:
        # a signer that never was is one that has gone
        self.socket, self.gone = sock or socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), sock is None
        self.problem = ""
        self._opened = log.head
        self._known = False
        self._asked: Head | None = None
        self._signed = 0
        self._next = time.monotonic() + _FIRST
        try:
            wire.send(self.socket, {"filter": filter_, "log": log.name})
        except OSError:
            self.gone = True

    def ask(self, log: Log) -> float | None:
        """Have the last line signed, if it is time; what cannot be put on disk now is signed later.

        Seconds until it will be time; None: nothing to be signed.
        """
        if self.gone or self._asked or log.head.seq == self._signed:
            return None
        left = self._next - time.monotonic()
        if left > 0:
            return left
        with contextlib.suppress(OSError):
            self._ask(log)
        return None if self.gone or self._asked else PERIOD

    def _ask(self, log: Log) -> None:
        self._next = time.monotonic() + PERIOD
        log.sync()
        self._asked = log.head
        said: wire.Message = {"log": log.name, "segment": log.number, "time": segments.now()} | log.head._asdict()
        try:
            wire.send(self.socket, said)
        except OSError:
            self.gone = True

    def hear(self, log: Log) -> str:
        """What the signer says: a checkpoint to keep, or the trouble in words."""
        try:
            received = wire.receive(self.socket)
        except (OSError, WireError):
            received = None
        if received is None:
            self.gone = True
            reason = "the signer ended; no checkpoint is signed until the ledger starts again"
            log.note(chain.UNSIGNED, reason=reason)
            return reason
        answer = received[0]
        self._known = True
        if "last" in answer:
            return self._compare(log, answer["last"])
        self._asked = None
        if "error" in answer:
            reason = str(answer["error"])[:500]
            log.note(chain.UNSIGNED, reason=reason)
            return reason
        return self._keep(log, answer)

    def _keep(self, log: Log, answer: wire.Message) -> str:
        try:
            checkpoint = chain.read_checkpoint(chain.canonical(answer))
            log.keep_checkpoint(checkpoint.line())
        except (OSError, ValueError, TypeError) as error:
            return f"a checkpoint was not kept: {error}"
        self._signed = checkpoint.seq
        return ""

    def _compare(self, log: Log, last: object) -> str:
        """The log as it was opened must hold the line that was signed last."""
        if last is None:
            return ""
        seq, digest = (last.get("seq"), last.get("hash")) if isinstance(last, dict) else (None, None)
        if (
            type(seq) is not int
            or seq > self._opened.seq
            or (seq == self._opened.seq and digest != self._opened.hash)
        ):
            self.problem = (
                f"{log.folder} does not hold record {seq}, for which a checkpoint was signed: it was cut or "
                "rewritten; see supervisor audit verify, and move the folder away to start another log"
            )
        return self.problem

    def last(self, log: Log) -> None:
        """The end: one more checkpoint, and wait for it. OSError: without."""
        if self.gone or self.problem:
            return
        self.socket.settimeout(_LAST_SECONDS)
        while (self._asked or not self._known) and not self.gone:
            self.hear(log)
        if not self.problem and not self.gone:
            self._ask(log)
            self.hear(log)

    def end(self) -> None:
        """Hang up and wait for the signer: nobody else would, and its starter waits for us."""
        self.socket.close()
        # the kernel reaps it (SIGCHLD is ignored); the call returns when it has ended
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
