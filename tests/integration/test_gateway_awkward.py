"""A server that misbehaves, behind the gateway: the caller hears why, at once, and the next call is served."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caller import Caller
from tests.integration.fidelity import PYTHON
from tests.integration.gateway import Entry, Gateway, copied, processes, serving
from tests.integration.raw_http import Message, Session
from tests.integration.remains import nothing_left

ANSWER = 3  # seconds that a call may stay without any message
RULES = {"session.answer": f'"{ANSWER}s"', "session.start": '"5s"', "restart.limit": "1000"}
SOON = 10.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def start(root: Caller) -> Path:
    return copied(root, "awkward")


@pytest.fixture(scope="module")
def gateway(root: Caller, start: Path) -> Iterator[Gateway]:
    """The awkward server, and a second one that nobody asks anything awkward."""
    entries = [Entry(name, (*PYTHON, str(start)), rules=RULES) for name in ("awkward", "other")]
    with nothing_left(root, writes=root.project, patience=10), serving(root, entries, "awkward") as made:
        yield made


@pytest.fixture
def session(gateway: Gateway) -> Iterator[Session]:
    made = Session(gateway.port, "/mcp")
    yield made
    made.close()


def text(answer: Message) -> str:
    """The text of a result, or the message of an error."""
    error, result = answer.get("error"), answer.get("result")
    if isinstance(error, dict):
        return f"error: {error['message']}"
    assert isinstance(result, dict), answer
    return str(result["content"][0]["text"])


def served(session: Session) -> None:
    """The same session is served by both, by the awkward one as soon as it may start again."""
    assert text(session.call("other__erroneous")) == "wrong"
    deadline = time.monotonic() + SOON
    while text(answer := session.call("awkward__erroneous")) != "wrong":
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"status": 3}, "status 3"),
        ({"signal": 9}, "signal 9"),
        ({"signal": 11}, "signal 11"),
        ({"status": 0}, "status 0"),
    ],
    ids=str,
)
def test_a_call_to_a_server_that_dies_is_answered_with_the_reason(
    arguments: dict[str, object], why: str, session: Session
) -> None:
    served(session)
    began = time.monotonic()
    said = text(session.call("awkward__die", **arguments))
    assert said.startswith("error: ")
    assert why in said
    assert time.monotonic() - began < ANSWER
    served(session)


def test_a_server_that_closes_its_output_has_ended(session: Session, start: Path) -> None:
    served(session)
    began = time.monotonic()
    assert text(session.call("awkward__close")).startswith("error: ")
    assert time.monotonic() - began < ANSWER
    served(session)
    assert len(processes(start)) <= 2


@pytest.mark.parametrize("tool", ["never", "deafen"])
def test_a_call_that_is_never_answered_ends_when_its_time_is_over(tool: str, session: Session) -> None:
    """`deafen` answers and reads nothing any more: it is the call after it that waits."""
    served(session)
    began = time.monotonic()
    if tool == "deafen":
        assert text(session.call("awkward__deafen")) == "deaf"
    said = text(session.call(f"awkward__{'tiny' if tool == 'deafen' else tool}"))
    assert said.startswith("error: ")
    assert "session.answer" in said or f"{ANSWER}" in said
    assert time.monotonic() - began < ANSWER + SOON
    assert text(session.call("other__erroneous")) == "wrong"


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ("twice", "first"),
        ("stranger", "own"),
        ("garbage", "after garbage"),
        ("flood", "flooded"),
        ("pieces", "in é pieces"),
    ],
)
def test_a_call_has_one_answer_whatever_else_is_said(tool: str, expected: str, session: Session) -> None:
    served(session)
    assert text(session.call(f"awkward__{tool}")) == expected
    assert text(session.call("awkward__erroneous")) == "wrong"


def test_what_a_server_asks_a_client_that_can_answer_nothing_is_answered_by_the_gateway(session: Session) -> None:
    """The client declared no ability at all."""
    served(session)
    answer = session.call("awkward__ask", what=["sampling", "form", "roots", "ping"])
    assert text(answer) == "4 answers"
    result = answer["result"]
    assert isinstance(result, dict)
    kinds = [sorted({"result", "error"} & set(each)) for each in result["structuredContent"]["answers"]]
    assert kinds == [["error"], ["error"], ["error"], ["result"]]


@pytest.mark.parametrize(
    "options", [("--noise", "2000000"), ("--early", "Listening on port 3000"), ("--early", "{}")]
)
def test_a_server_that_talks_before_it_is_asked_is_used_all_the_same(
    options: tuple[str, str], root: Caller, start: Path
) -> None:
    with serving(root, [Entry("awkward", (*PYTHON, str(start), *options), rules=RULES)], "early") as gateway:
        session = Session(gateway.port, "/servers/awkward/mcp")
        assert text(session.call("erroneous")) == "wrong"
        session.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [(("--silent",), "5"), (("--exit", "7"), "status 7"), (("--describe", "Now it says something else."), "echo")],
    ids=str,
)
def test_a_server_that_is_not_what_was_pinned_is_refused_with_the_reason(
    options: tuple[str, ...], why: str, root: Caller, start: Path
) -> None:
    """It was pinned as it should be, and then its command changed."""
    entry = Entry("awkward", (*PYTHON, str(start)), rules=RULES)
    made = Gateway(root, [entry], "changed")
    made.write()
    made.pin()
    command = made.config.read_text(encoding="utf-8")
    words = ", ".join(f'"{word}"' for word in options)
    made.config.write_text(command.replace('start.py"]', f'start.py", {words}]'), encoding="utf-8")
    try:
        made.start()
        session = Session(made.port, "/mcp")
        began = time.monotonic()
        said = text(session.call("awkward__tiny"))
        assert said.startswith("error: ")
        assert why in said
        assert time.monotonic() - began < SOON
        session.close()
    finally:
        made.close()


@pytest.mark.parametrize("option", ["--ignore-eof", "--ignore-term"])
def test_a_server_that_does_not_want_to_end_is_ended(option: str, root: Caller, start: Path) -> None:
    with serving(root, [Entry("awkward", (*PYTHON, str(start), option), rules=RULES)], "stubborn") as gateway:
        session = Session(gateway.port, "/mcp")
        assert text(session.call("awkward__erroneous")) == "wrong"
        assert session.close() in {200, 202, 204}
        deadline = time.monotonic() + SOON
        while processes(start):
            assert time.monotonic() < deadline, "it still runs"
            time.sleep(0.05)
