"""A proxy as the ledger sees it: what it sends is checked and appended, what came of it is answered.

Runs in the ledger; standard library only. A message is one JSON object, `{"id":7,"kind":"intent",
"policy":"power","record":{...}}`, in ASCII, in this order, without spaces; `id` grows. Anything else ends the peer,
and nobody else; a record that is none is refused by its id, so that one call costs a gateway no other. With
`"form":3` before its record it can be referred to, see audit/forms.py. An answer is `{"ok":[7,8]}` or
`{"no":[9],"reason":"..."}`.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections import deque

from supervisor.audit import forms, schema
from supervisor.audit.chain import PEER_KINDS
from supervisor.audit.claims import FORMS, Claims, Said
from supervisor.audit.forms import Form
from supervisor.audit.segments import Log
from supervisor.errors import WireError

POLICIES = ("process", "power")
_HEAD = re.compile(
    rf'\{{"id":([1-9][0-9]{{0,14}}),"kind":"({"|".join(PEER_KINDS)})","policy":"({"|".join(POLICIES)})",'
    r'(?:"form":([0-9]{1,2}),)?"record":'.encode()
)
_SHORT = re.compile(
    rf'\{{"id":([1-9][0-9]{{0,14}}),"form":([0-9]{{1,2}}),"policy":"({"|".join(POLICIES)})","values":\['.encode()
)
_LIMIT = 64 * 1024
# a number: an enumeration would take longer to test than all else
_CUT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_CREDENTIALS = struct.Struct("iii")
_SPACE = socket.CMSG_SPACE(_CREDENTIALS.size)
# of one peer in one turn, so that who floods waits for the others
_AT_ONCE = 64
_IDS = 2000
# records that are none: so many of one connection are a mistake, more are not; seconds after which one is forgotten
UNFIT = 100
_FORGIVEN = 60.0
_SINGLE = 16
# of a form was said, and judged, what it says of who
NOTHING: dict[str, str | None] = dict.fromkeys(("user", "app", "svc"))


def _fits(size: int) -> None:
    if size > schema.RECORD_LIMIT:
        raise schema.Malformed(f"{size} bytes are over the limit of {schema.RECORD_LIMIT}")


class Peer:
    """One connection. `who` is (uid, pid) of the process that sent the last message, by the kernel's word.

    `whose` is the uid that it was given to.
    """

    def __init__(self, sock: socket.socket, whose: int) -> None:
        self.socket, self.whose = sock, whose
        self.who = (-1, 0)
        self.waits = False
        self._last = self._single = 0
        # records that were none, less those that are forgotten, at that moment
        self._unfit, self._then = 0.0, 0.0
        self._control: list[tuple[int, int, bytes]] = []
        self._unread: deque[bytes] = deque()
        self._forms: dict[int, Form] = {}
        # outcomes that are written, and not acknowledged yet
        self.owed: list[int] = []
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
            except ConnectionResetError:
                # it ended without reading our answer; what it sent before that comes after this error
                continue
            except ConnectionError:
                return False
            if not data:
                return False
            if flags & _CUT or len(data) > _LIMIT:
                raise WireError(f"message over the limit of {_LIMIT} bytes, or with descriptors")
            if control != self._control:
                self._identify(control)
            self._take(data, turn)
        return True

    def _identify(self, control: list[tuple[int, int, bytes]]) -> None:
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid, uid, _ = _CREDENTIALS.unpack(payload)
                self.who, self._control = (uid & 0xFFFFFFFF, pid), control
                return
        raise WireError("a message without its sender's credentials")

    def _take(self, data: bytes, turn: Turn) -> None:
        short = _SHORT.match(data)
        head = short or _HEAD.match(data)
        if head is None or not data.isascii():
            raise WireError("malformed message: not {id, kind, policy, record} in ASCII")
        self._last, last = int(head[1]), self._last
        if self._last <= last:
            raise WireError(f"malformed message: id {self._last} after {last}")
        try:
            if short:
                self._filled(data, short, turn)
            else:
                self._whole(data, head, turn)
        except schema.Malformed as error:
            self._refuse(turn, error)

    def _filled(self, data: bytes, head: re.Match[bytes], turn: Turn) -> None:
        """A record of a form that it has sent before."""
        form = self._forms.get(int(head[2]))
        if form is None or form.uid != self.who[0]:
            raise WireError(f"malformed message: no form {int(head[2])} of uid {self.who[0]}")
        body = form.fill(data, head.end())
        _fits(len(body))
        turn.add(self, self._last, form.kind, body, NOTHING, power=head[3] == b"power")

    def _whole(self, data: bytes, head: re.Match[bytes], turn: Turn) -> None:
        text, start = data.decode("ascii"), head.end()
        _fits(len(data) - start - 1)
        kind = head[2].decode("ascii")
        end, said = schema.read(kind, text, start)
        if text[end:] != "}":
            raise schema.Malformed("something follows it")
        form = None
        if head[4] and end - start <= forms.LIMIT and int(head[4]) < forms.MOST:
            form = Form(kind, self.who[0], text, start, said)
        if turn.add(self, self._last, kind, data[start:-1], said, power=head[3] == b"power") and form:
            self._learn(int(head[4]), form, turn.claims)

    def _learn(self, number: int, form: Form, claims: Claims) -> None:
        """What it knew of that number it forgets."""
        old = self._forms.get(number)
        if not claims.keep(self.whose, form.size - (old.size if old else 0)):
            raise WireError(f"the forms of uid {self.whose} are more than {FORMS >> 20} MiB")
        self._forms[number] = form

    def forget(self, claims: Claims) -> None:
        """It has gone."""
        claims.keep(self.whose, -sum(each.size for each in self._forms.values()))

    def _refuse(self, turn: Turn, error: schema.Malformed) -> None:
        """One record is none, or too many are."""
        now = time.monotonic()
        self._unfit = max(0.0, self._unfit - (now - self._then) / _FORGIVEN) + 1
        self._then = now
        if self._unfit > UNFIT:
            raise WireError(f"malformed record, after {UNFIT} others: {error}") from None
        turn.deny(self, self._last, f"uid {self.who[0]} has sent a record that is none", str(error))

    def answer(self, message: bytes) -> None:
        """Send, now or when it can be taken."""
        if not self._unread:
            try:
                self.socket.send(message)
            except BlockingIOError:
                pass
            except OSError:
                return  # it has gone; that is noticed when it is read
            else:
                return
        self._unread.append(message)
        self.waits = True

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


class Turn:
    """What one round of the loop has appended, until it is written and answered.

    `refusing` is why nothing is taken but outcomes of what was let through; "" when everything is.
    """

    def __init__(self, log: Log, refusing: str, claims: Claims) -> None:
        self._log, self.refusing, self.claims = log, refusing, claims
        self.taken = self.refused = 0
        self.power: dict[Peer, list[int]] = {}
        self.process: dict[Peer, list[int]] = {}
        self.outcomes: dict[Peer, list[int]] = {}
        self.no: dict[Peer, list[int]] = {}
        # by the reason: what its sender may not write; and what was wrong with one of those
        self.denied: dict[str, dict[Peer, list[int]]] = {}
        self.faults: dict[str, str] = {}

    def add(self, peer: Peer, number: int, kind: str, body: bytes, said: Said, *, power: bool) -> bool:
        """Append a record, or put it with the refused; whether it was appended."""
        if reason := self.claims.refused(peer.who[0], kind, said, len(body)):
            self.deny(peer, number, reason)
            return False
        if self.refusing and kind != "outcome":
            self.no.setdefault(peer, []).append(number)
            self.refused += 1
            return False
        self._log.append(kind, peer.who, body)
        which = self.power if power else self.outcomes if kind == "outcome" else self.process
        which.setdefault(peer, []).append(number)
        self.taken += 1
        return True

    def deny(self, peer: Peer, number: int, reason: str, fault: str = "") -> None:
        """This one is not taken. The same reason is told once for many; `fault` is about one of them."""
        self.denied.setdefault(reason, {}).setdefault(peer, []).append(number)
        self.faults.setdefault(reason, fault[:300])

    def fail(self, reason: str) -> None:
        """Nothing of it was written."""
        self.refusing = reason
        for each in (self.process, self.outcomes, self.power):
            self.refuse(each)
        self.taken = 0

    def refuse(self, which: dict[Peer, list[int]]) -> None:
        """These get no for an answer."""
        for peer, ids in which.items():
            self.no.setdefault(peer, []).extend(ids)
            self.refused += len(ids)
        which.clear()

    def owe(self) -> set[Peer]:
        """Nobody waits for the acknowledgement of an outcome: it rides with the next answer, or is late."""
        for peer, ids in self.outcomes.items():
            peer.owed += ids
        owing = {peer for peer in self.outcomes if peer not in self.process}
        self.outcomes.clear()
        return owing

    def answers(self, which: dict[Peer, list[int]], no: str | None = None) -> list[tuple[Peer, bytes]]:
        """What to say to whom about these, once; `no` is why they were refused."""
        said: list[tuple[Peer, bytes]] = []
        for peer, new in which.items():
            ids = new
            if no is None and peer.owed:
                ids, peer.owed = new + peer.owed, []
            for first in range(0, len(ids), _IDS):
                some = ids[first : first + _IDS]
                text = ",".join(map(str, some)).encode()
                if no is None:
                    said.append((peer, b'{"ok":[%b]}' % text))
                else:
                    said.append((peer, b'{"no":[%b],"reason":%b}' % (text, json.dumps(no).encode())))
        which.clear()
        return said
