"""The planner: a one-shot process that turns what people wrote into specs, so that no parser runs as root.

Profiles, servers.toml, shebangs, pyvenv.cfg and package.json are read here. Started by root it runs as nobody with
one capability, to read what its owner alone may read (CAP_DAC_READ_SEARCH); started by a user it is that user.
It can write nothing and start nothing. Standard input: one entry, or the path of a registry file. Standard
output: {"servers": [{entry, plan}], "proxy": its filter}, or {"error": {status, message}}.
"""

from __future__ import annotations

import json
import os
import sys

from supervisor.errors import ConfigError, SupervisorError
from supervisor.model import Registered, ServerEntry
from supervisor.profile import load, plan, seccomp
from supervisor.registry import catalog
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


def _chain(entry: ServerEntry, beside: str | None) -> load.Chain:
    """The entry's profile; what is wrong with it is told with the line that names it."""
    try:
        return load.load(entry.profile, beside=beside)
    except ConfigError as error:
        if entry.personal:
            raise
        raise ConfigError(f"{entry.origin}: {error}") from None


def answer(question: dict[str, object]) -> dict[str, object]:
    """`{"entry": {...}}` or `{"catalog": path}` -> standard output (supervisor.monitor.planning.Planned)."""
    try:
        if "entry" in question:
            servers = register([ServerEntry.model_validate(question["entry"], strict=False)], None)
        else:
            path = str(question["catalog"])
            servers = register(list(catalog.load(path).values()), path)
        proxy = seccomp.own("proxy")
    except SupervisorError as error:
        return {"error": {"status": error.exit_status, "message": str(error)}}
    return {"servers": [each.model_dump(mode="json") for each in servers], "proxy": proxy}


def main() -> None:
    """Answer one question, and end at once: the monitor waits for the end of standard output."""
    try:
        _drop()
    except OSError as error:
        reason = (
            f"the planner cannot become another user ({error.strerror}): map a range of users into this namespace"
        )
        json.dump({"error": {"status": 1, "message": reason}}, sys.stdout)
        return
    question = sys.stdin.read()
    if not question:
        return  # whoever asked is gone
    json.dump(answer(json.loads(question)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
