"""The authenticator: says whose a token is. A process of its own beside a gateway that listens with `--auth`.

Runs unprivileged: started by root it is a uid of its own, started by a user that user; it can read a few places and
write none. It alone meets the issuer, so that the gateway, which meets everybody, needs no connection and no key.
Its socket carries {"id", "token"} to it, and {"event"}, {"id", "ok"} or {"id", "denied"} from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from supervisor import given, outward, wire
from supervisor.auth import file
from supervisor.auth.denial import Denial
from supervisor.auth.file import Oidc, Token
from supervisor.errors import SupervisorError, WireError
from supervisor.shown import printable

_TICK = 1.0
_THREADS = 4


class Grant(Protocol):
    """What is used of the SDK's AccessToken."""

    @property
    def subject(self) -> str | None: ...
    @property
    def expires_at(self) -> int | None: ...
    @property
    def claims(self) -> Mapping[str, object] | None: ...


class Checker(Protocol):
    """What is used of oidc.Verifier."""

    def check(self, token: str) -> Grant: ...


class Issuer(Protocol):
    """What is used of the module oidc, which is imported only where a file names an issuer."""

    def verifier(self, oidc: Oidc, resource: str, keys_file: str | None) -> Checker: ...
    def metadata(self, oidc: Oidc, resource: str) -> dict[str, object]: ...


class Authenticator:
    """The table of tokens and the issuer's verifier, as the file has them at present."""

    def __init__(self, sock: socket.socket, path: str, issuer: Callable[[], Issuer]) -> None:
        self._socket, self._path, self._issuer = sock, path, issuer
        self._tokens: dict[str, Token] = {}
        self._checker: Checker | None = None
        self._pool = ThreadPoolExecutor(_THREADS)
        self._watched = [path]
        self._seen: object = None

    def load(self) -> wire.Message:
        """Read the file; what the gateway has to know of it."""
        self._seen = self._signature()
        found = file.load(self._path)
        keys = file.keys_path(self._path, found.oidc) if found.oidc else None
        if keys and keys not in self._watched:
            self._watched = [self._path, keys]
            self._seen = self._signature()
        told: wire.Message = {"resource": found.resource, "metadata": None, "scopes": [], "rate": None}
        checker: Checker | None = None
        if found.oidc is not None and found.resource is not None:
            issuer = self._issuer()
            checker = issuer.verifier(found.oidc, found.resource, keys)
            told["metadata"] = issuer.metadata(found.oidc, found.resource)
            told["scopes"] = list(found.oidc.scopes)
        if found.rate is not None:
            told["rate"] = [found.rate.requests, found.rate.burst]
        self._tokens = {each.sha256: each for each in found.token}
        self._checker = checker
        return told

    def _signature(self) -> object:
        """Changes when the file, or the one with the issuer's keys, does."""
        return [_stat(each) for each in self._watched]

    async def run(self) -> None:
        """Until the gateway hangs up."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._socket.setblocking(False)
        loop.add_reader(self._socket.fileno(), self._readable, ended)
        while not ended.is_set():
            try:
                await asyncio.wait_for(ended.wait(), _TICK)
            except TimeoutError:
                self._look()

    def _look(self) -> None:
        """Read the file again when it has changed; as long as it is wrong, what it said before holds."""
        if self._seen == self._signature():
            return
        try:
            told = self.load()
        except SupervisorError as error:
            _note(f"{error}; what this file said before still holds")
            return
        try:
            wire.send(self._socket, {"event": "changed"} | told)
        except BlockingIOError:
            self._seen = None  # the gateway is busy: it is told with the next tick
        except OSError:
            return  # it is gone, which the reader notices

    def _readable(self, ended: asyncio.Event) -> None:
        try:
            received = wire.receive(self._socket)
        except BlockingIOError:
            return
        except (OSError, WireError):
            received = None
        asked = received[0] if received else {}
        number, token = asked.get("id"), asked.get("token")
        if not isinstance(number, int) or not isinstance(token, str) or len(asked) != 2:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            ended.set()
            return
        self._asked(number, token)

    def _asked(self, number: int, token: str) -> None:
        known = self._tokens.get(hashlib.sha256(token.encode()).hexdigest())
        if known is not None:
            self._answer(number, lambda: _granted(known))
        elif self._checker is not None:
            check = self._checker.check
            work = asyncio.get_running_loop().run_in_executor(self._pool, check, token)
            work.add_done_callback(lambda done: self._answer(number, lambda: _checked(done)))
        else:
            self._answer(number, _unknown)

    def _answer(self, number: int, find: Callable[[], wire.Message]) -> None:
        try:
            told: wire.Message = {"id": number, "ok": find()}
        except Denial as denial:
            if denial.log:
                _note(denial.log)
            told = {
                "id": number,
                "denied": {"status": denial.status, "code": denial.code, "said": denial.said[:500]},
            }
        try:
            wire.send(self._socket, told)
        except WireError:
            self._answer(number, _too_much)
        except BlockingIOError:
            return  # the gateway has asked for more than it reads, and gives up by itself
        except OSError:
            return  # it is gone, which the reader notices


def _note(said: str) -> None:
    """A line on standard error, with nothing in it that a terminal would act on."""
    with contextlib.suppress(OSError):
        os.write(2, f"supervisor: {printable(said)}\n".encode(errors="replace"))


def _stat(path: str) -> object:
    try:
        info = os.stat(path)
    except OSError as error:
        return error.errno
    return info.st_mtime_ns, info.st_ino, info.st_size, info.st_mode


def _granted(token: Token) -> wire.Message:
    if token.expires is not None and token.expires <= time.time():
        raise Denial("the token has expired")
    return {"name": token.subject, "groups": list(token.groups), "expires": token.expires, "audience": None}


def _checked(done: asyncio.Future[Grant]) -> wire.Message:
    """What came of a check; whatever a library trips over in a stranger's token is a token that is not valid."""
    try:
        return _issued(done.result())
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise Denial("the token is not valid", log=f"a token could not be checked: {error!r}") from None


