"""The difference of two profiles, in words."""

from __future__ import annotations

import pytest

from supervisor.profile import diff, load


def compare(old: str, new: str) -> list[tuple[str, str]]:
    return diff.compare(load.load(old).profile, load.load(new).profile)


@pytest.mark.parametrize("name", load.names())
def test_a_profile_does_not_differ_from_itself(name: str) -> None:
    assert compare(name, name) == []


@pytest.mark.parametrize("name", [name for name in load.names() if name != "none"])
def test_every_profile_only_adds_to_the_floor(name: str) -> None:
    signs = {sign for sign, _ in compare("none", name)}
    assert signs <= {"+"}


def test_the_words_name_the_grant() -> None:
    rows = compare("none", "fs-readonly")
    assert ("+", "read ${root} at /data") in [(sign, said.split(",")[0]) for sign, said in rows]


def test_both_directions_mirror_each_other() -> None:
    there, back = compare("fs-scoped", "ci-runner"), compare("ci-runner", "fs-scoped")
    assert len(there) == len(back)
    assert ("+", "4096 instead of 512 MiB of memory") in there
    assert ("-", "512 instead of 4096 MiB of memory") in back
    assert ("+", "call statfs") in there


def test_explain_shows_the_same_difference(capsys: pytest.CaptureFixture[str]) -> None:
    from supervisor.cli import inspect, options

    asked = options.parser().parse_args(["explain", "--profile", "fs-readonly", "--diff", "none"])
    assert inspect.explain(asked, []) == 0
    assert capsys.readouterr().out.startswith("+ read ${root} at /data\n")
