"""What a process takes from itself: capabilities, files, system calls. Nothing here gives anything.

Executed by whoever gives something up: in a sandbox after "become its user", and by our processes without power.
The monitor and the spawner never do, and an error is found by posture and by the proof from inside before a payload
starts. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct

from supervisor.sandbox import syscalls as sc

# (path, "ro" | "rw" | "dev" | "list", noexec, is_file)
Rule = tuple[str, str, bool, bool]

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 4, 8, 24
PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 28, 47, 4
# noroot, no_setuid_fixup, keep_caps off and locked, no_cap_ambient_raise; all locked
SECUREBITS_LOCKED = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80
FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_MAKE_CHAR, FS_MAKE_SOCK, FS_MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
FS_TRUNCATE, FS_IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE
_SET_MODE_FILTER, _CAPABILITY_VERSION_3, _PATH_BENEATH = 1, 0x20080522, 1
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3

seccomp = sc.Call("seccomp", ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)
_capset = sc.Call("capset", ctypes.c_void_p, ctypes.c_void_p)
_add_rule = sc.Call("landlock_add_rule", ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint)
_restrict_self = sc.Call("landlock_restrict_self", ctypes.c_int, ctypes.c_uint)


def drop_bounding(last: int) -> None:
    """Empty the bounding set: no execve brings a capability back. `last` is `syscalls.last_capability()`."""
    for capability in range(last + 1):
        sc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def drop_capabilities(last: int) -> None:
    """Empty the bounding, ambient, effective, permitted and inheritable sets and lock the securebits.

    `last` is `syscalls.last_capability()`, read while there was a /proc to read it from.
    """
    drop_bounding(last)
    sc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    sc.prctl(PR_SET_SECUREBITS, SECUREBITS_LOCKED, 0, 0, 0)
    keep_capabilities(0)


def keep_capabilities(mask: int, inheritable: int = 0) -> None:
    """Effective and permitted become `mask` (of the first 32)."""
    _capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), struct.pack("6I", mask, mask, inheritable, 0, 0, 0))


def load_seccomp(program: bytes) -> None:
    """Put this thread under a filter: `program` is struct sock_filter[], 8 bytes an instruction."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    seccomp(_SET_MODE_FILTER, 0, fprog)


def landlock_rights(abi: int) -> int:
    """Every access right to files that an ABI knows."""
    return (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1


def rule_rights(abi: int, rule: Rule) -> int:
    """The access rights of one rule, as far as this ABI knows them."""
    _, mode, noexec, is_file = rule
    known = landlock_rights(abi)
    bits = {
        "rw": known & ~(FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_IOCTL_DEV),
        "dev": FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE,
        "ro": FS_READ_FILE | FS_READ_DIR | FS_EXECUTE,
        "list": FS_READ_DIR,
    }[mode] & known
    return bits & (~FS_EXECUTE if noexec else -1) & (_FILE_RIGHTS if is_file else -1)


def landlock_rules(abi: int, rules: list[Rule]) -> None:
    """`landlock_only` what these say."""
    landlock_only(abi, [(rule[0], rule_rights(abi, rule)) for rule in rules])


def landlock_only(abi: int, allowed: list[tuple[str, int]]) -> None:
    """From now on no file can be opened but these (path, rights); from ABI 6 on, nothing outside signalled.

    ABI 0, a kernel without Landlock, lets it pass: nothing starts there unless its absence was accepted by name.
    """
    if not abi:
        return
    # struct landlock_ruleset_attr: files, TCP ports, and what is scoped, as far as this kernel knows it
    attr = struct.pack("QQQ", landlock_rights(abi), 0, _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)[: 24 if abi >= 6 else 8]
    ruleset = sc.landlock_create_ruleset(attr, len(attr), 0)
    for path, rights in allowed:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _add_rule(ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        os.close(fd)
    _restrict_self(ruleset, 0)
    os.close(ruleset)