def _issued(found: Grant) -> wire.Message:
    claims = found.claims or {}
    # no subject of an issuer's is mistaken for one of the file's
    name = f"oidc:{found.subject}"
    return {"name": name, "groups": claims["groups"], "expires": found.expires_at, "audience": claims["audience"]}


def _unknown() -> wire.Message:
    raise Denial("the token is not known here")


def _too_much() -> wire.Message:
    said = f"the groups and the audience of the token are over {wire.LIMIT >> 10} KiB: give it fewer"
    raise Denial(said, log=f"a token is refused: {said}")


def _at_once(path: str, flags: int) -> int:
    """An opener that does not wait for somebody who writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def main(descriptor: int, path: str, code: str, issuer: Callable[[], Issuer]) -> None:
    """The process; returns when the gateway hangs up."""
    sock = socket.socket(fileno=descriptor)
    authenticator = Authenticator(sock, path, issuer)
    try:
        # whom this process becomes may not be able to import any more; nothing is parsed before that
        file.AuthFile.model_rebuild()
        if os.path.exists(path):
            given.regular(path)
        with open(path, "rb", opener=_at_once) as written:
            if b"oidc" in written.read(1 << 20):
                issuer()
        outward.drop(code, os.path.dirname(path))
        told: wire.Message = {"event": "ready"} | authenticator.load()
    except SupervisorError as error:
        told = {"event": "failed", "status": error.exit_status, "message": _remedy(str(error), path)}
    except OSError as error:
        said = f"--auth {path}: {error.strerror or error}"
        told = {"event": "failed", "status": 2 if error.filename else 1, "message": said}
    wire.send(sock, told)
    if told["event"] == "ready":
        asyncio.run(authenticator.run())


def _remedy(said: str, path: str) -> str:
    if said.endswith("Permission denied"):
        return f"{said}: everybody may read it, it holds only hashes of tokens; chmod a+r {path}"
    return said
