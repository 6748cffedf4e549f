"""What one endpoint shows: all servers under `server__name`, or one server with its names unchanged.

Runs unprivileged. Made anew when the configuration changes; everything here is a look-up, and nothing starts a
process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import translate
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from supervisor.proxy import eras, http_headers, message
from supervisor.proxy.manifests import KINDS
from supervisor.proxy.message import Fields
from supervisor.proxy.principal import Principal
from supervisor.proxy.roles import Check
from supervisor.proxy.servers import Server
from supervisor.roles.verdict import Verdict

SEPARATOR = "__"
ALIAS = "supervisor:"
PAGE = 250
# characters of a template, and of a URI that is matched with one
_LONGEST = 8192
VERSION = "0.1.0"
_ME = {"name": "supervisor", "version": VERSION}
# capabilities that a gateway offers when any server does; what else there is comes from each server as it is
_OFFERED = ("tools", "prompts", "resources", "completions", "logging")


class Route(NamedTuple):
    """Where an exposed name leads: the server, the name it knows (None: the same), and whether it may be used.

    `check` decides about each call, where arguments or the time count; `hidden`: no list shows it.
    """

    server: Server
    name: msgspec.Raw | None
    verdict: Verdict
    check: Check | None = None
    hidden: bool = False

    def judged(self, arguments: msgspec.Raw | None) -> Verdict:
        """The verdict about one call."""
        return self.verdict if self.check is None else self.check(bytes(arguments or message.EMPTY))

    @property
    def listed(self) -> bool:
        """Whether a list shows it."""
        return self.verdict.outcome == "allow" and not self.hidden


class Endpoint:
    """Tables by exposed name, and the answers to everything that is answered without a process.

    `principal`: whose view it is, where policies say who may use what.
    """

    def __init__(self, servers: list[Server], *, single: bool, principal: Principal | None = None) -> None:
        self.servers = servers
        self.single = single
        self._named = {each.name: each for each in servers}
        self.governed = any(each.roles for each in servers)
        self._principal = principal
        self.routes: dict[str, dict[str, Route]] = {kind: {} for kind in KINDS}
        self._shown: dict[str, dict[bool, list[msgspec.Raw]]] = {kind: {} for kind in KINDS}
        self._templates: list[tuple[re.Pattern[str], Route]] = []
        self._schemes: dict[str, set[str]] = {}
        self._aliases: dict[tuple[str, str], str] = {}
        self.mirrored: dict[str, dict[tuple[str, ...], bytes]] = {}
        for kind in KINDS:
            self._add(kind)
        self._pages: dict[tuple[str, bool], dict[str, bytes]] = {}
        if principal and not single:
            seen = {route.server for routes in self.routes.values() for route in routes.values() if route.listed}
            self.servers = [each for each in servers if each in seen or not each.roles]

    def _add(self, kind: str) -> None:
        """The routes of one kind, and what a list of it shows to each era of client."""
        common = self._common(kind)
        for modern in (False, True):
            shown = self._shown[kind][modern] = []
            for server in self.servers:
                for name, item in server.manifest.era(modern=server.speaks(modern=modern)).items(kind).items():
                    exposed = self._exposed(kind, server, name, name in common)
                    route = self.routes[kind].get(exposed) or self._route(kind, server, name, exposed)
                    if route.server is not server:
                        continue  # names are made so that this cannot be
                    if kind == "tools" and (found := http_headers.mirrored(item)):
                        self.mirrored[exposed] = found
                    if route.listed:
                        shown.append(item if exposed == name else _renamed(kind, item, exposed))

    def _common(self, kind: str) -> set[str]:
        """The names that more than one server has."""
        seen: set[str] = set()
        common: set[str] = set()
        for server in self.servers:
            own = {name for lists in server.manifest.eras.values() for name in lists.items(kind)}
            common |= seen & own
            seen |= own
        return common

    def _exposed(self, kind: str, server: Server, name: str, collides: bool) -> str:
        if self.single:
            return name
        if kind in ("tools", "prompts"):
            return f"{server.name}{SEPARATOR}{name}"
        # nor may a server's own name for something look like ours for something of another's
        if not collides and not name.startswith(ALIAS):
            return name
        self._aliases[server.name, name] = f"{_alias(server)}{name}"
        return self._aliases[server.name, name]

    def _route(self, kind: str, server: Server, name: str, exposed: str) -> Route:
        settings = server.settings
        rule = "resources" if kind == "templates" else kind
        verdict = settings.patterns(kind).verdict(rule, name, settings.origin)
        route = self._decided(Route(server, None if exposed == name else message.raw(name), verdict), kind, name)
        self.routes[kind][exposed] = route
        if kind == "templates" and len(exposed) <= _LONGEST:
            self._templates.append((_matching(exposed), route))
        if kind in ("templates", "resources"):
            self._schemes.setdefault(exposed.partition(":")[0], set()).add(server.name)
        return route

    @property
    def useful(self) -> bool:
        """Whether there is anything in it for this principal."""
        return not (self.governed and self._principal) or any(
            route.verdict.outcome == "allow" for routes in self.routes.values() for route in routes.values()
        )

    def _decided(self, route: Route, kind: str, name: str) -> Route:
        """A route as the policies have it, where the patterns let it through."""
        roles, principal = route.server.roles, self._principal
        if roles is None or principal is None or route.verdict.outcome != "allow":
            return route
        verdict, check = roles.verdict(principal, kind, name)
        hidden = verdict.outcome != "allow" or not roles.shows(principal, kind, name)
        return route._replace(verdict=verdict, check=check, hidden=hidden)

    def resource(self, uri: str) -> Route | None:
        """The server of a resource: listed, or aliased, or matching its templates, or the only one of that kind."""
        found = self.routes["resources"].get(uri)
        if found:
            return found
        if self.single:
            return self._judged(self.servers[0], uri)
        possible = self._matched(uri)
        if not possible and not uri.startswith(ALIAS):
            owners = self._schemes.get(uri.partition(":")[0], set())
            possible = [each for each in self.servers if each.name in owners]
            possible = possible or [each for each in self.servers if _offers(each, "resources")]
        # where several could be meant nobody is: one server's templates must not catch what is another's
        return self._judged(possible[0], uri) if len(possible) == 1 else None

    def _matched(self, uri: str) -> list[Server]:
        """The server whose name an alias has, or all that have a template for a URI."""
        if uri.startswith(ALIAS):
            return [each for each in self.servers if uri.startswith(_alias(each))]
        if len(uri) > _LONGEST:
            return []
        found = {route.server.name: route.server for pattern, route in self._templates if pattern.fullmatch(uri)}
        return list(found.values())

    def _judged(self, server: Server, uri: str) -> Route:
        name = uri if self.single else uri.removeprefix(_alias(server))
        patterns, origin = server.settings.resources, server.settings.origin
        if (patterns.allow or patterns.deny or server.roles) and ".." in unquote(name).replace("\\", "/").split(
            "/"
        ):
            said = f'{origin}: "{name[:200]}" has ".." in it, which no pattern can judge; name the resource itself'
            return Route(server, None, Verdict("deny", "resources", said, origin))
        verdict = patterns.verdict("resources", name, origin)
        return self._decided(Route(server, message.raw(name) if name != uri else None, verdict), "resources", name)

    def alias(self, server: Server, uri: str) -> str:
        """The exposed name of a server's resource."""
        return uri if self.single else self._aliases.get((server.name, uri), uri)

    def meant(self, name: str) -> Server | None:
        """Whose a tool or prompt would be that no server has: by what it begins with."""
        return self.servers[0] if self.single else self._named.get(name.partition(SEPARATOR)[0])

    def offers(self, kind: str) -> bool:
        """Whether any server has that list at all."""
        return any(_offers(each, "resources" if kind == "templates" else kind) for each in self.servers)

    def page(self, kind: str, cursor: str | None, *, modern: bool) -> bytes | None:
        """The result of a list request; None for a cursor that nobody gave out."""
        key = (kind, modern)
        if key not in self._pages:
            made = self._verbatim(kind, modern) if self.single else self._merged(kind, modern)
            self._pages[key] = dict(made)
        return self._pages[key].get(cursor or "")

    def _verbatim(self, kind: str, modern: bool) -> Iterator[tuple[str, bytes]]:
        """One server's pages as it wrote them, but for what may not be used."""
        server = self.servers[0]
        theirs = server.speaks(modern=modern)
        lists = server.manifest.era(modern=theirs)
        method, member, key = KINDS[kind]
        info = eras.server_info(lists.handshake, modern=theirs)
        cursor = ""
        for written in lists.pages.get(kind) or [message.raw({member: []})]:
            page, table = written, message.fields(written) or {}
            kept = [each for each in message.items(table.get(member)) if self._allowed(kind, each, key)]
            if len(kept) != len(message.items(table.get(member))):
                table[member] = message.raw(kept)
                page = message.raw(table)
            yield cursor, bytes(eras.completed(page, method, info) if modern and not theirs else page)
            cursor = message.text(table.get("nextCursor")) or ""

    def _allowed(self, kind: str, item: msgspec.Raw, key: str) -> bool:
        name = message.text((message.fields(item) or {}).get(key)) or ""
        return self.routes[kind][name].listed

    def _merged(self, kind: str, modern: bool) -> Iterator[tuple[str, bytes]]:
        method, member, _ = KINDS[kind]
        items = self._shown[kind][modern]
        for start in range(0, max(1, len(items)), PAGE):
            table: Fields = {member: message.raw(items[start : start + PAGE])}
            if start + PAGE < len(items):
                table["nextCursor"] = message.raw(str(start + PAGE))
            page = message.raw(table)
            yield (
                str(start) if start else "",
                bytes(eras.completed(page, method, message.raw(_ME)) if modern else page),
            )

    def handshake(self, version: str) -> bytes:
        """The result of initialize."""
        if self.single:
            manifest = self.servers[0].manifest
            lists = manifest.era(modern="legacy" not in manifest.eras)
            if "legacy" in manifest.eras:
                table = message.fields(lists.handshake) or {}
                table["protocolVersion"] = message.raw(version)
                return message.encode(table)
            return bytes(eras.as_handshake(lists.handshake, version))
        table = {"protocolVersion": message.raw(version)} | self._union(modern=False)
        return message.encode(table | {"serverInfo": message.raw(_ME)})

    def most(self) -> str:
        """The newest legacy version that a handshake here may agree on."""
        lists = self.servers[0].manifest.eras.get("legacy") if self.single else None
        return lists.version if lists and lists.version in eras.LEGACY else eras.LEGACY[-1]

    def discovery(self) -> bytes:
        """The result of server/discover."""
        if self.single:
            manifest = self.servers[0].manifest
            lists = manifest.era(modern=True)
            return bytes(lists.handshake if "modern" in manifest.eras else eras.as_discovery(lists.handshake))
        table = self._union(modern=True) | {
            "supportedVersions": message.raw(list(eras.MODERN)),
            "resultType": message.raw("complete"),
            "ttlMs": message.raw(0),
            "cacheScope": message.raw("private"),
            "_meta": message.raw({eras.SERVER: _ME}),
        }
        return message.encode(table)

    def _union(self, *, modern: bool) -> Fields:
        """Capabilities and instructions of all servers together."""
        offered: dict[str, object] = {}
        extra: dict[str, Fields] = {"experimental": {}, "extensions": {}}
        said = []
        for server in self.servers:
            table = _handshake(server, modern=modern)
            capabilities = message.fields(table.get("capabilities", message.EMPTY)) or {}
            for name in _OFFERED:
                if name in capabilities:
                    offered[name] = {"listChanged": True} if name in ("tools", "prompts", "resources") else {}
            for name, union in extra.items():
                union.update(message.fields(capabilities.get(name, message.EMPTY)) or {})
            if instructions := message.text(table.get("instructions")):
                said.append(f"# {server.name}\n{instructions}")
        if "resources" in offered:
            offered["resources"] = {"listChanged": True, "subscribe": True}
        offered |= {name: union for name, union in extra.items() if union}
        found: Fields = {"capabilities": message.raw(offered)}
        return found | ({"instructions": message.raw("\n\n".join(said))} if said else {})


def _alias(server: Server) -> str:
    """What the names begin with that resources of a server have here where they collide."""
    return f"{ALIAS}//{server.name}/"


def _handshake(server: Server, *, modern: bool) -> Fields:
    return message.fields(server.manifest.era(modern=server.speaks(modern=modern)).handshake) or {}


def _offers(server: Server, capability: str) -> bool:
    table = _handshake(server, modern=False)
    return capability in (message.fields(table.get("capabilities", message.EMPTY)) or {})


def _renamed(kind: str, item: msgspec.Raw, exposed: str) -> msgspec.Raw:
    table = message.fields(item) or {}
    return message.raw(table | {KINDS[kind][2]: message.raw(exposed)})


def _matching(template: str) -> re.Pattern[str]:
    """A URI template as a pattern: an expression stands for anything (RFC 6570 has no way back).

    As fnmatch writes it, which takes linear time: the template is one stranger's word and the URI another's.
    """
    parts = re.split(r"(\{[^{}]*\})", template)
    literal = (re.sub(r"([*?[])", r"[\1]", part) if not part.startswith("{") else "*" for part in parts)
    return re.compile(translate("".join(literal)))
