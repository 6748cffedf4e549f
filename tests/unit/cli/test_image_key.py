"""The key that an image is signed with: a file of its signer's, or a pipe of a shell's; nothing that hangs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from supervisor.cli import image_make
from supervisor.cli.image import Progress
from supervisor.errors import ConfigError
from supervisor.oci.source import Found


@pytest.fixture
def _signing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_make, "_found", lambda *_: Found(b"{}", ""))
    monkeypatch.setenv("COSIGN_PASSWORD", "")


def sign(key: str) -> None:
    named = {
        "source": f"oci:{os.getcwd()}",
        "name": "localhost/a",
        "key": key,
        "generate_key": None,
        "output": None,
    }
    options = argparse.Namespace(action="sign", bundle=False, json=False, **named)
    image_make.run(options, Progress("sign", quiet=True))


@pytest.mark.usefixtures("_signing")
@pytest.mark.parametrize("named", ["missing", "fifo", ".", "large", "/dev/zero", "/proc/kmsg"])
def test_what_is_no_key_file_is_refused_by_name_without_waiting(tmp_path: Path, named: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(100_000))
    path = str(tmp_path / named)
    with pytest.raises(ConfigError) as caught:
        sign(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.usefixtures("_signing")
def test_a_key_may_come_from_a_command() -> None:
    read, write = os.pipe()
    with open(write, "wb") as file:
        file.write(b"no key")
    with pytest.raises(ConfigError, match="not a cosign key file"):
        sign(f"/proc/self/fd/{read}")
    os.close(read)
