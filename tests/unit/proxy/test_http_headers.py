"""Arguments that headers repeat: whoever routes by the header and whoever reads the body see one value."""

from __future__ import annotations

import json

import msgspec
import pytest

from supervisor.proxy.http_headers import compare_arguments

HEADER = b"mcp-param-n"


@pytest.mark.parametrize(
    ("value", "said", "agree"),
    [
        (9007199254740993, "9007199254740993", True),
        (9007199254740992, "9007199254740993", False),
        (5, "5.0", True),
        (0.1, "0.1", True),
        (5, "nan", False),
        (5, "sNaN", False),
        (5, "five", False),
        (5, "", False),
        (True, "true", True),
        (True, "1", False),
        ("5", "5", True),
    ],
)
def test_a_header_says_the_argument_to_the_last_digit(value: object, said: str, agree: bool) -> None:
    arguments = msgspec.Raw(json.dumps({"n": value}).encode())
    found = compare_arguments({HEADER: [said.encode()]}, {("n",): HEADER}, arguments)
    assert (found is None) is agree
