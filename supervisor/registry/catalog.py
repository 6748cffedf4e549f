"""The registry of servers: `servers.toml` and the files of `servers.d/` beside it, read all or nothing.

Runs in the planner. Only files that their owner alone can write are read. What concerns the gateway alone is put
into one text, which the monitor passes on unread; the manifest of a server is hashed here and read by the gateway.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, structs

from supervisor.errors import ConfigError
from supervisor.model import AbsPath, Frozen, Share
from supervisor.profile import load, toml
from supervisor.profile.entry import Secret, SecretName, SecretText, ServerEntry, Wanted
from supervisor.registry import grants

# what fits into one answer of the monitor's
SERVERS = 200
_MANIFEST = 32 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_Text = Annotated[str, Meta(min_length=1, max_length=256)]
# see `named`
ServerName = Annotated[str, Meta(pattern=r"^(?!.*__)[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\Z")]


def named(name: str) -> str:
    """`name`, if a server can be called that; ValueError says what it would have to be."""
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{name}": at most 64 of a-z, 0-9, ".", "_" and "-", the first a letter or a digit')
    if "__" in name or name[-1] in "_.-":
        raise ValueError(f'"{name}" holds "__" or ends in "_", "." or "-": tools are called {name}__TOOL')
    return name


# an account, @GROUP, or who a token is for: token:NAME, oidc:SUBJECT, @token:GROUP, @oidc:GROUP
Grantee = Annotated[str, Meta(pattern=r'^@?[^\s"\\@][^\s"\\]{0,254}\Z')]
ToolName = Annotated[str, Meta(pattern=r'^[^\s"\\]{1,256}\Z')]


class PatternsText(Frozen):
    """Which of a server's items may be used, as fnmatch has it; `deny` goes before `allow`."""

    allow: tuple[_Text, ...] = ()
    deny: tuple[_Text, ...] = ()


class ToolsText(PatternsText):
    """And for whom a tool is, if not for everybody who may use the server."""

    grant: dict[ToolName, tuple[Grantee, ...]] = {}


class SessionText(Frozen):
    """`answer`: how long a call may stay without any message."""

    start: load.Duration | None = None
    idle: load.Duration | None = None
    share: Share | None = None
    answer: load.Duration | None = None


class HealthText(Frozen):
    interval: load.Duration | None = None
    failures: load.Count | None = None


class RestartText(Frozen):
    limit: load.Count | None = None


class QuotaText(Frozen):
    """Of one principal: processes, and calls in flight."""

    sessions: load.Count | None = None
    calls: load.Count | None = None


class AuditText(Frozen):
    """`exact`: one call at a time. `power`: a record counts when it survives a loss of power."""

    attribution: Literal["exact", "window"] | None = None
    sync: Literal["process", "power"] | None = None
    first: Annotated[int, Meta(ge=0, le=4096)] | None = None


class ServerText(Frozen):
    """One `[server.NAME]` table."""

    profile: str
    command: tuple[str, ...] = ()
    params: dict[str, str] = {}
    ro: tuple[str, ...] = ()
    rw: tuple[str, ...] = ()
    env: dict[str, str] = {}
    image: str = ""
    runtime: Wanted = "auto"
    engine: Literal[""] | AbsPath = ""
    store: Literal[""] | AbsPath = ""
    lock: Literal[""] | AbsPath = ""
    secrets: dict[SecretName, SecretText] = {}
    allow: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    grant: tuple[Grantee, ...] = ()
    accept_missing: tuple[str, ...] = ()
    summary: Annotated[str, Meta(max_length=500)] = ""
    enabled: bool = True
    tools: ToolsText = ToolsText()
    prompts: PatternsText = PatternsText()
    resources: PatternsText = PatternsText()
    session: SessionText = SessionText()
    health: HealthText = HealthText()
    restart: RestartText = RestartText()
    quota: QuotaText = QuotaText()
    audit: AuditText = AuditText()


