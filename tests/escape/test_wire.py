"""A taken-over proxy, as a hostile peer on proxy.sock: it loses its own connection, and nobody else anything.

Root's daemon serves root and one ordinary user; the peers here are both, by the identity that the kernel sees
when they connect. Whatever they say: the monitor lives, serves the others without a pause, and starts nothing but
what is in its table, for whom it is there.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor import wire
from supervisor.errors import WireError
from tests.escape.arena import Arena
from tests.escape.peers import HELLO, OPEN, SECONDS, Peer, acting_as, datagrams, fields, relaxed, sandboxes
from tests.integration import adversary
from tests.integration.adversary import Daemon, Watch, receive, send, server, started
from tests.unit.monitor.recorder import Line

pytestmark = pytest.mark.timeout(100)


@pytest.fixture(scope="module")
def host(arena: Arena) -> Iterator[Daemon]:
    """One daemon for all of them: what one peer does to it, the next one would feel."""
    folder = arena.base / "wire"
    folder.mkdir()
    name = pwd.getpwuid(arena.plots["user"].uid).pw_name
    command = json.dumps(server("deaf"))
    config = f"""
[server.mine]
profile = "none"
command = {command}
users = ["{name}"]

[server.private]
profile = "none"
command = {command}
env = {{ ANOTHER = "spec" }}
"""
    with adversary.daemon(folder, config) as made:
        spawner = made.spawner()
        yield made
        made.until_idle()
        assert made.process.poll() is None
    adversary.assert_groups_go(spawner, 2)


@pytest.fixture(autouse=True)
def another(host: Daemon) -> Iterator[list[int]]:
    """Somebody's session that was there before, and answers afterwards; its payload. Then nothing is left."""
    with started("run", "-q", "mine", "--runtime-dir", host.folder) as process:
        send(process, b'{"id":1,"method":"before"}')
        assert b'"result": {"method": "before"}' in receive(process)
        yield sandboxes(host)
        send(process, b'{"id":2,"method":"after"}')
        assert b'"result": {"method": "after"}' in receive(process)
        assert host.process.poll() is None
    host.until_idle()


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"{}",
        b"[]",
        b'{"id":2,"req":"open"}',
        b'{"id":2,"req":"open","server":"mine","server":"private"}',
        b'{"id":2,"req":"open","server":"mine","command":["/bin/sh"]}',
        b'{"id":2,"req":"open","server":"mine","profile":"none"}',
        b'{"id":2,"req":"open","server":"../mine"}',
        b'{"id":2,"req":"open","server":"\\ud800"}',
        b'{"id":2,"req":"inspect"}',
        b'{"id":2,"req":"kill","session":1}',
        b'{"id":2,"req":"load","digest":"x","document":{}}',
        b'{"id":2,"req":"hello","version":1}',
        b'{"id":NaN,"req":"list"}',
        b'{"id":2,"req":"' + b"\\u0000\x7f" * 100 + b'"}',
        b"[" * 60_000,
        b'{"id":2,"req":"open","server":"' + b"x" * 70_000 + b'"}',
        b"\xff" * 1000,
        b'{"id":2,"req":' + b"[" * 900 + b"]" * 900 + b"}",
    ],
    ids=lambda data: repr(data[:50]),
)
def test_what_is_not_in_the_table_ends_the_connection_and_its_sessions(
    host: Daemon, another: list[int], data: bytes
) -> None:
    with Peer(host).hello() as peer:
        answer = peer.ask(OPEN)
        assert answer
        assert "ok" in answer
        with Watch(sandboxes(host, besides=another)) as watch:
            peer.socket.send(data)
            while not peer.is_closed():
                continue
            watch.assert_all_end(2)


@pytest.mark.parametrize("first", [OPEN, {"id": 1, "req": "list"}, {"id": 1, "req": "close", "session": 1}, {}])
def test_the_wrong_order_ends_the_connection(host: Daemon, first: wire.Message) -> None:
    with Peer(host) as peer:
        assert peer.ask(first) is None
    assert len(sandboxes(host)) == 1


@pytest.mark.parametrize("count", [1, 4, 8, 9, 200])
def test_descriptors_with_a_request_end_the_connection_and_are_closed(host: Daemon, count: int) -> None:
    fds = f"/proc/{host.process.pid}/fd"
    before = len(os.listdir(fds))
    read, write = os.pipe()
    with Peer(host).hello() as peer:
        socket.send_fds(peer.socket, [json.dumps(OPEN).encode()], [write] * count)
        assert peer.is_closed()
    os.close(write)
    # nobody holds the other end: the pipe is at its end
    assert select.select([read], [], [], SECONDS)[0]
    assert os.read(read, 1) == b""
    os.close(read)
    assert len(os.listdir(fds)) == before
    assert len(sandboxes(host)) == 1


