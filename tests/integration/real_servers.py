"""The real servers of the tests, as a table: how each is started, what it reads, and what its profile forbids.

In the texts `{folder}`, `{repo}`, `{brief}` and `{url}` stand for what `prepare` made: a folder, a git
repository, a profile file, and a listener of the host.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from mcp import Client, MCPError
from mcp_types import TextContent

from tests.integration.caller import Caller

# more than the profile `brief` lets a server write in one line
LONG = "x" * 40_000
BRIEF = """profile = 1
name = "brief"
extends = "none"
summary = "Short answers only."

[limits]
output_line = "32K"
"""
MEMORY = {"type": "entity", "name": "Ada", "entityType": "person", "observations": ["wrote the first program"]}
THOUGHT = {"thought": "one", "thoughtNumber": 1, "totalThoughts": 1, "nextThoughtNeeded": False}


@dataclass(frozen=True)
class Call:
    """One tool call, and a text that its answer contains."""

    tool: str
    arguments: dict[str, object]
    expect: str


@dataclass(frozen=True)
class Server:
    """One server. `forbidden` names what the sandbox answers; without a sandbox the same call succeeds.

    `fatal`: what is forbidden ends the session, and the answer comes from the supervisor.
    """

    name: str
    options: tuple[str, ...]
    command: tuple[str, ...]
    tools: tuple[str, ...]
    reads: Call
    forbidden: Call
    env: dict[str, str] = field(default_factory=dict)
    fatal: bool = False

    def __str__(self) -> str:
        return self.name


SERVERS = (
    Server(
        "filesystem",
        ("--profile", "fs-readonly", "--ro", "{folder}"),
        ("node_modules/.bin/mcp-server-filesystem", "{folder}"),
        ("read_text_file", "write_file", "list_directory"),
        Call("read_text_file", {"path": "{folder}/hello.txt"}, "nothing secret"),
        Call("write_file", {"path": "{folder}/new.txt", "content": "new"}, "EROFS"),
    ),
    Server(
        "memory",
        ("--profile", "none", "--ro", "{folder}"),
        ("node_modules/.bin/mcp-server-memory",),
        ("read_graph", "create_entities"),
        Call("read_graph", {}, "wrote the first program"),
        Call("create_entities", {"entities": [MEMORY | {"name": "Grace"}]}, "EROFS"),
        env={"MEMORY_FILE_PATH": "{folder}/memory.json"},
    ),
    Server(
        "sequential-thinking",
        ("--profile", "{brief}"),
        ("node_modules/.bin/mcp-server-sequential-thinking",),
        ("sequentialthinking",),
        Call("sequentialthinking", THOUGHT, '"thoughtHistoryLength": 1'),
        Call("sequentialthinking", THOUGHT | {"branchFromThought": 1, "branchId": LONG}, "limits.output_line"),
        fatal=True,
    ),
    Server(
        "everything",
        ("--profile", "none"),
        ("node_modules/.bin/mcp-server-everything",),
        ("echo", "get-env", "gzip-file-as-resource"),
        Call("get-env", {}, '"HOME"'),
        Call("gzip-file-as-resource", {"name": "page.gz", "data": "{url}"}, "fetch failed"),
    ),
    Server(
        "git",
        ("--profile", "none", "--ro", "{repo}"),
        ("python/bin/mcp-server-git", "--repository", "{repo}"),
        ("git_log", "git_commit", "git_status"),
        Call("git_log", {"repo_path": "{repo}"}, "the first commit"),
        Call("git_commit", {"repo_path": "{repo}", "message": "the second"}, "Read-only file system"),
    ),
    Server(
        "time",
        ("--profile", "{brief}"),
        ("python/bin/mcp-server-time",),
        ("get_current_time", "convert_time"),
        Call("get_current_time", {"timezone": "Asia/Kathmandu"}, "+05:45"),
        Call("get_current_time", {"timezone": f"Mars/{LONG}"}, "limits.output_line"),
        fatal=True,
    ),
)
# Ours is the profile's own, and knows no call that writes: what is forbidden is to see anything else.
OWN = Server(
    "own filesystem",
    ("--profile", "fs-readonly", "--param", "root={folder}"),
    (),
    ("list_directory", "read_text_file", "search_files"),
    Call("read_text_file", {"path": "hello.txt"}, "nothing secret"),
    Call("read_text_file", {"path": "link"}, "outside"),
)


@dataclass(frozen=True)
class Scene:
    """What the servers find: a folder, a repository with a change to commit, a profile, a listener."""

    caller: Caller
    servers: Path
    url: str

    @property
    def repo(self) -> Path:
        return self.caller.project / "repo"

    @property
    def brief(self) -> Path:
        return self.caller.project / "brief.toml"

    def prepare(self) -> None:
        """Make them, owned by the caller."""
        folder = self.caller.plot.folder
        script = (
            f"cat > {self.brief} <<'END'\n{BRIEF}END\n"
            f"echo '{json.dumps(MEMORY)}' > {folder}/memory.json\n"
            f"rm -rf {self.repo} && git init -q {self.repo} && cd {self.repo}\n"
            "git config user.name Ada && git config user.email ada@example.com\n"
            "echo 1 > one.txt && git add one.txt && git commit -qm 'the first commit'\n"
            "echo 2 > two.txt && git add two.txt\n"
        )
        done = self.caller.finish(["/bin/sh", "-euc", f"umask 022\n{script}"])
        assert done.returncode == 0, done.stderr

    def fill(self, text: str) -> str:
        """`text` with its places filled."""
        folder = str(self.caller.plot.folder)
        for name, value in (("folder", folder), ("repo", self.repo), ("brief", self.brief), ("url", self.url)):
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def inside(self, server: Server) -> list[str]:
        """The command line that runs the server in its sandbox."""
        words = ["run", *self.caller.start_options(), *map(self.fill, server.options)]
        for key, value in server.env.items():
            words += ["--env", f"{key}={self.fill(value)}"]
        if server.command:
            words += ["--", *map(self.fill, server.command)]
        return self.caller.command(*words)

    def outside(self, server: Server) -> list[str]:
        """The server alone, with everything its user has."""
        variables = [f"{key}={self.fill(value)}" for key, value in server.env.items()]
        return ["/usr/bin/env", *variables, *map(self.fill, server.command)]

    def arguments(self, call: Call) -> dict[str, object]:
        """The call's arguments, filled."""
        return {key: self.fill(each) if isinstance(each, str) else each for key, each in call.arguments.items()}

    async def answer(self, client: Client, call: Call) -> tuple[bool, str]:
        """Whether the call failed, and what was said."""
        try:
            result = await client.call_tool(call.tool, self.arguments(call))
        except MCPError as error:
            return True, error.error.message
        texts = [block.text for block in result.content if isinstance(block, TextContent)]
        return bool(result.is_error), "\n".join(texts)
