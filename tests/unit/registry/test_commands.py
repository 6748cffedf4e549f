"""A command line from one folder, made to mean the same from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.registry import commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data/a.txt", "server.py", "bin/tool"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("server.py", "{}/server.py"),
        ("data/a.txt", "{}/data/a.txt"),
        ("./data", "{}/data"),
        (".", "{}"),
        ("--root=./data", "--root={}/data"),
        ("--root=data/a.txt", "--root={}/data/a.txt"),
        # a word is no path, and a path that is not there no file
        ("data", "data"),
        ("--root=data", "--root=data"),
        ("other.py", "other.py"),
        ("no/such", "no/such"),
        ("-x", "-x"),
        ("--flag/odd", "--flag/odd"),
        ("", ""),
        ("https://example.com/data/a.txt", "https://example.com/data/a.txt"),
        ("/usr/bin", "/usr/bin"),
    ],
)
def test_an_argument_that_names_a_file_is_made_absolute(word: str, meant: str, folder: Path) -> None:
    assert commands.argument(word, str(folder)) == meant.format(folder)


def test_a_program_is_named_as_the_registry_finds_it(folder: Path) -> None:
    search = f"{folder}/bin:/usr/bin"
    assert commands.program("tool", "/", search) == f"{folder}/bin/tool"
    assert commands.program("bin/tool", str(folder), search) == f"{folder}/bin/tool"
    assert commands.program("../bin/tool", str(folder / "data"), search) == f"{folder}/bin/tool"
    assert commands.program("env", "/", search) == "env"
    assert commands.program("no-such-tool", "/", search) == "no-such-tool"


@pytest.mark.parametrize(
    ("argv", "own"),
    [
        (["/usr/bin/tool", "-x", "y"], 1),
        (["node", "server.js", "y"], 2),
        (["python3.11", "-u", "server.py", "y"], 3),
        (["python3", "-m", "pkg", "y"], 3),
        (["node", "--require", "x.js", "server.js", "y"], 4),
        (["deno", "run", "server.ts", "y"], 3),
        (["bash"], 1),
    ],
)
def test_the_program_ends_where_its_arguments_begin(argv: list[str], own: int) -> None:
    assert commands.own_words(argv) == own


@pytest.mark.parametrize(
    ("word", "rules"),
    [
        ("https://example.com", ["example.com:443"]),
        ("--url=https://example.com:8443/x", ["example.com:8443"]),
        ("http://example.com", ["example.com:80"]),
        ("ws://example.com:9", ["http:example.com:9"]),
        ("redis://example.com", ["tcp:example.com:6379"]),
        ("https://[2001:db8::1]:444/", ["[2001:db8::1]:444"]),
        ("http://192.0.2.1", ["192.0.2.1:80"]),
        ("https://a.example.com https://b.example.com", ["a.example.com:443", "b.example.com:443"]),
        ("file:///etc/passwd", []),
        ("https://example.com:port", []),
        ("text", []),
    ],
)
def test_an_address_is_what_a_profile_would_have_to_allow(word: str, rules: list[str]) -> None:
    assert commands.reach(word) == rules
