"""The planner: a one-shot process that turns what people wrote into specs, so that no parser runs as root.

Profiles, servers.toml, shebangs, pyvenv.cfg and package.json are read here. Started by root it runs as nobody with
one capability, to read what its owner alone may read (CAP_DAC_READ_SEARCH); started by a user it is that user.
It can write nothing and start nothing. Standard input: one entry, or the path of a registry file, perhaps with the
text that it is to get. Standard output: supervisor.model.Planned as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from supervisor.errors import ConfigError, SupervisorError
from supervisor.model import Planned, Registered
from supervisor.profile import host, load, offers, plan, seccomp
from supervisor.profile.entry import ServerEntry
from supervisor.registry import approvals, catalog
from supervisor.sandbox import syscalls

NOBODY = 65534
_CAP_DAC_READ_SEARCH = 2


def _drop() -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() != 0:
        return
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1, 0, 0, 0)
    syscalls.drop_bounding(syscalls.last_capability())
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    syscalls.keep_capabilities(1 << _CAP_DAC_READ_SEARCH)


def register(entries: list[ServerEntry], beside: str | None) -> list[Registered]:
    """Plan every entry, or raise what is wrong with the first that cannot be."""
    return [Registered(entry=entry, plan=plan.plan(_chain(entry, beside), entry)) for entry in entries]


# the servers of a registry with their policies, what was read for those, and who may approve by them
Governed = tuple[list[Registered], tuple[str, ...], approvals.May]
Govern = Callable[[catalog.Catalog, list[Registered]], Governed]


def ungoverned(found: catalog.Catalog, servers: list[Registered]) -> Governed:
    """Where no policy was expected, none may be left out."""
    if found.policies or found.policies_required or any(each.governed for each in found.servers.values()):
        raise ConfigError("policies have come while this was starting; start it again")
    return servers, (), approvals.anybody


def _catalog(path: str, question: dict[str, object], govern: Govern) -> Planned:
    """Every server of a registry, or one, and what was read for it."""
    text, only, review = (str(question[key]) if key in question else None for key in ("text", "only", "review"))
    found = catalog.load_catalog(path, text)
    read = dict.fromkeys(found.files)
    accounts, servers = [], []
    for each in found.servers.values():
        if only not in (None, each.entry.name):
            continue
        chain = _chain(each.entry, path)
        read |= dict.fromkeys(source.path for source in chain.sources)
        planned = plan.plan(chain, each.entry)
        accounts.append((each.entry, planned))
        servers.append(
            Registered(
                entry=each.entry, plan=planned, gateway=each.gateway, manifest=each.manifest, digest=each.digest
            )
        )
    servers, more, may = govern(found, servers)
    about = [(*account, server) for account, server in zip(accounts, servers, strict=True)]
    servers, files = approvals.join(path, found, about, may, review)
    read |= dict.fromkeys((*more, *files))
    return Planned(servers=tuple(servers), watched=tuple((each, host.changed(each)) for each in read))


def _chain(entry: ServerEntry, beside: str | None) -> load.Chain:
    """The entry's profile; what is wrong with it is told with the line that names it."""
    try:
        return load.load(entry.profile, beside=beside)
    except ConfigError as error:
        if entry.personal:
            raise
        raise ConfigError(f"{entry.origin}: {error}") from None


def answer(question: dict[str, object], govern: Govern = ungoverned) -> Planned:
    """`{"entry": {...}}`, or `{"catalog": path}` with perhaps "text", "only", "review" -> for standard output."""
    try:
        if "entry" in question:
            entry = ServerEntry.model_validate(question["entry"], strict=False)
            planned = Planned(servers=tuple(register([entry], None)))
        else:
            planned = _catalog(os.path.abspath(str(question["catalog"])), question, govern)
        return planned.model_copy(update={"proxy": seccomp.own("proxy"), "ledger": seccomp.own("ledger")})
    except SupervisorError as error:
        return Planned(error=str(error), status=error.exit_status)


def main(govern: Govern = ungoverned) -> None:
    """Answer one question, and end at once: the monitor waits for the end of standard output."""
    gaps = offers.missing()
    try:
        _drop()
    except OSError as error:
        reason = (
            f"the planner cannot become another user ({error.strerror}): map a range of users into this namespace"
        )
        sys.stdout.write(Planned(error=reason, status=1).model_dump_json())
        return
    question = sys.stdin.read()
    if not question:
        return  # whoever asked is gone
    answered = answer(json.loads(question), govern).model_copy(update={"gaps": gaps})
    sys.stdout.write(answered.model_dump_json())
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
