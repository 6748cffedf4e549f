"""The file of approvals: one more line for each decision.

Runs as root in the monitor, which writes when admin.sock asks it to and never reads; in personal mode as the user
who owns the registry. What an approval binds is the planner's text, written down as it is; the planner reads all of
it, and checks whose file it is. Whose login decided is the kernel's word, through su and sudo.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

from supervisor.errors import SupervisorError

NAME = "approvals.jsonl"
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def record(config: str, pid: int, table: dict[str, object]) -> None:
    """Append a decision of that process's; it is on disk before it holds."""
    said = {"at": time.time()} | table
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/loginuid", encoding="ascii") as file:
        said["login"] = int(file.read())
    path = os.path.join(os.path.dirname(config), NAME)
    try:
        with open(os.open(path, _FLAGS, 0o644), "ab", 0) as store, contextlib.ExitStack() as undo:
            # half a line would make the registry unreadable
            undo.callback(store.truncate, os.fstat(store.fileno()).st_size)
            line = json.dumps(said).encode() + b"\n"
            while line:
                line = line[store.write(line) :]
            os.fsync(store.fileno())
            undo.pop_all()
    except OSError as error:
        raise SupervisorError(f"{path}: {error.strerror}; nothing was decided") from None
    print("supervisor: {req} of {approval} ({server}) by uid {uid}: {0}".format(path, **table), file=sys.stderr)
