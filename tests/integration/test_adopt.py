"""adopt and release on the files of all clients, with real servers: what was adopted works, and comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp import Client

from supervisor.registry import written
from tests.integration.caller import SECONDS, Caller
from tests.integration.remains import nothing_left

CLAUDE_DESKTOP = """{
  "globalShortcut": "Ctrl+Space",
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "@SCOPE@"]
    },
    "memory": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-memory"],
      "env": {"MEMORY_FILE_PATH": "@SCOPE@/memory.json"}
    }
  }
}
"""
CLAUDE_CODE = """{
  "numStartups": 12,
  "tipsHistory": {"shift-enter": 3},
  "mcpServers": {
    "everything": {
      "type": "stdio",
      "command": "npx",
      "args": [
        "-y",
        "@modelcontextprotocol/server-everything@2026.8.31"
      ],
      "env": {}
    },
    "sentry": {
      "type": "http",
      "url": "https://mcp.example.com/mcp"
    }
  },
  "projects": {
    "@PROJECT@": {
      "allowedTools": [],
      "history": [{"display": "hello \\u00e9", "pastedContents": {}}],
      "mcpServers": {
        "time": {"type": "stdio", "command": "uvx", "args": ["mcp-server-time"], "env": {}}
      },
      "lastCost": 0.10
    }
  }
}"""
CLAUDE_PROJECT = '{"mcpServers":{"time":{"command":"uvx","args":["mcp-server-time","--local-timezone","UTC"]}}}\n'
CURSOR = """{
\t// for this project
\t"mcpServers": {
\t\t"git": {
\t\t\t"command": "uvx", // from PyPI
\t\t\t"args": ["mcp-server-git", "--repository", "${workspaceFolder}"],
\t\t},
\t\t"docs": { "url": "https://docs.example.com/mcp", "headers": {"Authorization": "Bearer ${env:DOCS_TOKEN}"} },
\t},
}
""".replace("\n", "\r\n")
VSCODE = """{
  // See https://code.visualstudio.com/docs
  "inputs": [
    { "type": "promptString", "id": "key", "description": "API key", "password": true }
  ],
  "servers": {
    "thinking": {
      "type": "stdio",
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-sequential-thinking"],
    },
    "search": {
      "command": "npx",
      "args": ["-y", "search-server"],
      "env": { "API_KEY": "${input:key}" }
    },
    "github": { "type": "http", "url": "https://api.example.com/mcp/" }
  }
}
"""
VSCODE_SETTINGS = """{
  "editor.fontSize": 13,
  "mcp": {
    "servers": {
      "memory": {
        "command": "node",
        "args": ["${workspaceFolder}/node_modules/@modelcontextprotocol/server-memory/dist/index.js"],
        "env": { "MEMORY_FILE_PATH": "@SCOPE@/memory.json" }
      },
    },
  },
}
"""


@dataclass(frozen=True)
class File:
    """A client's file: where it is in a home, what it says, which of its servers are adopted and which are not."""

    name: str
    text: str
    adopted: tuple[tuple[str, ...], ...]
    stays: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


FILES = (
    File(
        ".config/Claude/claude_desktop_config.json",
        CLAUDE_DESKTOP,
        (("mcpServers", "filesystem"), ("mcpServers", "memory")),
    ),
    File(
        ".claude.json", CLAUDE_CODE, (("mcpServers", "everything"), ("projects", "@PROJECT@", "mcpServers", "time"))
    ),
    File("project/.mcp.json", CLAUDE_PROJECT, (("mcpServers", "time"),)),
    File("project/.cursor/mcp.json", CURSOR, (("mcpServers", "git"),)),
    File("project/.vscode/mcp.json", VSCODE, (("servers", "thinking"),), ("search",)),
    File("project/.vscode/settings.json", VSCODE_SETTINGS, (("mcp", "servers", "memory"),)),
)
TOOLS = {
    "filesystem": "read_text_file",
    "memory": "read_graph",
    "everything": "echo",
    "time": "get_current_time",
    "git": "git_status",
    "thinking": "sequentialthinking",
}