@pytest.mark.parametrize("name", ["private", "nothing", "personal", "mine.", "-mine"])
def test_a_name_that_is_not_registered_or_granted_starts_nothing(host: Daemon, arena: Arena, name: str) -> None:
    with acting_as(arena.plots["user"].uid), Peer(host).hello() as peer:
        answer = peer.ask(OPEN | {"server": name})
        if answer is not None:
            error = answer["error"]
            assert isinstance(error, dict)
            assert error["status"] == 3
            assert f'"{name}"' in error["message"]
    assert len(sandboxes(host)) == 1


def test_an_ordinary_user_sees_only_what_is_granted_and_no_operator_s_socket(host: Daemon, arena: Arena) -> None:
    with acting_as(arena.plots["user"].uid):
        with Peer(host).hello() as peer:
            assert peer.ask({"id": 2, "req": "list"}) == {
                "id": 2,
                "ok": {"servers": [{"name": "mine", "profile": "none", "manifest": ""}]},
            }
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock, pytest.raises(PermissionError):
            sock.connect(str(host.folder / "admin.sock"))


def test_a_session_of_another_connection_s_cannot_be_closed(host: Daemon) -> None:
    with Peer(host).hello() as peer:
        for number in (*range(1, 60), 2**53):
            answer = peer.ask({"id": number, "req": "close", "session": number})
            assert answer == {"id": number, "ok": {}}
    assert len(sandboxes(host)) == 1


def test_thousands_of_requests_from_a_peer_that_reads_nothing_end_it(host: Daemon) -> None:
    with Peer(host).hello() as peer:
        with suppress(ConnectionError):
            for number in range(20_000):
                wire.send(peer.socket, {"id": number, "req": "open", "server": "nothing"})
        while not peer.is_closed():
            continue
    assert len(sandboxes(host)) == 1


def test_thousands_of_requests_to_close_one_session_are_one(host: Daemon) -> None:
    with Peer(host).hello() as peer:
        opened = peer.ask(OPEN)
        assert opened
        session = opened["ok"]["session"]  # type: ignore[index]
        answers = [peer.ask({"id": number, "req": "close", "session": session}) for number in range(2000)]
        ended = [each for each in answers if each and each.get("event") == "exited"]
        assert ended or (peer.next() or {}).get("event") == "exited"


def test_a_connection_that_is_half_closed_is_over(host: Daemon, another: list[int]) -> None:
    with Peer(host).hello() as peer:
        assert peer.ask(OPEN)
        with Watch(sandboxes(host, besides=another)) as watch:
            peer.socket.shutdown(socket.SHUT_WR)
            watch.assert_all_end(2)
            while not peer.is_closed():
                continue


def test_a_peer_that_is_gone_before_its_session_runs_leaves_none(host: Daemon) -> None:
    for _ in range(20):
        with Peer(host) as peer:
            wire.send(peer.socket, HELLO)
            wire.send(peer.socket, OPEN)
    host.until(1)
    assert len(sandboxes(host)) == 1


def test_an_empty_message_is_the_end(host: Daemon) -> None:
    with Peer(host).hello() as peer:
        peer.socket.send(b"")
        assert peer.is_closed()


def test_connections_of_one_user_are_counted_and_the_others_are_served(host: Daemon, arena: Arena) -> None:
    with ExitStack() as stack, acting_as(arena.plots["user"].uid):
        served = 0
        for _ in range(300):
            peer = stack.enter_context(Peer(host))
            with suppress(ConnectionError):
                served += peer.ask(HELLO) is not None
        assert served == 256
        os.seteuid(0)
        assert host.inspect()["servers"] == ["mine", "private"]
    with acting_as(arena.plots["user"].uid):
        Peer(host).hello().socket.close()


def test_connections_that_break_at_once_are_nothing(host: Daemon) -> None:
    linger = struct.pack("ii", 1, 0)
    for _ in range(500):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with suppress(BlockingIOError):
            sock.connect(str(host.folder / "proxy.sock"))
        sock.close()


def test_an_operator_sees_the_oldest_of_very_many_sessions(host: Daemon) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(Peer(host)).hello()
            for number in range(55):
                answer = peer.ask(OPEN | {"id": number})
                assert answer
                assert "ok" in answer
        seen = host.inspect()
        assert seen["total"] == 221
        assert isinstance(seen["sessions"], list)
        assert len(seen["sessions"]) == 200


def test_a_reload_while_sessions_are_being_opened_loses_none(host: Daemon) -> None:
    with ExitStack() as stack:
        admin = stack.enter_context(Peer(host, name="admin.sock")).hello()
        peers = [stack.enter_context(Peer(host)).hello() for _ in range(8)]
        for each in peers:
            wire.send(each.socket, OPEN)
        wire.send(admin.socket, {"id": 2, "req": "reload"})
        for each in peers:
            # who still waits for its turn hears of the reload before it has it
            while (received := wire.receive(each.socket, max_fds=5)) and "event" in received[0]:
                pass
            assert received
            assert len(received[1]) == 5, received
            wire.close(received[1])
        answer = admin.next()
        assert answer == {"id": 2, "ok": {"servers": ["mine", "private"]}}


