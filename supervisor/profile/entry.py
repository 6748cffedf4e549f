"""What a person registered of a server, and the account that its plan gives.

Used by the planner and, as the user, by the command line; the monitor sees no more of it than
supervisor.model.ServerRules and supervisor.model.Plan.
"""

from __future__ import annotations

from typing import Literal

from supervisor.model import AbsPath, Frozen, Plan, ServerRules


class ServerEntry(ServerRules):
    """A registered server, as its owner wrote it.

    Relative paths in `params`, `ro` and `rw` are meant from `cwd`, in personal mode only. `image` is the
    name@sha256:... of one in `store`; `lock` a file that must list it; `engine` the socket of a container engine.
    """

    profile: str
    command: tuple[str, ...] = ()
    params: dict[str, str] = {}
    ro: tuple[str, ...] = ()
    rw: tuple[str, ...] = ()
    env: dict[str, str] = {}
    allow: tuple[str, ...] = ()
    cwd: AbsPath = "/"
    image: str = ""
    runtime: Literal["auto", "native", "podman", "docker", "gvisor"] = "auto"
    engine: str = ""
    store: str = ""
    lock: str = ""
    search_path: str = "/usr/local/bin:/usr/bin:/bin"


class Grant(Frozen):
    """One thing the sandbox is given, in words, with why and where that is written (`file:line`)."""

    what: str
    why: str
    origin: str


class Account(Plan):
    """A plan, and every grant in it."""

    grants: tuple[Grant, ...]