_PATTERNS = ("tools", "prompts", "resources")
_RULES = ("session", "health", "restart", "quota", "audit")
_ENTRY = (
    "profile",
    "command",
    "params",
    "ro",
    "rw",
    "env",
    "image",
    "runtime",
    "engine",
    "store",
    "lock",
    "allow",
    "users",
    "accept_missing",
)


class PolicyText(Frozen):
    """`required`: without a policy file nothing is offered, instead of everything."""

    required: bool = False


class ApprovalsText(Frozen):
    """`required`: nothing runs that `persons` have not approved as it is."""

    required: bool = False
    persons: Literal[1, 2] = 1


class CatalogText(Frozen):
    """One whole file."""

    policy: PolicyText = PolicyText()
    approvals: ApprovalsText = ApprovalsText()
    server: dict[ServerName, ServerText] = {}


def parsed(source: toml.Source) -> CatalogText:
    """One file; ConfigError with its line."""
    tables = source.data.get("server")
    for name in tables if isinstance(tables, dict) else ():
        if not _NAME.fullmatch(name):
            said = f'"{name}": at most 64 of a-z, 0-9, ".", "_" and "-", the first a letter or a digit'
        elif "__" in name or name[-1] in "_.-":
            said = f'"{name}" holds "__" or ends in "_", "." or "-": tools are called {name}__TOOL'
        else:
            continue
        raise source.error(f"server.{name}: {said}", "server", name)
    return source.validate(CatalogText)


class Listed(NamedTuple):
    """A server as it is written: its entry, its settings for the gateway, its manifest and that file's digest.

    `grants`: what it says of who may do what, as policies; `governed`: it grants something itself.
    """

    entry: ServerEntry
    gateway: str
    manifest: str
    digest: str
    grants: tuple[grants.Compiled, ...] = ()
    governed: bool = False


class Catalog(NamedTuple):
    """Every server by name, those not enabled apart, and every file and folder that was read.

    `policies`: path and text of each policy file; `policies_required`: where it is written that there must be one.
    `persons`: how many have to approve a server; 0 when nobody has to.
    """

    servers: dict[str, Listed]
    disabled: dict[str, Listed]
    files: tuple[str, ...]
    policies: tuple[tuple[str, str], ...] = ()
    policies_required: str = ""
    persons: int = 0


def files(path: str) -> list[str]:
    """`path` and the files of `servers.d` beside it, in the order of their names."""
    folder = os.path.join(os.path.dirname(path), "servers.d")
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".toml") and not name.startswith("."))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from None
    return [path, *(os.path.join(folder, name) for name in names)]


def load_catalog(path: str, text: str | None = None) -> Catalog:
    """The servers of a registry by name; ConfigError or Refused name file and line.

    `text` is what the file is to be: it is read instead.
    """
    path = os.path.abspath(path)
    if text is None:
        there(path)
    found: dict[str, Listed] = {}
    disabled: dict[str, Listed] = {}
    where: dict[str, str] = {}
    required, persons = "", 0
    folder = os.path.dirname(path)
    listed = files(path)
    for each in listed:
        source = toml.read(each) if text is None or each != path else toml.parse(each, text.encode())
        whole = parsed(source)
        if whole.approvals.required:
            persons = max(persons, whole.approvals.persons)
        if whole.policy.required:
            required = f"{each}:{toml.line_of(source.text, ('policy', 'required'))}"
        for name, table in whole.server.items():
            origin = f"{each}:{toml.line_of(source.text, ('server', name))}"
            if name in where:
                raise ConfigError(f'{origin}: server "{name}" is defined at {where[name]} already')
            where[name] = origin
            if len(where) > SERVERS:
                raise ConfigError(f"{origin}: more than {SERVERS} servers")
            (found if table.enabled else disabled)[name] = _listed(name, table, source, origin, folder)
    policies = tuple(_policies(f"{folder}/policies"))
    folders = (f"{folder}/servers.d", f"{folder}/pins", f"{folder}/policies")
    watched = (*listed, *folders, *(each.manifest for each in found.values()), *(path for path, _ in policies))
    return Catalog(found, disabled, tuple(each for each in watched if each), policies, required, persons)


