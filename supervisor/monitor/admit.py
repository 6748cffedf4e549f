"""Who may open what: a verdict, with the rule and the place where the rule stands.

Runs as root. Pure: it looks at the registry entry and at the identity the kernel gave, at nothing else.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd

from supervisor.model import ServerRules, Verdict

MAX_PER_PEER = 64
MAX_PER_USER = 256


def admit(
    entry: ServerRules | None, name: str, *, uid: int, gid: int, peer_sessions: int, user_sessions: int
) -> Verdict:
    """Whether this peer may open this server now."""
    if entry is None:
        return _deny("registered", f'no server "{name}" is registered; `supervisor list` shows which are')
    if not entry.personal and uid != os.geteuid() and not _granted(entry.users, uid, gid):
        reason = f'uid {uid} may not open "{name}": add the user, or "@group", to users = [...] or grant there'
        return _deny("users", reason, entry.origin)
    if peer_sessions >= MAX_PER_PEER or user_sessions >= MAX_PER_USER:
        reason = f"too many open sessions ({MAX_PER_PEER} a connection, {MAX_PER_USER} a user): close some"
        return _deny("quota", reason)
    return Verdict(outcome="allow", rule="users", reason="", source=entry.origin)


def _deny(rule: str, reason: str, source: str = "") -> Verdict:
    return Verdict(outcome="deny", rule=rule, reason=reason, source=source)


def _granted(users: tuple[str, ...], uid: int, gid: int) -> bool:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid) in users
    groups = set()
    for number in os.getgrouplist(name, gid):
        with contextlib.suppress(KeyError):
            groups.add(f"@{grp.getgrgid(number).gr_name}")
    return bool({name, str(uid)} & set(users) or groups & set(users))
