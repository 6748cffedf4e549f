"""The planner: a one-shot process that turns what people wrote into specs, so that no parser runs as root.

Profiles, servers.toml, shebangs, pyvenv.cfg and package.json are read here. Started by root it runs as nobody with
one capability, to read what its owner alone may read (CAP_DAC_READ_SEARCH); started by a user it is that user.
It can write nothing and start nothing. Standard input: one entry, or the path of a registry file, perhaps with the
text that it is to get. Standard output: supervisor.model.Planned as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import msgspec

from supervisor.errors import ConfigError, SupervisorError
from supervisor.model import Plan, Planned, Registered
from supervisor.profile import load, offers, plan, seccomp, toml
from supervisor.profile.entry import Account, ServerEntry, registered
from supervisor.registry import approvals, catalog, engines
from supervisor.registry.seen import Seen
from supervisor.sandbox import rights, syscalls

_CAP_DAC_READ_SEARCH = 2


class Found(engines.Stored, Protocol):
    """`sealed()` is its file system in a sealed memory file."""

    def sealed(self) -> int: ...


Find = Callable[[ServerEntry], Found | None]


def _drop() -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() != 0:
        return
    syscalls.prctl(rights.PR_SET_KEEPCAPS, 1, 0, 0, 0)
    rights.drop_bounding(syscalls.last_capability())
    os.setgroups([])
    os.setresgid(engines.NOBODY, engines.NOBODY, engines.NOBODY)
    os.setresuid(engines.NOBODY, engines.NOBODY, engines.NOBODY)
    rights.keep_capabilities(1 << _CAP_DAC_READ_SEARCH)


class Planning:
    """One question on its way to its answer. `sealed`: memory files of images by digest, for who asked."""

    def __init__(
        self, find: Find = lambda _: None, lacking: dict[str, str] | None = None, have: frozenset[str] = frozenset()
    ) -> None:
        self.find, self.lacking, self.have = find, lacking or {}, have
        self.sealed: dict[str, int] = {}

    def plan(self, chain: load.Chain, entry: ServerEntry) -> tuple[Account, tuple[Plan, ...]]:
        """Plan one entry, and what else may be tried; an image is sealed as soon as it can be used."""
        found = self.find(entry)
        made = plan.plan(chain, entry, found.image if found else None)
        if made.spec.runtime == "gvisor":
            made = engines.guest(made)
        if found is None:
            return made, ()
        if made.spec.runtime in engines.ENGINES:
            return engines.fitted(made, made.spec.runtime, entry, found), ()
        made = made.model_copy(update={"gaps": made.gaps | self.lacking})
        others = engines.others(made, entry, found)
        if self.lacking:
            return made, others
        digest = found.image.root.digest
        if digest not in self.have and digest not in self.sealed:
            self.sealed[digest] = found.sealed()
        return made, others


# the servers of a registry with their policies, and who may approve by them
Governed = tuple[list[Registered], approvals.May]
Govern = Callable[[catalog.Catalog, list[Registered], Seen], Governed]


def ungoverned(found: catalog.Catalog, servers: list[Registered], _: Seen) -> Governed:
    """Where no policy was expected, none may be left out."""
    if found.policies or found.policies_required or any(each.governed for each in found.servers.values()):
        raise ConfigError("policies have come while this was starting; start it again")
    return servers, approvals.anybody


def _catalog(path: str, question: dict[str, object], govern: Govern, planning: Planning) -> Planned:
    """Every server of a registry, or one, and what was read for it. "bind": with their numbers in any case."""
    text, only, review = (str(question[key]) if key in question else None for key in ("text", "only", "review"))
    seen = Seen()
    found = seen.settle(lambda: catalog.load_catalog(path, text), lambda made: made.files)
    if "bind" in question:
        found = found._replace(persons=max(1, found.persons))
    accounts, servers = [], []
    for each in found.servers.values():
        if only not in (None, each.entry.name):
            continue
        chain = _settled(seen, each.entry, path)
        planned, others = planning.plan(chain, each.entry)
        accounts.append((each.entry, planned))
        made = registered(each.entry, planned, others)
        about = {"gateway": each.gateway, "manifest": each.manifest, "digest": each.digest}
        servers.append(made.model_copy(update=about))
    servers, may = govern(found, servers, seen)
    joined = [(*account, server) for account, server in zip(accounts, servers, strict=True)]
    servers = approvals.join(path, found, joined, may, review=review, seen=seen)
    return Planned(servers=tuple(servers), watched=tuple(seen.found.items()))


def _settled(seen: Seen, entry: ServerEntry, beside: str) -> load.Chain:
    return seen.settle(lambda: _chain(entry, beside), lambda chain: [source.path for source in chain.sources])


def _chain(entry: ServerEntry, beside: str | None) -> load.Chain:
    """The entry's profile; what is wrong with it is told with the line that names it."""
    try:
        return load.load(entry.profile, beside=beside)
    except ConfigError as error:
        if entry.personal:
            raise
        raise ConfigError(f"{entry.origin}: {error}") from None


def answer(question: dict[str, object], govern: Govern = ungoverned, planning: Planning | None = None) -> Planned:
    """`{"entry": {...}}`, or `{"catalog": path}`, perhaps with "text", "only", "review", "bind": for the output."""
    planning = planning or Planning()
    try:
        if "entry" in question:
            entry = toml.made(question["entry"], ServerEntry)
            made, others = planning.plan(_chain(entry, None), entry)
            planned = Planned(servers=(registered(entry, made, others),))
        else:
            planned = _catalog(os.path.abspath(str(question["catalog"])), question, govern, planning)
        filters = {"proxy": seccomp.own("proxy"), "ledger": seccomp.own("ledger")}
        return planned.model_copy(update=filters | {"sealed": tuple(planning.sealed)})
    except SupervisorError as error:
        # it may quote what was typed, which need not be text
        return Planned(error=str(error).encode("utf-8", "backslashreplace").decode(), status=error.exit_status)


def main(govern: Govern = ungoverned, find: Find = lambda _: None) -> None:
    """Answer one question, and end at once: the monitor waits for the end of standard output.

    `find` is supervisor.registry.images.find where there may be images.
    """
    gaps, lacking = offers.missing(), offers.no_image()
    try:
        _drop()
    except OSError as error:
        reason = (
            f"the planner cannot become another user ({error.strerror}): map a range of users into this namespace"
        )
        sys.stdout.buffer.write(msgspec.json.encode(Planned(error=reason, status=1)))
        return
    asked = sys.stdin.read()
    if not asked:
        return  # whoever asked is gone
    question = json.loads(asked)
    planning = Planning(find, lacking, frozenset(question.get("have", ())))
    answered = answer(question, govern, planning).model_copy(update={"gaps": gaps})
    for each in answered.sealed:
        # blanks before the answer, each with a memory file
        with socket.socket(fileno=os.dup(1)) as out:
            socket.send_fds(out, [b" "], [planning.sealed[each]])
    sys.stdout.buffer.write(msgspec.json.encode(answered))
    sys.stdout.flush()
    os._exit(0)


def ledger() -> None:
    """Print the filter of the audit log's writer, for who starts a host's."""
    _drop()
    sys.stdout.write(seccomp.own("ledger"))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
