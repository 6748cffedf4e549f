"""`supervisor policy check | test | why`: the policies of a registry, asked as the gateway asks them.

Runs as whoever types it, on the files that this user may read; nothing is started and nothing is changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from supervisor.cli import entry
from supervisor.cli.options import read
from supervisor.errors import ConfigError
from supervisor.profile import load, toml
from supervisor.profile.written import Written, validate
from supervisor.proxy import manifests, settings
from supervisor.proxy.principal import Principal
from supervisor.proxy.roles import Roles
from supervisor.registry import catalog, policies
from supervisor.roles import arguments, bundle
from supervisor.roles.arguments import Item
from supervisor.roles.judge import Judge
from supervisor.roles.statements import Facts
from supervisor.roles.verdict import Verdict

_NOTHING = Item("", "", {}, {})
_KINDS = {"tool": "tools", "prompt": "prompts", "resource": "resources"}


class _Registry:
    """A registry with its policies, as the planner has them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found = catalog.load_catalog(path)
        self.rules = policies.rules(self.found)
        self.host = policies.Host()

    def bundle(self, server: str) -> bundle.Bundle | None:
        """What concerns a server; None when nothing restricts it."""
        if server not in self.found.servers:
            raise ConfigError(f'{self.path}: no server "{server}" is registered')
        profile = load.load(self.found.servers[server].entry.profile, beside=self.path).profile.name
        return policies.sliced(self.rules, server, profile, self.host)

    def principal(self, name: str, groups: tuple[str, ...]) -> Principal:
        """From the words of a command line: an account, uid:N, token:SUBJECT, oidc:SUBJECT."""
        if name.startswith("token:"):
            return Principal(name.removeprefix("token:"), groups)
        if name.startswith("oidc:"):
            return Principal(name, groups)
        if groups:
            raise ConfigError("groups are of a token's subject; those of an account are the host's")
        number = name.removeprefix("uid:")
        uid = int(number) if name.startswith("uid:") and number.isdigit() else self.host.uid(name)
        if uid is None:
            raise ConfigError(
                f'this host has no account "{name}" (uid:N, token:SUBJECT and oidc:SUBJECT are others)'
            )
        return Principal(f"uid:{uid}")


def _moment(value: object) -> object:
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.timestamp()
    raise ValueError("a time with its offset, as in 2027-01-31T12:00:00Z")


class Question(Written):
    """One case: who wants to do what; `by` is the @id, or the file:line, that must have decided."""

    who: Annotated[str, Field(alias="as")]
    groups: tuple[str, ...] = Field(default=(), strict=False)
    server: str
    tool: str | None = None
    prompt: str | None = None
    resource: str | None = None
    action: Literal["list", "call", "read", "open", "approve"] | None = None
    args: dict[str, object] = {}
    at: Annotated[float, BeforeValidator(_moment)] | None = None
    expect: Literal["allow", "deny"] = "allow"
    by: str | None = None


class _Cases(Written):
    case: tuple[Question, ...] = Field(strict=False)


class Answer(NamedTuple):
    """A verdict, and what each policy that is about such an action came to."""

    action: str
    verdict: Verdict
    each: list[tuple[Facts, str]]


def ask(registry: _Registry, question: Question) -> Answer:
    """What the gateway would decide."""
    named = [(kind, name) for kind, name in _named(question) if name is not None]
    if len(named) > 1:
        raise ConfigError("name one of tool, prompt and resource")
    kind, name = named[0] if named else ("", "")
    usual = {"tools": "call", "prompts": "call", "resources": "read"}.get(kind, "open")
    action = question.action or usual
    if bool(kind) != (action in ("list", "call", "read")) or (action in ("call", "read") and action != usual):
        raise ConfigError(f"{action} does not go with {'a ' + kind[:-1] if kind else 'a server alone'}")
    if kind and (found := _patterns(registry, question.server, kind, name)).outcome != "allow":
        return Answer(action, found, [])
    made = registry.bundle(question.server)
    if made is None:
        free = Verdict("allow", "", "", registry.found.servers[question.server].entry.origin)
        return Answer(action, free, [])
    judge, item = _loaded(registry, made, kind, name)
    raw = json.dumps(question.args).encode()
    who = judge.who(*registry.principal(question.who, question.groups))
    given = {} if question.at is None else {"now": lambda: float(question.at or 0)}
    verdict = judge.asked(who, action, item, raw, **given)
    return Answer(action, verdict, judge.each(who, action, item, raw, **given))


def _named(question: Question) -> list[tuple[str, str | None]]:
    return [(_KINDS[each], getattr(question, each)) for each in _KINDS]


def _patterns(registry: _Registry, server: str, kind: str, name: str) -> Verdict:
    if server not in registry.found.servers:
        raise ConfigError(f'{registry.path}: no server "{server}" is registered')
    written = settings.decode(registry.found.servers[server].gateway, server)
    return written.patterns(kind).verdict(kind, name, written.origin)


def _loaded(registry: _Registry, made: bundle.Bundle, kind: str, name: str) -> tuple[Judge, Item]:
    path = registry.found.servers[made.server].manifest
    if not kind:
        return Judge(made), _NOTHING
    if not path:
        if kind == "resources":
            return Judge(made), arguments.item(kind, name, None)
        raise ConfigError(f'server "{made.server}" is not pinned: what its {kind} declare is not known')
    manifest = manifests.decode(toml.checked(path, limit=manifests.MAX_BYTES), path)
    if kind != "resources" and not any(name in each.items(kind) for each in manifest.eras.values()):
        raise ConfigError(f'server "{made.server}" has no {kind[:-1]} "{name}"')
    roles = Roles(bundle.encode(made), manifest)
    return roles.judge, roles.item(kind, name)


