"""The unpacker's main: gives its power up, starts mksquashfs, then reads layers.

Runs as a one-shot worker. Its question names open descriptors only: the layers, and the file that is to be filled.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import asdict

from supervisor.oci import confine, unpack, worker
from supervisor.oci.document import Reader, Table
from supervisor.oci.limits import Limits

_PROGRAMS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
_MEMORY = 2 << 30


def serve(question: Table, confined: Callable[[], None]) -> dict[str, object]:
    """{layers: [{fd, digest, size, compression, diff_id}], output, limits} -> what went in."""
    asked = Reader(question, "the unpacker's question")
    layers = [
        unpack.Blob(
            each.number("fd"),
            each.text("digest"),
            each.number("size"),
            each.text("compression"),
            each.text("diff_id"),
        )
        for each in asked.each("layers", most=1000)
    ]
    limits = _limits(asked.one("limits"))
    programs = [(path, confine.READ | confine.LIST | confine.EXECUTE) for path in _PROGRAMS[:4]]
    confine.drop([*programs, (_PROGRAMS[4], confine.READ), ("/dev/null", confine.READ | confine.WRITE)])
    squash = unpack.start(asked.number("output"))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    confined()
    return asdict(unpack.fill(squash, layers, limits, worker.report))


def _limits(asked: Reader) -> Limits:
    return Limits(**{name: asked.number(name) for name in asked.table})
