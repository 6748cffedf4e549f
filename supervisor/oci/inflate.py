"""A layer's bytes as they come out of its compression, hashed on both sides, under limits.

Runs in the unpacker. gzip by zlib (several members, as some builders write), zstd by its library; anything after
the last member is refused. Both digests are checked when the end is reached, and the end must be reached.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import zlib

from supervisor.errors import Refused
from supervisor.oci.limits import Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_PART = 1 << 18
_WINDOW_LOG = 27  # 128 MiB, what zstd --long makes; the format would allow 2 GiB of memory


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    def decompress(self, data: bytes, max_length: int = _PART, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail


class _Zstd:
    def __init__(self) -> None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        self._inner = zstd.ZstdDecompressor(options=options)

    def decompress(self, data: bytes, max_length: int = _PART, /) -> bytes:
        return self._inner.decompress(data, max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input


class Budget:
    """What all layers of an image may use together: bytes that come out, and time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._bytes = 0
        self._deadline = time.monotonic() + limits.seconds

    def take(self, size: int, what: str) -> None:
        """Count bytes that came out of `what`."""
        self._bytes += size
        if self._bytes > self.limits.bytes:
            raise Refused(f"{what}: the image unpacks to more than {self.limits.bytes} bytes")
        if time.monotonic() > self._deadline:
            raise Refused(f"{what}: unpacking took more than {self.limits.seconds:g} s")


class Layer:
    """Reads like a file; `finish` says whether what was read is what was promised."""

    def __init__(self, fd: int, what: str, compression: str, budget: Budget) -> None:
        self._fd = fd
        self._what = what
        self._budget = budget
        self._make = {"": None, "gzip": _Gzip, "zstd": _Zstd}[compression]
        self._inner: _Gzip | _Zstd | None = None
        self._blob, self._content = hashlib.sha256(), hashlib.sha256()
        self._taken, self._given, self._at = 0, 0, 0
        self._buffer = b""
        self._position = 0
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        if self._position + size <= len(self._buffer):
            self._position += size
            return self._buffer[self._position - size : self._position]
        parts = [self._buffer[self._position :]]
        self._buffer, self._position = b"", 0
        missing = size - len(parts[0])
        while missing > 0 and (part := self._more()):
            parts.append(part[:missing])
            self._buffer, self._position = part, min(missing, len(part))
            missing -= len(part)
        return b"".join(parts)

    def finish(self, digest: str, size: int, diff_id: str) -> None:
        """Read what is left; Refused if blob or content are not those that the manifest and the config name."""
        while self.read(_PART):
            pass
        if self._taken != size:
            raise Refused(f"{self._what}: {self._taken} bytes, not the {size} that the manifest says")
        if f"sha256:{self._blob.hexdigest()}" != digest:
            raise Refused(f"{self._what}: its digest is sha256:{self._blob.hexdigest()}, not {digest}")
        if f"sha256:{self._content.hexdigest()}" != diff_id:
            raise Refused(f"{self._what}: its content is not what the image's configuration names ({diff_id})")

    def _more(self) -> bytes:
        part = self._input() if self._make is None else self._output()
        self._given += len(part)
        self._content.update(part)
        limits = self._budget.limits
        self._budget.take(len(part), self._what)
        if self._given > limits.ratio_from and self._given > limits.ratio * self._taken:
            raise Refused(f"{self._what}: unpacks to more than {limits.ratio} times its size")
        return part

    def _input(self) -> bytes:
        part = os.pread(self._fd, _PART, self._at)
        self._at += len(part)
        self._taken += len(part)
        self._blob.update(part)
        return part

    def _output(self) -> bytes:
        try:
            while True:
                if self._inner is None:
                    data = self._rest or self._input()
                    if not data:
                        return b""
                    self._rest = b""
                    self._inner = self._make() if self._make else None
                    part = self._inner.decompress(data, _PART) if self._inner else b""
                else:
                    wanted = self._inner.needs_input
                    data = self._input() if wanted else b""
                    part = self._inner.decompress(data, _PART)
                    if wanted and not data and not part and not self._inner.eof:
                        raise Refused(f"{self._what}: the compressed data ends in the middle")
                if self._inner is not None and self._inner.eof:
                    self._rest, self._inner = self._inner.unused_data, None
                if part:
                    return part
        except (zlib.error, zstd.ZstdError, EOFError) as error:
            raise Refused(f"{self._what}: cannot be decompressed: {error}") from None
