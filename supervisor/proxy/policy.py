"""What a client may use of a server: patterns on names, each with the place where it is written.

Runs unprivileged. Every decision is a verdict with its rule; what no pattern denies and some pattern allows is
allowed.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from supervisor.roles.verdict import Verdict


class Pattern(msgspec.Struct, frozen=True, array_like=True):
    """A pattern as fnmatch has it, and `file:line`."""

    text: str
    origin: str


class Patterns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`deny` goes before `allow`; without any `allow`, everything that is not denied is allowed."""

    allow: tuple[Pattern, ...] = ()
    deny: tuple[Pattern, ...] = ()

    def verdict(self, kind: str, name: str, where: str) -> Verdict:
        """Whether the item of that kind and name may be used; `where` is the server's own place."""
        for each in self.deny:
            if fnmatchcase(name, each.text):
                said = f'{each.origin}: {kind}.deny "{each.text}" forbids "{name}"; remove the pattern to allow it'
                return Verdict("deny", f"{kind}.deny", said, each.origin)
        if not self.allow:
            return Verdict("allow", "", "", where)
        for each in self.allow:
            if fnmatchcase(name, each.text):
                return Verdict("allow", f"{kind}.allow", "", each.origin)
        origin = self.allow[0].origin
        said = f'{origin}: {kind}.allow has no pattern for "{name}"; add it there to allow it'
        return Verdict("deny", f"{kind}.allow", said, origin)
