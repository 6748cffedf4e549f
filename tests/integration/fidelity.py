"""Plays a scripted session with a server and compares what was said at one end with what was heard at the other.

Runs as whoever runs the tests. The client is this file, line by line, without a library; the server is the awkward
one, which records. Two members are equal if they are the same bytes. What may be rewritten on the way is masked,
and nothing else: ids of requests, progress tokens, ids of what is cancelled, and the names' prefix.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from queue import Empty, Queue

from tests.awkward import raw
from tests.awkward.wire import SUBSCRIPTION_KEY
from tests.escape.arena import end

SECONDS = 30
PYTHON = ("/usr/bin/python3", "-I", "-S")  # all that the awkward server needs
Start = Callable[[], "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Step:
    """Lines that are sent at once; before the next step these answers have to come, and so many other messages."""

    lines: tuple[str, ...]
    answers: tuple[str, ...] = ()
    others: int = 0


@dataclass
class Tape:
    """What the client said and heard, and what the server heard and said."""

    sent: list[str] = field(default_factory=list)
    got: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


class Player:
    """The client: says its lines, and answers each question of the server's with the same bytes every time."""

    def __init__(self, process: subprocess.Popen[bytes], replies: dict[str, str]) -> None:
        self.tape = Tape()
        self._process = process
        self._replies = replies
        self._arrived: Queue[str | None] = Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._arrived.put(line.decode("utf-8", "surrogateescape").rstrip("\n"))
        self._arrived.put(None)

    def _say(self, line: str) -> None:
        assert self._process.stdin
        self.tape.sent.append(line)
        self._process.stdin.write(line.encode("utf-8", "surrogateescape") + b"\n")
        self._process.stdin.flush()

    def play(self, step: Step) -> None:
        """Say the lines of a step and hear what has to come."""
        for line in step.lines:
            self._say(line)
        missing, others = {same(each) for each in step.answers}, step.others
        while missing or others > 0:
            line = self._next(step, missing)
            message = raw.members(line)
            if "method" not in message:
                missing.discard(same(message.get("id", "null")))
                continue
            others -= 1
            if "id" in message:
                self._reply(message)

    def _next(self, step: Step, missing: Collection[str]) -> str:
        try:
            line = self._arrived.get(timeout=SECONDS)
        except Empty:
            line = None
        if line is None:
            shown = [each[:200] for each in (*step.lines, "heard last:", *self.tape.got[-3:])]
            raise AssertionError(f"no answer to {sorted(missing)} of {shown}")
        self.tape.got.append(line)
        return line

    def _reply(self, message: dict[str, str]) -> None:
        method = json.loads(message["method"])
        body = self._replies.get(method) or self._replies[""]
        self._say(f'{{"x-reply":[1.0],{body},"jsonrpc":"2.0","id":{message["id"]}}}')

    def close(self) -> Tape:
        """The end of the input, and of the process; what was said meanwhile belongs to the tape."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
            self._thread.join(SECONDS)
        finally:
            end(self._process)
        while (line := self._arrived.get_nowait()) is not None:
            self.tape.got.append(line)
        return self.tape


def play(start: Start, script: Iterable[Step], replies: dict[str, str], record: Path) -> Tape:
    """Play a script with a new process; `record` is where its server writes down its side."""
    record.unlink(missing_ok=True)
    player = Player(start(), replies)
    try:
        for step in script:
            player.play(step)
    finally:
        tape = player.close()
    recorded(tape, record)
    return tape


def recorded(tape: Tape, record: Path) -> None:
    """Add the server's side, which it wrote down."""
    for line in record.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
        if line:
            (tape.heard if line[0] == "<" else tape.said).append(line[1:])


def same(text: str) -> str:
    """One spelling for all spellings of a JSON value."""
    return json.dumps(json.loads(text), sort_keys=True)


Keys = tuple[str, ...]
TOKENS: tuple[Keys, ...] = (
    ("params", "_meta", "progressToken"),
    ("params", "_meta", SUBSCRIPTION_KEY),
    ("result", "_meta", SUBSCRIPTION_KEY),
)
ITEMS = ("tools", "prompts", "resources", "resourceTemplates")
NAMES: tuple[Keys, ...] = (("params", "name"), ("params", "ref", "name"))


def masked(line: str, prefix: str = "") -> dict[str, str]:
    """The members of a message as they were written, without what may be rewritten on the way."""
    hidden = [("id",), *TOKENS]
    method = json.loads(raw.value(line, "method") or '""')
    if method == "notifications/progress":
        hidden.append(("params", "progressToken"))
    if method == "notifications/cancelled":
        hidden.append(("params", "requestId"))
    for path in hidden:
        line = replaced(line, path, '"*"')
    for path in NAMES if prefix else ():
        name = raw.value(line, *path)
        if name.startswith(f'"{prefix}'):
            line = replaced(line, path, f'"{name.removeprefix(chr(34) + prefix)}')
    return raw.members(line)


