"""The ledger as a process: what it may, whom it believes, what an acknowledgement is worth, who is turned out."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.audit import chain, confine, segments, verify
from supervisor.audit.confine import Place
from supervisor.audit.peers import UNFIT
from tests.unit.audit import ledgers
from tests.unit.audit.ledgers import Peer, Started, started

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the ledger's own uid needs root")


def report(where: Place, folder: Path) -> verify.Report:
    return verify.verify_log(folder, [verify.read_key(where.key / "signing.pub")], [])


def lines(folder: Path) -> list[chain.Line]:
    found = []
    for number in segments.numbers(folder):
        for raw in segments.path_of(folder, number).read_bytes().splitlines(keepends=True):
            line = chain.parse(raw)
            assert line
            found.append(line)
    return found


def calls(folder: Path) -> list[str]:
    return [json.loads(each.body)["metadata"]["uid"] for each in lines(folder) if each.kind in chain.PEER_KINDS]


def test_the_ledger_has_an_identity_and_no_powers_of_its_own(place: Place) -> None:
    with started(place) as ledger:
        ledger.peer().ask()
        text = Path(f"/proc/{ledger.pid}/status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert set(status["Uid"].split()) == {str(confine.LEDGER)}
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for folder, owner in (
        (place.logs, confine.LEDGER),
        (place.key, confine.SIGNER),
        (place.indexes, confine.READER),
    ):
        assert folder.stat().st_uid == owner
    assert (place.key / "signing.key").stat().st_mode & 0o777 == 0o600
    assert segments.path_of(ledger.folder, 1).stat().st_mode & 0o777 == 0o640


def test_only_its_own_folder_can_be_opened_and_only_its_cursors_read(tmp_path: Path) -> None:
    for name in ("own", "other", "cursors"):
        (tmp_path / name).mkdir()
    code = f"""
import os, sys
from pathlib import Path
from supervisor.audit import confine
root = Path({str(tmp_path)!r})
confine.only([root / "own"], [root / "cursors"])
own = root / "own" / "a"
open(own, "w").close()
own.rename(root / "own" / "b").unlink()
os.listdir(root / "cursors")
for path, mode in ((root / "other" / "a", "w"), (root / "cursors" / "a", "w"), ("/etc/passwd", "r")):
    try:
        open(path, mode)
    except PermissionError:
        continue
    sys.exit(f"{{path}} was opened")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_a_record_that_is_acknowledged_is_in_the_log(place: Place) -> None:
    with started(place) as ledger:
        peer = ledger.peer()
        for kind in chain.PEER_KINDS[:2]:
            for policy in ("process", "power"):
                number = peer.say(kind, policy)
                assert peer.hear() == {"ok": [number]}
                assert calls(ledger.folder)[-1] == f"call-{number}.{kind}"
    assert report(place, ledger.folder).faults == []


def test_the_kernel_says_who_spoke_with_every_message(place: Place) -> None:
    with started(place) as ledger:
        peer = ledger.peer()
        peer.ask()
        pid = os.fork()
        if pid == 0:
            os.setresuid(54321, 54321, 54321)
            peer.say(body=ledgers.sample("c", user="uid:54321"))
            os._exit(0)
        os.waitpid(pid, 0)
        peer.hear()
        spoke = [(each.uid, each.pid) for each in lines(ledger.folder) if each.kind == "intent"]
        assert spoke == [(0, os.getpid()), (54321, pid)]
        peer.socket.close()


GOOD = ledgers.sample("c")
GARBAGE = {
    "text": b"garbage",
    "not ASCII": "\u00e9".encode(),
    "empty object": b"{}",
    "kind": b'{"id":1,"kind":"segment","policy":"process","record":' + GOOD + b"}",
    "policy": b'{"id":1,"kind":"intent","policy":"none","record":' + GOOD + b"}",
    "too long": b" " * (wire.LIMIT + 1),
}
NONE = {
    "nothing": b"{}",
    "two records": GOOD + GOOD,
    "a line": GOOD.replace(b"{", b"{\n", 1),
    "one that is not closed": GOOD[:-1],
    "too long": b" " * 62_000,
}


