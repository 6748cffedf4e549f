"""Lines and checkpoints have one spelling each."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.audit import chain
from tests.unit.audit import logs


def test_a_line_is_made_and_taken_apart() -> None:
    head = chain.genesis("a")
    line, after = chain.make(head, 1_764_302_400_123_456, "intent", (1000, 42), b'{"a":1}')
    found = chain.parse(line)
    assert found == (after.hash, head.hash, 1, 1_764_302_400_123_456, "intent", 1000, 42, b'{"a":1}')
    assert chain.intact(line, found)
    assert chain.genesis("b") != head


@pytest.mark.parametrize(
    "change", [(b'"seq":1', b'"seq":01'), (b"}\n", b"} \n"), (b"a", b"\xe9"), (b"\n", b"\n\n")]
)
def test_another_spelling_is_no_line(change: tuple[bytes, bytes]) -> None:
    line, _ = chain.make(chain.genesis("a"), 1, "intent", (0, 1), b'{"text":"a"}')
    assert chain.parse(line)
    assert chain.parse(line.replace(*change)) is None


def test_a_body_with_a_number_that_is_none_is_not_made() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        chain.canonical({"x": float("nan")})


def test_a_checkpoint_is_read_in_its_one_spelling_only(tmp_path: Path) -> None:
    checkpoint = logs.sign(logs.made(tmp_path / "0"))
    line = checkpoint.line()
    assert chain.read_checkpoint(line) == checkpoint
    for wrong in (line.replace(b":", b": "), line.replace(b'"seq":', b'"seq":0'), b"[]", b"{}", b"", b"{"):
        with pytest.raises(ValueError, match=r".*"):
            chain.read_checkpoint(wrong)
