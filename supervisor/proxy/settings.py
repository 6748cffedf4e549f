"""What the registry says of a server to the gateway: patterns, times, bounds.

Runs unprivileged. The planner wrote it, the monitor passed it on unread, and this is the only reader.
"""

from __future__ import annotations

import msgspec

from supervisor.errors import ConfigError
from supervisor.proxy.policy import Patterns


class Session(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds; `answer` is how long a call may stay without any message."""

    start: float = 30.0
    idle: float = 600.0
    share: str = "principal"
    answer: float = 600.0


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often an idle server is asked whether it lives (seconds), and how many silences end it."""

    interval: float = 30.0
    failures: int = 3


class Restart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """After so many failures in a row only an operator brings it back."""

    limit: int = 8


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one principal at one server: processes, and calls in flight."""

    sessions: int = 8
    calls: int = 64


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How calls are recorded: one at a time or not, when a record counts as written, how much of an answer.

    `sync`: "process", "power", or "" for power where a tool is said to destroy.
    """

    attribution: str = "window"
    sync: str = ""
    first: int = 0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything of one server; `origin` is where its table stands (file:line). `secret`: it is given secrets."""

    origin: str = ""
    summary: str = ""
    secret: bool = False
    tools: Patterns = Patterns()
    prompts: Patterns = Patterns()
    resources: Patterns = Patterns()
    session: Session = Session()
    health: Health = Health()
    restart: Restart = Restart()
    quota: Quota = Quota()
    audit: Audit = Audit()

    def patterns(self, kind: str) -> Patterns:
        """Those that hold for a kind of item; templates are resources."""
        return {"tools": self.tools, "prompts": self.prompts}.get(kind, self.resources)


_decoder = msgspec.json.Decoder(Settings)


def decode(text: str, server: str) -> Settings:
    """The settings in the monitor's answer; ConfigError when they are of another version of this program."""
    try:
        return _decoder.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ConfigError(
            f'the settings of server "{server}" cannot be read ({error}); restart the daemon'
        ) from None
