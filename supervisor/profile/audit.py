"""The system call filter of the audit ledger and its signer, compiled like those of sandboxes.

Runs in the planner: the ledger's starter passes on what comes out and can read none of what goes in.
"""

from __future__ import annotations

from base64 import b64encode

from supervisor.profile import load, seccomp

GROUP = "ledger"


def ledger_filter() -> str:
    """struct sock_filter[] in base64, for the starter's first message to the ledger."""
    groups = seccomp.load_groups(load.share_folder("profiles") / "syscalls", (GROUP,))
    return b64encode(seccomp.compile_filter(groups, write_execute=False)).decode()
