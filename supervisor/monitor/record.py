"""What the monitor tells the audit log of its own doing: sessions opened, refused and ended, the operator's word.

Runs as root. The keeper of the ledger, which makes records of it, is another process; what it says is not heard.
"""

from __future__ import annotations

import socket
import sys

from supervisor import wire


class Record:
    """The keeper's socket; without one nobody is told."""

    def __init__(self, keeper: socket.socket | None) -> None:
        self._keeper = keeper

    def tell(self, what: str, uid: int, server: str, session: int = 0, spec: str = "", **details: object) -> None:
        """One event. What could not be told is said on standard error."""
        about = {"req": "tell", "what": what, "uid": uid, "server": server, "session": session, "spec": spec}
        try:
            if self._keeper:
                wire.send(self._keeper, about | {"details": details})
        except OSError as error:
            print(f"supervisor: not told to the audit log: {what} ({error.strerror})", file=sys.stderr)
