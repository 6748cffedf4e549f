"""Proposals that a reviewer has denied: they are not proposed again until they have changed.

Pure but for the file of it, beside the requests of a registry, which belongs to whoever owns that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Annotated

from pydantic import Field, ValidationError

from supervisor.errors import ConfigError
from supervisor.profile import toml
from supervisor.profile.written import Written, explain

NAME = "denied.json"
LIMIT = 16 << 20
_PROPOSAL = re.compile(rb"# proposal ([0-9a-f]{64})\n")


class Denial(Written):
    """What a reviewer said of one entry, under whatever name."""

    name: str
    reason: str
    at: float
    by: int


class Denied(Written):
    """The file: by the digest of an entry."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    denied: dict[str, Denial] = {}


def digest(fields: dict[str, object]) -> str:
    """Of an entry, whatever it is called."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def head(fields: dict[str, object]) -> str:
    """The first line of a request: what was proposed, also when the request is edited afterwards."""
    return f"# proposal {digest(fields)}\n"


def digests(request: bytes, fields: dict[str, object]) -> set[str]:
    """What is denied with a request: the entry as it is, and as it was proposed."""
    proposed = _PROPOSAL.match(request)
    return {digest(fields), *([proposed[1].decode()] if proposed else [])}


def load(folder: str) -> tuple[bytes | None, Denied]:
    """The file of a folder of requests as it is (None: not there) and what it says."""
    path = os.path.join(folder, NAME)
    if not os.path.lexists(path):
        return None, Denied()
    data = toml.checked(path, LIMIT)
    try:
        return data, Denied.model_validate_json(data, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)[0]}; take it away to have all proposed again") from None
