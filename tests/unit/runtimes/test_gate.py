"""The gate: what opens it is an environment as execve takes it, at the one address where it is put."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from supervisor.runtimes import gate

ADDRESS = 0x10000000


@pytest.mark.parametrize("env", [{}, {"A": "1"}, {"B": "", "A": "x=y\n", "ÄÖ": "\udcff"}])
def test_an_environment_is_pointers_to_its_texts_and_its_size_comes_first(env: dict[str, str]) -> None:
    made = gate.environment(env)
    size = struct.unpack_from("<Q", made)[0]
    data = made[8:]
    assert len(data) == size
    pointers = struct.unpack_from(f"<{len(env) + 1}Q", data)
    assert pointers[-1] == 0
    texts = [data[each - ADDRESS : data.index(b"\0", each - ADDRESS)] for each in pointers[:-1]]
    assert [each.decode("utf-8", "surrogateescape").partition("=")[::2] for each in texts] == sorted(env.items())


def test_the_gate_is_what_its_text_makes(tmp_path: Path) -> None:
    text = Path(gate.__file__).with_name("gate.s")
    subprocess.run(["as", "-o", tmp_path / "gate.o", text], check=True)
    place = ["--oformat", "binary", "-Ttext", "0x400000", "-e", "_start"]
    subprocess.run(["ld", *place, "-o", tmp_path / "gate", tmp_path / "gate.o"], check=True)
    assert (tmp_path / "gate").read_bytes() == gate.PROGRAM
