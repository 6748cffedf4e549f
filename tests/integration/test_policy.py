"""Policies on a host: a daemon, a user in a group that the tests make, and what that user's gateway lets pass."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client, MCPError

from tests.escape.arena import Arena
from tests.integration.host import Host, written

GROUP = f"svtest-{os.getpid()}"
RULES = """
@id("readers")
permit(principal in Group::"%s", action in [Action::"use", Action::"open"], resource in Server::"files");

@id("no-secrets")
forbid(principal, action == Action::"call", resource in Server::"files")
when { context.text has path && context.text.path like "*secret*" };

@id("quiet")
forbid(principal, action in Action::"use", resource == Tool::"files/directory_tree");
"""


@pytest.fixture(scope="module")
def host(arena: Arena, servers: Path) -> Iterator[Host]:
    """A daemon whose policies let the members of one group read; the user is one of them."""
    made = written(arena, servers)
    # who may open it is left to the policies
    text = made.config.read_text(encoding="utf-8")
    made.config.write_text(text.replace(f'users = ["{arena.account}"]\n', "", 1), encoding="utf-8")
    subprocess.run(["groupadd", GROUP], check=True)
    subprocess.run(["usermod", "-aG", GROUP, arena.account], check=True)
    folder = made.folder / "policies"
    try:
        pinned = made.root.finish(made.root.command("pin", "files", "--config", made.config, "--yes", "-q"))
        assert pinned.returncode == 0, pinned.stderr
        folder.mkdir(mode=0o755)
        (folder / "p.cedar").write_text(RULES % GROUP, encoding="utf-8")
        made.start()
        yield made
    finally:
        made.close()
        for each in (folder, made.folder / "pins"):
            shutil.rmtree(each)
        subprocess.run(["groupdel", GROUP], check=True)
    assert not list(made.runtime.iterdir())


def rules(host: Host, text: str) -> None:
    """Other policies, read."""
    path = host.folder / "policies" / "p.cedar"
    path.with_suffix(".new").write_text(text, encoding="utf-8")
    path.with_suffix(".new").replace(path)
    host.admin("reload")


@pytest.fixture(autouse=True)
def as_it_was(host: Host) -> Iterator[None]:
    yield
    rules(host, RULES % GROUP)


def test_who_may_open_is_worked_out_from_groups_and_the_monitor_holds_to_it(host: Host) -> None:
    # "memory" has users = [...], which opens it and grants nothing of it
    assert host.listed() == {"files", "memory"}
    rules(host, (RULES % GROUP).replace(GROUP, "daemon"))
    assert host.listed() == {"memory"}
    refused = host.ask(host.user, "call", "-q", "--server", "files", "read_text_file", "path=hello.txt")
    assert refused.returncode == 3
    assert f"uid {host.user.plot.uid} may not open" in refused.stderr


def test_a_change_of_the_hosts_groups_is_heard(host: Host) -> None:
    account = host.user.arena.account
    subprocess.run(["gpasswd", "-d", account, GROUP], check=True, stdout=subprocess.DEVNULL)
    try:
        host.admin("reload")
        assert host.listed() == {"memory"}
    finally:
        subprocess.run(["usermod", "-aG", GROUP, account], check=True)


def test_a_users_gateway_shows_and_lets_through_what_the_policies_permit(host: Host, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        shown = {tool.name for tool in (await client.list_tools()).tools}
        assert "files__read_text_file" in shown
        assert "files__directory_tree" not in shown
        done = await client.call_tool("files__read_text_file", {"path": "/data/hello.txt"})
        assert "nothing secret" in str(done.content)
        for tool, given, said in (
            ("read_text_file", {"path": "/data/secret.txt"}, 'p.cedar:5: policy "no-secrets" forbids'),
            ("read_text_file", {"path": {"__entity": {"type": "User", "id": "root"}}}, "is not text"),
            ("directory_tree", {"path": "/data"}, 'p.cedar:9: policy "quiet" forbids'),
        ):
            with pytest.raises(MCPError, match=said):
                await client.call_tool(f"files__{tool}", given)
        # a policy that comes meanwhile holds for this client, and the process that it has goes on
        (before,) = host.sessions()
        rules(host, RULES % GROUP + '@id("none") forbid(principal, action == Action::"call", resource);')
        with pytest.raises(MCPError, match='"none" forbids'):
            await called_until_refused(client)
        assert host.sessions() == [before]

    command = host.user.command("serve", "-q", "--runtime-dir", host.runtime)
    host.user.talk(command, scenario, cwd=host.user.project, log=tmp_path / "log", mode="legacy")


async def called_until_refused(client: Client) -> None:
    for _ in range(100):
        await client.call_tool("files__read_text_file", {"path": "/data/hello.txt"})


def test_a_broken_policy_is_told_with_its_line_and_the_old_ones_stay(host: Host) -> None:
    path = host.folder / "policies" / "q.cedar"
    path.write_text("// nothing yet\npermit(principal, action);\n", encoding="utf-8")
    try:
        assert f"{path}:2: not a Cedar policy" in host.hears("the old configuration stays")
        assert host.listed() == {"files", "memory"}
    finally:
        path.unlink()


CASES = """
[[case]]
as = "{account}"
server = "files"
tool = "read_text_file"
args = {{ path = "/data/x" }}
expect = "allow"
by = "readers"

[[case]]
as = "{account}"
server = "files"
tool = "read_text_file"
args = {{ path = "/secret" }}
expect = "{expect}"
by = "no-secrets"

[[case]]
as = "token:ci"
groups = ["{account}"]
server = "files"
expect = "deny"
"""


def test_policies_are_asked_and_tested_without_a_daemon(host: Host, tmp_path: Path) -> None:
    account, config = host.user.arena.account, ("--config", str(host.config))
    root = host.root

    def policy(*words: str) -> subprocess.CompletedProcess[str]:
        return root.finish(root.command("policy", *words, *config))

    checked = json.loads(policy("check", "--json").stdout)
    opens = {each["server"]: each["open"] for each in checked["servers"]}
    assert opens == {"files": [account], "memory": [account], "private": []}
    cases = tmp_path / "cases.toml"
    cases.write_text(CASES.format(account=account, expect="deny"), encoding="utf-8")
    done = policy("test", str(cases))
    assert (done.returncode, done.stdout) == (0, "3 cases, 0 failed\n"), done.stderr
    cases.write_text(CASES.format(account=account, expect="allow"), encoding="utf-8")
    done = policy("test", str(cases))
    assert done.returncode == 1
    assert f"{cases}:10: expected allow by no-secrets; {host.folder}/policies/p.cedar:5: " in done.stdout
    why = ("why", "--as", account, "--server", "files", "--tool", "read_text_file")
    allowed, refused = policy(*why), policy(*why, "--args", '{"path": "secret"}', "--json")
    assert (allowed.returncode, refused.returncode) == (0, 3)
    assert f"permits        {host.folder}/policies/p.cedar:2 readers" in allowed.stdout
    found = json.loads(refused.stdout)
    assert (found["outcome"], found["rule"]) == ("deny", "no-secrets")
    assert [each["says"] for each in found["policies"]] == ["permits", "forbids"]
