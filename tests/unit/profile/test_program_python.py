"""What is shown of a host for a Python program: environments, editable installs, user packages, pyenv."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.profile.program import resolve

if TYPE_CHECKING:
    from tests.unit.profile.conftest import Host


# -- virtual environments


def test_a_venv_of_the_system_python_is_shown_alone(host: Host) -> None:
    python = host.venv(host.cwd / ".venv", host.usr / "bin/python3")
    program = host.resolve(".venv/bin/python", "-m", "mcp_server_git")
    assert program.argv == (str(python), "-m", "mcp_server_git")
    assert program.path == (str(python.parent),)
    assert host.trees(".venv/bin/python") == ["home/u/proj/.venv"]


def test_a_venv_brings_the_prefix_of_its_base(host: Host) -> None:
    base = host.python(host.home / ".pyenv/versions/3.11.7")
    python = host.venv(host.cwd / ".venv", base)
    script = host.script(host.cwd / ".venv/bin/srv", str(python))
    assert host.resolve(script).argv == (str(script),)
    assert host.trees(script) == ["home/u/.pyenv/versions/3.11.7", "home/u/proj/.venv"]


def test_a_link_to_a_folder_that_other_links_name_is_shown_under_both_names(host: Host) -> None:
    host.python(host.home / ".local/share/uv/python/cpython-3.11.9")
    minor = host.link(host.home / ".local/share/uv/python/cpython-3.11", "cpython-3.11.9")
    python = host.venv(host.cwd / ".venv", minor / "bin/python3.11")
    assert host.resolve(python).argv == (str(python),)
    assert host.trees(python) == [
        "home/u/.local/share/uv/python/cpython-3.11",
        "home/u/.local/share/uv/python/cpython-3.11.9",
        "home/u/proj/.venv",
    ]


def test_a_tool_linked_into_the_local_bin_runs_from_its_environment(host: Host) -> None:
    tool = host.home / ".local/share/uv/tools/srv"
    python = host.venv(tool, host.usr / "bin/python3")
    script = host.script(tool / "bin/srv", str(python))
    host.link(host.home / ".local/bin/srv", script)
    program = host.resolve("srv", search_path=f"{host.home}/.local/bin:{host.search_path}")
    assert program.argv == (str(script),)
    assert host.trees(script) == ["home/u/.local/share/uv/tools/srv"]


def test_a_script_behind_a_shell_line_brings_its_environment(host: Host) -> None:
    base = host.python(host.top / "opt/py")
    host.venv(host.cwd / ".venv", base)
    script = host.script(host.cwd / ".venv/bin/srv", "/bin/sh")
    assert host.trees(script) == ["home/u/proj/.venv", "opt/py"]


def test_a_home_that_is_no_python_is_not_shown(host: Host) -> None:
    host.write(host.home / "secrets/key")
    for claim in (host.home / "secrets/bin", "", "relative/bin", "/"):
        host.write(host.cwd / ".venv/pyvenv.cfg", f"home = {claim}\n")
        host.binary(host.cwd / ".venv/bin/python")
        with pytest.raises(ConfigError, match=r"pyvenv\.cfg: home"):
            host.resolve(".venv/bin/python")


def test_a_huge_pyvenv_cfg_is_read_in_part(host: Host) -> None:
    host.venv(host.cwd / ".venv", host.usr / "bin/python3")
    with (host.cwd / ".venv/pyvenv.cfg").open("ab") as file:
        file.truncate(1 << 40)
    assert host.trees(".venv/bin/python") == ["home/u/proj/.venv"]


def test_a_prefix_that_is_the_home_is_refused_with_the_next_step(host: Host) -> None:
    host.python(host.home)
    host.python(host.home / ".local")
    for prefix in (host.home, host.home / ".local"):
        with pytest.raises(Refused, match="folder of its own"):
            host.resolve(prefix / "bin/python3")


def test_the_source_of_an_editable_install_is_shown_if_it_is_a_project(host: Host) -> None:
    site = host.cwd / ".venv/lib/python3.11/site-packages"
    host.venv(host.cwd / ".venv", host.usr / "bin/python3")
    host.write(host.home / "src/a/pyproject.toml")
    host.write(host.home / "src/a/src/a/__init__.py")
    host.write(host.home / "src/b/setup.py")
    host.write(host.home / "src/b/b/__init__.py")
    host.write(host.home / ".ssh/id")
    host.write(host.home / "documents/x")
    host.write(host.home / "pyproject.toml")
    lines = ("# x", "import os; os.abort()", host.home / "src/a/src", host.home / ".ssh", host.home, "/", "/etc")
    host.write(site / "a.pth", "\n".join(map(str, [*lines, host.home / "documents"])))
    mapping = {"b": str(host.home / "src/b/b")}
    host.write(site / "__editable___b_finder.py", f"import x\nMAPPING: dict[str, str] = {mapping}\n")
    program = host.resolve(".venv/bin/python")
    assert host.trees(".venv/bin/python") == ["home/u/proj/.venv", "home/u/src/a/src", "home/u/src/b/b"]
    assert "editable" in next(tree.why for tree in program.trees if tree.path.endswith("/src"))


# -- python's own look-ups


def test_the_users_packages_are_shown_to_a_system_python_that_would_look(host: Host) -> None:
    host.write(host.home / ".local/lib/python3.11/site-packages/mcp_server_git/__init__.py")
    site = "home/u/.local/lib/python3.11/site-packages"
    assert host.trees("python3", "-m", "mcp_server_git") == [site]
    assert dict(host.resolve("python3", "-m", "x").env) == {"PYTHONUSERBASE": f"{host.home}/.local"}
    assert host.trees("python3", "-I", "-m", "x") == host.trees("python3", "-us", "-m", "x") == []
    script = host.script(host.home / ".local/bin/srv", f"{host.usr}/bin/python3")
    assert host.trees(script) == ["home/u/.local/bin/srv", site]
    host.script(script, f"{host.usr}/bin/python3 -sP")
    assert host.trees(script, "-x") == ["home/u/.local/bin/srv"]
    assert host.trees(host.venv(host.cwd / "v", host.usr / "bin/python3")) == ["home/u/proj/v"]
    assert site in host.trees(host.venv(host.cwd / "w", host.usr / "bin/python3", site="true"))


def test_a_module_in_the_callers_folder_is_shown_alone(host: Host) -> None:
    host.write(host.cwd / "srv/__init__.py")
    host.write(host.cwd / "one.py")
    host.write(host.cwd / "data/x")
    program = host.resolve("python3", "-um", "srv.main", "--x")
    assert program.argv[1:] == ("-um", "srv.main", "--x")
    assert dict(program.env) == {"PYTHONPATH": str(host.cwd)}
    assert host.trees("python3", "-m", "srv.main") == ["home/u/proj/srv"]
    assert host.trees("python3", "-m", "one") == ["home/u/proj/one.py"]
    for name in ("data", "../proj/srv", ""):
        assert host.trees("python3", "-m", name) == []
    assert host.trees("python3", "-m") == host.trees("python3", "-I", "-m", "srv") == []


def test_a_script_argument_is_made_absolute_and_shown_with_its_folder(host: Host) -> None:
    server = host.write(host.cwd / "src/server.py")
    program = host.resolve("python3", "-u", "-W", "ignore", "src/server.py", "src/server.py")
    assert program.argv[1:] == ("-u", "-W", "ignore", str(server), "src/server.py")
    assert host.trees("python3", "src/server.py") == ["home/u/proj/src"]
    assert host.trees("python3", "-c", "src/server.py") == []
    assert host.trees("python3", "-", "src/server.py") == []
    host.write(host.cwd / "x.sh")
    assert host.trees("bash", "-e", "x.sh") == ["home/u/proj/x.sh"]
    host.write(host.cwd / "app/__main__.py")
    assert host.resolve("python3", "app").argv[1] == str(host.cwd / "app")


def test_the_file_argument_of_another_program_is_data(host: Host) -> None:
    host.write(host.cwd / "notes.txt")
    host.binary(host.usr / "bin/tool")
    assert host.resolve("tool", "notes.txt").argv[1:] == ("notes.txt",)
    assert host.trees("tool", "notes.txt") == []


# -- pyenv


@pytest.fixture
def shims(host: Host) -> str:
    root = host.home / ".pyenv"
    for version in ("3.9.18", "3.11.7", "3.11.10"):
        host.python(root / "versions" / version, version.rpartition(".")[0])
    text = f'#!/usr/bin/env bash\nexec "{root}/libexec/pyenv" exec "$program" "$@"\n'
    host.write(root / "shims/python", text, 0o755)
    host.write(root / "version", "3.9.18\n")
    return f"{root}/shims:{host.search_path}"


def test_a_pyenv_shim_is_resolved_by_the_version_in_force(host: Host, shims: str) -> None:
    def version(**more: str) -> str:
        (tree,) = host.trees("python", search_path=shims, **more)
        return tree.removeprefix("home/u/.pyenv/versions/")

    assert version() == "3.9.18"
    host.write(host.home / ".python-version", "3.11\n")
    assert version() == "3.11.10"
    host.write(host.cwd / ".python-version", "nope:3.11.7\n")
    assert version() == "3.11.7"
    assert version(pyenv_version="3.9") == "3.9.18"
    host.script(host.cwd / "run", "/usr/bin/env python")
    program = host.resolve("./run", search_path=shims)
    assert program.argv == (str(host.cwd / "run"),)
    assert program.path == (f"{host.home}/.pyenv/versions/3.11.7/bin",)


def test_a_pyenv_shim_for_the_system_finds_the_next_in_path(host: Host, shims: str) -> None:
    host.link(host.usr / "bin/python", "python3")
    assert host.trees("python", search_path=shims, pyenv_version="system") == []


def test_a_shim_that_leads_nowhere_asks_for_the_real_program(host: Host, shims: str) -> None:
    for version in ("9.9", "../../x", "..", "/"):
        with pytest.raises(ConfigError, match="`pyenv which python`"):
            host.resolve("python", search_path=shims, pyenv_version=version)
    host.link(host.home / ".volta/bin/npx-like", host.binary(host.home / ".volta/bin/volta-shim"))
    with pytest.raises(ConfigError, match="`volta which npx-like`"):
        host.resolve(host.home / ".volta/bin/npx-like")


def test_a_real_environment_imports_nothing_from_outside_its_trees(host: Host) -> None:
    venv = host.top / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    home = os.path.expanduser("~")
    program = resolve([str(venv / "bin/python"), "-c", "x"], cwd="/", search_path="/usr/bin:/bin", home=home)
    assert program.argv[0] == str(venv / "bin/python")
    assert host.suffices(program, ("/usr", "/lib", "/bin"))
    code = (
        "import sys, ssl, json, asyncio, sqlite3; print(sys.prefix, sys.base_prefix, sys.executable, "
        "*(m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)))"
    )
    done = subprocess.run([program.argv[0], "-c", code], capture_output=True, text=True, check=True, env={})
    roots = ["/usr", "/lib", *(tree.path for tree in program.trees)]
    assert str(venv) in done.stdout.split()[:1]
    for path in done.stdout.split():
        assert any(path == root or path.startswith(root + "/") for root in roots), path
    assert not any(f"{home}/".startswith(tree.path + "/") for tree in program.trees)
