"""The budget of one warm call (DESIGN, section 5): how much of our own code it crosses, there and back."""

from __future__ import annotations

import json

import pytest

from tests.unit.proxy.puppet import Json
from tests.unit.proxy.running import Running
from tests.unit.proxy.stand import modern

FILES, FUNCTIONS, FRAMES = 8, 45, 10


def warm_call(params: Json, *words: str) -> tuple[list[str], int]:
    """Every call of a function of ours during one warm tools/call, as file:function, and the deepest stack."""
    with Running("count", *words) as front:
        front.hello()
        for number in range(3):
            front.ask(number, "tools/call", params)
            assert front.read()["id"] == number
        front.stdin.close()
        turns = json.loads(front.stderr.read().splitlines()[-1])
        assert front.process.wait(20) == 0
    last: list[Json] = []
    for function in ("calls.py:Call.go", "calls.py:Call.answered"):
        last.append([each for each in turns if function in each["calls"]][-1])
    return last[0]["calls"] + last[1]["calls"], max(each["deepest"] for each in last)


CALL: Json = {"name": "a__echo", "arguments": {"text": "hello"}}


@pytest.mark.parametrize("words", [(), ("governed",)])
@pytest.mark.parametrize("params", [CALL, modern(CALL), CALL | {"_meta": {"progressToken": 1}}])
def test_a_warm_call_stays_within_its_budget(params: Json, words: tuple[str, ...]) -> None:
    calls, deepest = warm_call(params, *words)
    assert {"lines.py:Reader.data_received", "instance.py:Instance.send", "stdio.py:Stdio.deliver"} <= set(calls)
    files = {each.split(":")[0] for each in calls}
    assert len(files) <= FILES, files
    assert len(calls) <= FUNCTIONS, calls
    assert deepest <= FRAMES
