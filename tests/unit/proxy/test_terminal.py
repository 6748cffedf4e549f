"""Output on its way to a terminal: text and colours pass, what the terminal would act on is shown."""

from __future__ import annotations

import random

import pytest

from supervisor.proxy.terminal import Screen


def shown(*pieces: bytes) -> bytes:
    screen = Screen()
    return b"".join(screen.feed(piece) for piece in (*pieces, b""))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"plain\r\n\ttext\b.",
        "bücher ☃ \U0001f600\u00a0x".encode(),
        b"\x1b[31mred\x1b[0m \x1b[1;38;5;200mx\x1b[m",
        b"10%\r\x1b[K20%",
    ],
)
def test_text_and_colours_pass(text: bytes) -> None:
    assert shown(text) == text
    assert shown(*(text[at : at + 1] for at in range(len(text)))) == text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (b"\x1b]52;c;ZXZpbA==\x07", rb"\x1b]52;c;ZXZpbA==\x07"),  # the clipboard
        (b"\x1b]0;title\x1b\\", rb"\x1b]0;title\x1b" + b"\\"),
        (b"\x1b[21t", rb"\x1b[21t"),  # answers with the title
        (b"\x1b[6n", rb"\x1b[6n"),  # answers with the cursor's place
        (b"\x1bP$qm\x1b\\", rb"\x1bP$qm\x1b" + b"\\"),  # answers with a setting
        (b"\x1b[2J\x1b[H", rb"\x1b[2J\x1b[H"),
        (b"\x1b[1A", rb"\x1b[1A"),
        (b"\x05", rb"\x05"),  # answerback
        (b"\xc2\x9b6n", rb"\x9b6n"),  # the same as one character
        (b"\x9b6n", rb"\x9b6n"),
        (b"\x1b[" + b"1" * 40 + b"m", rb"\x1b[" + b"1" * 40 + b"m"),
        ("a\u202eb".encode(), rb"a\x202eb"),
        (b"\xff\xfe", rb"\xff\xfe"),
        (b"end\x1b", rb"end\x1b"),
        (b"end\x1b[3", rb"end\x1b[3"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown(text: bytes, seen: bytes) -> None:
    assert shown(text) == seen
    assert shown(*(text[at : at + 1] for at in range(len(text)))) == seen


def test_no_arrangement_of_pieces_lets_anything_else_through() -> None:
    rng = random.Random(20261128)
    alphabet = [
        b"\x1b",
        b"[",
        b"]",
        b"0",
        b";",
        b"m",
        b"K",
        b"n",
        b"\x07",
        b"\x9b",
        b"\xc2",
        b"x",
        b"\n",
        b"P",
        b"\\",
    ]
    for _ in range(20_000):
        pieces = [b"".join(rng.choices(alphabet, k=rng.randrange(1, 6))) for _ in range(rng.randrange(1, 6))]
        text = shown(*pieces).decode()
        for part in text.split("\x1b")[1:]:
            inside = part.removeprefix("[").lstrip("0;")
            assert part.startswith("[")
            assert inside[:1] in ("m", "K"), (pieces, text)
        assert not set(text) & {"\x07", "\x9b"}
