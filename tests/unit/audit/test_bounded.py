"""Nothing that a client or a server says makes a record that the ledger would not take."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit import record, schema
from supervisor.audit.bounded import MOST, fit, listed
from supervisor.audit.reached import Reached
from supervisor.audit.record import Call, Context, Decision, Opened, Touched
from supervisor.proxy.recording import answer, limits

HEX = "ab" * 32
# what takes most room: two escapes a character, halves of one, controls, what is escaped once more
DEAR = ("\U0001f600", "\ud800", "\x01", "\x7f", '\\"', "x", "(limits.a")
LONG = st.builds(lambda each, times: each * times, st.sampled_from(DEAR), st.sampled_from((0, 1, 300, 9_000)))
TEXTS = LONG | st.text(max_size=20)
NUMBERS = st.integers() | st.sampled_from((0, MOST, MOST + 1, -1, 10**4000))
CODES = st.sampled_from(("0", "-32000", "-" + "9" * 15, "9" * 16, "9" * 5000, "-0", "1e5", '"1"', "", "--1"))
CODES |= st.sampled_from(("ok", "tool_error", "timeout", "cancelled", "\u0661", "\u00b2", "1\n"))
MANY = st.builds(lambda each, times: (each,) * times, TEXTS, st.sampled_from((0, 1, 1000)))
CONTEXTS = st.builds(
    lambda user, groups, client: Context(
        user, "7-1", client, "files", groups, profile="p", spec=HEX, image=HEX, manifest=HEX, posture="ok"
    ),
    TEXTS,
    MANY,
    TEXTS,
)
CALLS = st.builds(
    lambda context, tool, method: Call(context, "0123456789ab-7", tool, method), CONTEXTS, TEXTS, TEXTS
)
HOSTS = st.lists(st.builds(Reached, TEXTS, NUMBERS, NUMBERS, NUMBERS, st.booleans()), max_size=3)


def check(kind: str, data: bytes) -> None:
    text = data.decode("ascii")
    assert schema.check(kind, text) == len(text) <= schema.RECORD_LIMIT


@settings(max_examples=150, deadline=None)
@given(CALLS, TEXTS, TEXTS)
def test_an_intent_is_taken_whatever_a_client_said(call: Call, said: str, reason: str) -> None:
    arguments = json.dumps({"a": said}).encode()
    check("intent", record.intent(call, arguments, Decision("deny", "tools.deny", reason)))
    check("intent", record.intent(call, said.encode(errors="surrogatepass")))


@settings(max_examples=60, deadline=None)
@given(CALLS, NUMBERS, CODES, TEXTS, HOSTS, st.data())
def test_an_outcome_is_taken_whatever_a_server_said(
    call: Call, took: int, code: str, said: str, hosts: list[Reached], data: st.DataObject
) -> None:
    files = data.draw(st.lists(st.builds(Opened, TEXTS, st.sampled_from(("r", "rwx", "x", "\0"))), max_size=3))
    line = said.encode(errors="surrogatepass")
    told = answer(code, line, said, data.draw(st.sampled_from((0, 4096, 1 << 20))))
    touched = Touched(files * 200, hosts * 200, "window", ("0123456789ab-7",) * 100, limits(said), "part")
    check("outcome", record.outcome(call, took, told, touched))
    check("event", record.event(call, "egress.reached", {"said": said, "code": code}))


def test_all_that_is_said_at_its_longest_fits_into_a_record() -> None:
    long = "\U0001f600" * 50_000
    call = Call(Context(long, "7-1", long, "files", (long,) * 1000, spec=HEX, image=HEX), "c-1", long, long)
    check("intent", record.intent(call, json.dumps({"a": '\\"' * 50_000}).encode(), Decision("deny", "r", long)))
    hit = limits("".join(f"(limits.{'a' * number}" for number in range(1, 300)))
    told = answer("9", b'"' * 50_000, long, 1 << 20)
    files, hosts = [Opened(f"/tmp/{number}/{long[:90]}") for number in range(600)], [Reached(long, 1)] * 600
    check("outcome", record.outcome(call, 1, told, Touched(files, hosts, "window", ("0123456789ab-1",) * 100, hit)))


@pytest.mark.parametrize("code", ["9" * 16, "-" + "1" * 16, "9" * 5000, "\u00b2", "1e3", "01", ""])
def test_a_code_that_no_record_holds_is_none(code: str) -> None:
    assert answer(code, b"{}", "x", 0).code == 0


@given(TEXTS, st.integers(min_value=10, max_value=5000))
def test_a_text_is_cut_within_a_character_of_its_room_and_stays_one(text: str, size: int) -> None:
    made = fit(text, size)
    assert len(made) <= size
    kept = json.loads(made)
    assert kept == text or (kept.endswith("...") and text.startswith(kept[:-3]))


def test_a_list_is_as_long_as_its_room() -> None:
    assert len(list(listed(["a"] * 500))) == 100
    assert sum(map(len, listed(["\x01" * 500] * 500))) <= 4096
