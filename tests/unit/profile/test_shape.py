"""TOML that a stranger may have written: refused by file and line before what would take long is parsed."""

from __future__ import annotations

import time
import tomllib

import pytest
from hypothesis import given as supposing
from hypothesis import settings, strategies

from supervisor.cli import vault
from supervisor.errors import ConfigError
from supervisor.profile import shape, toml

DEEP = b"a." * 4000 + b"a = 1\n"
# what hides a key from whoever reads texts line by line
HIDING = [
    b"DEEP",
    b'x = """\n"""\nDEEP',
    b"x = '''\n'''''\nDEEP",
    b'x = [ """\n""", {DEEP}, """\n""" ]',
    b'x = "\\"" # "\nDEEP',
    b"x = '\\'\nDEEP",
    b"[DEEP]",
    b'"a.b" . DEEP',
]


@pytest.mark.parametrize("text", HIDING)
def test_a_key_that_is_too_deep_is_refused_by_its_line(text: bytes) -> None:
    data = b"# one\n" + text.replace(b"DEEP", DEEP[:400])
    line = next(number for number, each in enumerate(data.split(b"\n"), 1) if b"a.a.a." in each)
    with pytest.raises(ConfigError, match=rf"^f\.toml:{line}: .* too deep a key$"):
        toml.parse("f.toml", data)


def test_a_megabyte_of_them_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(b"x%d." % number + DEEP for number in range(130))
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("it was parsed"))
    before = time.process_time()
    with pytest.raises(ConfigError):
        toml.parse("f.toml", data)
    assert vault._named("f.toml", b"# secrets\n" + data) == set()
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    "text",
    [
        'x = """\n' + "." * 200 + '\n"""',
        "# " + "a." * 200,
        "x = [" + '"example.com", ' * 50 + "]",
        "x = 'a.b.c.d.e.f.g" + ".h" * 100 + "'",
        "a.b.c.d.e.f = 1",
        'x = """""a."""""\ny = 1.0',
    ],
)
def test_what_stands_in_texts_and_comments_is_no_key(text: str) -> None:
    assert toml.parse("f.toml", text.encode()).data == tomllib.loads(text)


PIECES = ["a", "a.b", "=", "=1", "\n", '"', '""', '"""', "'", "''", "'''", "{", "}", "[", "]", ",", "#", "\\", "."]


@settings(max_examples=2000)
@supposing(strategies.lists(strategies.sampled_from(PIECES), max_size=14).map("".join))
def test_what_tomllib_reads_as_keys_is_never_taken_for_a_text(text: str) -> None:
    try:
        found = tomllib.loads(text)
    except ValueError:
        return
    bare = shape._QUOTED.sub(shape._lines, text)
    assert bare.count("\n") == text.count("\n")
    # nothing else begins a table
    assert sum(bare.count(each) for each in ".[{") >= _deepest(found) - 1


def _deepest(data: object) -> int:
    """How many tables lie in each other."""
    if not isinstance(data, dict) or not data:
        return 0
    return max(1 + _deepest(each) for each in data.values())
