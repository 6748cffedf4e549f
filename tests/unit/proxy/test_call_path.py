"""The budget of one warm call (DESIGN, section 5): how much of our own code it crosses, there and back."""

from __future__ import annotations

import json
import os

import pytest

from tests.unit.audit.ledgers import place
from tests.unit.proxy.puppet import Json
from tests.unit.proxy.running import Running
from tests.unit.proxy.stand import modern

FILES, FUNCTIONS, FRAMES = 8, 45, 10
# and with its intent written down before it is forwarded; its outcome is, when its client has the answer. With the
# intent's acknowledgement come those of outcomes of calls before it: 55 functions are the call's own
AUDITED_FILES, AUDITED_FUNCTIONS, AUDITED_FRAMES = 14, 60, 10


def warm_call(params: Json, *functions: str, word: str = "") -> tuple[list[str], int]:
    """Every call of a function of ours during one warm tools/call, as file:function, and the deepest stack.

    Those of the turns of the loop in which the `functions` were called.
    """
    with Running("count", *([word] if word else [])) as front:
        front.hello()
        for number in range(3):
            front.ask(number, "tools/call", params)
            assert front.read()["id"] == number
        front.stdin.close()
        turns = json.loads(front.stderr.read().splitlines()[-1])
        assert front.process.wait(20) == 0
    last: list[Json] = []
    for function in functions:
        last.append([each for each in turns if function in each["calls"]][-1])
    return [call for each in last for call in each["calls"]], max(each["deepest"] for each in last)


CALL: Json = {"name": "a__echo", "arguments": {"text": "hello"}}


@pytest.mark.parametrize("word", ["", "governed"])
@pytest.mark.parametrize("params", [CALL, modern(CALL), CALL | {"_meta": {"progressToken": 1}}])
def test_a_warm_call_stays_within_its_budget(params: Json, word: str) -> None:
    calls, deepest = warm_call(params, "calls.py:Call.go", "calls.py:Call.answered", word=word)
    assert {"lines.py:Reader.data_received", "instance.py:Instance.send", "stdio.py:Stdio.deliver"} <= set(calls)
    files = {each.split(":")[0] for each in calls}
    assert len(files) <= FILES, files
    assert len(calls) <= FUNCTIONS, calls
    assert deepest <= FRAMES


@pytest.mark.skipif(os.geteuid() != 0, reason="the ledger's own uid needs root")
def test_a_warm_call_that_is_written_down_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    with place() as made:
        monkeypatch.setenv("LOGS_DIRECTORY", str(made.root.parent))
        turns = ("auditing.py:Audit.intend", "calls.py:Call.go", "calls.py:Call.answered")
        calls, deepest = warm_call(CALL, *turns, word="audit")
    assert "record.py:short_intent" in calls
    assert "record.py:short_outcome" not in calls
    files = {each.split(":")[0] for each in calls}
    assert len(files) <= AUDITED_FILES, files
    assert len(calls) <= AUDITED_FUNCTIONS, calls
    assert deepest <= AUDITED_FRAMES
