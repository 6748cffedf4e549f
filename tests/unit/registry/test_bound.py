"""Which files of a command an approval binds, and what it says where it binds none."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from supervisor.model import Registered
from supervisor.profile import toml
from supervisor.profile.entry import ServerEntry
from supervisor.registry import approvals, bindings, policies
from supervisor.registry.planner import answer


def planned(folder: Path, *commands: list[str]) -> list[Registered]:
    path = folder / "servers.toml"
    text = "[approvals]\nrequired = true\n"
    for name, command in zip("ab", commands, strict=False):
        text += f'[server.{name}]\nprofile = "none"\nro = ["{folder}/app"]\ncommand = {json.dumps(command)}\n'
    path.write_text(text)
    found = answer({"catalog": str(path)}, policies.govern)
    assert not found.error, found.error
    return list(found.servers)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app" / "lib").mkdir(parents=True)
    for name in ("__main__.py", "lib/main.js", "hook.js", "data.txt"):
        (tmp_path / "app" / name).write_text("as it was")
    (tmp_path / "app" / "package.json").write_text('{"main": "lib/main"}')
    return tmp_path / "app"


@pytest.mark.parametrize("changed", ["__main__.py", "lib/main.js", "package.json"])
def test_what_a_folder_is_started_by_is_bound(app: Path, changed: str) -> None:
    command = ["/usr/bin/python3", "-IS", str(app)]
    before = planned(app.parent, command)[0].approval
    assert planned(app.parent, command)[0].approval == before
    (app / changed).write_text("{}")
    assert planned(app.parent, command)[0].approval != before


def binds(app: Path, *words: str, more: str = "") -> tuple[set[str], str]:
    """The files that an approval of this command binds, and what it says that it does not."""
    made = [each.format(app=app) for each in words]
    path = app.parent / "servers.toml"
    path.write_text(
        f'[approvals]\nrequired = true\n[server.a]\nprofile = "none"\ncommand = {json.dumps(made)}\n'
        f'ro = ["{app}", "{app}:/elsewhere"]\n{more}'
    )
    found = answer({"catalog": str(path)}, policies.govern)
    assert not found.error, found.error
    bound = toml.decoded(found.servers[0].bound, approvals.Bound)
    said = [each for each in bound.touches if each.startswith(bindings.UNBOUND)]
    return set(bound.files), "".join(said)


@pytest.mark.parametrize("option", ["--require={app}/hook.js", "-r{app}/hook.js", "-I/elsewhere/hook.js"])
def test_a_file_behind_an_option_is_bound(app: Path, option: str) -> None:
    assert str(app / "hook.js") in binds(app, "/usr/bin/python3", option, "{app}/__main__.py")[0]


@pytest.mark.parametrize(
    "words",
    [
        ("/usr/bin/python3", "/elsewhere/__main__.py"),
        ("/usr/bin/python3", "/elsewhere"),
        ("/usr/bin/env", "python3", "{app}"),
        ("/usr/bin/env", "-i", "A=1", "python3", "{app}/__main__.py"),
        ("/usr/bin/env", "env", "python3", "/elsewhere/"),
    ],
)
def test_the_script_that_is_really_run_is_bound(app: Path, words: tuple[str, ...]) -> None:
    files, said = binds(app, *words)
    assert (str(app / "__main__.py") in files, said) == (True, "")
    assert os.path.realpath("/usr/bin/python3") in files
    assert not any(each.startswith("/elsewhere") for each in files)


def test_a_relative_script_is_bound_where_the_command_starts(app: Path) -> None:
    """The working folder of a sandbox is the registry's, where that is shown."""
    spec = answer({"catalog": str(registry(app, "ro"))}, policies.govern).servers[0].plan.spec
    for cwd, words, bound in (
        (str(app), ("/usr/bin/python3", "__main__.py"), True),
        (str(app.parent), ("/usr/bin/python3", "app/__main__.py"), True),
        (str(app.parent), ("/usr/bin/env", "python3", "./app"), True),
        ("/elsewhere", ("/usr/bin/python3", "__main__.py"), False),
        ("/tmp", ("/usr/bin/python3", "__main__.py"), False),
    ):
        entry = toml.made({"name": "a", "command": words, "origin": "x", "profile": "none"}, ServerEntry)
        found = bindings.Binding(entry, spec.model_copy(update={"cwd": cwd, "argv": words}))
        assert (str(app / "__main__.py") in found.files()) == bound, (cwd, words)
        assert bool(list(found.unbound())) != bound, (cwd, words)


def test_a_relative_file_behind_an_option_is_bound(app: Path) -> None:
    spec = answer({"catalog": str(registry(app, "ro"))}, policies.govern).servers[0].plan.spec
    words = ("/usr/bin/node", "--require=./hook.js", "lib/main.js")
    entry = toml.made({"name": "a", "command": words, "origin": "x", "profile": "none"}, ServerEntry)
    found = bindings.Binding(entry, spec.model_copy(update={"cwd": str(app), "argv": words})).files()
    assert {str(app / "hook.js"), str(app / "lib/main.js")} <= set(found)


