"""The part of a document that is for an engine: `{"engine": {socket, pump, image}}`.

Runs in the keeper. Standard library only.
"""

from __future__ import annotations

from supervisor.errors import WireError
from supervisor.sandbox import enter


def table(document: enter.Document, key: str) -> enter.Document:
    """The table under `key`."""
    value = document.get(key)
    if not isinstance(value, dict):
        raise WireError(f"document: {key} is not a table")
    return value


def engine(document: enter.Document) -> enter.Document:
    """What is for the engine alone."""
    return table(document, "engine")


def image(document: enter.Document) -> enter.Document:
    """What the store says of its image."""
    return table(engine(document), "image")
