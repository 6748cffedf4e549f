"""How much of anything one image may be. Bytes, numbers, seconds; plain data, frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of unpacking: `ratio` holds once `ratio_from` bytes have come out of a layer."""

    bytes: int = 2 << 30
    entries: int = 200_000
    depth: int = 128
    name: int = 255
    path: int = 4095
    ratio: int = 100
    ratio_from: int = 64 << 20
    seconds: float = 300.0


@dataclass(frozen=True)
class Download:
    """Of fetching: `seconds` without a byte, `total_seconds` for one blob, `documents` bytes that are no layers."""

    seconds: float = 30.0
    total_seconds: float = 3600.0
    documents: int = 32 << 20
    signatures: int = 64
    bytes: int = 4 << 30
