"""Policies one by one: where each begins, what it is about, and what is no policy."""

from __future__ import annotations

import pytest

from supervisor.errors import ConfigError
from supervisor.roles import statements

TEXT = """// a comment; with a semicolon
@id("one")
permit(principal == User::"a;b", action, resource)
when { "// no comment" == "x" }; permit(principal, action in Action::"use", resource in Server::"s");


  forbid(principal, action in [Action::"open", Action::"call"], resource is Tool in Server::"t")
unless { resource in [Tool::"t/x"] || principal in Group::"g" };
"""


def test_each_policy_has_the_line_on_which_it_begins() -> None:
    found = statements.split(TEXT, "f")
    assert [(each.statement.origin, each.statement.label) for each in found] == [
        ("f:2", "one"),
        ("f:4", ""),
        ("f:7", ""),
    ]
    assert found[0].entities == {("User", "a;b")}
    assert found[1].actions == {"list", "call", "read"}
    assert found[2].actions == {"open", "call"}
    assert found[2].resource == ("Server", "t")
    assert {("Tool", "t/x"), ("Group", "g")} <= found[2].entities
    assert [each.concerns("s") for each in found] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\npermit(principal, action, resource)", "f:3: not a Cedar policy"),
        ("permit(principal, action, resource);\npermit(;", "f:2: not a Cedar policy"),
        ('permit(principal, action, resource) when { "open };', "f:1: not a Cedar policy"),
        ("permit(principal == ?principal, action, resource);", "f:1: not one policy"),
        (";", "f:1: not a Cedar policy"),
        (
            "permit(principal, action, resource) when { context == {} };",
            "f:1: context is looked at as context.NAME",
        ),
        (
            "permit(principal, action, resource) when { context.text == {} };",
            "f:1: context.text is looked at as context.text.NAME",
        ),
    ],
)
def test_what_is_no_policy_is_named_by_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        statements.split(text, "f")
    assert str(error.value).startswith(said)


def test_what_hangs_on_a_call_is_told_from_what_does_not() -> None:
    cases = {
        "context.readOnly": (False, set()),
        'context.profile == "none"': (False, set()),
        "context.time.hour > 3": (True, set()),
        'context.text has a && context.text.a == "x"': (True, {("text", "a")}),
        'context["numbers"]["b"] > 1': (True, {("numbers", "b")}),
        'context.flags has "c d"': (True, {("flags", "c d")}),
    }
    for text, (dynamic, used) in cases.items():
        (found,) = statements.split(f"permit(principal, action, resource) when {{ {text} }};", "f")
        assert (found.dynamic, set(found.arguments)) == (dynamic, used), text
