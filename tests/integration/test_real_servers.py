"""Real MCP servers, unmodified, in real sandboxes, driven by the official SDK's client and by the MCP Inspector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mcp import Client

from tests.escape.arena import MARKER
from tests.integration.caller import Caller
from tests.integration.real_servers import OWN, SERVERS, Scene, Server
from tests.integration.remains import nothing_left

ALL = pytest.mark.parametrize("server", [*SERVERS, OWN], ids=str)
INSPECTOR = "node_modules/.bin/mcp-inspector"


@pytest.fixture
def scene(caller: Caller, servers: Path, url: str) -> Scene:
    made = Scene(caller, servers, url)
    made.prepare()
    return made


async def read_real_data(scene: Scene, server: Server, client: Client) -> None:
    failed, text = await scene.answer(client, server.reads)
    assert not failed, text
    assert server.reads.expect in text


@ALL
def test_a_real_server_works_and_what_its_profile_forbids_is_an_error(
    server: Server, scene: Scene, tmp_path: Path
) -> None:
    async def scenario(client: Client) -> None:
        assert client.protocol_version < "2026"
        assert client.server_info is not None
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools >= set(server.tools)
        await read_real_data(scene, server, client)
        failed, text = await scene.answer(client, server.forbidden)
        assert failed, f"not forbidden: {text}"
        assert server.forbidden.expect in text
        if not server.fatal:
            await read_real_data(scene, server, client)

    log = tmp_path / "log"
    with nothing_left(scene.caller):
        scene.caller.talk(scene.inside(server), scenario, cwd=scene.servers, log=log, mode="legacy")
    said = log.read_text(encoding="utf-8", errors="replace")
    assert "dubious ownership" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_the_forbidden_call_succeeds_without_the_sandbox(server: Server, scene: Scene, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        failed, text = await scene.answer(client, server.forbidden)
        # the two without anything to forbid echo what they were given, longer than the profile allows
        assert len(text) > 32 * 1024 if server.fatal else not failed, text

    log = tmp_path / "log"
    scene.caller.talk(scene.outside(server), scenario, cwd=scene.servers, log=log, mode="legacy")


@pytest.mark.parametrize(
    ("server", "caller"),
    [(OWN, "root"), *((each, "user") for each in (*SERVERS, OWN))],
    indirect=["caller"],
    ids=str,
)
def test_the_inspector_calls_a_tool_of_a_real_server(server: Server, scene: Scene) -> None:
    arguments = json.dumps(scene.arguments(server.reads))
    request = ["--method", "tools/call", "--tool-name", server.reads.tool, "--tool-args-json", arguments]
    inspector = [str(scene.servers / INSPECTOR), "--cli", "--format", "json"]
    command = [*inspector, *request, "--", *scene.inside(server)]
    with nothing_left(scene.caller):
        done = scene.caller.finish(command, cwd=scene.servers)
    assert done.returncode == 0, done.stderr
    assert server.reads.expect in json.loads(done.stdout)["result"]["content"][0]["text"]


def test_a_modern_client_discovers_a_server_without_a_handshake(scene: Scene, tmp_path: Path) -> None:
    server = next(each for each in SERVERS if each.name == "time")

    async def scenario(client: Client) -> None:
        assert client.protocol_version == "2026-07-28"
        assert client.session.discover_result is not None
        await read_real_data(scene, server, client)

    log = tmp_path / "log"
    with nothing_left(scene.caller):
        scene.caller.talk(scene.inside(server), scenario, cwd=scene.servers, log=log, mode="auto")


def test_no_variable_of_the_callers_reaches_a_server(scene: Scene, tmp_path: Path) -> None:
    server = next(each for each in SERVERS if each.name == "everything")

    async def shown(client: Client) -> None:
        _, text = await scene.answer(client, server.reads)
        texts.append(text)

    texts: list[str] = []
    for argv in (scene.outside(server), scene.inside(server)):
        scene.caller.talk(argv, shown, cwd=scene.servers, log=tmp_path / "log", mode="legacy")
    assert MARKER in texts[0]
    assert MARKER not in texts[1]


def test_a_server_writes_in_its_scope_and_nowhere_else(scene: Scene, tmp_path: Path) -> None:
    """The official filesystem server, allowed by its own arguments to write in both folders."""
    plot = scene.caller.plot
    params = ["--param", f"root={plot.folder}", "--param", f"scope={plot.scope}"]
    options = ["--profile", "fs-scoped", *params, *scene.caller.start_options()]
    server = [str(scene.servers / "node_modules/.bin/mcp-server-filesystem"), str(plot.scope), "/data"]

    async def scenario(client: Client) -> None:
        allowed = await client.call_tool("write_file", {"path": f"{plot.scope}/new.txt", "content": "new\n"})
        assert not allowed.is_error, allowed
        refused = await client.call_tool("write_file", {"path": "/data/new.txt", "content": "new\n"})
        assert refused.is_error
        assert "EROFS" in str(refused.content)

    command = scene.caller.command("run", *options, "--", *server)
    scene.caller.talk(command, scenario, cwd=scene.caller.project, log=tmp_path / "log", mode="legacy")
    status = (plot.scope / "new.txt").stat()
    assert (status.st_uid, status.st_gid) == (plot.uid, plot.gid)
    assert not (plot.folder / "new.txt").exists()


def test_the_git_server_commits_in_a_writable_repository(scene: Scene, tmp_path: Path) -> None:
    repo = str(scene.repo)
    options = ["--profile", "none", "--rw", repo, *scene.caller.start_options()]
    server = [str(scene.servers / "python/bin/mcp-server-git"), "--repository", repo]

    async def scenario(client: Client) -> None:
        done = await client.call_tool("git_commit", {"repo_path": repo, "message": "from inside"})
        assert not done.is_error, done

    command = scene.caller.command("run", *options, "--", *server)
    scene.caller.talk(command, scenario, cwd=scene.caller.project, log=tmp_path / "log", mode="legacy")
    log = scene.caller.finish(["git", "log", "--format=%s by %an"], cwd=scene.repo)
    assert log.stdout.splitlines()[0] == "from inside by Ada"
    plot = scene.caller.plot
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in scene.repo.rglob("*")}
    assert owners == {(plot.uid, plot.gid)}
