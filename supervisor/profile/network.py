"""Which hosts a server may reach: from profile and operator to the addresses and sockets of its sandbox.

Runs in the planner, and as the user in `explain`. Resolves nothing: the broker looks names up.
"""

from __future__ import annotations

import os
from typing import Literal

from supervisor.egress import confine, match
from supervisor.errors import ConfigError, Refused
from supervisor.model import Mount, Network
from supervisor.profile import load, seccomp, secrets
from supervisor.profile.entry import Grant, ServerEntry

GROUP = "network"
BROKER = "egress-broker"


def plan(chain: load.Chain, entry: ServerEntry) -> tuple[Network, list[Grant]]:
    """The network of a server and the account of it. ConfigError, or Refused where the profile takes no --allow."""
    text = chain.profile.network
    asked = [*((each, entry.origin) for each in entry.allow), *secrets.hosts(entry)]
    if asked and not text.operator:
        may = [name for name in load.names() if load.load(name).profile.network.operator]
        raise Refused(
            f'{asked[0][1]}: {_flag(entry)} "{asked[0][0]}": profile "{chain.profile.name}" has no network '
            f"(network.operator = false, {chain.origin('network', 'operator')}); take {' or '.join(may)}, or a "
            "profile of your own that says [network] operator = true"
        )
    if text.mode != "allowlist" and not asked:
        if text.allow:
            raise ConfigError(f'{chain.origin("network", "allow")}: allow needs mode = "allowlist"')
        return Network(), []
    if GROUP not in chain.profile.seccomp.groups:
        raise ConfigError(
            f'{chain.origin("network", "mode")}: mode = "allowlist" needs the system calls for it: add "{GROUP}" '
            "to [seccomp] groups"
        )
    entries, grants = _entries(chain, entry)
    _check_headers(entries, asked)
    return _network(text, match.Rules(entries)), grants


def _flag(entry: ServerEntry) -> str:
    return "--allow" if entry.personal else "allow"


def _entries(chain: load.Chain, entry: ServerEntry) -> tuple[list[match.Entry], list[Grant]]:
    entries, grants = [], []
    for written in chain.profile.network.allow:
        origin = _origin(chain, written)
        try:
            entries.append(match.parse(written))
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None
        grants.append(Grant(what=entries[-1].what(), why=f"profile {chain.profile.name}", origin=origin))
    for written in entry.allow:
        try:
            entries.append(match.parse(written))
        except ConfigError as error:
            raise ConfigError(f"{entry.origin}: {error}") from None
        grants.append(Grant(what=entries[-1].what(), why="the operator's own grant", origin=entry.origin))
    if any(each.kind == "header" for each in entries):
        raise ConfigError(f'{entry.origin}: "header:" comes with a secret: [server.NAME.secrets.X] to = "header"')
    for written, origin in secrets.hosts(entry):
        try:
            entries.append(match.parse(written))
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None
        grants.append(Grant(what=entries[-1].what(), why="a secret of the operator's", origin=origin))
    if chain.profile.network.ech == "pass":
        what = "hide names by Encrypted Client Hello: whatever shares an address with an allowed host is reached"
        grants.append(Grant(what=what, why=f"profile {chain.profile.name}", origin=chain.origin("network", "ech")))
    return entries, grants


def _check_headers(entries: list[match.Entry], asked: list[tuple[str, str]]) -> None:
    """One port inside cannot mean two things."""
    for each in entries:
        others = [
            other for other in entries if other.kind == "header" and other.host == each.host and other != each
        ]
        if others and (each.port == match.HTTP_PORT) and not each.labels:
            origin = next((place for text, place in asked if text == str(others[0])), asked[-1][1])
            raise ConfigError(
                f"{origin}: http://{each.host}/ is where a secret is added on the way to port {others[0].outside}; "
                f'"{each}" would be the same inside: take one of them away'
            )


def _origin(chain: load.Chain, written: str) -> str:
    for source in chain.sources:
        table = source.data.get("network")
        listed = table.get("allow") if isinstance(table, dict) else None
        if isinstance(listed, list) and written in listed:
            return source.at("network", "allow")
    return chain.origin("network", "allow")


def _network(text: load.NetworkText, rules: match.Rules) -> Network:
    if None in (text.ech, text.connections, text.rate, text.bytes, text.idle):
        raise ConfigError("none.toml: the floor must set every key of [network]")
    layout = rules.layout()
    gateway = (match.GATEWAY, match.DNS_PORT)
    ech: Literal["refuse", "pass"] = text.ech or "refuse"
    return Network(
        mode="allowlist",
        allow=tuple(str(each) for each in rules.entries),
        ech=ech,
        connections=text.connections or 0,
        rate=text.rate or 0,
        bytes=int(text.bytes or 0),
        idle=float(text.idle or 0),
        addresses=(
            f"{match.GATEWAY}/{match.PREFIX}",
            *(f"{each}/{128 if ':' in each else 32}" for each in layout.addresses),
        ),
        udp=(gateway,),
        tcp=(gateway, *layout.listen),
        filter=seccomp.own(BROKER),
    )


def authorities() -> list[Mount]:
    """The host's list of certificate authorities, read-only: the one file that programs look for."""
    found = []
    for path in confine.BUNDLES:
        real = os.path.realpath(path)
        if os.path.isfile(real):
            found.append(Mount(source=real, target=path, is_file=True))
    return found
