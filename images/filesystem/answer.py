"""What a tool returns, how it refuses, and how long it may take.

Runs as the session's unprivileged uid. Knows nothing of the protocol, so that the tools can be
tested, and loaded, without the SDK.
"""

import time
from dataclasses import dataclass, field

CALL_SECONDS = 10.0


class ToolError(Exception):
    """An answer with `isError`: names the thing and the next step, for the model to act on."""


@dataclass
class Budget:
    """What is left of one call's time. `stop` ends the work of a call that was cancelled."""

    deadline: float
    stopped: bool = False

    @classmethod
    def of(cls, seconds: float = CALL_SECONDS) -> "Budget":
        return cls(time.monotonic() + seconds)

    def spent(self) -> bool:
        return self.stopped or time.monotonic() > self.deadline

    def stop(self) -> None:
        self.stopped = True


@dataclass(frozen=True)
class Media:
    """The bytes of a file that is not text."""

    data: bytes
    mime_type: str
    kind: str
    """image, audio or resource."""
    uri: str


@dataclass(frozen=True)
class Answer:
    """A tool's result: for a reader (`text`, `notes`, `media`) and for a program (`data`)."""

    text: str
    data: dict[str, object]
    notes: list[str] = field(default_factory=list)
    """Why the answer is not the whole of it, and the call that gives the rest."""
    media: Media | None = None

    def structured(self) -> dict[str, object]:
        return {**self.data, "notes": self.notes} if self.notes else self.data
