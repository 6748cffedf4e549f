"""Forms: what is made of one is what could have been sent as a whole, and nothing else can be made of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import wire
from supervisor.audit import forms, record, schema
from supervisor.audit.client import Client
from supervisor.audit.confine import Place
from supervisor.audit.forms import Form, Short
from supervisor.audit.record import Answer, Call, Context, Opened, Touched
from supervisor.audit.schema import Malformed
from tests.unit.audit.ledgers import Peer, started
from tests.unit.audit.test_ledger import calls

CONTEXT = Context("uid:1000", "7", "a 100% sure client", "files", groups=("staff",), profile="none", spec="0f")
texts = st.text(max_size=40)
arguments = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def learned(kind: str, whole: bytes) -> Form:
    text = whole.decode() + "}"
    end, said = schema.read(kind, text, 0)
    assert end == len(whole)
    return Form(kind, 0, text, 0, said)


def short_intent(call: str, data: bytes = b'{"path":"/data/a.txt"}') -> Short:
    made = record.short_intent(Call(CONTEXT, call, "read%file"), data)
    assert isinstance(made, Short)
    return made


FIRST = short_intent("run-1")
FORM = learned("intent", FIRST.whole())


@given(
    st.from_regex(r"[0-9a-f]{12}-[1-9][0-9]{0,8}", fullmatch=True), st.dictionaries(texts, arguments, max_size=3)
)
def test_an_intent_made_of_its_form_is_the_intent(call: str, given: dict[str, object]) -> None:
    made = record.short_intent(Call(CONTEXT, call, "read%file"), json.dumps(given).encode())
    if isinstance(made, Short):  # what was redacted goes as a whole
        assert made.form == FIRST.form
        assert FORM.fill(made.values + b"]}", 0) == made.whole()


@given(
    st.integers(0, 10**12),
    st.binary(max_size=50),
    st.lists(st.builds(Opened, texts, st.sampled_from(["r", "w", "rx"]), st.booleans()), max_size=3),
    st.lists(texts, max_size=3),
)
def test_an_outcome_made_of_its_form_is_the_outcome(
    took: int, content: bytes, files: list[Opened], during: list[str]
) -> None:
    touched = Touched(files, (), "window" if during else "exact", tuple(during), (), "all")
    call = Call(CONTEXT, "run-1", "read%file")
    made = record.short_outcome(call, took, Answer("ok", content=content), touched)
    assert isinstance(made, Short)
    first = record.short_outcome(call._replace(call="run-0"), 1, Answer("ok"), touched)
    assert isinstance(first, Short)
    assert first.form == made.form
    assert learned("outcome", first.whole()).fill(made.values + b"]}", 0) == made.whole()


@pytest.mark.parametrize(
    ("call", "answer", "touched"),
    [
        ("run-1", Answer("failed", -32000, "no"), Touched()),
        ("run-1", Answer("ok", content=b"x", first=10), Touched()),
        ("run-1", Answer("ok"), Touched(limits=("limits.memory",))),
        ("run-1", Answer("ok"), Touched([Opened("/" + "x" * 1000)] * 600)),
    ],
)
def test_what_is_not_as_most_are_is_a_whole(call: str, answer: Answer, touched: Touched) -> None:
    assert isinstance(record.short_outcome(Call(CONTEXT, call, "t"), 5, answer, touched), bytes)


def test_what_was_redacted_or_cut_is_a_whole() -> None:
    for data in (b'{"password":"x"}', json.dumps({"a": "x" * 20_000}).encode()):
        assert isinstance(record.short_intent(Call(CONTEXT, "run-1", "t"), data), bytes)


@pytest.mark.parametrize(
    "values",
    [
        b"",
        b"]}",
        b'"c",1,"00"]}',
        b'"c",1,"00",]}',
        b'"c",1,"00",{}',
        b'"c",1,"00",{}]} ',
        b'"c",1,"00",{},{}]}',
        b'"c",01,"00",{}]}',
        b'"c",-1,"00",{}]}',
        b'"c",1,00,{}]}',
        b'c,1,"00",{}]}',
        b'"c"d",1,"00",{}]}',
        b'"c","x":"y",1,"00",{}]}',
        b'"c",1,"00",{"a":1,"a":2}]}',
        b'"c",1,"00",{"a":\n1}]}',
        b'"c",1,"00",{"a":"\x7f"}]}',
        b'"c",1,"00",NaN]}',
        b'"c",1,"00",1e999]}',
        b'"c\\",1,"00",{}]}',
        b'"c\x00",1,"00",{}]}',
        b'"c",1,"00",' + b"[" * 100_000,
    ],
)
def test_values_that_are_none_of_the_form_are_refused(values: bytes) -> None:
    with pytest.raises(Malformed):
        FORM.fill(values, 0)


def test_a_record_that_names_itself_otherwise_is_no_form() -> None:
    whole = FIRST.whole().replace(b'"uid":"run-1.intent"', b'"uid":"run-2.intent"')
    with pytest.raises(Malformed, match=r"metadata\.uid"):
        learned("intent", whole)


def message(number: int, form: int, values: bytes) -> bytes:
    return b'{"id":%d,"form":%d,"policy":"process","values":[%b]}' % (number, form, values)


def first(number: int, form: int) -> bytes:
    whole = FIRST.whole()
    return b'{"id":%d,"kind":"intent","policy":"process","form":%d,"record":%b}' % (number, form, whole)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the ledger's own uid needs root")


@needs_root
def test_a_form_that_was_never_sent_or_is_another_peer_s_turns_its_user_out(place: Place) -> None:
    with started(place) as ledger:
        one, other = ledger.peer(), ledger.peer()
        one.socket.send(first(1, 5))
        assert one.accepted() == [1]
        one.socket.send(message(2, 5, short_intent("run-2").values))
        assert one.accepted() == [2]
        assert calls(ledger.folder) == ["run-1.intent", "run-2.intent"]
        other.socket.send(message(1, 5, short_intent("run-3").values))
        assert other.hear() == {}
        assert "no form 5" in str(ledger.event())
        one.socket.send(message(3, 6, short_intent("run-4").values))
        assert one.hear() == {}
        assert calls(ledger.folder) == ["run-1.intent", "run-2.intent"]


@needs_root
def test_who_got_a_socket_from_another_user_cannot_write_by_that_user_s_form(place: Place) -> None:
    with started(place) as ledger:
        peer = ledger.peer()
        peer.socket.send(first(1, 0))
        assert peer.accepted() == [1]
        pid = os.fork()
        if pid == 0:
            try:
                os.setresuid(65534, 65534, 65534)
                peer.socket.send(message(2, 0, short_intent("run-2").values))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert peer.hear() == {}
        assert calls(ledger.folder) == ["run-1.intent"]


@needs_root
def test_the_acknowledgement_of_an_outcome_rides_with_the_next_answer_or_comes_alone(place: Place) -> None:
    with started(place) as ledger:
        peer: Peer = ledger.peer()
        number = peer.say("outcome")
        assert peer.accepted() == [number]
        late, soon = peer.say("outcome"), peer.say("intent")
        told = peer.accepted()
        while soon not in told or late not in told:
            told += peer.accepted()
        assert sorted(told) == [late, soon]


@needs_root
def test_a_client_sends_a_tool_once_and_then_what_varies(place: Place) -> None:
    """More tools than a ledger remembers of one peer: each is sent again when it comes again."""
    calls_of = [Call(CONTEXT, f"run-{number}", f"tool{number % (forms.MOST + 7)}") for number in range(300)]
    sent: list[bytes] = []

    async def run(sock: socket.socket) -> None:
        client = Client(sock)
        for call in calls_of:
            done = asyncio.get_running_loop().create_future()
            client.tell(b"intent", record.short_intent(call, b"{}"), done.set_result)
            assert await done == ""
        known = record.short_intent(calls_of[-1]._replace(call="run-300"), b"{}")
        assert isinstance(known, Short)
        done = asyncio.get_running_loop().create_future()
        client.tell(b"intent", known, done.set_result)
        assert await done == ""
        client.close()

    with started(place) as ledger:
        asyncio.run(run(ledger.peer().socket.dup()))
        assert calls(ledger.folder) == [f"run-{number}.intent" for number in range(301)]
    ours, theirs = wire.pair()

    async def watch() -> None:
        client = Client(ours)
        for number in (1, 2):
            client.tell(b"intent", short_intent(f"run-{number}"), lambda _: None)
            sent.append(theirs.recv(1 << 16))
            theirs.send(b'{"ok":[%d]}' % number)
            while client._asked:
                await asyncio.sleep(0)
        client.close()

    with theirs:
        asyncio.run(watch())
    assert b'"record"' in sent[0]
    assert b'"values"' in sent[1]
    assert len(sent[1]) * 3 < len(sent[0])