class Desk:
    """A caller's home with clients' files in it, the servers installed as npm and uv would have done."""

    def __init__(self, caller: Caller, servers: Path) -> None:
        self.caller = caller
        self.home = caller.plot.home
        self.project = caller.project
        self.registry = self.home / "registry" / "servers.toml"
        tools = self.home / ".local/share/uv/tools"
        script = f"mkdir -p {tools} && git init -q {self.project}\n"
        for folder in (self.home, self.project):
            script += f"ln -sfn {servers}/node_modules {folder}/node_modules\n"
        for name in ("time", "git"):
            script += f"ln -sfn {servers}/python {tools}/mcp-server-{name}\n"
        self.shell(script)

    def shell(self, script: str, text: str = "") -> None:
        argv = ["/bin/sh", "-euc", f"umask 022\n{script}", "sh", text]
        done = self.caller.finish(argv)
        assert done.returncode == 0, done.stderr

    def fill(self, text: str) -> str:
        return text.replace("@SCOPE@", str(self.caller.plot.scope)).replace("@PROJECT@", str(self.project))

    def write(self, file: File) -> Path:
        path = self.home / file.name
        self.shell(f'mkdir -p {path.parent} && printf %s "$1" > {path}', self.fill(file.text))
        return path

    def adopt(self, path: Path, *words: str) -> tuple[int, dict[str, dict[str, object]]]:
        """(the exit status, what is told of each server)."""
        options = ["--config", str(self.registry), "--json", "--yes", *self.caller.arena.accept(self.caller.mode)]
        done = self.caller.finish(self.caller.command("adopt", *options, *words, path))
        assert done.stderr == ""
        return done.returncode, {each["path"][-1]: each for each in json.loads(done.stdout)["servers"]}

    def release(self, path: Path) -> None:
        done = self.caller.finish(self.caller.command("release", path))
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        """Everything that the test put into the home."""
        for each in (".config", ".local", "registry", "project/.git", "project/.cursor", "project/.vscode"):
            shutil.rmtree(self.home / each, ignore_errors=True)
        for each in ("node_modules", "project/node_modules", ".claude.json", "project/.mcp.json"):
            (self.home / each).unlink(missing_ok=True)


@pytest.fixture
def desk(caller: Caller, servers: Path) -> Iterator[Desk]:
    with nothing_left(caller, writes=caller.plot.scope):
        made = Desk(caller, servers)
        try:
            yield made
        finally:
            made.close()


