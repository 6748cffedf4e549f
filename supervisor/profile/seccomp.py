"""System call filters: groups of calls as data, compiled to the program that the kernel runs.

Runs as root in the monitor, when profiles are loaded; what comes out is bytes that the spawner hands to
seccomp(2). The default is refusal with EPERM. `[allow]` and `[[when]]` only ever add, so groups can be
combined in any order; `[refuse]` chooses the errno of a refusal and never takes away what a group allows.
It must never load a filter itself, and never widen a rule that it cannot express.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self

import pyseccomp
from msgspec import Meta

from supervisor.errors import ConfigError, Unenforceable
from supervisor.model import Frozen, Name
from supervisor.profile import load, toml

MISSING = "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)"
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_BINARY_TREE = 2  # SCMP_FLTATR_CTL_OPTIMIZE: look calls up in log n steps
_UNKNOWN_CALL = -1  # __NR_SCMP_ERROR; other negative numbers: calls of other architectures

# linux/bpf_common.h, linux/seccomp.h: the classic BPF of seccomp_data {int nr; u32 arch; u64 ip; u64 args[6]}
_LOAD, _JEQ, _JGE, _JGT, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x06
_NR, _ARCH = 0, 4
_X32_BIT = 0x40000000


class Errno(str):
    """The name of an errno."""

    def __new__(cls, name: object) -> Self:
        """From what is written; ValueError."""
        if not isinstance(name, str) or getattr(errno, name, errno.EPERM) == errno.EPERM:
            raise ValueError(f"{name!r} is not an errno other than EPERM, the default")
        return super().__new__(cls, name)


Reason = Annotated[str, Meta(min_length=1)]

_Number = Annotated[int, Meta(ge=0, lt=_X32_BIT)]


class Condition(Frozen):
    """`argument[index] & mask` is one of `values`. The mask's 32 bits are those that the kernel looks at."""

    index: Annotated[int, Meta(ge=0, le=5)]
    values: Annotated[tuple[int, ...], Meta(min_length=1)]
    mask: Annotated[int, Meta(gt=0)] = 0xFFFFFFFF

    def __post_init__(self) -> None:
        if self.mask >> 64:
            raise ValueError(f"{self.mask:#x} is no mask of 64 bits")
        if beyond := [value for value in self.values if value & ~self.mask]:
            raise ValueError(f"{beyond[0]:#x} can never be equal under mask {self.mask:#x}")


class When(Frozen):
    """`call` is allowed if all of `args` hold; several of one call are alternatives.

    `write_execute`: only in profiles that allow memory both writable and executable.
    """

    call: str
    reason: Reason
    args: tuple[Condition, ...] = ()
    write_execute: bool = False

    def __post_init__(self) -> None:
        if not self.args and not self.write_execute:
            raise ValueError("without args it belongs into [allow]")


class Refusal(Frozen):
    """The errno of a call that no selected group allows."""

    errno: Errno
    reason: Reason


class Numbers(Frozen):
    """The errno of every number of a range, ends included; looked at before every name."""

    first: _Number
    last: _Number
    errno: Errno
    reason: Reason


class Group(Frozen):
    """One file of profiles/syscalls."""

    group: Name
    summary: Reason
    allow: dict[str, Reason] = {}
    when: tuple[When, ...] = ()
    refuse: dict[str, Refusal] = {}
    numbers: tuple[Numbers, ...] = ()


def load_groups(folder: Path, names: Sequence[str]) -> tuple[Group, ...]:
    """Read the groups of these names. ConfigError names file and line of the first fault."""
    return tuple(_load(folder, name) for name in dict.fromkeys(names))


def _load(folder: Path, name: str) -> Group:
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise ConfigError(f"{folder}: there is no system call group {name!r}; there are: {', '.join(known)}")
    source = toml.read(str(folder / f"{name}.toml"))
    group = source.validate(Group)
    if group.group != name:
        raise source.error(f"the group is named {group.group!r}, not {name!r}", "group")
    for place in [("allow", each) for each in group.allow] + [("refuse", each) for each in group.refuse]:
        _known(source, place[1], *place)
    for index, when in enumerate(group.when):
        _known(source, when.call, "when", index, "call")
    return group


