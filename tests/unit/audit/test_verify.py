"""A folder of logs is held against checkpoints that were kept here, by the signer, and elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from supervisor.audit import keys, read, segments, verify
from supervisor.audit.chain import Checkpoint
from supervisor.audit.confine import Place
from supervisor.audit.cursors import START
from supervisor.audit.segments import Log, Rules, path_of
from supervisor.audit.walk import MOST_FAULTS
from supervisor.errors import ConfigError, SupervisorError
from tests.unit.audit import logs


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = Place(tmp_path / "audit")
    for folder in (made.logs, made.key):
        folder.mkdir(parents=True)
    return made


def faults(place: Place, against: list[Checkpoint] | None = None) -> list[str]:
    return [str(each) for report in verify.verify(place, [logs.PUBLIC], against or []) for each in report.faults]


def signed(log: Log, place: Place) -> Checkpoint:
    made = logs.sign(log)
    log.keep_checkpoint(made.line())
    (place.key / keys.last_name(log.name)).write_bytes(made.line())
    return made


def test_a_log_with_its_checkpoints_has_no_fault(here: Place) -> None:
    checkpoint = signed(logs.made(here.logs / "0"), here)
    assert faults(here, [checkpoint]) == []
    (report,) = verify.verify(here, [logs.PUBLIC], [checkpoint])
    assert report.signed == checkpoint
    assert (report.first, report.records) == (1, checkpoint.seq)


def test_a_log_cut_after_it_was_signed_is_found_by_what_the_signer_kept(here: Place) -> None:
    log = logs.made(here.logs / "0", 5, Rules())
    signed(log, here)
    path = path_of(log.folder, 1)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    (log.folder / segments.CHECKPOINTS).unlink()
    assert faults(here) == [
        "log 0 segment 1 line 5: cut: it ends with record 4, and record 6 was there when a checkpoint was signed"
    ]


def test_a_log_written_anew_is_found_by_a_checkpoint_that_was_kept_elsewhere(here: Place) -> None:
    log = logs.made(here.logs / "0", 5, Rules())
    elsewhere = logs.sign(log)
    shutil.rmtree(log.folder)
    logs.made(here.logs / "0", 9, Rules())
    assert any("missing: a checkpoint of it was signed" in each for each in faults(here, [elsewhere]))


def test_a_log_that_is_not_there_any_more_is_missed(here: Place) -> None:
    log = logs.made(here.logs / "0")
    signed(log, here)
    logs.made(here.logs / "1")
    shutil.rmtree(log.folder)
    assert faults(here) == [f"log {log.name}: missing: a checkpoint of it was signed, and it is not here"]


def test_a_checkpoint_that_nobody_trusted_signed_proves_nothing(here: Place) -> None:
    log = logs.made(here.logs / "0")
    other = logs.sign(log, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    assert "which is not trusted here" in faults(here, [other])[0]
    changed = logs.sign(log)._replace(time=5)
    assert "was changed" in faults(here, [changed])[0]


@pytest.mark.parametrize("at", range(0, 377, 7))
def test_every_edit_of_a_stored_checkpoint_is_found(here: Place, at: int) -> None:
    log = logs.made(here.logs / "0", 2)
    log.keep_checkpoint(logs.sign(log).line())
    path = log.folder / segments.CHECKPOINTS
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)
    assert "checkpoints.jsonl:1: this checkpoint" in faults(here)[0]


def test_a_file_that_is_none_of_a_log_is_told(here: Place) -> None:
    log = logs.made(here.logs / "0")
    (log.folder / "00000001.json").touch()
    assert faults(here) == ["log 0: 00000001.json: not a file of an audit log"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_told_and_not_waited_for(here: Place, kind: str) -> None:
    log = logs.made(here.logs / "0", 3)
    count = len(segments.numbers(log.folder))
    makers: dict[str, Callable[[Path], None]] = {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "link": lambda path: os.symlink("/dev/zero", path),
    }
    put = makers[kind]
    put(path_of(log.folder, count + 1))
    assert f"log 0 segment {count + 1}: not a regular file" in faults(here)
    with pytest.raises(SupervisorError, match="not a regular file"):
        list(read.lines(log.folder, START))
    with pytest.raises(SupervisorError, match="not a regular file"):
        read.last(log.folder, 1)
    put(log.folder / segments.CHECKPOINTS)
    with pytest.raises(SupervisorError, match=r"checkpoints\.jsonl: not a regular file"):
        faults(here)


def test_a_file_of_nothing_but_ends_of_lines_is_one_fault_too_many_and_no_more(here: Place) -> None:
    log = logs.made(here.logs / "0", 1, Rules())
    with open(path_of(log.folder, 1), "ab") as file:
        file.write(b"\n" * 3 * MOST_FAULTS)
    found = faults(here)
    assert len(found) == MOST_FAULTS + 1
    assert "what else is wrong with this log is not listed" in found[-1]


def test_a_line_that_is_being_written_is_no_fault(here: Place) -> None:
    folder, lock = segments.acquire(here.logs)
    logs.fill(Log(folder, Rules()), 2)
    with open(path_of(folder, 1), "ab") as file:
        file.write(b'{"hash":"')
    assert faults(here) == []
    with open(lock, "rb"):
        pass
    assert "cut off after 9 bytes" in faults(here)[0]


def test_what_is_no_log_and_what_is_no_checkpoint_is_said(here: Place, tmp_path: Path) -> None:
    with pytest.raises(SupervisorError, match="there is no audit log"):
        verify.folders(Place(tmp_path / "nowhere"))
    (tmp_path / "x").write_bytes(logs.sign(logs.made(here.logs / "0")).line() + b"{}\n")
    with pytest.raises(ConfigError, match=r"x:2: not a checkpoint"):
        verify.read_checkpoints(tmp_path / "x")
    with pytest.raises(ConfigError, match="not an Ed25519 public key in PEM"):
        verify.read_key(tmp_path / "x")
