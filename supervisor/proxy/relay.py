"""One client and one server on standard streams: bytes pass, envelopes are looked at.

Runs unprivileged. It keeps the list of requests that wait for an answer, so that the end of a server is told to
the client as an answer to each of them, with the reason, and not as silence.
"""

from __future__ import annotations

import asyncio
import os
import signal

import msgspec
import uvloop

from supervisor.proxy import envelope, gate, lines, message, pump
from supervisor.proxy.gate import Audited, Gate
from supervisor.proxy.link import Exited, Link, Opened
from supervisor.proxy.meter import Meter
from supervisor.shown import printable

_CLIENT_LINE = 16 << 20
_MAX_PENDING = 4096
_TOLD = 100
_MUTE = "it closed its standard output"


class Relay:
    """`run()` until the client or the server has gone; returns the exit status."""

    def __init__(self, link: Link, opened: Opened, audited: Audited | None) -> None:
        self.link = link
        self.opened = opened
        self.pending: dict[bytes, bytes] = {}
        # requests that the client has cancelled: nobody waits for an answer, but one may still come
        self.given_up: dict[bytes, None] = {}
        self.handshake = b""
        self.first: asyncio.TimerHandle | None = None
        self.answered = False
        self.stopping = False
        self.abandoned = False
        self.interrupted = 0
        self.failed = ""
        self.dropped = 0
        self.ended: asyncio.Future[Exited | None] = asyncio.get_running_loop().create_future()
        self.drained = asyncio.Event()
        self.from_client = lines.Reader(_CLIENT_LINE, self.client_line, self.client_too_long, self.client_end)
        self.meter = Meter(opened.output, opened.output_rate)
        self.from_server = lines.Reader(
            opened.output_line,
            self.server_line,
            self.server_too_long,
            self.server_end,
            meter=self.meter,
            over=self.server_over,
        )
        self.to_client = lines.Writer(lambda full: self.from_server.pause(paused=full), self.stop)
        self.to_server = lines.Writer(lambda full: self.from_client.pause(paused=full), lambda: None)
        self.timers: list[asyncio.TimerHandle] = []
        self.hung_up = False
        self.closing: asyncio.Task[None] | None = None
        self.expiring = False
        self.gate = Gate(audited, self.to_server.write, self.unrecorded) if audited else None
        if self.gate:
            link.reached = self.gate.reached

    async def run(self) -> int:
        """Relay until the session has ended."""
        loop = asyncio.get_running_loop()
        self.link.socket.setblocking(False)
        loop.add_reader(self.link.socket.fileno(), self.news)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self.interrupt, number)
        errors = pump.start_errors(self.opened)
        await self.to_server.open(self.opened.stdin)
        # copies: ours stay open, so that they can be given back as they came
        await self.to_client.open(os.dup(1))
        await self.from_server.open(self.opened.stdout)
        await self.from_client.open(os.dup(0))
        ended = await self.ended
        # after the end of a session its pipes have an end; a session that was abandoned still has its own
        patience = 0 if self.abandoned else 2
        await asyncio.wait({asyncio.create_task(self.drained.wait())}, timeout=patience)
        for timer in self.timers:
            timer.cancel()
        self.answer_all(ended)
        if self.gate:
            await self.gate.close(self.reason(ended))
        await self.to_client.flush_and_close(2)
        errors.join(patience)
        return self.status(ended)

    def news(self) -> None:
        """The monitor told of the session's end, or is gone itself."""
        found = self.link.news()
        if found == []:
            return
        asyncio.get_running_loop().remove_reader(self.link.socket.fileno())
        self.ended.set_result(found[0] if found else None)

    def interrupt(self, number: int) -> None:
        """A signal: end in order; the second one in a hurry."""
        if self.interrupted:
            self.abandon()
        self.interrupted = number
        self.stop()

    def stop(self) -> None:
        """End the session: SIGTERM, its grace, SIGKILL."""
        if not self.stopping:
            self.stopping = True
            self.link.post_close(self.opened.session)

    def abandon(self) -> None:
        """Do not wait for the session's end: it is killed when we hang up."""
        if not self.ended.done():
            self.abandoned = True
            asyncio.get_running_loop().remove_reader(self.link.socket.fileno())
            self.ended.set_result(Exited(self.opened.session, None, "closed"))

    def client_line(self, line: bytes) -> None:
        """Pass a message on, and remember it if it wants an answer."""
        head = envelope.parse(line)
        if head is None:
            self.to_client.write(
                envelope.error(b"null", envelope.PARSE_ERROR, "this line is not a JSON-RPC message")
            )
            return
        if objection := gate.objection(line):
            self.refuse(head, message.INVALID_REQUEST, f"not passed on: {objection}")
            return
        if b"\r" in line:
            # between tokens, or it would be no JSON: some read a line's end there, and a message of its own
            line = message.blanked(line) + b"\n"
        requests = [each for each in envelope.parts(line, head) if each.is_request]
        asked = [(envelope.key(each), envelope.spelling(each)) for each in requests]
        if asked and not self.expect(head, dict(asked), len(asked)):
            return
        if head.method == "initialize":
            self.handshake = envelope.key(head)
        elif head.method == "notifications/cancelled" or head.method is msgspec.UNSET:
            self.give_up(line)
        if self.gate:
            self.gate.put(line)
        else:
            self.to_server.write(line)

    def expect(self, head: envelope.Envelope, asked: dict[bytes, bytes], count: int) -> bool:
        """Remember requests until their answers; False if the line is refused, of which none is passed on."""
        if len(asked) < count or not self.pending.keys().isdisjoint(asked):
            # whoever answers the one would have answered the other, to the client or to the log
            self.refuse(head, message.INVALID_REQUEST, "this request id is in use")
            return False
        if not self.given_up.keys().isdisjoint(asked):
            said = "this request id is in use: it was cancelled, and may still be answered; take another"
            self.refuse(head, message.INVALID_REQUEST, said)
            return False
        if len(self.pending) + count > _MAX_PENDING:
            text = f"more than {_MAX_PENDING} requests are waiting for an answer"
            self.refuse(head, envelope.TOO_MANY, text)
            return False
        if not self.pending and not self.answered:
            if self.first:
                self.first.cancel()
            self.first = asyncio.get_running_loop().call_later(self.opened.start, self.silent)
            self.timers.append(self.first)
        self.pending.update(asked)
        return True

    def give_up(self, line: bytes) -> None:
        """Wait no longer for what the client cancels; a handshake cannot be.

        Of the newest of them it is remembered that an answer may still come, which the client wants no more.
        """
        for each in gate.messages(line):
            key = gate.cancels(each)
            if key is not None and key in self.pending and key != self.handshake:
                del self.pending[key]
                self.given_up[key] = None
        while len(self.given_up) > _MAX_PENDING:
            del self.given_up[next(iter(self.given_up))]

    def refuse(self, head: envelope.Envelope, code: int, said: str) -> None:
        """Answer a line that is not passed on; a batch as a whole and an answer under no id."""
        known = b"null" if head.is_response and head.is_answer else envelope.spelling(head)
        self.to_client.write(envelope.error(known, code, said))

    def unrecorded(self, key: bytes, reason: str) -> None:
        """A call that could not be written down is not made. At the end all that wait are told so at once."""
        if not self.ended.done() and key in self.pending:
            self.to_client.write(envelope.error(self.pending.pop(key), message.NOT_RECORDED, reason))

    def client_too_long(self) -> None:
        """A message that is never forwarded, and whose id nobody knows."""
        text = f"a message is over the limit of {_CLIENT_LINE} bytes"
        self.to_client.write(envelope.error(b"null", envelope.TOO_LONG, text))

    def client_end(self) -> None:
        """The client closed its end: so do we, when all that it said has been passed on."""
        self.hung_up = True
        # at the latest, whatever the first answer or the ledger is waiting for
        self.timers.append(asyncio.get_running_loop().call_later(self.opened.start, self.expire))
        if self.gate:
            self.gate.drained(self.close_input)
        else:
            self.close_input()

    def close_input(self) -> None:
        """The server has been sent everything: it sees the end, and has its grace from when it is there."""
        longest = self.opened.start + self.opened.grace
        self.closing = asyncio.get_running_loop().create_task(self.to_server.flush_and_close(longest))
        if self.answered or not self.pending:
            self.expire()

    def expire(self) -> None:
        """Its grace begins. It gets SIGTERM late in it, SIGKILL after it."""
        if self.expiring or self.ended.done():
            return
        self.expiring = True
        loop = asyncio.get_running_loop()
        self.timers.append(loop.call_later(self.opened.grace * 0.75, self.stop))
        self.timers.append(loop.call_later(self.opened.grace, self.abandon))

    def server_line(self, line: bytes) -> None:
        """Pass a message on; a line that is none is told on standard error and dropped."""
        head = envelope.parse(line)
        if head is None or (head.method is msgspec.UNSET and _ambiguous(line)):
            self.garbage(line)
            return
        found = envelope.parts(line, head)
        if any(each.is_both for each in found):
            self.garbage(line, "is a request and an answer")
            return
        answers = [each for each in found if each.is_response]
        if self.given_up and any(self.late(each) for each in answers):
            self.without_late(line)
            return
        known = [self.waiting(each) for each in answers]
        if None in known:
            self.garbage(line, "answers what it was not asked")
            return
        for key in known:
            self.pending.pop(key or b"", None)
        self.answered = self.answered or bool(answers)
        self.to_client.write(line)
        if self.gate:
            self.gate.answered(line)
        if answers and self.closing:
            self.expire()

    def late(self, head: envelope.Envelope | None) -> bytes:
        """The key of the request that this answers, if its client has cancelled that; b"" for everything else."""
        if head is None or not head.is_response or envelope.key(head) in self.pending:
            return b""
        keys = (envelope.key(head), message.number(head.id) if isinstance(head.id, msgspec.Raw) else b"")
        return next((key for key in keys if key in self.given_up), b"")

    def without_late(self, line: bytes) -> None:
        """Pass on what is left of a line without answers that nobody wants any more; their ids are free now."""
        kept = []
        for each in message.items(msgspec.Raw(line)) if line.lstrip()[:1] == b"[" else [line]:
            if key := self.late(envelope.parse(bytes(each))):
                del self.given_up[key]
                self.answered = True
            else:
                kept.append(bytes(each))
        if kept:
            self.server_line(b"[%b]\n" % b",".join(kept))

    def waiting(self, head: envelope.Envelope) -> bytes | None:
        """The key of the request that this answers, which the server has; b"" for an error that is of none."""
        key = envelope.key(head)
        if key not in self.pending and isinstance(head.id, msgspec.Raw):
            key = message.number(head.id)
        if key in self.pending:
            return None if self.gate and self.gate.holds(key) else key
        return b"" if envelope.spelling(head) == b"null" and head.result is msgspec.UNSET else None

    def garbage(self, line: bytes, what: str = "is not JSON-RPC") -> None:
        """Tell of a line that was dropped, a hundred times at most: where nobody reads, a write would hang us."""
        self.dropped += 1
        if self.dropped <= _TOLD:
            shown = printable(line[:80].decode(errors="replace").rstrip("\n"))
            pump.note(f"the server wrote a line that {what}; dropped: {shown}")
        if self.dropped == _TOLD:
            pump.note("further lines that cannot be passed on are dropped without a word")

    def server_too_long(self) -> None:
        """More than a line may have: the end of the session."""
        self.failed = f"it wrote a line of more than {self.opened.output_line} bytes (limits.output_line)"
        self.stop()

    def server_over(self) -> None:
        """More than a session may have in all: its end."""
        self.failed = self.meter.reason()
        self.stop()

    def server_end(self) -> None:
        """Its output has an end. A server that does not end soon as well cannot be of use any more."""
        self.drained.set()
        loop = asyncio.get_running_loop()
        self.timers.append(loop.call_later(self.opened.grace, self.mute))

    def mute(self) -> None:
        """It closed its output and lives."""
        if not self.ended.done() and not self.stopping:
            self.failed = _MUTE
            self.stop()

    def silent(self) -> None:
        """The first answer did not come in time."""
        if self.pending and not self.answered:
            self.failed = f"it did not answer its first request within {self.opened.start:g} s (session.start)"
            self.stop()

    def answer_all(self, ended: Exited | None) -> None:
        """Every request that waits gets the reason why it waits in vain."""
        reason = self.reason(ended)
        code = envelope.SERVER_SILENT if self.failed and not self.answered else envelope.SERVER_ENDED
        for request_id in self.pending.values():
            self.to_client.write(envelope.error(request_id, code, f"the server's session has ended: {reason}"))

    def reason(self, ended: Exited | None) -> str:
        """Why it ended, in words."""
        told = ended.reason if ended else "the supervisor's monitor ended"
        if told == "closed" and self.hung_up and not (self.failed or self.interrupted):
            return f"its client's input ended, and {self.opened.grace:g} s later so did it (session.grace)"
        # of a server that somebody is just ending, that is the reason
        return told if not self.failed or (self.failed == _MUTE and told not in ("", "closed")) else self.failed

    def status(self, ended: Exited | None) -> int:
        """The command's own status; 0 when the client ended it; 1 when we did."""
        if self.failed:
            pump.note(f"the session was ended: {self.reason(ended)}")
            return 1
        if self.interrupted:
            return 128 + self.interrupted
        if self.stopping and ended is not None and ended.reason == "closed":
            return 0
        return pump.finish(ended)


def _ambiguous(line: bytes) -> bool:
    """Whether an answer could be read as another one: "ID" is its id to some clients, and to us it has none."""
    single = line.lstrip()[:1] != b"["
    for each in [line] if single else map(bytes, message.items(msgspec.Raw(line))):
        if message.incoming(each) is None and message.repaired(each) is None:
            return True
    return False


def run(link: Link, opened: Opened, audited: Audited | None) -> int:
    """Relay between our standard streams and a session's; the exit status. Calls are written down if `audited`."""

    async def relay() -> int:
        return await Relay(link, opened, audited).run()

    with lines.as_they_were(0, 1):
        return uvloop.run(relay())