def main(words: list[str]) -> int:
    """0; 1 when a case comes out otherwise than it says; 3 when `why` says no."""
    options = read(_parser(), words)
    registry = _Registry(entry.catalog(options))
    table = {"check": _check, "test": _test, "why": _why}
    return table[options.action](registry, options)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="supervisor policy", description="Who may do what with which server.")
    actions = made.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="read every policy, and show who may open which server")
    test = actions.add_parser("test", help="check the cases of a file: [[case]] as, server, tool, args, expect, by")
    test.add_argument("file", metavar="FILE", help="TOML")
    why = actions.add_parser("why", help="what would be decided, and what each policy says to it")
    why.add_argument(
        "--as", dest="who", required=True, metavar="USER", help="account, uid:N, token:NAME, oidc:NAME"
    )
    why.add_argument("--group", action="append", default=[], metavar="NAME", help="of a token's subject")
    why.add_argument("--server", required=True, metavar="NAME")
    for kind in _KINDS:
        why.add_argument(f"--{kind}", metavar="NAME")
    why.add_argument("--action", dest="wanted", choices=["list", "call", "read", "open", "approve"])
    why.add_argument("--args", default="{}", metavar="JSON", help="the arguments of the call")
    for each in (check, test, why):
        each.add_argument("--config", metavar="FILE", help="servers.toml, if not your own")
        each.add_argument("--json", action="store_true", help="print JSON")
    return made


def _check(registry: _Registry, options: argparse.Namespace) -> int:
    rows = []
    for name in sorted(registry.found.servers):
        made = registry.bundle(name)
        users = list(registry.found.servers[name].entry.users)
        if made is not None:
            users = list(policies.openers(Judge(made), registry.host))
            bundle.encode(made)
        rows.append({"server": name, "policies": None if made is None else len(made.statements), "open": users})
    unknown = _unknown(registry)
    if options.json:
        print(json.dumps({"servers": rows, "unknown": unknown}, indent=2))
        return 0
    for row in rows:
        count = "not restricted by a policy" if row["policies"] is None else f"{row['policies']} policies"
        opens = ", ".join(map(str, row["open"])) if isinstance(row["open"], list) else ""
        print(f"{row['server']!s:24} {count:28} opened by: {opens or 'the owner of the daemon'}")
    for said in unknown:
        print(f"note: {said}")
    return 0


def _unknown(registry: _Registry) -> list[str]:
    """Accounts and groups that policies name and this host does not have."""
    found = {}
    for each in registry.rules.facts:
        for kind, name in each.entities:
            known = kind not in ("User", "Group") or ":" in name
            known = known or (registry.host.uid(name) is not None if kind == "User" else registry.host.has(name))
            if not known:
                found[kind, name] = f"{each.statement.origin}: this host has no {_WORDS[kind]} {name}"
    return sorted(found.values())


_WORDS = {"User": "account", "Group": "group"}


def _why(registry: _Registry, options: argparse.Namespace) -> int:
    try:
        given = json.loads(options.args)
    except ValueError as error:
        raise ConfigError(f"--args: {error}") from None
    if not isinstance(given, dict):
        raise ConfigError('--args: an object, as in {"path": "/data"}')
    words = {"as": options.who, "groups": tuple(options.group), "server": options.server, "args": given}
    words |= {each: getattr(options, each) for each in _KINDS} | {"action": options.wanted}
    answer = ask(registry, Question.model_validate(words))
    if options.json:
        print(json.dumps(_table(answer), indent=2))
    else:
        outcome = "allowed" if answer.verdict.outcome == "allow" else "refused"
        print(f"{answer.action}: {outcome}, {answer.verdict.reason or _by(answer.verdict)}")
        for each, said in answer.each:
            print(f"  {said or 'does not apply':14} {each.statement.origin} {each.statement.label}".rstrip())
    return 0 if answer.verdict.outcome == "allow" else 3


def _by(verdict: Verdict) -> str:
    return (
        f'{verdict.source}: "{verdict.rule}" permits it'
        if verdict.rule
        else f"{verdict.source}: nothing restricts it"
    )


def _table(answer: Answer) -> dict[str, object]:
    listed = [
        {"place": each.statement.origin, "id": each.statement.label, "says": said} for each, said in answer.each
    ]
    return {"action": answer.action, **answer.verdict._asdict(), "policies": listed}


def _test(registry: _Registry, options: argparse.Namespace) -> int:
    source = toml.read(os.path.abspath(options.file))
    rows = []
    for number, case in enumerate(validate(source, _Cases).case):
        where = f"{options.file}:{toml.line_of(source.text, ('case', number))}"
        answer = ask(registry, case)
        right = answer.verdict.outcome == case.expect
        decided = case.by in (None, answer.verdict.rule, answer.verdict.source)
        said = answer.verdict.reason or _by(answer.verdict)
        rows.append({"case": where, "ok": right and decided, "expected": case.expect, "by": case.by, "said": said})
    failed = [row for row in rows if not row["ok"]]
    if options.json:
        print(json.dumps({"cases": rows, "failed": len(failed)}, indent=2))
        return 1 if failed else 0
    for row in failed:
        by = f" by {row['by']}" if row["by"] else ""
        print(f"{row['case']}: expected {row['expected']}{by}; {row['said']}")
    print(f"{len(rows)} cases, {len(failed)} failed")
    return 1 if failed else 0
