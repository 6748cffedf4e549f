"""Commands that would download: recognised, and answered with what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.errors import Refused

if TYPE_CHECKING:
    from tests.unit.profile.conftest import Host


@pytest.mark.parametrize(
    ("command", "first", "then"),
    [
        ("npx -y @modelcontextprotocol/server-filesystem /data",
         "npm install @modelcontextprotocol/server-filesystem",
         "node_modules/.bin/mcp-server-filesystem /data"),
        ("npx --yes srv@1.2 -v", "npm install srv@1.2", "node_modules/.bin/srv -v"),
        ("/usr/bin/npx -p pkg cmd x", "npm install pkg", "node_modules/.bin/cmd x"),
        ("npm exec --package=pkg -- cmd x", "npm install pkg", "node_modules/.bin/cmd x"),
        ("pnpm dlx srv", "pnpm add srv", "node_modules/.bin/srv"),
        ("yarn dlx srv", "yarn add srv", "node_modules/.bin/srv"),
        ("bunx srv", "bun add srv", "node_modules/.bin/srv"),
        ("uvx mcp-server-git@latest -r .", "bin/pip install mcp-server-git@latest",
         ".venv/bin/mcp-server-git -r ."),
        ("uvx --from git+https://h/x srv", "bin/pip install git+https://h/x", ".venv/bin/srv"),
        ("uv tool run srv", "bin/pip install srv", ".venv/bin/srv"),
        ("pipx run srv", "bin/pip install srv", ".venv/bin/srv"),
        ("uv --directory /p run s.py x", "uv sync --directory /p", "/p/.venv/bin/python /p/s.py x"),
        ("uv run --with mcp mcp run s.py", "uv sync && uv pip install mcp", ".venv/bin/mcp run s.py"),
    ],
)  # fmt: skip
def test_a_download_is_refused_with_what_to_write_instead(host: Host, command: str, first: str, then: str) -> None:
    with pytest.raises(Refused) as caught:
        host.resolve(*command.split())
    lines = str(caught.value).splitlines()
    assert "would download at start-up" in lines[0]
    assert lines[1].startswith("  first: ")
    assert lines[1].endswith(first)
    assert lines[2] == f"  then: supervisor run ... -- {then}"


def test_what_is_installed_already_is_named_directly(host: Host) -> None:
    host.local(host.cwd)
    for package in ("@m/srv", "@m/srv@2"):
        with pytest.raises(Refused) as caught:
            host.resolve("npx", "-y", package, "x")
        assert "first:" not in str(caught.value)
        assert "-- node_modules/.bin/mcp-srv x\n" in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 60_000, '{"bin": 1}', "[]", '{"bin": {"a\\u001b[2J": "x"}}', "\udcff"])
def test_a_hostile_package_json_does_not_reach_the_message(host: Host, text: str) -> None:
    host.write(host.cwd / "node_modules/srv/package.json", text.encode(errors="surrogateescape"))
    with pytest.raises(Refused) as caught:
        host.resolve("npx", "srv")
    assert str(caught.value).replace("\n", "").isprintable()


def test_a_container_engine_is_refused(host: Host) -> None:
    with pytest.raises(Refused, match="outside this sandbox"):
        host.resolve("docker", "run", "-i", "--rm", "mcp/git")


def test_the_harmless_commands_of_these_tools_are_not_refused(host: Host) -> None:
    for name in ("npm", "uv", "docker"):
        host.binary(host.usr / "bin" / name)
        assert host.resolve(name, "version").argv[1:] == ("version",)
