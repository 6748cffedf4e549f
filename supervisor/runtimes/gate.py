"""The gate: the first process of every container, so that pid 1 is ours and waits until it is let go.

`gate.s` beside this file is its text; the bytes here are what `as` and `ld` make of it, which a test does again. An
engine starts it as the container's program with the payload as its arguments; it applies our Landlock rules and our
system call filter, byte for byte the native runtime's, whatever an engine and its own runtime know of either.
Standard library only.
"""

from __future__ import annotations

import base64
import platform
import struct

from supervisor.sandbox import enter
from supervisor.sandbox import syscalls as sc
from supervisor.sandbox.mounts import DEVICES

# where it lies in the container, and what a byte of standard input does
PLACE = "/.supervisor"
GO = b"g"
MISSING = 'the gate, the first process of a container, is there for x86-64 only: use runtime = "native"'
# what its end says about a step that failed
FAILED = {
    121: "apply its Landlock rules",
    122: "load its system call filter",
    125: "wait until it is let go",
    126: "execute the gate",
}
PROGRAM = base64.b64decode(
    "f0VMRgIBAQAAAAAAAAAAAAIAPgABAAAAeABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAABAAAAAAAAAAEAAAAFAAAAAAAA"
    "AAAAAAAAAEAAAAAAAAAAQAAAAAAAGAMAAAAAAAAYAwAAAAAAAAAQAAAAAAAASInlSIPsQEjHRfj/////SMdF8AAAAAAx/0iNdfjo"
    "KgIAAEyNNXcCAABJizZIhfYPhKAAAABJjX4IMdK4vAEAAA8FhcAPiOgBAABBicdJi14gTY1mOEiF23RdSYt8JAhMAfe+AAAoADHS"
    "uAIAAAAPBYXAD4i6AQAAQYnFSYsMJEiJTdiJReBEif++AQAAAEiNVdhFMdK4vQEAAA8FhcAPiI4BAABEie+4AwAAAA8FSYPEEEj/"
    "y+ueRIn/Mfa4vgEAAA8FhcAPiGcBAABEif+4AwAAAA8FSYtGKEiFwHQpSIlFyEmLRjBMAfBIiUXQvwEAAAAx9kiNVci4PQEAAA8F"
    "hcAPiDIBAAAx/0iNdQK6AQAAADHADwVIg/gBD4UgAQAATI1lEE2J5UmLfQBIhf8PhAwBAABJg8UIgD8AdepJx0X4AAAAAL8RAAAA"
    "MfYx0kUx0kUxwLg4AAAADwVIhcAPiNwAAAAPhIoAAACJw78EAAAAMfa4nQAAAA8FMf++/////zHSuLQBAAAPBUiNffgx9jHSQboI"
    "AAAAuIAAAAAPBYXAfueD+BF0DYnGid+4PgAAAA8F69VIx8f/////SI11AroBAAAARTHSuD0AAAAPBYXAfrc52HXei30CifiD4H91"
    "C8HvCIHn/wAAAOtZjbiAAAAA61G/AgAAAEiNdfDoSgAAAEmLfQBMie5MieK4OwAAAA8FvwIAAABIjTU9AAAAukQAAAC4AQAAAA8F"
    "v38AAADrE795AAAA6wy/egAAAOsFv30AAAC45wAAAA8FMdJBuggAAAC4DgAAAA8Fw3RoZSBwcm9ncmFtIG9mIHRoaXMgc2VydmVy"
    "IGNvdWxkIG5vdCBiZSBleGVjdXRlZCBpbiBpdHMgaW1hZ2UKZg8fRAAA"
)
_SIZES = 64 + 32  # p_filesz and p_memsz of its one program header
_HEAD = struct.Struct("<Q3QQQQ")


def here() -> bool:
    """Whether it runs on this machine."""
    return platform.machine() == "x86_64"


def arguments(document: enter.Document) -> list[str]:
    """Exactly our environment, and the payload."""
    env = [f"{name}={value}" for name, value in sorted(enter.texts(document, "env").items())]
    return [*env, "", *(str(each) for each in enter.items(document, "argv"))]


def made(document: enter.Document) -> bytes:
    """The gate of one document, with its rules and its filter."""
    abi, program = int(str(document["landlock"])), base64.b64decode(str(document["seccomp"]))
    rules = rights(document, abi) if abi else []
    attr = (sc.landlock_rights(abi), 0, 3) if abi else (0, 0, 0)
    filters = _HEAD.size + 16 * len(rules)
    offset, table, paths = filters + len(program), b"", b""
    for path, bits in rules:
        table += struct.pack("<QQ", bits, offset + len(paths))
        paths += path.encode() + b"\0"
    size = 0 if not abi else 24 if abi >= 6 else 8
    data = _HEAD.pack(size, *attr, len(rules), len(program) // 8, filters) + table + program + paths
    length = len(PROGRAM) + len(data)
    return PROGRAM[:_SIZES] + struct.pack("<QQ", length, length) + PROGRAM[_SIZES + 16 :] + data


def rights(document: enter.Document, abi: int) -> list[tuple[str, int]]:
    """Landlock's (path, rights): the image can be read and executed, /tmp written, the mounts as they are meant."""
    specs = enter.specs(document, "trees") + enter.specs(document, "mounts")
    rules: list[enter.Rule] = [(each.target, each.mode, each.noexec, each.is_file) for each in specs]
    rules += [(f"/dev/{name}", "dev", True, True) for name in DEVICES]
    noexec = bool(enter.numbers(document, "tmp")["noexec"])
    places: list[enter.Rule] = [
        ("/", "ro", False, False),
        ("/tmp", "rw", noexec, False),
        ("/dev/shm", "rw", True, False),
    ]
    return [(rule[0], enter.landlock_rights(abi, rule)) for rule in (*places, *rules)]
