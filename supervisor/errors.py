"""The taxonomy of failures, each with the exit status that the command line gives it.

Imported by every process, the spawner included: the standard library only, and none of its heavy parts.
A message names the thing and the next step; nothing is added to it when it is printed.
"""

from __future__ import annotations

FAILED, USAGE, REFUSED, UNENFORCEABLE = 1, 2, 3, 4


class SupervisorError(Exception):
    """Something failed; the message is complete as it is."""

    exit_status = FAILED


class ConfigError(SupervisorError):
    """What somebody wrote is wrong: a profile, a configuration file, an argument."""

    exit_status = USAGE


class Refused(SupervisorError):
    """A rule says no. The message names the rule, where it stands, and what would allow the thing."""

    exit_status = REFUSED


class Unenforceable(SupervisorError):
    """This host or runtime cannot enforce part of a spec.

    `gaps` maps the name of each field (`landlock`, `limits.memory`) to the reason and the remedy.
    """

    exit_status = UNENFORCEABLE

    def __init__(self, gaps: dict[str, str], *, runtime: str, optional: set[str]) -> None:
        self.gaps = gaps
        lines = [f"the {runtime} runtime cannot enforce this profile on this host:"]
        lines += [f"  {name}: {reason}" for name, reason in sorted(gaps.items())]
        lines.append("nothing was started")
        if set(gaps) <= optional:
            lines[-1] += f"; to run without exactly these layers: --accept-missing {','.join(sorted(gaps))}"
        super().__init__("\n".join(lines))


class LaunchFailed(SupervisorError):
    """A step of building the sandbox failed."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"could not start the sandbox: {step}: {reason}")


class WireError(SupervisorError):
    """A peer broke the wire protocol; its connection is closed, and its sessions with it."""


class SessionLost(SupervisorError):
    """A server's session ended while somebody still wanted something of it."""
