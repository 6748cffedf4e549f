"""Policies beside servers.toml: read all or nothing, each mistake with file and line, and who may open what."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.model import Planned
from supervisor.registry import catalog, policies
from supervisor.registry.planner import answer
from supervisor.roles import bundle
from supervisor.roles.arguments import item
from supervisor.roles.judge import Judge

TWO = "".join(f'[server.{name}]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n' for name in "ab")
MINE = pwd.getpwuid(os.getuid()).pw_name


class Registry:
    """A folder with servers.toml and policies."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "servers.toml")
        self.folder = folder / "policies"
        self.servers(TWO)

    def servers(self, text: str) -> None:
        Path(self.path).write_text(text, encoding="utf-8")

    def policy(self, text: str, name: str = "p.cedar") -> Path:
        self.folder.mkdir(exist_ok=True, mode=0o755)
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / name

    def pin(self, server: str, *tools: dict[str, object]) -> None:
        folder = self.folder.parent / "pins"
        folder.mkdir(exist_ok=True)
        page = {"pages": {"tools": [{"tools": list(tools)}]}}
        (folder / f"{server}.json").write_text(json.dumps({"eras": {"legacy": page}}))

    def plan(self) -> Planned:
        return answer({"catalog": self.path}, policies.govern)

    def opens(self, server: str) -> tuple[str, ...]:
        (found,) = [each for each in self.plan().servers if each.entry.name == server]
        return found.entry.users

    def judge(self, server: str) -> Judge | None:
        (found,) = [each for each in self.plan().servers if each.entry.name == server]
        return Judge(bundle.decode(found.policy)) if found.policy else None


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_without_a_policy_nothing_changes(registry: Registry) -> None:
    registry.servers(TWO + 'users = ["alice"]\n')
    assert [(each.entry.users, each.policy) for each in registry.plan().servers] == [((), ""), (("alice",), "")]


def test_with_a_policy_file_every_server_is_for_those_whom_one_permits(registry: Registry) -> None:
    registry.servers(TWO + 'users = ["daemon"]\n')
    registry.policy(f'permit(principal == User::"{MINE}", action, resource in Server::"a");')
    assert registry.opens("a") == (MINE,)
    assert registry.opens("b") == ("daemon",), "users = [...] says who may open, and no more"
    judge = registry.judge("b")
    assert judge
    assert len(judge.facts) == 1, "what is about another server is left out"


def test_a_grant_closes_its_own_server_alone(registry: Registry) -> None:
    registry.servers(TWO + 'grant = ["@daemon", "token:ci"]\ntools = { grant = { write = ["nobody"] } }\n')
    assert registry.judge("a") is None
    assert set(registry.opens("b")) == {"daemon", "nobody"}
    judge = registry.judge("b")
    assert judge
    assert {each.statement.origin for each in judge.facts} == {f"{registry.path}:7", f"{registry.path}:8"}
    cases = {("uid:1", "read"): "allow", ("uid:1", "write"): "deny", ("uid:65534", "write"): "allow"}
    cases |= {("uid:65534", "read"): "deny", ("ci", "read"): "allow", ("ci", "write"): "deny"}
    for (who, tool), outcome in cases.items():
        found = item("tools", tool, None)
        assert judge.known(judge.who(who, ()), "call", found).outcome == outcome, (who, tool)


def test_required_policies_that_are_not_there_are_an_error_and_not_everything_for_everybody(
    registry: Registry,
) -> None:
    registry.servers("[policy]\nrequired = true\n" + TWO)
    assert registry.plan().error.startswith(f"{registry.path}:2: policies are required")


WRONG = {
    'permit(principal, action, resource in Server::"c");': 'no server "c" is registered',
    'permit(principal, action, resource == Tool::"write");': 'no server "write" is registered (Tools are written',
    'permit(principal, action, resource == Tool::"a/none");': 'server "a" has no tool "none"',
    'permit(principal, action == Action::"call", resource in Server::"a") when { context.text has nme };': (
        'declares an argument "nme" that is in context.text'
    ),
    'permit(principal, action == Action::"administer", resource);': "unrecognized action",
    'permit(principal == Usr::"a", action, resource);': "unrecognized entity type",
    "permit(principal, action, resource) when { resource.nme == 1 };": "attribute `nme`",
    'permit(principal, action == Action::"call", resource) when { context.numbers.size > 1 };': (
        "optional attribute"
    ),
    '@id("first") permit(principal, action, resource);': '@id("first") is that of',
    "permit(principal, action resource);": "not a Cedar policy",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_is_named_with_file_and_line_and_nothing_is_loaded(text: str, registry: Registry) -> None:
    properties = {"name": {"type": "string"}, "size": {"type": "integer"}}
    registry.pin("a", {"name": "write", "inputSchema": {"properties": properties}})
    registry.policy('@id("first") permit(principal, action, resource);', "a.cedar")
    path = registry.policy(f"// why\n\n{text}\n", "b.cedar")
    found = registry.plan()
    assert found.error.startswith(f"{path}:3: "), found.error
    assert WRONG[text] in found.error
    assert (found.status, found.servers) == (2, ())


def test_what_somebody_else_could_have_written_is_not_read(registry: Registry) -> None:
    path = registry.policy("permit(principal, action, resource);")
    for place, mode in ((path, 0o666), (registry.folder, 0o777)):
        place.chmod(mode)
        with pytest.raises(Refused, match="others can write it"):
            catalog.load_catalog(registry.path)
        place.chmod(0o755)
    catalog.load_catalog(registry.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder away")
def test_a_folder_of_somebody_else_is_not_read(registry: Registry) -> None:
    registry.policy("permit(principal, action, resource);")
    os.chown(registry.folder, 1, 1)
    with pytest.raises(Refused, match="owned by uid 1"):
        catalog.load_catalog(registry.path)


def test_files_and_accounts_are_watched(registry: Registry) -> None:
    path = registry.policy("permit(principal, action, resource);")
    watched = {each for each, _ in registry.plan().watched}
    assert {str(path), str(registry.folder), "/etc/passwd", "/etc/group"} <= watched


def test_more_policies_than_an_answer_holds_are_refused_and_many_are_not(registry: Registry) -> None:
    line = 'permit(principal == User::"u{0}", action, resource == Resource::"a/{0}");\n'
    registry.policy("".join(line.format(number) for number in range(500)))
    assert not registry.plan().error
    registry.policy("".join(line.format(os.urandom(60).hex()) for _ in range(500)))
    assert "let policies name the server" in registry.plan().error


def test_a_planner_that_was_not_to_expect_policies_leaves_none_out(registry: Registry) -> None:
    registry.policy("permit(principal, action, resource);")
    assert "start it again" in answer({"catalog": registry.path}).error


@pytest.mark.parametrize("name", ['a"b', "a b", "", "@", "a\\\\b", "@@a"])
def test_a_grantee_is_one_word_without_quotes(name: str, registry: Registry) -> None:
    registry.servers(TWO + f"grant = [{json.dumps(name)}]\n")
    with pytest.raises(ConfigError, match=r"servers.toml:7: .*grant"):
        catalog.load_catalog(registry.path)
