"""What the records of one tool have in common is sent once; after that a record is what varies, and a number.

Standard library only. A proxy sends one whole record with a number for its form. When that was written, others may
be `{"id":8,"form":3,"policy":"process","values":[...]}`, and the ledger puts the values where those of the first
were: each is held against the grammar of its place, so what is written is what could have been sent as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from functools import cache
from operator import itemgetter
from typing import NamedTuple

from supervisor.audit import schema
from supervisor.audit.schema import Malformed, Said

# forms of one peer, and bytes of a record that can be one
MOST, LIMIT = 64, 4096
# what varies, in the order of the values; of `call` two more members are made
_VALUES = {"intent": ("call", "time", "digest"), "outcome": ("call", "time", "duration", "took", "size", "digest")}
_OTHER = {"intent": (), "outcome": ("during", "resources")}
_PATTERNS = {"call": schema.TEXT, "digest": schema.TEXT, "during": schema.DURING, "resources": schema.RESOURCES}


class Short(NamedTuple):
    """A record for a peer to send: which form it has, what varies, and how to make it as a whole."""

    form: Hashable
    values: bytes
    whole: Callable[[], bytes]


class Form:
    """One that the ledger has learned, of a peer that had this uid."""

    def __init__(self, kind: str, uid: int, text: str, start: int, said: Said) -> None:
        """From the record of this kind at `start`, which was accepted. Malformed: others cannot be made of it."""
        call, code = said["call"] or "", said["code"] or ""
        self._suffix = f".{code[1:]}".encode()
        if kind not in _VALUES:
            raise Malformed(f"{kind}: no form is made of it")
        if said["uid"] != call[:-1] + f".{code[1:]}":
            raise Malformed("metadata.uid: not the call's, with the event's code")
        self.kind, self.uid = kind, uid
        others = tuple(name for name in _OTHER[kind] if said.span(name)[0] >= 0)
        self._pattern = _pattern(kind, others)
        names = [*_VALUES[kind], *others]
        spans = {name: said.span(name) for name in (*names, "request", "uid")}
        if said.free[0] >= 0:
            names.append("data")
            spans["data"] = said.free
        # a message's values, and what is made of the first of them
        places = {name: number for number, name in enumerate(names)}
        places |= {"request": 0, "uid": len(names)}
        template, order, at = "", [], start
        for name in sorted(spans, key=spans.__getitem__):
            template += text[at : spans[name][0]].replace("%", "%%") + "%b"
            order.append(places[name])
            at = spans[name][1]
        end = len(text) - 1
        self._template = (template + text[at:end].replace("%", "%%")).encode("ascii")
        self.size = len(self._template)
        self._pick = itemgetter(*order)

    def fill(self, data: bytes, start: int) -> bytes:
        """The record with the values at `start`, which end the message. Malformed: they are none for it."""
        found = self._pattern.match(data, start)
        if found is None:
            raise Malformed(f"not the values of this form: {data[start : start + 200]!r}")
        values: tuple[bytes, ...] = found.groups()
        end = found.end()
        if self.kind == "intent":
            free, end = end, schema.any_json(data.decode("ascii"), end)
            values = (*values, data[free:end])
        if data[end:] != b"]}":
            raise Malformed("something follows the values")
        made: bytes = self._template % self._pick((*values, values[0][:-1] + self._suffix))
        return made


@cache
def _pattern(kind: str, others: tuple[str, ...]) -> re.Pattern[bytes]:
    patterns = [f"({_PATTERNS.get(name, schema.NUMBER)})" for name in (*_VALUES[kind], *others)]
    return re.compile((",".join(patterns) + ("," if kind == "intent" else "")).encode("ascii"))
