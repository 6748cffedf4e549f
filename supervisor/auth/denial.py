"""Why a token does not let its bearer in. Pure; what it says goes to whoever sent the token."""

from __future__ import annotations


class Denial(Exception):
    """`code` as RFC 6750 has it; `log` is for the operator alone."""

    def __init__(self, said: str, *, status: int = 401, code: str = "invalid_token", log: str = "") -> None:
        super().__init__(said)
        self.said, self.status, self.code, self.log = said, status, code, log
