"""The signer of checkpoints: holds the Ed25519 key, so that the ledger needs neither the key nor a third party.

Runs as a uid of its own (root) or as the user, under Landlock rules for the key's folder and the ledger's system
call filter; started by the ledger, and ended by its end. It signs what grows: never an earlier line of a log than
the last, never another line under the same number.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from supervisor import wire
from supervisor.audit import chain, confine, keys
from supervisor.audit.chain import Checkpoint
from supervisor.errors import SupervisorError, WireError
from supervisor.sandbox import rights


def _write_once(path: Path, data: bytes, mode: int) -> None:
    """A whole file or none, and never over another: of two signers that start at once the first wins."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
        os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.close(fd)
        draft.unlink()


def load_key(folder: Path) -> Ed25519PrivateKey:
    """The key of this machine's log, made when there is none. SupervisorError: it is not for the signer alone."""
    path = folder / keys.PRIVATE
    if not path.exists():
        _write_once(path, keys.private_pem(os.urandom(32)), 0o600)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise SupervisorError(f"{path}: others can read it: chmod 600, or better, remove it and distrust it")
        key = Ed25519PrivateKey.from_private_bytes(keys.private_raw(file.read(4096), str(path)))
    public = folder / keys.PUBLIC
    if not public.exists():
        _write_once(public, keys.public_pem(key.public_key().public_bytes_raw()), 0o644)
    return key


class Signer:
    """One log's signatures."""

    def __init__(self, folder: Path, log: str, key: Ed25519PrivateKey) -> None:
        self._path = folder / keys.last_name(log)
        self._log, self._key = log, key
        self._public = key.public_key().public_bytes_raw().hex()
        self.last = self._read()

    def _read(self) -> Checkpoint | None:
        try:
            return chain.read_checkpoint(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def sign(self, request: wire.Message) -> Checkpoint:
        """A checkpoint, remembered before it is given away. SupervisorError: this may not be signed."""
        try:
            made = chain.read_checkpoint(chain.canonical(request | {"key": self._public, "signature": ""}))
        except ValueError:
            raise SupervisorError("not a request for a checkpoint") from None
        last = self.last
        if made.log != self._log or (
            last and (made.seq < last.seq or (made.seq == last.seq and made.hash != last.hash))
        ):
            raise SupervisorError(f"record {made.seq} of log {made.log} does not continue what was signed last")
        made = made._replace(signature=self._key.sign(made.signed()).hex())
        self._remember(made)
        return made

    def _remember(self, made: Checkpoint) -> None:
        draft = self._path.with_name(f"{self._path.name}.new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, made.line())
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.replace(self._path)
        self.last = made


def _answer(signer: Signer, request: wire.Message) -> wire.Message:
    try:
        return dict(signer.sign(request)._asdict())
    except SupervisorError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"the checkpoint could not be remembered: {error.strerror}"}


def main(fd: int, root: str) -> None:
    """Give everything up but the key, then serve the ledger on descriptor `fd` until it hangs up."""
    folder = confine.Place(Path(root)).key
    confine.alone()
    confine.become(confine.SIGNER)
    confine.only([folder], [])
    ledger = socket.socket(fileno=fd)
    try:
        received = wire.receive(ledger)
        if received is None:
            return
        rights.load_seccomp(base64.b64decode(str(received[0]["filter"]), validate=True))
        signer = Signer(folder, str(received[0]["log"]), load_key(folder))
        wire.send(ledger, {"last": signer.last and dict(signer.last._asdict())})
        while received := wire.receive(ledger):
            wire.send(ledger, _answer(signer, received[0]))
    except (ConnectionError, WireError):
        return
    except (OSError, ValueError, SupervisorError) as error:
        with contextlib.suppress(OSError):
            wire.send(ledger, {"error": str(error)})
