"""One connection from inside a sandbox: who is meant, may it be, and then bytes both ways.

Runs in the broker. The address that was dialled says the name; what the client then says (SNI in every ClientHello,
the host of every plain request) must say the same. Only then a connection outside is made, to an address that was
checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Coroutine

from supervisor.egress import dial, flow, header, http, tls
from supervisor.egress.dial import Unreachable
from supervisor.egress.match import GATEWAY, PROXY_PORT, Entry, Refusal, Rules
from supervisor.egress.session import Session

_CHUNK = 64 * 1024
_HEAD_SECONDS, _ANSWER_SECONDS, _LINGER_SECONDS = 5.0, 30.0, 1.0
_Work = Coroutine[object, object, None]
_SSL_REQUEST, _GSS_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x08\x04\xd2\x16\x30"


class Connection:
    """From accept to the end. `touched` is when the last byte passed."""

    def __init__(self, session: Session, client: socket.socket, address: str, port: int) -> None:
        self._session, self._client = session, client
        self._address, self._port = address, port
        self._name = session.name_at(address)
        self._loop = asyncio.get_running_loop()
        self._server: socket.socket | None = None
        self._buffer = bytearray()
        # how a refusal can be said to the client: "tls", "http", or not at all
        self._speaks = ""
        self._asked = ""
        self._sent = self._received = 0
        self.touched = self._loop.time()

    async def run(self) -> None:
        """All of it; nothing but cancellation gets out."""
        try:
            await self._serve()
        except Refusal as refusal:
            self._session.refused(self._asked or self._name, self._port, refusal.reason, refusal.rule)
            await self._say(refusal.reason, refusal.alert, b"403 Forbidden")
        except Unreachable as error:
            self._session.refused(self._name, self._port, f"not reached: {error}")
            await self._say(str(error), tls.INTERNAL, b"502 Bad Gateway")
        except (OSError, TimeoutError):
            pass  # one of the two has gone, or a client said nothing for too long
        finally:
            self._finish()

    def _finish(self) -> None:
        self._client.close()
        if self._server is not None:
            self._session.connected(self._name, self._port, self._sent, self._received)
            self._server.close()

    async def _serve(self) -> None:
        if (self._address, self._port) == (GATEWAY, PROXY_PORT):
            await self._proxy()
        else:
            await self._target(self._find())

    def _find(self) -> Entry:
        rules: Rules = self._session.rules
        entry = rules.find(self._name, self._port) if self._name else None
        if entry is None:
            rule = f"--allow {self._name}:{self._port}" if self._name else ""
            raise Refusal(f"{self._name or self._address} may not be reached at port {self._port}", rule=rule)
        return entry

    async def _target(self, entry: Entry) -> None:
        if entry.kind == "tcp":
            server = await self._dial(entry)
            await self._send(server, bytes(self._buffer))
            await self._copy(server)
            return
        if entry.kind == "header":
            await self._with_header(entry)
            return
        async with asyncio.timeout(_HEAD_SECONDS):
            await self._more()
        if self._buffer[0] == tls.HANDSHAKE:
            await self._tls(entry, None)
        elif self._buffer[0] == 0:
            await self._postgres(entry)
        elif entry.kind == "http":
            await self._http(entry)
        else:
            raise Refusal(
                f"what was said is not TLS; plain HTTP needs http:{self._name}:{self._port}",
                rule=f"--allow tcp:{self._name}:{self._port}",
            )

    # the pieces of all protocols

    async def _more(self) -> None:
        """Wait for more of what the client says; its end is an Unreachable that nobody hears."""
        data = await self._loop.sock_recv(self._client, _CHUNK)
        if not data:
            raise ConnectionResetError
        self.touched = self._loop.time()
        self._buffer += data

    async def _send(self, server: socket.socket, data: bytes) -> None:
        if data:
            self._out(len(data))
            await self._loop.sock_sendall(server, data)

    async def _dial(self, entry: Entry) -> socket.socket:
        self._server = await dial.connect(self._session.resolver, entry, self._name, entry.outside or self._port)
        self._session.reached(self._name, self._port)
        return self._server

    def _out(self, count: int) -> None:
        self._sent += count
        self.touched = self._loop.time()
        self._session.moved(count)

    def _in(self, count: int) -> None:
        self._received += count
        self.touched = self._loop.time()
        self._session.moved(count)

    async def _copy(self, server: socket.socket) -> None:
        await flow.pair(self._client, server, self._out, self._in)

    def _same(self, name: str) -> None:
        if name != self._name:
            self._asked = name
            raise Refusal(
                f"{name} was asked for at the address of {self._name}",
                tls.UNKNOWN_NAME,
                rule=f"--allow {name}:{self._port}",
            )

    async def _say(self, reason: str, alert: int, status: bytes) -> None:
        """Tell the client why, in its protocol, and give it time to read that."""
        if self._speaks == "tls":
            said = tls.alert(alert)
        elif self._speaks == "http":
            body = f"supervisor: {reason}\n".encode("ascii", "backslashreplace")
            head = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            said = head % (status, len(body)) + body
        else:
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._loop.sock_sendall(self._client, said)
                self._client.shutdown(socket.SHUT_WR)
                # bytes that nobody has read would turn the close into a reset, and the answer would be lost
                while await self._loop.sock_recv(self._client, _CHUNK):
                    pass

    # TLS

    async def _tls(self, entry: Entry, server: socket.socket | None) -> None:
        self._speaks = "tls"
        reader = tls.HelloReader()
        async with asyncio.timeout(_HEAD_SECONDS):
            while not reader.feed(bytes(self._buffer)):
                self._buffer.clear()
                await self._more()
        self._same(reader.server_name(ech=self._session.ech))
        server = server or await self._dial(entry)
        await self._send(server, bytes(reader.raw[: reader.end]))
        self._buffer = reader.raw[reader.end :]
        async with asyncio.timeout(_ANSWER_SECONDS):
            if await self._first_answer(server) == "retry":
                await self._second_hello(server)
        await self._send(server, bytes(self._buffer))
        await self._copy(server)

    async def _first_answer(self, server: socket.socket) -> str:
        """Pass the server's first bytes on; what they were. The client's next ones wait until then."""
        answer = b""
        while (what := tls.first_answer(answer)) == "more":
            data = await self._loop.sock_recv(server, _CHUNK)
            if not data:
                break
            answer += data
        self._in(len(answer))
        await self._loop.sock_sendall(self._client, answer)
        # from now on an alert of ours would land in the middle of theirs
        self._speaks = ""
        return what

    async def _second_hello(self, server: socket.socket) -> None:
        """After a HelloRetryRequest the client says hello again, and could say another name."""
        reader = tls.HelloReader()
        while True:
            found = tls.record(bytes(self._buffer[: 5 + _CHUNK]))
            if found is None:
                await self._more()
                continue
            kind, size = found
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            if kind != tls.HANDSHAKE and not reader.raw:
                await self._send(server, piece)  # early data, or the change cipher spec of middleboxes
            elif reader.feed(piece):
                self._speaks = "tls"
                self._same(reader.server_name(ech=self._session.ech))
                self._speaks = ""
                await self._send(server, bytes(reader.raw))
                return

    async def _postgres(self, entry: Entry) -> None:
        """PostgreSQL asks in clear whether there is TLS; the hello that follows names the host."""
        async with asyncio.timeout(_HEAD_SECONDS):
            while len(self._buffer) < 8:
                await self._more()
            if self._buffer == _GSS_REQUEST:
                await self._loop.sock_sendall(self._client, b"N")
                self._buffer.clear()
                while len(self._buffer) < 8:
                    await self._more()
        if self._buffer != _SSL_REQUEST:
            rule = f"--allow tcp:{self._name}:{self._port}"
            raise Refusal("neither TLS nor PostgreSQL's request for it", rule=rule)
        server = await self._dial(entry)
        await self._send(server, bytes(self._buffer))
        self._buffer.clear()
        async with asyncio.timeout(_ANSWER_SECONDS):
            said = await dial.exactly(server, 1)
            self._in(1)
            await self._loop.sock_sendall(self._client, said)
            await self._more()
        if said != b"S" or self._buffer[0] != tls.HANDSHAKE:
            raise Refusal("PostgreSQL without TLS", rule=f"--allow tcp:{self._name}:{self._port}")
        await self._tls(entry, server)

    # plain HTTP

    async def _head(self, *, proxy: bool) -> tuple[http.Head, bytes]:
        """The next request's head, whole; what follows it stays in the buffer."""
        if not self._buffer:
            await self._more()
        async with asyncio.timeout(_HEAD_SECONDS):
            while not (end := http.end_of_head(bytes(self._buffer))):
                await self._more()
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        return http.head(raw, proxy=proxy), raw

    async def _checked(self) -> tuple[http.Head, bytes]:
        head, raw = await self._head(proxy=False)
        self._same(head.host)
        if head.port != self._port:
            raise Refusal(f"port {head.port} was asked for at port {self._port}")
        return head, raw

    async def _http(self, entry: Entry) -> None:
        self._speaks = "http"
        head, raw = await self._checked()
        server = await self._dial(entry)
        self._speaks = ""
        await self._send(server, raw)
        if head.upgrade and await self._switched(server):
            await self._send(server, bytes(self._buffer))
            await self._copy(server)
            return
        await self._both(server, flow.one_way(server, self._client, self._in), self._requests(server, head))

    async def _requests(self, server: socket.socket, head: http.Head) -> None:
        """The first request's body, and every further request, each checked before a byte of it passes."""
        while True:
            await self._body(server, head)
            head, raw = await self._checked()
            if head.upgrade:
                raise Refusal("an upgrade that is not the first request of its connection")
            await self._send(server, raw)

    async def _body(self, server: socket.socket, head: http.Head) -> None:
        """Pass the body that belongs to `head`, and not a byte of what follows it."""
        body = http.Body(head.length)
        while not body.done:
            if not self._buffer:
                await self._more()
            count = body.feed(bytes(self._buffer))
            await self._send(server, bytes(self._buffer[:count]))
            del self._buffer[:count]

    async def _both(self, server: socket.socket | None, answering: _Work, requests: _Work) -> None:
        """Requests one way, answers the other, until the answers end. `server` hears that nothing more is asked."""
        answers, asking = self._loop.create_task(answering), self._loop.create_task(requests)
        try:
            await asyncio.wait({answers, asking}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and not isinstance(asking.exception(), Refusal):
                if server:
                    flow.linger(server)  # the client has no more to ask; its last answers may still come
                await answers
        finally:
            answers.cancel()
            asking.cancel()
            # only when they have let go of the sockets may those be closed: another connection gets their numbers
            await asyncio.gather(answers, asking, return_exceptions=True)
        for each in (answers, asking):
            if not each.cancelled() and isinstance(problem := each.exception(), Refusal | Unreachable):
                raise problem

    async def _switched(self, server: socket.socket) -> bool:
        """Pass the answer to an upgrade on; whether the server took it (101)."""
        answer = b""
        async with asyncio.timeout(_ANSWER_SECONDS):
            while b"\r\n\r\n" not in answer and len(answer) < http.LIMIT:
                data = await self._loop.sock_recv(server, _CHUNK)
                if not data:
                    break
                answer += data
        self._in(len(answer))
        await self._loop.sock_sendall(self._client, answer)
        return answer.startswith(b"HTTP/1.1 101 ")

    # requests that get a secret on their way

    async def _with_header(self, entry: Entry) -> None:
        """One request, with what the broker adds, over TLS to the one host that it is for; and its answer."""
        self._speaks = "http"
        head, _ = await self._checked()
        added = self._session.added.get(self._name, [])
        asked = header.request(head, added, self._name, entry.outside)
        server = await self._dial(entry)
        reader, writer = await header.secured(server, self._name, self._session.trust)
        try:
            answer = header.Answer(reader, self._answered, head.method, header.Mask(added))
            await self._both(None, answer.run(), self._upload(writer, asked, head))
        finally:
            writer.transport.abort()

    async def _upload(self, writer: asyncio.StreamWriter, asked: bytes, head: http.Head) -> None:
        body, data = http.Body(head.length), asked
        while True:
            self._out(len(data))
            writer.write(data)
            await writer.drain()
            if body.done:
                break
            if not self._buffer:
                await self._more()
            count = body.feed(bytes(self._buffer))
            data = bytes(self._buffer[:count])
            del self._buffer[:count]
        # a further request comes over another connection
        while True:
            self._buffer.clear()
            await self._more()

    async def _answered(self, data: bytes) -> None:
        # from now on an answer of ours would land in the middle of theirs
        self._speaks = ""
        self._in(len(data))
        await self._loop.sock_sendall(self._client, data)

    # programs that use proxy variables

    async def _proxy(self) -> None:
        self._speaks = "http"
        head, _ = await self._head(proxy=True)
        self._port, self._name = head.port, head.host
        with contextlib.suppress(ValueError):
            self._name = str(ipaddress.ip_address(head.host))
        entry = self._find()
        if head.method == "CONNECT":
            await self._loop.sock_sendall(self._client, b"HTTP/1.1 200 OK\r\n\r\n")
            self._speaks = ""
            await self._target(entry)
            return
        if entry.kind == "header":
            raise Refusal(f"{self._name} through a proxy: a secret is added only to what is asked of it directly")
        if entry.kind == "tls" or head.upgrade:
            raise Refusal("plain HTTP", rule=f"--allow http:{self._name}:{self._port}")
        server = await self._dial(entry)
        self._speaks = ""
        await self._send(server, head.rewritten())
        await self._both(server, flow.one_way(server, self._client, self._in), self._one_body(server, head))

    async def _one_body(self, server: socket.socket, head: http.Head) -> None:
        await self._body(server, head)
        # the next request may be for another host, and comes over another connection
        while True:
            self._buffer.clear()
            await self._more()
