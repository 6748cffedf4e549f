"""The signer makes one key, signs what grows, and remembers what it signed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.audit import keys, signer, verify
from supervisor.audit.chain import Checkpoint
from supervisor.audit.signer import Signer
from supervisor.errors import ConfigError, SupervisorError

LOG = "ab" * 16


def asked(seq: int, digest: str = "cd" * 32) -> wire.Message:
    return {"log": LOG, "segment": 1, "seq": seq, "hash": digest, "time": 1000 + seq}


def made(folder: Path) -> Signer:
    return Signer(folder, LOG, signer.load_key(folder))


def test_the_key_is_made_once_and_is_nobody_else_s(tmp_path: Path) -> None:
    first, second = signer.load_key(tmp_path), signer.load_key(tmp_path)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert (tmp_path / keys.PRIVATE).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [keys.PRIVATE, keys.PUBLIC]
    (tmp_path / keys.PRIVATE).chmod(0o640)
    with pytest.raises(SupervisorError, match="others can read it"):
        signer.load_key(tmp_path)


def test_openssl_reads_the_key_and_verifies_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = made(tmp_path).sign(asked(1))
    (tmp_path / "message").write_bytes(checkpoint.signed())
    (tmp_path / "signature").write_bytes(bytes.fromhex(checkpoint.signature))
    check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys.PUBLIC, "-rawin"]
    argv = [*check, "-in", "message", "-sigfile", "signature"]
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "message").write_bytes(checkpoint._replace(seq=2).signed())
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True).returncode != 0
    read = ["openssl", "pkey", "-in", keys.PRIVATE, "-pubout"]
    shown = subprocess.run(read, cwd=tmp_path, capture_output=True, check=True).stdout
    assert shown == (tmp_path / keys.PUBLIC).read_bytes()


def test_what_is_signed_only_grows_also_for_the_next_signer(tmp_path: Path) -> None:
    first = made(tmp_path)
    checkpoint = first.sign(asked(5))
    assert verify.genuine(checkpoint, [checkpoint.key]) == ""
    assert first.sign(asked(5)).seq == 5
    for each in (first, made(tmp_path)):
        assert each.last
        assert each.last.seq == 5
        for wrong in (asked(4), asked(5, "ef" * 32)):
            with pytest.raises(SupervisorError, match="does not continue what was signed last"):
                each.sign(wrong)
    assert made(tmp_path).sign(asked(6, "ef" * 32)).seq == 6


@pytest.mark.parametrize(
    "wrong",
    [{}, {"seq": "5"}, {"log": "cd" * 16}, {"extra": 1}, {"hash": None}],
    ids=["empty", "type", "log", "extra", "none"],
)
def test_what_is_no_request_is_not_signed(tmp_path: Path, wrong: wire.Message) -> None:
    request = asked(5) | wrong if wrong else {}
    with pytest.raises(SupervisorError, match=r"not a request|does not continue"):
        made(tmp_path).sign(request)


def test_a_checkpoint_is_of_a_log_that_can_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the identity of a log"):
        Signer(tmp_path, "../../etc/passwd", signer.load_key(tmp_path))
    assert set(Checkpoint._fields) >= set(asked(1))
