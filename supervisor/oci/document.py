"""JSON from strangers, read strictly: no two readers may understand one document differently.

Runs in the fetcher, the verifier and the unpacker. Refused: keys that appear twice or differ only in case (Go's
reader, which most other tools use, takes the last of either), numbers that are not plain integers, NaN, text that
is not UTF-8 or holds a lone surrogate, anything after the end, deep nesting.
"""

from __future__ import annotations

import json
import re
from typing import TypeAlias

from supervisor.errors import Refused

Value: TypeAlias = "str | int | bool | list[Value] | dict[str, Value] | None"
Table: TypeAlias = dict[str, Value]
MAX_BYTES = 4 << 20
_MAX_DEPTH = 32
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


class _Fault(ValueError):
    pass


def parse(data: bytes, what: str, *, limit: int = MAX_BYTES) -> Table:
    """The object in `data`; Refused, naming `what` and the fault, when it can be read in more than one way."""
    if len(data) > limit:
        raise Refused(f"{what}: {len(data)} bytes, larger than {limit}")
    try:
        text = data.decode("utf-8")
        _check_depth(text)
        value = json.loads(
            text, object_pairs_hook=_table, parse_int=_integer, parse_float=_no_number, parse_constant=_no_number
        )
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(f"{what}: a lone surrogate in a string") from None
    except UnicodeDecodeError:
        raise Refused(f"{what}: not UTF-8") from None
    except _Fault as fault:
        raise Refused(f"{what}: {fault}") from None
    except ValueError as error:
        raise Refused(f"{what}: not JSON, or not all of it: {error}") from None
    if not isinstance(value, dict):
        raise Refused(f"{what}: not a JSON object")
    return value


def _table(pairs: list[tuple[str, Value]]) -> Table:
    table: Table = {}
    folded: dict[str, str] = {}
    for key, value in pairs:
        other = folded.setdefault(key.casefold(), key)
        if key in table:
            raise _Fault(f'the key "{key:.80}" appears twice')
        if other != key:
            raise _Fault(f'the keys "{other:.80}" and "{key:.80}" differ only in case')
        table[key] = value
    return table


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None or text == "-0":
        raise _Fault(f"the number {text:.40} is not written in the one way that an integer has")
    return int(text)


def _no_number(text: str) -> int:
    raise _Fault(f"the number {text:.40} is not a plain integer")


def _check_depth(text: str) -> None:
    """Before the parser, which recurses: brackets outside strings."""
    depth, quoted, escaped = 0, False, False
    for each in text:
        if quoted:
            quoted = escaped or each != '"'
            escaped = each == "\\" and not escaped
        elif each == '"':
            quoted = True
        elif each in "[{":
            depth += 1
            if depth > _MAX_DEPTH:
                raise _Fault(f"nested more than {_MAX_DEPTH} deep")
        elif each in "]}":
            depth -= 1


class Reader:
    """One object of a document, read key by key; every refusal names the document and the key."""

    def __init__(self, table: Table, what: str) -> None:
        self.table = table
        self.what = what

    def only(self, *known: str) -> None:
        """No key but these."""
        for key in self.table:
            if key not in known:
                raise Refused(f'{self.what}: unknown key "{key:.80}"')

    def fault(self, key: str, wanted: str) -> Refused:
        """A Refused for one key."""
        if key not in self.table:
            return Refused(f'{self.what}: key "{key}" is missing')
        return Refused(f'{self.what}: key "{key}" must be {wanted}, not {self.table[key]!r:.80}')

    def text(self, key: str, default: str | None = None) -> str:
        """A string; `default` where the key is missing."""
        value = self.table.get(key, default)
        if not isinstance(value, str):
            raise self.fault(key, "a string")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        """An integer from 0 on."""
        value = self.table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.fault(key, "an integer from 0 on")
        return value

    def one(self, key: str) -> Reader:
        """The object under `key`."""
        value = self.table.get(key)
        if not isinstance(value, dict):
            raise self.fault(key, "an object")
        return Reader(value, f"{self.what}, {key}")

    def maybe(self, key: str) -> Reader | None:
        """The object under `key`, or None where there is none (or null)."""
        return None if self.table.get(key) is None else self.one(key)

    def each(self, key: str, *, most: int) -> list[Reader]:
        """The objects of the list under `key`, at most `most`."""
        value = self.table.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.fault(key, "a list of objects")
        if len(value) > most:
            raise Refused(f'{self.what}: key "{key}" has {len(value)} entries, more than {most}')
        return [Reader(item, f"{self.what}, {key} {n}") for n, item in enumerate(value) if isinstance(item, dict)]

    def texts(self, key: str, *, most: int = 4096) -> list[str]:
        """The strings of the list under `key`; empty where there is none (or null)."""
        value = self.table.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or len(value) > most:
            raise self.fault(key, f"a list of at most {most} strings")
        return [item for item in value if isinstance(item, str)]

    def map(self, key: str) -> dict[str, str]:
        """The string-to-string object under `key`; empty where there is none (or null)."""
        found = self.maybe(key)
        return {} if found is None else {name: found.text(name) for name in found.table}
