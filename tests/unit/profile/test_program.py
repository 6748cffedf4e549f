"""What is shown of a host for a command: files, shebangs, what is missing, what is never shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import ConfigError, Refused

if TYPE_CHECKING:
    from tests.unit.profile.conftest import Host


CACHE = "/etc/ld.so.cache"


# -- plain files


def test_a_system_command_needs_no_tree(host: Host) -> None:
    program = host.resolve("node", "-e", "1")
    assert program.argv == (str(host.usr / "bin/node"), "-e", "1")
    assert [tree.path for tree in program.trees if tree.path != CACHE] == []


def test_a_binary_elsewhere_is_shown_alone_with_the_index_of_libraries(host: Host) -> None:
    tool = host.binary(host.home / "go/bin/tool")
    program = host.resolve(tool)
    assert [tree.path for tree in program.trees if tree.path != CACHE] == [str(tool)]
    assert all(tree.is_file for tree in program.trees)
    assert (CACHE in [tree.path for tree in program.trees]) == os.path.isfile(CACHE)


def test_a_script_in_the_home_gives_that_file_only(host: Host) -> None:
    for name in ("tool", "tool.py"):
        host.script(host.home / name, "/usr/bin/env python3")
        assert host.trees(host.home / name) == [f"home/u/{name}"]
        assert host.trees("python3", host.home / name) == [f"home/u/{name}"]


def test_a_link_to_a_file_is_followed_to_what_is_shown(host: Host) -> None:
    real = host.binary(host.top / "data/tool-1.2")
    link = host.link(host.home / "bin/tool", real)
    program = host.resolve(link)
    assert program.argv == (str(real),)


def test_a_system_link_through_a_folder_out_of_view_is_replaced_by_its_end(host: Host) -> None:
    host.link(host.top / "alternatives/java", host.binary(host.usr / "lib/jvm/bin/java"))
    host.link(host.usr / "bin/java", host.top / "alternatives/java")
    assert host.resolve("java", "-jar", "x.jar").argv[0] == str(host.usr / "lib/jvm/bin/java")


# -- shebangs


def test_the_kernel_and_env_do_the_lookup_where_it_ends_in_view(host: Host) -> None:
    script = host.script(host.cwd / "run", "/usr/bin/env node")
    assert host.resolve("./run", "x").argv == (str(script), "x")
    assert host.trees("./run") == ["home/u/proj/run"]


def test_env_with_options_finds_its_interpreter(host: Host) -> None:
    node = host.binary(host.home / "tools/node")
    script = host.script(host.cwd / "run", "/usr/bin/env -S A=1 node --no-warnings")
    program = host.resolve("./run", search_path=f"{node.parent}:{host.search_path}")
    assert program.argv == (str(script),)
    assert program.path == (str(node.parent),)
    assert str(node) in [tree.path for tree in program.trees]


def test_shebangs_may_nest_as_deep_as_the_kernel_allows(host: Host) -> None:
    path = host.usr / "bin/bash"
    for depth in range(5):
        path = host.script(host.cwd / f"s{depth}", str(path))
    assert len(host.trees(host.cwd / "s3")) == 4
    last = host.script(host.cwd / "s5", str(path))
    with pytest.raises(ConfigError, match="first line"):
        host.resolve(last)


def test_an_interpreter_behind_a_linked_folder_is_named_by_its_real_path(host: Host) -> None:
    python = host.venv(host.top / "data/venv", host.usr / "bin/python3")
    host.link(host.cwd / ".venv", host.top / "data/venv")
    script = host.script(host.top / "data/venv/bin/srv", str(host.cwd / ".venv/bin/python"))
    program = host.resolve(".venv/bin/srv", "x")
    assert program.argv == (str(python), str(script), "x")
    links = {tree.path: tree.source for tree in program.trees if tree.path != CACHE}
    assert links == {str(host.cwd / ".venv"): str(host.top / "data/venv")} | {
        str(host.top / "data/venv"): str(host.top / "data/venv")
    }


@pytest.mark.parametrize(
    "head",
    [
        b"#!", b"#!\n", b"#!" + b"/" + b"a" * 5000, b"#!/no/such\0\n", b"#!/usr/bin/env -S 'node\n",
        b"#!/usr/bin/env -S\n", b"#!/usr/bin/env -i\n", b"#!/no/such/\xff\xfe\n",
        b"#!/usr/bin/bash\r\n", b"#!relative\n",
    ],
)  # fmt: skip
def test_a_hostile_first_line_is_an_error_with_the_name_of_the_file(host: Host, head: bytes) -> None:
    script = host.write(host.cwd / "run", head, 0o755)
    with pytest.raises(ConfigError) as caught:
        host.resolve(script)
    assert str(script) in str(caught.value)
    assert str(caught.value).isprintable()


# -- what is missing


def test_a_missing_command_says_where_it_was_looked_for(host: Host) -> None:
    with pytest.raises(ConfigError, match=rf"'nope' was not found in PATH \({host.search_path}\)"):
        host.resolve("nope")
    with pytest.raises(ConfigError, match=f"not found at '{host.cwd}/x/nope'"):
        host.resolve("x/nope")
    with pytest.raises(ConfigError, match="no command"):
        host.resolve("")
    with pytest.raises(ConfigError, match="no command"):
        host.resolve("node", "a\0b")


def test_a_file_that_cannot_be_executed_is_an_error_that_says_so(host: Host) -> None:
    host.write(host.cwd / "server.py")
    with pytest.raises(ConfigError, match=r"chmod \+x"):
        host.resolve("./server.py")
    with pytest.raises(ConfigError, match="not an executable"):
        host.resolve(host.cwd)


def test_a_missing_interpreter_is_an_error_that_names_the_script(host: Host) -> None:
    host.script(host.cwd / "run", "/usr/bin/env no-such-ruby")
    with pytest.raises(ConfigError, match=r"/run: the interpreter 'no-such-ruby' was not found"):
        host.resolve("./run")


def test_a_loop_of_links_is_an_error(host: Host) -> None:
    host.link(host.cwd / "a", "b")
    host.link(host.cwd / "b", "a")
    with pytest.raises(ConfigError, match="symbolic links"):
        host.resolve("./a")


def test_a_pipe_in_place_of_a_file_does_not_block(host: Host) -> None:
    os.mkfifo(host.cwd / "pyvenv.cfg")
    os.mkfifo(host.cwd / "package.json")
    host.write(host.cwd / "a.js")
    assert host.trees("node", "a.js") == ["home/u/proj"]


# -- what is never shown


@pytest.mark.parametrize("home", ["", "proj", "proj/src"])
def test_neither_a_home_nor_a_parent_of_one_is_ever_a_tree(host: Host, home: str) -> None:
    host.package(host.cwd, "app")
    host.write(host.cwd / "src/server.js")
    host.write(host.cwd / "src/server.py")
    where = os.path.normpath(host.home / home)
    for argv in (("node", "src/server.js"), ("python3", "src/server.py")):
        for tree in host.resolve(*argv, home=where).trees:
            assert tree.is_file or not f"{where}/".startswith(tree.path + "/")


def test_a_path_that_is_not_text_is_refused(host: Host) -> None:
    tool = os.fsdecode(os.fsencode(host.home) + b"/t\xff")
    host.binary(Path(tool))
    with pytest.raises(Refused, match="UTF-8"):
        host.resolve(tool)