def _known(source: toml.Source, call: str, *key: str | int) -> None:
    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call) == _UNKNOWN_CALL:
        dotted = ".".join(str(part) for part in key)
        raise source.error(f"{dotted}: {call!r} is not a system call known to libseccomp", *key)


def reachable(groups: Iterable[Group]) -> dict[str, int]:
    """The calls that are allowed on this architecture, with or without conditions, sorted, with their numbers."""
    return _numbers(name for group in groups for name in (*group.allow, *(when.call for when in group.when)))


def told(groups: Iterable[Group]) -> dict[str, int]:
    """The calls whose refusal is worded in a way of its own: seen from inside, something answers."""
    return _numbers(name for group in groups for name in group.refuse)


def _numbers(names: Iterable[str]) -> dict[str, int]:
    found = {name: int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)) for name in sorted(set(names))}
    return {name: number for name, number in found.items() if number >= 0}


def compile_filter(groups: Sequence[Group], *, write_execute: bool) -> bytes:
    """The groups as an array of struct sock_filter. Other architectures (i386, x32) kill the process.

    ConfigError: two groups give one call different errnos, or the program is too long for the kernel.
    """
    whens = [when for group in groups for when in group.when if write_execute or not when.write_execute]
    allowed = {name for group in groups for name in group.allow} | {w.call for w in whens if not w.args}
    rules = {(w.call, choice) for w in whens if w.call not in allowed for choice in _choices(w)}
    rules |= {(call, ()) for call in allowed}
    program = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    program.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for call, choice in sorted(rules):
        compare = [pyseccomp.Arg(index, pyseccomp.MASKED_EQ, mask, value) for index, mask, value in choice]
        program.add_rule(pyseccomp.ALLOW, call, *compare)
    granted = {call for call, _ in rules}
    for call, name in sorted(_errnos(groups).items()):
        if call not in granted:
            program.add_rule(pyseccomp.ERRNO(getattr(errno, name)), call)
    with os.fdopen(os.memfd_create("filter"), "rb") as file:
        program.export_bpf(file)
        file.seek(0)
        code = _prologue(groups) + file.read()
    if len(code) > MAX_INSTRUCTIONS * 8:
        raise ConfigError(f"the filter of {', '.join(g.group for g in groups)} is too long: {len(code) // 8}")
    return code


def own(name: str) -> str:
    """The filter of one of our own processes, in base64. Unenforceable where the kernel takes none."""
    groups = load_groups(load.share_folder("profiles") / "syscalls", (name,))
    try:
        return b64encode(compile_filter(groups, write_execute=False)).decode()
    except OSError:
        # libseccomp asks the kernel first what it knows
        raise Unenforceable({"seccomp": MISSING}, runtime="native", optional=set()) from None


def _choices(when: When) -> Iterator[tuple[tuple[int, int, int], ...]]:
    """One (index, mask, value) per argument, in every combination of values."""
    return itertools.product(*([(arg.index, arg.mask, v) for v in arg.values] for arg in when.args))


def _errnos(groups: Iterable[Group]) -> dict[str, str]:
    found: dict[str, str] = {}
    for group in groups:
        for call, refusal in group.refuse.items():
            if found.setdefault(call, refusal.errno) != refusal.errno:
                raise ConfigError(f"{group.group}.toml: {call} is {refusal.errno} here, {found[call]} elsewhere")
    return found


def _prologue(groups: Iterable[Group]) -> bytes:
    """What libseccomp cannot say by name: the architecture once more, x32, ranges of numbers."""
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, pyseccomp.system_arch()),
        (_RETURN, 0, 0, pyseccomp.KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
        (_JGE, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, pyseccomp.KILL_PROCESS),
    ]
    for numbers in (numbers for group in groups for numbers in group.numbers):
        code += [
            (_JGE, 0, 2, numbers.first),
            (_JGT, 1, 0, numbers.last),
            (_RETURN, 0, 0, pyseccomp.ERRNO(getattr(errno, numbers.errno))),
        ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
