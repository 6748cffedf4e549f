"""What every process that reads a stranger's image gives up before it reads the first byte of it.

Runs in the fetcher, the verifier and the unpacker, as the first thing. Started by root they become a uid of their
own; a user's stay the user. Then: no capability (or the one to read files, for images on this host's disk), no
new privileges, no file but those named, and after that no system call but those of its filter. Nothing is optional.
"""

from __future__ import annotations

import os
import resource
import signal

from supervisor.errors import Unenforceable
from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc

EXECUTE, WRITE, READ, LIST, REMOVE, MAKE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
TRUNCATE = 1 << 14
_CAP_DAC_READ_SEARCH = 2


def drop(files: list[tuple[str, int]], *, own: int = -1, read_all: bool = False) -> None:
    """Files, identity, capabilities; `own` is a folder's descriptor that is given to the new identity.

    OSError when a step fails, Unenforceable without Landlock: then nothing may be read.
    """
    abi = sc.landlock_abi()
    if not abi:
        reason = "this kernel has no Landlock, or it is not in the lsm= list of the boot command line"
        raise Unenforceable({"landlock": reason}, runtime="image", optional=set())
    last = sc.last_capability()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    known = rights.landlock_rights(abi)
    rights.landlock_only(abi, [(path, wanted & known) for path, wanted in files if os.path.exists(path)])
    if os.geteuid() == 0:
        identity = sc.FIRST_UID + os.getpid()
        if own >= 0:
            os.fchown(own, identity, identity)
        sc.prctl(rights.PR_SET_KEEPCAPS, 1, 0, 0, 0)
        rights.drop_bounding(last)
        os.setgroups([])
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
        rights.keep_capabilities(1 << _CAP_DAC_READ_SEARCH if read_all else 0)
    # a change of uid clears it, hence here
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sc.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
