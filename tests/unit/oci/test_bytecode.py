"""What an image's Python answers is a stranger's word: exactly the byte code that was asked for, or nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from supervisor.errors import SupervisorError
from supervisor.oci import bytecode, compiling

GOOD = b"\xa7\r\r\n" + compiling.UNCHECKED + bytes(8) + b"N"
TAG = b"cpython-311\n"


def long(made: bytes) -> bytes:
    return len(made).to_bytes(4, "big") + made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with two modules, and what looks like some and is none."""
    made = tmp_path / "root"
    for name in (
        "lib/a.py",
        "lib/in/b.py",
        "lib/no-1.dist-info/c.py",
        "lib/in/x.y.py",
        "usr/lib/machine/ld-linux-x.so.2",
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).touch()
    (made / "lib/link.py").symlink_to("a.py")
    return made


def answered(root: Path, answer: bytes) -> int:
    def sandbox(tree: Path, argv: list[str], question: bytes, out: Path) -> None:
        assert tree == root
        assert argv[0] == str(root / "usr/lib/machine/ld-linux-x.so.2")
        assert question == b"lib/a.py\nlib/in/b.py\n"
        out.write_bytes(answer)

    return bytecode.add(root, "/usr/bin/python3.11", ["lib"], root.parent / "answer", sandbox)


def test_only_what_can_be_imported_is_compiled_and_lies_where_it_is_looked_for(root: Path) -> None:
    assert answered(root, TAG + long(GOOD) + long(GOOD)) == 2
    made = {str(path.relative_to(root)) for path in root.rglob("*.pyc")}
    assert made == {"lib/__pycache__/a.cpython-311.pyc", "lib/in/__pycache__/b.cpython-311.pyc"}
    assert not (root.parent / "answer").exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "no tag of a version"),
        (b"../../evil\n" + long(GOOD) * 2, "no tag of a version"),
        (TAG + long(GOOD), "b.py: .* is no byte code"),
        (TAG + long(GOOD) + long(GOOD)[:-1], "b.py: .* is no byte code"),
        (TAG + long(GOOD.replace(compiling.UNCHECKED, bytes(4))) * 2, "a.py: .* is no byte code"),
        (TAG + long(GOOD) * 3, "more than was asked"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_ends_the_build(root: Path, answer: bytes, said: str) -> None:
    with pytest.raises(SupervisorError, match=said):
        answered(root, answer)


def test_a_module_that_cannot_be_compiled_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "bad.py").write_text("print 1\n")
    with (tmp_path / "names").open("w+") as names:
        names.write("bad.py\n")
        names.seek(0)
        monkeypatch.setattr(sys, "stdin", names)
        monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path)])
        with pytest.raises(SystemExit, match=r"bad\.py: Missing parentheses"):
            compiling.main()