def there(path: str) -> None:
    """ConfigError when there is no such registry."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no registry yet; supervisor add makes one") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _policies(folder: str) -> Iterator[tuple[str, str]]:
    """The policy files: nobody else may write one, put one there, or take one away."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".cedar") and not name.startswith("."))
        toml.check_owner(folder, os.stat(folder), folder=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from None
    for name in names:
        path = f"{folder}/{name}"
        try:
            yield path, toml.checked(path).decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{path}:1: not UTF-8") from None


def _listed(name: str, text: ServerText, source: toml.Source, origin: str, folder: str) -> Listed:
    entry = ServerEntry(
        name=name,
        origin=origin,
        cwd=folder,
        home=_home(),
        secrets={each: _secret(name, each, secret, source) for each, secret in text.secrets.items()},
        **{key: getattr(text, key) for key in _ENTRY},
    )
    if text.image and not text.store:
        entry = entry.model_copy(update={"store": _store(source.path)})
    settings: dict[str, object] = {"origin": origin, "summary": text.summary, "secret": bool(text.secrets)}
    for kind in _PATTERNS:
        patterns: PatternsText = getattr(text, kind)
        settings[kind] = {
            way: [[each, f"{source.path}:{_line(source, name, kind, way)}"] for each in getattr(patterns, way)]
            for way in ("allow", "deny")
        }
    for rule in _RULES:
        settings[rule] = {key: each for key, each in load.plain(getattr(text, rule)).items() if each is not None}
    gateway = json.dumps(settings, separators=(",", ":"))
    # it travels as a text within JSON
    if len(json.dumps(gateway)) > 1 << 15:
        raise ConfigError(f"{origin}: its patterns are longer than 32 KiB")
    manifest = os.path.join(folder, "pins", f"{name}.json")
    digest = _digest(manifest)
    return Listed(
        entry,
        gateway,
        manifest if digest else "",
        digest,
        _grants(name, text, source),
        bool(text.grant or text.tools.grant),
    )


def _grants(name: str, text: ServerText, source: toml.Source) -> tuple[grants.Compiled, ...]:
    at = {key: f"{source.path}:{toml.line_of(source.text, ('server', name, key))}" for key in ("grant", "users")}
    tools = f"{source.path}:{_line(source, name, 'tools', 'grant')}"
    at |= {f"tools.{each}": tools for each in text.tools.grant}
    return tuple(grants.compiled(name, text.grant, text.tools.grant, text.users, at))


def _secret(server: str, name: str, text: SecretText, source: toml.Source) -> Secret:
    line = toml.line_of(source.text, ("server", server, "secrets", name))
    return Secret(**structs.asdict(text), origin=f"{source.path}:{line}")


def _line(source: toml.Source, name: str, kind: str, way: str) -> int:
    return toml.line_of(source.text, ("server", name, kind, way))


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/nonexistent"


def _store(path: str) -> str:
    """Where the images of the owner of a registry are: see supervisor.cli.entry.store."""
    try:
        owner = os.stat(path).st_uid
        home = pwd.getpwuid(owner).pw_dir
    except (OSError, KeyError):
        owner = 0
    return "/var/lib/supervisor/images" if owner == 0 else f"{home}/.local/share/supervisor/images"


def _digest(path: str) -> str:
    """SHA-256 of a manifest; empty when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    with open(fd, "rb") as file:
        toml.check_owner(path, os.fstat(fd))
        data = file.read(_MANIFEST + 1)
    if len(data) > _MANIFEST:
        raise ConfigError(f"{path}: larger than {_MANIFEST >> 20} MiB; pin the server again")
    return hashlib.sha256(data).hexdigest()
