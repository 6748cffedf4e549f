"""A proxy as the ledger sees it: what it sends is checked and appended, what came of it is answered.

Runs in the ledger; standard library only. A message is one JSON object, `{"id":7,"kind":"intent",
"policy":"power","record":{...}}`, in ASCII, in this order, without spaces; `id` grows. Anything else ends the peer,
and nobody else; a record that is none is refused by its id, so that one call costs a gateway no other. An answer is
`{"ok":[7,8]}` or `{"no":[9],"reason":"..."}`.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections import deque

from supervisor.audit import schema
from supervisor.audit.chain import PEER_KINDS
from supervisor.audit.claims import Claims
from supervisor.audit.segments import Log
from supervisor.errors import WireError

POLICIES = ("process", "power")
_HEAD = re.compile(
    rf'\{{"id":([1-9][0-9]{{0,14}}),"kind":"({"|".join(PEER_KINDS)})","policy":"({"|".join(POLICIES)})","record":'
)
_LIMIT = 64 * 1024
_CREDENTIALS = struct.Struct("iii")
_SPACE = socket.CMSG_SPACE(_CREDENTIALS.size)
# of one peer in one turn, so that who floods waits for the others
_AT_ONCE = 64
_IDS = 2000
# records that are none: so many of one connection are a mistake, more are not
UNFIT = 100
_SINGLE = 16


class Peer:
    """One connection. `who` is (uid, pid) of the process that sent the last message, by the kernel's word.

    `whose` is the uid that it was given to.
    """

    def __init__(self, sock: socket.socket, whose: int) -> None:
        self.socket, self.whose = sock, whose
        self.who = (-1, 0)
        self.waits = False
        self._last = self._single = self._unfit = 0
        self._credentials = b""
        self._unread: deque[bytes] = deque()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def read(self, turn: Turn) -> bool:
        """Append what it has sent; False when it has hung up. WireError: it may not go on.

        Who had no more than one the last time is asked for one only, some times: so the answer is sooner there.
        """
        self._single -= 1
        for count in range(1 if self._single > 0 else _AT_ONCE):
            try:
                data, control, flags, _ = self.socket.recvmsg(_LIMIT + 1, _SPACE)
            except BlockingIOError:
                self._single = _SINGLE if count == 1 else 0
                return True
            except ConnectionError:
                return False
            if not data:
                return False
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) > _LIMIT:
                raise WireError(f"message over the limit of {_LIMIT} bytes, or with descriptors")
            self._identify(control)
            self._take(data, turn)
        return True

    def _identify(self, control: list[tuple[int, int, bytes]]) -> None:
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                if payload != self._credentials:
                    pid, uid, _ = _CREDENTIALS.unpack(payload)
                    self.who, self._credentials = (uid & 0xFFFFFFFF, pid), payload
                return
        raise WireError("a message without its sender's credentials")

    def _take(self, data: bytes, turn: Turn) -> None:
        try:
            text = data.decode("ascii")
        except UnicodeDecodeError:
            raise WireError("malformed message: not ASCII") from None
        found = _HEAD.match(text)
        if found is None:
            raise WireError("malformed message: not {id, kind, policy, record}")
        number, kind, policy = found.groups()
        self._last, last = int(number), self._last
        if self._last <= last:
            raise WireError(f"malformed message: id {number} after {last}")
        try:
            said = _read(kind, text, found.end())
        except schema.Malformed as error:
            self._unfit += 1
            if self._unfit > UNFIT:
                raise WireError(f"malformed record, after {UNFIT} others: {error}") from None
            turn.deny(self, self._last, f"uid {self.who[0]} has sent a record that is none", str(error))
            return
        turn.add(self, self._last, kind, data[found.end() : -1], said, power=policy == "power")

    def answer(self, message: bytes) -> None:
        """Send, now or when it can be taken."""
        self._unread.append(message)
        if len(self._unread) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what waits. While something does (`waits`), nothing more is read of this peer."""
        try:
            while self._unread:
                self.socket.send(self._unread[0])
                self._unread.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._unread.clear()  # it has gone; that is noticed when it is read
        self.waits = bool(self._unread)


def _read(kind: str, text: str, start: int) -> dict[str, str | None]:
    """What a record says of whose it is; Malformed: it is none, too long, or not all that there is."""
    if len(text) - start > schema.RECORD_LIMIT:
        raise schema.Malformed(f"{len(text) - start} bytes are over the limit of {schema.RECORD_LIMIT}")
    end, said = schema.read(kind, text, start)
    if text[end:] != "}":
        raise schema.Malformed("something follows it")
    return said


class Turn:
    """What one round of the loop has appended, until it is written and answered.

    `refusing` is why nothing is taken but outcomes of what was let through; "" when everything is.
    """

    def __init__(self, log: Log, refusing: str, claims: Claims) -> None:
        self._log, self.refusing, self._claims = log, refusing, claims
        self.taken = self.refused = 0
        self.power: dict[Peer, list[int]] = {}
        self.process: dict[Peer, list[int]] = {}
        self.no: dict[Peer, list[int]] = {}
        # by the reason: what its sender may not write; and what was wrong with one of those
        self.denied: dict[str, dict[Peer, list[int]]] = {}
        self.faults: dict[str, str] = {}

    def add(
        self, peer: Peer, number: int, kind: str, body: bytes, said: dict[str, str | None], *, power: bool
    ) -> None:
        """Append a record, or put it with the refused."""
        if reason := self._claims.refused(peer.who[0], kind, said, len(body)):
            self.deny(peer, number, reason)
            return
        if self.refusing and kind != "outcome":
            self.no.setdefault(peer, []).append(number)
            self.refused += 1
            return
        self._log.append(kind, peer.who, body)
        (self.power if power else self.process).setdefault(peer, []).append(number)
        self.taken += 1

    def deny(self, peer: Peer, number: int, reason: str, fault: str = "") -> None:
        """This one is not taken. The same reason is told once for many; `fault` is about one of them."""
        self.denied.setdefault(reason, {}).setdefault(peer, []).append(number)
        self.faults.setdefault(reason, fault[:300])

    def fail(self, reason: str) -> None:
        """Nothing of it was written."""
        self.refusing = reason
        for each in (self.process, self.power):
            self.refuse(each)
        self.taken = 0

    def refuse(self, which: dict[Peer, list[int]]) -> None:
        """These get no for an answer."""
        for peer, ids in which.items():
            self.no.setdefault(peer, []).extend(ids)
            self.refused += len(ids)
        which.clear()

    def answers(self, which: dict[Peer, list[int]], no: str | None = None) -> list[tuple[Peer, bytes]]:
        """What to say to whom about these, once; `no` is why they were refused."""
        said: list[tuple[Peer, bytes]] = []
        if not which:
            return said
        reason = b"" if no is None else b',"reason":' + json.dumps(no).encode()
        key = b"ok" if no is None else b"no"
        for peer, ids in which.items():
            for first in range(0, len(ids), _IDS):
                text = ",".join(map(str, ids[first : first + _IDS])).encode()
                said.append((peer, b'{"%b":[%b]%b}' % (key, text, reason)))
        which.clear()
        return said