def replaced(line: str, path: Keys, text: str) -> str:
    """The line with another value at a path, if there is one."""
    found = raw.find(line, *path) if f'"{path[-1]}"' in line else None
    return line if found is None else f"{line[: found[0]]}{text}{line[found[1] :]}"


def foreign(lines: Iterable[str], other: Iterable[str], own: Collection[str]) -> list[str]:
    """The lines without the requests and notifications of methods in `own`, and without their answers.

    `other` is what was said in the other direction at the same end: where the requests are. Nobody listens to an
    answer to what was cancelled, so it may come or not.
    """
    answered = {same(each["id"]) for each in map(raw.members, other) if "id" in each and _named(each) in own}
    answered |= cancelled(other)
    kept = []
    for line in lines:
        message = raw.members(line)
        is_answer = "method" not in message
        if not (same(message.get("id", "null")) in answered if is_answer else _named(message) in own):
            kept.append(line)
    return kept


def cancelled(lines: Iterable[str]) -> set[str]:
    """The ids of the requests that were cancelled."""
    told = [each for each in lines if _named(raw.members(each)) == "notifications/cancelled"]
    return {same(raw.value(each, "params", "requestId")) for each in told}


def _named(message: dict[str, str]) -> str:
    return str(json.loads(message.get("method", '""')))


def unfaithful(tape: Tape, *, own: Collection[str] = (), prefix: str = "") -> list[str]:
    """What did not arrive as it was said, in the order in which it was said.

    `own` names the methods that the gateway answers and asks by itself; `prefix` is what it puts before names.
    """
    forth = (foreign(tape.sent, tape.got, own), foreign(tape.heard, tape.said, own))
    back = (foreign(tape.said, tape.heard, own), foreign(tape.got, tape.sent, own))
    found = [f"to the server: {each}" for each in different(*forth, prefix)]
    return found + [f"to the client: {each}" for each in different(*back, prefix)]


def aligned(
    one: Sequence[dict[str, str]], two: Sequence[dict[str, str]]
) -> Sequence[tuple[str, int, int, int, int]]:
    """Which messages of both sides belong together, as difflib has it: a message too many shifts no other."""
    first, second = ([repr(sorted(each.items())) for each in side] for side in (one, two))
    return SequenceMatcher(None, first, second, autojunk=False).get_opcodes()


def different(before: Sequence[str], after: Sequence[str], prefix: str = "") -> list[str]:
    """Message by message, member by member, byte by byte; a message too few or too many is one difference."""
    one, two = ([masked(line, prefix) for line in side] for side in (before, after))
    found = []
    for kind, a, b, c, d in aligned(one, two):
        if kind == "equal":
            continue
        for number, (first, second) in enumerate(zip(one[a:b], two[c:d], strict=False), a):
            for key in sorted({*first, *second}):
                if first.get(key) != second.get(key):
                    found.append(f"{number}: {key}: {around(first.get(key, ''), second.get(key, ''))}")
        found += [f"missing: {line[:300]}" for line in before[a + d - c : b]]
        found += [f"too many: {line[:300]}" for line in after[c + b - a : d]]
    return found


def around(one: str, two: str) -> str:
    """Both texts where they begin to differ."""
    at = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    start = max(0, at - 40)
    return f"{one[start : at + 80]!r} became {two[start : at + 80]!r}"


def changed(direct: Tape, through: Tape, *, own: Collection[str] = ()) -> list[str]:
    """What the client heard otherwise than directly: there its own ids and tokens are no matter of masks."""
    one, two = (foreign(tape.got, tape.sent, own) for tape in (direct, through))
    found = different(one, two)
    for kind, a, b, c, d in aligned(list(map(masked, one)), list(map(masked, two))):
        for first, second in zip(one[a:b], two[c:d], strict=False) if kind == "equal" else ():
            found += [f"{first[:200]}: {problem}" for problem in readdressed(first, second)]
    return found


def readdressed(before: str, after: str) -> Iterator[str]:
    """Ids and tokens of the client's own that came back as another value."""
    for path in (("id",), ("params", "progressToken"), *TOKENS):
        if path == ("id",) and raw.find(before, "method"):
            continue
        one, two = raw.value(before, *path) or "null", raw.value(after, *path) or "null"
        if one != two and same(one) != same(two):
            yield f"{'.'.join(path)}: {one} became {two}"


def listed(tape: Tape, method: str, prefix: str = "") -> list[dict[str, str]]:
    """The items of every answer to a list method that the client got, as they were written, without the prefix."""
    asked = {same(each["id"]) for each in map(raw.members, tape.sent) if _named(each) == method}
    items = []
    for line in tape.got:
        if raw.find(line, "method") is None and same(raw.value(line, "id") or "null") in asked:
            for key, begin, end in raw.spans(line, (raw.find(line, "result") or (0, 0))[0]):
                if key in ITEMS:
                    items += [raw.members(each) for each in raw.elements(line[begin:end])]
    for item in items:
        if item.get("name", "").startswith(f'"{prefix}') and method in ("tools/list", "prompts/list"):
            item["name"] = f'"{item["name"].removeprefix(chr(34) + prefix)}'
    return items
