"""The gate: the first process of every container, so that pid 1 is ours and waits until it is let go.

`gate.s` beside this file is its text; the bytes here are what `as` and `ld` make of it, which a test does again. An
engine starts it as the container's program with the payload as its arguments; it applies our Landlock rules and our
system call filter, byte for byte the native runtime's, whatever an engine and its own runtime know of either.
Standard library only.
"""

from __future__ import annotations

import base64
import itertools
import os
import platform
import struct

from supervisor.sandbox import enter, rights
from supervisor.sandbox.mounts import DEVICES

# where it lies in the container, and where its environment in its memory
PLACE = "/.supervisor"
_ENVIRONMENT = 0x10000000
MISSING = 'the gate, the first process of a container, is there for x86-64 only: use runtime = "native"'
# what its end says about a step that failed
FAILED: dict[object, str] = {
    121: "apply its Landlock rules",
    122: "load its system call filter",
    125: "wait until it is let go",
    126: "execute the gate",
}
PROGRAM = base64.b64decode(
    "f0VMRgIBAQAAAAAAAAAAAAIAPgABAAAAeABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAABAAAAAAAAAAEAAAAFAAAAAAAAAAAA"
    "AAAAAEAAAAAAAAAAQAAAAAAAUAMAAAAAAABQAwAAAAAAAAAQAAAAAAAASInlSIPsQEjHRfj/////SMdF8AAAAAAx/0iNdfjoYQIAAEiN"
    "dei6AQAAAOg6AgAATI01oQIAAEmLNkiF9g+EoAAAAEmNfggx0ri8AQAADwWFwA+I+AEAAEGJx0mLXiBNjWY4SIXbdF1Ji3wkCEwB974A"
    "ACgAMdK4AgAAAA8FhcAPiMoBAABBicVJiwwkSIlN2IlF4ESJ/74BAAAASI1V2EUx0ri9AQAADwWFwA+IngEAAESJ77gDAAAADwVJg8QQ"
    "SP/L655Eif8x9ri+AQAADwWFwA+IdwEAAESJ/7gDAAAADwVJi0YoSIXAdClIiUXISYtGMEwB8EiJRdC/AQAAADH2SI1VyLg9AQAADwWF"
    "wA+IQgEAAEiNdei6CAAAAOhHAQAAvwAAABBIi3XougMAAABBuiIAEABJx8D/////RTHJuAkAAAAPBUG8AAAAEEw54A+FBwEAAEyJ5kiL"
    "VejoBwEAAEyNbRC/BAAAADH2uJ0AAAAPBb8RAAAAMfYx0kUx0kUxwLg4AAAADwVIhcAPiMoAAAB0fInDMf++/////zHSuLQBAAAPBUiN"
    "ffgx9jHSQboIAAAAuIAAAAAPBYXAfueD+BF0DYnGid+4PgAAAA8F69VIx8f/////SI116LoBAAAARTHSuD0AAAAPBYXAfrc52HXei33o"
    "ifiD4H91C8HvCIHn/wAAAOtZjbiAAAAA61G/AgAAAEiNdfDoYwAAAEmLfQBMie5MieK4OwAAAA8FvwIAAABIjTVWAAAAukUAAAC4AQAA"
    "AA8Fv38AAADrE795AAAA6wy/egAAAOsFv30AAAC45wAAAA8FSIXSdBMx/zHADwVIhcB+5EgBxkgpwuvowzHSQboIAAAAuA4AAAAPBcN0"
    "aGUgcHJvZ3JhbSBvZiB0aGlzIHNlcnZlciBjb3VsZCBub3QgYmUgZXhlY3V0ZWQgaW4gaXRzIGltYWdlCg8fgAAAAAA="
)
_SIZES = 64 + 32  # p_filesz and p_memsz of its one program header
_HEAD = struct.Struct("<Q3QQQQ")


def here() -> bool:
    """Whether it runs on this machine."""
    return platform.machine() == "x86_64"


def environment(env: dict[str, str]) -> bytes:
    """What it waits for: the environment with its size before it, as execve takes it, at the one address."""
    texts = [os.fsencode(f"{name}={value}") + b"\0" for name, value in sorted(env.items())]
    starts = itertools.accumulate(map(len, texts), initial=_ENVIRONMENT + 8 * (len(texts) + 1))
    pointers = [*itertools.islice(starts, len(texts)), 0]
    data = struct.pack(f"<{len(pointers)}Q", *pointers) + b"".join(texts)
    return struct.pack("<Q", len(data)) + data


def made(document: enter.Document) -> bytes:
    """The gate of one document, with its rules and its filter."""
    abi, program = int(str(document["landlock"])), base64.b64decode(str(document["seccomp"]))
    rules = allowed(document, abi) if abi else []
    attr = (rights.landlock_rights(abi), 0, 3) if abi else (0, 0, 0)
    filters = _HEAD.size + 16 * len(rules)
    offset, table, paths = filters + len(program), b"", b""
    for path, bits in rules:
        table += struct.pack("<QQ", bits, offset + len(paths))
        paths += path.encode() + b"\0"
    size = 0 if not abi else 24 if abi >= 6 else 8
    data = _HEAD.pack(size, *attr, len(rules), len(program) // 8, filters) + table + program + paths
    length = len(PROGRAM) + len(data)
    return PROGRAM[:_SIZES] + struct.pack("<QQ", length, length) + PROGRAM[_SIZES + 16 :] + data


def allowed(document: enter.Document, abi: int) -> list[tuple[str, int]]:
    """Landlock's (path, rights): the image can be read and executed, /tmp written, the mounts as they are meant."""
    specs = enter.specs(document, "trees") + enter.specs(document, "mounts")
    rules: list[rights.Rule] = [(each.target, each.mode, each.noexec, each.is_file) for each in specs]
    rules += [(f"/dev/{name}", "dev", True, True) for name in DEVICES]
    noexec = bool(enter.numbers(document, "tmp")["noexec"])
    places: list[rights.Rule] = [
        ("/", "ro", False, False),
        ("/tmp", "rw", noexec, False),
        ("/dev/shm", "rw", True, False),
    ]
    return [(rule[0], rights.rule_rights(abi, rule)) for rule in (*places, *rules)]