def test_who_sends_garbage_is_turned_out_and_nobody_else_is(place: Place) -> None:
    with started(place) as ledger:
        good = ledger.peer()
        for name, garbage in GARBAGE.items():
            bad = ledger.peer()
            bad.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            bad.socket.send(garbage)
            assert bad.hear() == {}, name
            assert ledger.event()["event"] == "dropped", name
            assert "ok" in good.ask(), name
        bad = ledger.peer()
        assert "ok" in bad.ask()
        bad.number -= 1
        bad.say()  # an id again
        assert bad.hear() == {}
        bad = ledger.peer()
        null = os.open("/dev/null", os.O_RDONLY)
        socket.send_fds(bad.socket, [b"x"], [null])
        os.close(null)
        assert bad.hear() == {}
        assert "ok" in good.ask()
    found = report(place, ledger.folder)
    assert found.faults == []
    assert [kind for _, _, kind, _ in found.remarks].count("dropped") == len(GARBAGE) + 2


def test_a_record_that_is_none_is_refused_by_its_number_and_its_sender_goes_on(place: Place) -> None:
    with started(place) as ledger:
        peer = ledger.peer()
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for name, body in NONE.items():
            number = peer.say(body=body)
            answer = peer.hear()
            assert (answer["no"], "a record that is none" in str(answer["reason"])) == ([number], True), name
            assert "ok" in peer.ask(), name
        assert ledger.event()["event"] == "denied"
        while "no" in peer.ask(body=b"{}"):
            pass
        assert peer.number == 2 * len(NONE) + (UNFIT - len(NONE)) + 1, "so many are no mistake"
        assert ledger.event()["event"] == "dropped"
    found = report(place, ledger.folder)
    assert found.faults == []
    assert calls(ledger.folder) == [f"call-{2 * each + 2}.intent" for each in range(len(NONE))]
    gaps = [each for each in lines(ledger.folder) if each.kind == chain.GAP]
    assert len(gaps) == 1, "the same is told once a minute"


def test_who_floods_and_fetches_no_answer_costs_nobody_else_anything(place: Place) -> None:
    with started(place) as ledger:
        good, bad = ledger.peer(), ledger.peer()
        bad.socket.setblocking(False)
        sent = 0
        while select.select([], [bad.socket], [], 0.3)[1]:
            try:
                bad.say()
                sent += 1
            except BlockingIOError:
                continue
            if sent % 100 == 0:
                assert "ok" in good.ask()
        assert sent > 200
        assert "ok" in good.ask()
        assert int(Path(f"/proc/{ledger.pid}/statm").read_text().split()[1]) * 4096 < 64 << 20
        bad.socket.close()
        assert "ok" in good.ask()
    assert report(place, ledger.folder).faults == []


def test_a_full_disk_refuses_calls_says_so_and_is_survived(place: Place) -> None:
    place.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", str(place.root)], check=True)
    try:
        with started(place, reserve=200_000) as ledger:
            peer = ledger.peer()
            while "ok" in (answer := peer.ask()):
                pass
            assert "No space left on device" in str(answer["reason"])
            assert ledger.event()["event"] == "full"
            # what was begun can still be finished, until there is nothing left at all
            assert "ok" in peer.ask("outcome")
            while "ok" in (answer := peer.ask("outcome")):
                pass
            assert answer["reason"] == "No space left on device"
            assert "no" in peer.ask()
            subprocess.run(["mount", "-o", "remount,size=2m", str(place.root)], check=True)
            assert "ok" in peer.ask()
            assert ledger.event()["event"] == "recovered"
            assert "ok" in peer.ask("outcome", "power")
            peer.socket.close()
        found = report(place, ledger.folder)
        assert found.faults == []
        gap = next(body for _, _, kind, body in found.remarks if kind == "gap")
        assert gap["refused"] == 3
    finally:
        subprocess.run(["umount", "-l", str(place.root)], check=True)


