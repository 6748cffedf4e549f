"""Patterns on names: what decides, and where that stands."""

from __future__ import annotations

import pytest

from supervisor.proxy.policy import Pattern, Patterns

PLACE = "servers.toml:1"


def patterns(allow: str = "", deny: str = "") -> Patterns:
    def made(text: str, line: int) -> tuple[Pattern, ...]:
        return tuple(Pattern(each, f"servers.toml:{line}") for each in text.split())

    return Patterns(made(allow, 2), made(deny, 3))


@pytest.mark.parametrize(
    ("allow", "deny", "name", "outcome", "source"),
    [
        ("", "", "anything", "allow", PLACE),
        ("read_*", "", "read_file", "allow", "servers.toml:2"),
        ("read_*", "", "write_file", "deny", "servers.toml:2"),
        ("", "write_*", "write_file", "deny", "servers.toml:3"),
        ("", "write_*", "read_file", "allow", PLACE),
        ("*", "write_*", "write_file", "deny", "servers.toml:3"),
        ("read_file", "", "READ_FILE", "deny", "servers.toml:2"),
        ("read_file", "", "read_file\n", "deny", "servers.toml:2"),
        ("a*b", "", "a\nb", "allow", "servers.toml:2"),
        ("[ab]c", "", "ac", "allow", "servers.toml:2"),
    ],
)
def test_deny_goes_before_allow_and_the_rule_is_named(
    allow: str, deny: str, name: str, outcome: str, source: str
) -> None:
    verdict = patterns(allow, deny).verdict("tools", name, PLACE)
    assert (verdict.outcome, verdict.source) == (outcome, source)
    if outcome == "deny":
        assert verdict.reason.startswith(source)
        assert f'"{name}"' in verdict.reason


def test_a_name_cannot_make_a_pattern_take_long() -> None:
    hostile = patterns("*a*a*a*a*a*a*a*a*a*a*b")
    assert hostile.verdict("tools", "a" * 100_000, PLACE).outcome == "deny"
