"""What a person registered of a server, and the account that its plan gives.

Used by the planner and, as the user, by the command line; the monitor sees no more of it than
supervisor.model.ServerRules and supervisor.model.Plan.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from supervisor.model import AbsPath, Frozen, Plan, Registered, ServerRules

# what a person may ask for; a spec has the one that was taken
Wanted = Literal["auto", "native", "podman", "docker", "gvisor"]
_Text = Annotated[str, Meta(min_length=1, max_length=4096)]
SecretName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}\Z")]
Kind = TypeVar("Kind", bound=Frozen)
SOURCES = ("file", "env", "credential", "keyring", "command")


class SecretText(Frozen, kw_only=True):
    """A secret as written: one of SOURCES, and `to` where it goes; `host`, `header`, `prefix` are of a header."""

    file: _Text | None = None
    env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")] | None = None
    credential: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,254}\Z")] | None = None
    keyring: Annotated[str, Meta(pattern=r"^[^/].*/[^/]+\Z", max_length=512)] | None = None
    command: Annotated[tuple[_Text, ...], Meta(min_length=1)] | None = None
    to: Literal["file", "env", "header"]
    host: _Text | None = None
    header: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")] | None = None
    prefix: Annotated[str, Meta(pattern=r"^[\x20-\x7e]{0,64}\Z")] | None = None

    def __post_init__(self) -> None:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"name one of {', '.join(SOURCES)}, where it comes from, not {' and '.join(given) or 'none'}"
            )
        if self.to == "header" and self.host is None:
            raise ValueError('to = "header" needs host = "api.example.com", the one host that gets it')
        extra = [name for name in ("host", "header", "prefix") if getattr(self, name) is not None]
        if self.to != "header" and extra:
            raise ValueError(f'{extra[0]} goes with to = "header"')


class Secret(SecretText, kw_only=True):
    """With the place where it is written."""

    origin: str


class ServerEntry(ServerRules, kw_only=True):
    """A registered server, as its owner wrote it.

    Relative paths in `params`, `ro` and `rw` are meant from `cwd`, in personal mode only. `image` is the
    name@sha256:... of one in `store`; `lock` a file that must list it; `engine` the socket of a container engine.
    `entrypoint` stands for the image's own: no registry has it, `selftest` says it.
    """

    profile: str
    command: tuple[str, ...] = ()
    params: dict[str, str] = {}
    ro: tuple[str, ...] = ()
    rw: tuple[str, ...] = ()
    env: dict[str, str] = {}
    allow: tuple[str, ...] = ()
    secrets: dict[SecretName, Secret] = {}
    cwd: AbsPath = "/"
    image: str = ""
    entrypoint: tuple[str, ...] = ()
    runtime: Wanted = "auto"
    engine: str = ""
    store: str = ""
    lock: str = ""
    search_path: str = "/usr/local/bin:/usr/bin:/bin"


class Grant(Frozen):
    """One thing the sandbox is given, in words, with why and where that is written (`file:line`)."""

    what: str
    why: str
    origin: str


class Account(Plan, kw_only=True):
    """A plan, and every grant in it."""

    grants: tuple[Grant, ...]


def registered(entry: ServerEntry, made: Account, others: tuple[Plan, ...]) -> Registered:
    """As the monitor gets it: without what is the planner's alone."""
    return Registered(entry=_as(ServerRules, entry), plan=_as(Plan, made), others=others)


def _as(kind: type[Kind], whole: Kind) -> Kind:
    return kind(**{name: getattr(whole, name) for name in kind.__struct_fields__})