def test_segments_rotate_and_retire_while_peers_write(place: Place) -> None:
    with started(place, segment_bytes=4000, keep_bytes=20_000) as ledger:
        peer = ledger.peer()
        for _ in range(60):
            assert "ok" in peer.ask()
        assert ledger.event()["event"] == "retired"
    assert 3 <= len(segments.numbers(ledger.folder)) <= 7
    assert report(place, ledger.folder).faults == []


def test_what_an_export_still_needs_is_not_retired(place: Place) -> None:
    with started(place) as ledger:
        ledger.peer().ask()
    (place.cursors / f"siem.{ledger.hello['log']}").write_text('{"segment": 1, "offset": 0, "hash": ""}')
    with started(place, segment_bytes=2000, keep_bytes=4000) as ledger:
        peer = ledger.peer()
        for _ in range(20):
            assert "ok" in peer.ask()
    assert segments.numbers(ledger.folder)[0] == 1


def test_it_ends_with_its_starter_closes_the_log_and_has_it_signed(place: Place) -> None:
    with started(place) as ledger:
        peer = ledger.peer()
        peer.ask()
        ledger.control.close()
        assert "ok" in peer.ask("outcome")  # what was begun is finished
        peer.socket.close()
    found = report(place, ledger.folder)
    assert found.closed
    assert found.signed
    assert found.head
    assert found.signed.seq == found.head.seq
    with started(place) as again:
        assert (again.hello["log"], again.hello["seq"]) == (found.log, found.head.seq)


def test_a_log_that_was_cut_since_it_was_signed_takes_nothing(place: Place) -> None:
    with started(place) as ledger:
        ledger.peer().ask()
    path = segments.path_of(ledger.folder, 1)
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with started(place) as again:
        assert again.event()["event"] == "unsigned"
        answer = again.peer().ask()
        assert "was cut or rewritten" in str(answer["reason"])


def test_a_place_that_others_can_write_is_refused(place: Place) -> None:
    place.root.mkdir()
    place.root.chmod(0o777)
    ledger = Started(place)
    assert ledger.hello["event"] == "failed"
    assert "only its owner can write" in str(ledger.hello["reason"])
    ledger.end()


def round_of_load(ledger: Started, seconds: float, first: int, acknowledged: set[str]) -> int:
    """Records from four peers until a kill in their midst; the next free number."""
    peers = [ledger.peer() for _ in range(4)]
    ids: dict[Peer, dict[int, str]] = {peer: {} for peer in peers}
    ends = time.monotonic() + seconds

    def hear(peer: Peer) -> None:
        for number in peer.accepted():
            acknowledged.add(ids[peer].pop(number))

    while time.monotonic() < ends:
        for peer in peers:
            call, first = f"k-{first}", first + 1
            ids[peer][peer.say("intent", "process", ledgers.sample(call))] = f"{call}.intent"
            while len(ids[peer]) > 8:
                hear(peer)
    ledger.kill()
    for peer in peers:
        peer.socket.setblocking(False)
        try:
            while peer.socket.recv(1, socket.MSG_PEEK):
                hear(peer)
        except OSError:
            pass
        peer.socket.close()
    return first


@pytest.mark.timeout(300)
def test_two_hundred_kills_under_load_lose_no_acknowledged_record() -> None:
    acknowledged: set[str] = set()
    first = 0
    # in memory: what a SIGKILL may lose has nothing to do with the disk, and waiting for it takes most of the time
    with ledgers.place("/dev/shm") as place:
        folder = place.logs / "0"
        for number in range(200):
            real = number % 10 == 0
            ledger = Started(place, forked=not real, segment_bytes=200_000, sign=real)
            assert ledger.folder == folder
            first = round_of_load(ledger, random.uniform(0, 0.02), first, acknowledged)
        assert report(place, folder).faults == []
        assert len(acknowledged) > 1000
        assert acknowledged <= set(calls(folder))
        assert len(set(calls(folder))) == len(calls(folder))
