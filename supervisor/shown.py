"""Strangers' words on a terminal. Standard library only."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` as one line, without anything a terminal would act on."""
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)