def started(path: Path, keys: tuple[str, ...]) -> list[str]:
    """The command line of a server, as its client reads it."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.strip().startswith("//")]
    text = "\n".join(line.split(" // ")[0] for line in lines)
    for closing in "]}":
        for space in (",\n", ",\n\t", ",\n\t\t", ",\n  ", ",\n    ", ",\n      "):
            text = text.replace(f"{space}{closing}", f"\n{closing}")
    value = json.loads(text)
    for key in keys:
        value = value[key]
    return [value["command"], *value.get("args", [])]


@pytest.mark.parametrize(
    ("file", "caller"), [(FILES[0], "root"), *((file, "user") for file in FILES)], indirect=["caller"], ids=str
)
def test_what_was_adopted_works_and_comes_back_as_it_was(file: File, desk: Desk, tmp_path: Path) -> None:
    path = desk.write(file)
    before = path.read_bytes()
    status, told = desk.adopt(path)
    assert status == (1 if file.stays else 0)
    assert {name for name, each in told.items() if each["state"] == "adopted"} == {
        keys[-1] for keys in file.adopted
    }
    assert {name for name, each in told.items() if each["state"] == "not adopted"} == set(file.stays)
    for each in file.adopted:
        keys = tuple(desk.fill(key) for key in each)
        command = started(path, keys)
        assert Path(command[0]).name == "supervisor"

        async def scenario(client: Client, tool: str = TOOLS[keys[-1]]) -> None:
            assert tool in {found.name for found in (await client.list_tools()).tools}

        desk.caller.talk(command, scenario, cwd=desk.home, log=tmp_path / keys[-1], mode="legacy")
    again = path.read_bytes()
    assert desk.adopt(path)[0] == status
    assert path.read_bytes() == again
    desk.release(path)
    assert path.read_bytes() == before
    assert written.servers(desk.registry.read_text(encoding="utf-8")) == {}
    assert sorted(each.name for each in desk.registry.parent.iterdir()) == ["servers.toml"]
    assert not list(path.parent.glob("*supervisor*"))


def test_an_adopted_server_does_what_it_did_and_no_more(desk: Desk, tmp_path: Path) -> None:
    path = desk.write(FILES[0])
    desk.adopt(path)
    scope, outside = desk.caller.plot.scope, desk.caller.plot.outside

    async def files(client: Client) -> None:
        done = await client.call_tool("write_file", {"path": f"{scope}/new.txt", "content": "new"})
        assert not done.is_error, done
        refused = await client.call_tool("read_text_file", {"path": f"{outside}/secret.txt"})
        assert refused.is_error

    async def memory(client: Client) -> None:
        entity = {"name": "Ada", "entityType": "person", "observations": ["wrote the first program"]}
        done = await client.call_tool("create_entities", {"entities": [entity]})
        assert not done.is_error, done

    for name, scenario in (("filesystem", files), ("memory", memory)):
        command = started(path, ("mcpServers", name))
        desk.caller.talk(command, scenario, cwd=desk.home, log=tmp_path / name, mode="legacy")
    assert (scope / "new.txt").read_text(encoding="utf-8") == "new"
    assert "wrote the first program" in (scope / "memory.json").read_text(encoding="utf-8")


def test_one_endpoint_stands_for_all_servers_of_a_file(desk: Desk, tmp_path: Path) -> None:
    path = desk.write(FILES[0])
    before = path.read_bytes()
    desk.adopt(path, "--gateway")
    assert list(json.loads(path.read_text(encoding="utf-8"))["mcpServers"]) == ["supervisor"]
    for name in ("filesystem", "memory"):
        argv = desk.caller.command("pin", "--config", desk.registry, "--yes", name)
        done = desk.caller.finish(argv, seconds=2 * SECONDS)
        assert done.returncode == 0, done.stderr

    async def scenario(client: Client) -> None:
        names = {found.name for found in (await client.list_tools()).tools}
        assert {"filesystem__read_text_file", "memory__read_graph"} <= names
        done = await client.call_tool("memory__read_graph", {})
        assert not done.is_error, done

    command = started(path, ("mcpServers", "supervisor"))
    desk.caller.talk(command, scenario, cwd=desk.home, log=tmp_path / "log", mode="legacy")
    desk.release(path)
    assert path.read_bytes() == before
    assert not list((desk.registry.parent / "pins").iterdir())


def test_where_this_host_cannot_enforce_it_nothing_is_adopted(desk: Desk) -> None:
    path = desk.write(FILES[0])
    before = path.read_bytes()
    missing = desk.caller.arena.accept(desk.caller.mode)
    done = desk.caller.finish(desk.caller.command("adopt", "--config", desk.registry, "--dry-run", path))
    assert done.returncode == (4 if missing else 0)
    assert all(word in done.stderr for word in missing)
    assert path.read_bytes() == before
    assert not desk.registry.parent.exists()


def test_what_cannot_be_adopted_says_what_to_do(desk: Desk) -> None:
    path = desk.write(FILES[4])
    argv = desk.caller.command("adopt", "--config", desk.registry, "--dry-run", path)
    done = desk.caller.finish([*argv, *desk.caller.arena.accept(desk.caller.mode)])
    assert done.returncode == 1
    assert '"${input:key}" is filled in by the client' in done.stdout
    assert "github" not in done.stdout
    assert path.read_text(encoding="utf-8") == VSCODE
    assert not desk.registry.exists()
