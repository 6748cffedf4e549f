"""The wire between processes: what is sent arrives, and what does not fit is refused, with its descriptors."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from supervisor import wire
from supervisor.errors import WireError

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = wire.pair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """More descriptors than a message may carry."""
    found = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    yield found
    for fd in found:
        os.close(fd)


def opened() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"id": 1, "req": "open", "server": "files"},
        {"text": "\u00e9\U0001f600\n\0\x7f", "list": [1, [2, [None, True, 1.5]]], "deep": {"a": {"b": {}}}},
        {"big": 2**63},
        {"long": "x" * (wire.LIMIT - 20)},
    ],
)
def test_a_message_arrives_as_it_was_sent(pair: Pair, message: wire.Message) -> None:
    wire.send(pair[0], message)
    assert wire.receive(pair[1]) == (message, [])


def test_messages_keep_their_borders_and_their_order(pair: Pair) -> None:
    for number in range(50):
        wire.send(pair[0], {"id": number})
    assert [wire.receive(pair[1]) for _ in range(50)] == [({"id": number}, []) for number in range(50)]


def test_neither_end_is_inherited_and_received_descriptors_are_not_either(pair: Pair, fds: list[int]) -> None:
    wire.send(pair[0], {}, fds[:3])
    received = wire.receive(pair[1], max_fds=3)
    assert received
    assert not any(os.get_inheritable(fd) for fd in (*received[1], pair[0].fileno(), pair[1].fileno()))
    for fd in received[1]:
        os.close(fd)


def test_the_end_of_file_is_none(pair: Pair) -> None:
    pair[0].close()
    assert wire.receive(pair[1]) is None


def test_a_message_that_is_too_long_is_not_sent(pair: Pair) -> None:
    with pytest.raises(WireError, match="over the limit"):
        wire.send(pair[0], {"x": "y" * wire.LIMIT})
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.receive(pair[1])


@pytest.mark.parametrize("size", [wire.LIMIT + 1, wire.LIMIT + 2, 150_000])
def test_a_message_that_is_too_long_is_not_taken(pair: Pair, size: int) -> None:
    data = b'{"x":"' + b"y" * (size - 8) + b'"}'
    pair[0].send(data)
    with pytest.raises(WireError, match="over the limit"):
        wire.receive(pair[1])


def test_a_message_of_exactly_the_limit_is_taken(pair: Pair) -> None:
    pair[0].send(b'{"x":"' + b"y" * (wire.LIMIT - 8) + b'"}')
    received = wire.receive(pair[1])
    assert received
    assert len(str(received[0]["x"])) == wire.LIMIT - 8


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"1",
        b"null",
        b'"a"',
        b"[]",
        b"{}{}",
        b"{} x",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":[{"b":1,"b":1}]}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":\xff}',
        b'"\xed\xa0\x80"',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":"\n"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b"\x00" * 100,
        b"\xff\xfe{\x00",
    ],
)
def test_what_is_no_small_object_is_refused(pair: Pair, data: bytes) -> None:
    pair[0].send(data)
    with pytest.raises(WireError):
        wire.receive(pair[1])


@pytest.mark.parametrize(("sent", "allowed"), [(1, 0), (4, 3), (8, 4), (9, 8), (16, 4), (20, 8)])
def test_descriptors_beyond_the_allowed_are_closed(pair: Pair, fds: list[int], sent: int, allowed: int) -> None:
    before = opened()
    socket.send_fds(pair[0], [b"{}"], fds[:sent])
    with pytest.raises(WireError, match="descriptors"):
        wire.receive(pair[1], max_fds=allowed)
    assert opened() == before


def test_descriptors_in_several_control_messages_are_counted_together(pair: Pair, fds: list[int]) -> None:
    before = opened()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd])) for fd in fds[:3]]
    try:
        pair[0].sendmsg([b"{}"], rights)
    except OSError:
        return  # this kernel takes one only
    with pytest.raises(WireError):
        wire.receive(pair[1], max_fds=2)
    assert opened() == before


def test_descriptors_with_a_message_that_is_refused_are_closed(pair: Pair, fds: list[int]) -> None:
    before = opened()
    for data in (b"x", b"[]", b"", b"{" * 10, b"{}" + b" " * wire.LIMIT):
        socket.send_fds(pair[0], [data], fds[:2])
        with pytest.raises(WireError):
            wire.receive(pair[1], max_fds=4)
    assert opened() == before


def test_a_process_without_room_for_descriptors_refuses_the_message(pair: Pair, fds: list[int]) -> None:
    """The kernel cuts the control data short when it cannot install them."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    socket.send_fds(pair[0], [b"{}"], fds[:4])
    lowest = os.dup(fds[0])
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
    try:
        with pytest.raises(WireError, match="descriptors"):
            wire.receive(pair[1], max_fds=4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    probe = os.dup(fds[0])
    os.close(probe)
    assert probe == lowest


def test_credentials_are_the_kernel_s(pair: Pair) -> None:
    assert wire.peer(pair[0]) == (os.getpid(), os.geteuid(), os.getegid())


@pytest.mark.parametrize("read", [wire.receive, wire.hear])
def test_what_was_said_before_an_end_is_heard_though_something_was_left_unread(
    pair: Pair, read: Callable[..., tuple[wire.Message, list[int]] | None], fds: list[int]
) -> None:
    wire.send(pair[0], {"unread": 1})
    wire.send(pair[1], {"said": 1}, fds[:1])
    wire.send(pair[1], {"said": 2})
    pair[1].close()
    first = read(pair[0], max_fds=1)
    assert first is not None
    assert first[0] == {"said": 1}
    wire.close(first[1])
    assert read(pair[0]) == ({"said": 2}, [])
    assert read(pair[0]) is None


def test_an_end_with_something_unread_is_an_end(pair: Pair) -> None:
    wire.send(pair[0], {"unread": 1})
    pair[1].close()
    assert wire.receive(pair[0]) is None
