"""Arguments that need a second look before they are written down: odd ones, and those that say something twice.

Pure; runs in the proxy; standard library only. Others read JSON that msgspec does not take, and of members with one
name some the first: what is written down must hold for all of them.
"""

from __future__ import annotations

import contextlib
import json

from supervisor.audit.redact import MARK


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; of members with one name, all that they say."""
    said: dict[str, list[object]] = {}
    for name, value in pairs:
        said.setdefault(name, []).append(value)
    return {name: {"repeated": each} if len(each) > 1 else each[0] for name, each in said.items()}


def repeats(raw: bytes) -> bool:
    """Whether a member is there twice, anywhere in JSON that was taken apart already."""
    found: list[int] = []
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(raw, object_pairs_hook=lambda pairs: found.append(len(pairs) - len(dict(pairs))))
    return any(found)


def read(raw: bytes) -> object:
    """What msgspec does not take, but others do: half a character, a number without end. Numbers become texts.

    It needs its keys, by which secrets are known; so of what nobody can take apart nothing is written down.
    """
    try:
        text = raw.decode("utf-8", "replace")
        made: object = json.loads(
            text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_pairs
        )
    except (ValueError, RecursionError):
        return {"unparsed": f"{MARK}not to be taken apart]"}
    return made
