"""What the broker gives up before it reads the first byte of a stranger.

Runs in the broker, as the first thing. Started by root it becomes a uid of its own; started by an ordinary user it
moves into a user namespace of its own, because the owner of the sandbox's namespace has every capability in there.
Everything that is imported later must have been imported before.
"""

from __future__ import annotations

import os
import resource
import signal

from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc

FILES = ("/etc/resolv.conf", "/etc/hosts")
# where OpenSSL, GnuTLS, curl, git, Python and Go look for certificate authorities
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
_READ_FILE = 1 << 2


def drop() -> None:
    """Identity, capabilities, files. OSError when a step fails: then nothing may be served."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    last = sc.last_capability()
    if os.geteuid() == 0:
        identity = sc.FIRST_UID + os.getpid()
        rights.drop_bounding(last)
        os.setgroups([])
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    else:
        sc.unshare(sc.CLONE_NEWUSER)
        rights.drop_capabilities(last)
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sc.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # only the resolver's files and the authorities, only to be read
    allowed = [(path, _READ_FILE) for path in (*FILES, *BUNDLES) if os.path.exists(path)]
    rights.landlock_only(sc.landlock_abi(), allowed)