def test_an_operator_s_mistakes_are_answered_or_end_only_its_connection(host: Daemon) -> None:
    with Peer(host, name="admin.sock").hello() as peer:
        answer = peer.ask({"id": 2, "req": "kill", "session": 10**9})
        assert answer
        assert "no session" in str(answer["error"])
        assert peer.ask({"id": 3, "req": "open", "server": "mine"}) is None
    assert Path(host.folder / "admin.sock").is_socket()


def test_thousands_of_opens_start_no_more_than_the_limit_and_all_of_it_ends_with_the_peer(
    host: Daemon, another: list[int], arena: Arena
) -> None:
    with acting_as(arena.plots["user"].uid):
        peer = Peer(host).hello()
    with peer:
        answers = []
        for start in range(0, 3000, 50):
            for number in range(start, start + 50):
                wire.send(peer.socket, OPEN | {"id": number})
            answers += [peer.next() or {} for _ in range(50)]
        assert sum("ok" in each for each in answers) == 64
        assert all("ok" in each or "too many open sessions" in str(each["error"]) for each in answers)
        payloads = sandboxes(host, besides=another)
        assert len(payloads) == 64
        with Watch(payloads) as watch:
            peer.socket.close()
            watch.assert_all_end(5)


def test_others_are_served_at_once_while_some_flood_read_slowly_or_not_at_all(host: Daemon) -> None:
    with ExitStack() as stack:
        quiet = stack.enter_context(Peer(host).hello())
        loud = [stack.enter_context(Peer(host).hello()) for _ in range(8)]
        for each in loud:
            each.socket.setblocking(False)
        waited = []
        for number in range(200):
            for each in loud:
                with suppress(OSError):
                    for _ in range(100):
                        wire.send(each.socket, {"id": number, "req": "open", "server": "nothing"})
            # one of them reads, but a hundred times more slowly than it asks
            with suppress(OSError):
                loud[0].next()
            began = time.monotonic()
            assert quiet.ask({"id": number, "req": "list"})
            waited.append(time.monotonic() - began)
        assert sorted(waited)[100] < 0.2
        assert max(waited) < 5
        deadline = time.monotonic() + SECONDS
        while sum(each.socket.fileno() >= 0 and not each.is_closed() for each in loud[1:]):
            assert time.monotonic() < deadline


@relaxed
@given(data=datagrams, count=st.integers(0, 12), allowed=st.integers(0, 8))
def test_any_bytes_are_one_object_or_refused_and_no_descriptor_stays(data: bytes, count: int, allowed: int) -> None:
    here, there = wire.pair()
    before = len(os.listdir("/proc/self/fd"))
    with here, there:
        socket.send_fds(here, [data], [0] * count) if count else here.send(data)
        try:
            received = wire.receive(there, max_fds=allowed)
        except WireError:
            received = None
        for fd in received[1] if received else []:
            os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == before
        assert received is None or (isinstance(received[0], dict) and len(received[1]) == count <= allowed)


@relaxed
@given(message=fields, admin=st.booleans(), greeted=st.booleans())
def test_any_object_is_a_request_of_its_table_or_ends_the_peer(
    message: wire.Message, admin: bool, greeted: bool
) -> None:
    line = Line(admin=admin)
    line.peer.greeted = greeted
    try:
        line.says(message)
    except WireError:
        assert line.monitor.asked == []
    else:
        ((req, *arguments),) = line.monitor.asked
        assert req == message["req"]
        assert set(message) == {"id", "req"} | {"open": {"server"}, "hello": {"version"}}.get(str(req), set()) | (
            {"session"} if req in ("close", "kill") else set()
        )
        assert all(type(each) in (int, str) for each in arguments)
    finally:
        line.close()


@settings(relaxed, max_examples=150)
@given(said=st.lists(st.tuples(datagrams, st.sampled_from([0, 0, 0, 1, 9])), max_size=5), greets=st.booleans())
def test_whatever_a_peer_says_it_gets_what_is_in_its_table_and_the_others_are_served(
    host: Daemon, arena: Arena, said: list[tuple[bytes, int]], greets: bool
) -> None:
    with ExitStack() as stack:
        bystander = stack.enter_context(Peer(host).hello())
        with acting_as(arena.plots["user"].uid):
            peer = stack.enter_context(Peer(host).hello() if greets else Peer(host))
            opened = stack.enter_context(Peer(host).hello()).ask(OPEN)
        assert opened
        with suppress(ConnectionError):
            for data, count in said:
                socket.send_fds(peer.socket, [data], [0] * count) if count else peer.socket.send(data)
            peer.socket.shutdown(socket.SHUT_WR)
        while answer := peer.next():
            given_ = answer.get("ok")
            if isinstance(given_, dict) and "spec" in given_:
                assert given_["spec"] == dict(opened["ok"])["spec"]  # type: ignore[call-overload]
        assert bystander.ask({"id": 2, "req": "list"})
        assert host.process.poll() is None