@pytest.mark.parametrize("first", ["/usr/bin/env python3", "/usr/bin/env -S python3 -u", "/usr/bin/python3 -u"])
def test_the_interpreter_of_a_script_is_bound_with_it(app: Path, first: str) -> None:
    script = app / "tool"
    script.write_text(f"#!{first}\n")
    script.chmod(0o755)
    files, said = binds(app, "{app}/tool")
    assert {str(script), os.path.realpath("/usr/bin/python3")} <= files
    assert said == ""


def test_a_name_that_is_no_text_holds_its_own_server_and_no_other(app: Path) -> None:
    (app / "package.json").write_text('{"main": "\\ud800"}')
    odd = os.fsencode(app) + b"/\xff.js"
    with open(odd, "wb"):
        pass
    (app / "index.js").symlink_to(os.fsdecode(odd))
    (app / "hook.js").write_bytes(b"#!/usr/bin/\xff\n")
    mine, other = ["/usr/bin/python3", str(app)], ["/usr/bin/sh", str(app / "hook.js")]
    servers = planned(app.parent, mine, other)
    assert "its name is not UTF-8" in servers[0].held
    assert len(servers[1].approval) == 12


def registry(app: Path, mode: str) -> Path:
    path = app.parent / "servers.toml"
    path.write_text(
        f'[approvals]\nrequired = true\n[server.a]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n'
        f'{mode} = ["{app.parent}"]\n'
    )
    return path


def test_a_link_that_leads_elsewhere_inside_binds_nothing_outside(app: Path) -> None:
    (app.parent / "outside.py").write_text("as it was")
    (app / "linked.py").symlink_to(app.parent / "outside.py")
    files, said = binds(app, "/usr/bin/python3", "/elsewhere/linked.py")
    assert str(app.parent / "outside.py") not in files
    assert bindings.UNBOUND in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("/usr/bin/python3", "-m", "json"), True),
        (("/usr/bin/python3", "-I", "-c", "pass", "/etc/passwd"), True),
        (("/usr/bin/python3", "missing.py"), True),
        (("/usr/bin/env", "python3", "-m", "json"), True),
        (("/usr/bin/env", "-S", "python3 {app}/__main__.py"), True),
        (("/usr/bin/env", "no-such-program"), True),
        (("/usr/bin/timeout", "5", "python3", "{app}/__main__.py"), True),
        (("/usr/bin/nice", "{app}/hook.js"), True),
        (("/usr/bin/python3", "-mjson", "{app}/__main__.py"), True),
        (("/usr/bin/python3", "-Imjson", "{app}/__main__.py"), True),
        (("/usr/bin/python3", "-cimport json\nimport os", "{app}/__main__.py"), True),
        (("/usr/bin/python3", "-Werror", "-Xdev", "-bb", "{app}/__main__.py"), False),
        (("/usr/bin/perl", "-Mstrict", "{app}/hook.js"), True),
        (("/usr/bin/perl", "-weprint 1", "{app}/hook.js"), True),
        (("/usr/bin/perl", "-w", "-I/srv/lib", "{app}/hook.js"), False),
        (("/usr/bin/node", "--eval=1", "{app}/hook.js"), True),
        (("/usr/bin/node", "--import=data:text/javascript,1", "{app}/hook.js"), True),
        (("/usr/bin/node", "--require={app}/hook.js", "{app}/lib/main.js"), False),
        (("/usr/bin/make", "{app}/data.txt"), True),
        (("/usr/bin/sh", "-e", "{app}/hook.js", "-c"), False),
        (("/usr/bin/sh", "-ec", "exec cat"), True),
        (("/usr/bin/cat",), False),
        (("/usr/bin/env", "cat"), False),
        (("/usr/bin/sh", "-e", "{app}/hook.js"), False),
        (("/usr/bin/python3", "-IS", "{app}"), False),
    ],
)
def test_it_is_said_when_no_script_is_bound(app: Path, words: tuple[str, ...], *, said: bool) -> None:
    assert bool(binds(app, *words)[1]) == said


def test_a_program_that_its_owner_keeps_shut_or_makes_huge_holds_its_own_server_at_once(app: Path) -> None:
    program = app / "__main__.py"
    mine, other = ["/usr/bin/python3", "-IS", str(program)], ["/usr/bin/cat"]
    fd, before = os.open(program, os.O_RDWR), signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        servers = planned(app.parent, mine, other)
        assert servers[0].held == f"{program}: somebody holds a lease on it"
        assert (servers[0].approval, len(servers[1].approval)) == ("", 12)
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    os.truncate(program, (256 << 20) + 1)
    servers = planned(app.parent, mine, other)
    assert "at most 256 MiB" in servers[0].held
    assert len(servers[1].approval) == 12
