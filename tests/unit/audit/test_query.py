"""The index finds what a reading of every line finds, goes on where it was, and is made anew when it must."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Literal

import pytest

from supervisor.audit import index, query, record, verify
from supervisor.audit.confine import Place
from supervisor.audit.query import Found, Wanted
from supervisor.audit.reached import Reached
from supervisor.audit.record import Answer, Call, Context, Decision, Opened, Touched
from supervisor.audit.segments import Log, Rules, numbers, path_of
from supervisor.errors import ConfigError

USERS, TOOLS, SERVERS = ("ann", "bob", "cid"), ("read", "write"), ("files", "web")
VERDICTS: tuple[Literal["allow", "deny"], ...] = ("allow", "allow", "deny")
ROTATING = Rules(segment_bytes=100_000, reserve=0)


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = Place(tmp_path / "audit")
    for folder in (made.logs, made.indexes):
        folder.mkdir(parents=True)
    return made


def asking(**names: str) -> Wanted:
    """What is asked for, by names that a test puts together."""
    each = {field.name: names.pop(field.name, "") for field in fields(Wanted) if field.type == "str"}
    assert not names
    return Wanted(**{**asdict(Wanted()), **each})


def one(number: int) -> tuple[Call, bytes, bytes, dict[str, set[str]]]:
    """A call and what it can be found by."""
    dice = random.Random(number)
    user, tool, server = dice.choice(USERS), dice.choice(TOOLS), dice.choice(SERVERS)
    verdict = VERDICTS[dice.randrange(3)]
    path, host = f"/data/{dice.randrange(5)}/f{dice.randrange(9)}", f"h{dice.randrange(20)}.test"
    call = Call(Context(user, str(number % 7), "t", server), f"c{number}", tool)
    intent = record.intent(call, json.dumps({"note": f"word{number % 11}"}).encode(), Decision(verdict, "r"))
    touched = Touched([Opened(path), Opened("/shared/x")], [Reached(host, 443)])
    outcome = record.outcome(call, number, Answer("ok", 0, f"said{number % 13}"), touched)
    folder = path.rsplit("/", 1)[0]
    facts: dict[str, set[str]] = {
        "user": {user}, "tool": {tool}, "server": {server}, "verdict": {str(verdict)}, "session": {str(number % 7)},
        "path": {path, folder, "/data", "/shared/x", "/shared"}, "host": {host},
        "text": {f"word{number % 11}", f"said{number % 13}", "note"},
    }  # fmt: skip
    return call, intent, outcome, facts


def write(log: Log, first: int, count: int) -> dict[str, dict[str, set[str]]]:
    """So many calls, half of them interleaved."""
    known: dict[str, dict[str, set[str]]] = {}
    for number in range(first, first + count, 2):
        made = [one(number), one(number + 1)]
        for _, intent, _, _ in made:
            log.append("intent", (1000, 5), intent)
        for _, _, outcome, _ in made:
            log.append("outcome", (1000, 5), outcome)
        known |= {each[0].call: each[3] for each in made}
        log.commit()
        if log.is_full():
            log.rotate()
    return known


def found(place: Place, wanted: Wanted, limit: int = -1) -> list[Found]:
    with index.opened(place) as database:
        assert query.faults(database) == 0
        return query.search(database, wanted, limit)


def new_log(place: Place, name: str = "0") -> Log:
    (place.logs / name).mkdir()
    return Log(place.logs / name, ROTATING)


def test_every_look_up_finds_what_a_scan_finds(here: Place) -> None:
    known = write(new_log(here), 0, 400)
    values: dict[str, set[str]] = {}
    for facts in known.values():
        for name, each in facts.items():
            values.setdefault(name, set()).update(each)
    asked = [{name: value} for name, each in values.items() for value in each]
    dice = random.Random(1)
    for names in itertools.combinations(values, 2):
        asked += [{name: dice.choice(sorted(values[name])) for name in names} for _ in range(5)]
    with index.opened(here) as database:
        for wanted in asked:
            right = {
                call for call, facts in known.items() if all(value in facts[name] for name, value in wanted.items())
            }
            got = query.search(database, asking(**wanted), -1)
            assert {each.call for each in got} == right, wanted
            assert len(got) == len(right), wanted
            times = [each.time for each in got]
            assert times == sorted(times, reverse=True), wanted
            assert query.search(database, asking(**wanted), 3) == got[:3], wanted


def test_a_time_bounds_every_look_up(here: Place) -> None:
    log = new_log(here)
    write(log, 0, 20)
    between = time.time_ns() // 1000
    write(log, 20, 20)
    for wanted in ({}, {"user": "ann"}, {"path": "/data"}, {"host": "h1.test"}, {"text": "note"}):
        everything = found(here, asking(**wanted))
        since = found(here, replace(asking(**wanted), since=between))
        until = found(here, replace(asking(**wanted), until=between))
        assert since + until == everything
        assert all(int(each.call[1:]) >= 20 for each in since)


def test_an_index_gains_what_the_log_gains(here: Place) -> None:
    log = new_log(here)
    write(log, 0, 40)
    assert len(found(here, Wanted())) == 40
    call, intent, outcome, _ = one(1000)
    log.append("intent", (1000, 5), intent)
    log.commit()
    newest = found(here, Wanted(), 1)[0]
    assert (newest.call, newest.status, newest.end_segment) == (call.call, "", None)
    log.append("outcome", (1000, 5), outcome)
    log.commit()
    newest = found(here, Wanted(), 1)[0]
    assert (newest.call, newest.status, newest.microseconds) == (call.call, "ok", 1000)
    write(new_log(here, "1"), 40, 20)
    assert len(found(here, Wanted())) == 61
    assert len(found(here, Wanted(path="/shared"))) == 61


def test_nobody_else_s_outcome_completes_a_call(here: Place) -> None:
    log = new_log(here)
    call, intent, outcome, _ = one(1)
    log.append("intent", (1000, 5), intent)
    log.append("outcome", (1000, 6), outcome)
    log.commit()
    with index.opened(here) as database:
        kinds = [(each.kind, each.status, each.end_segment) for each in query.call(database, call.call)]
    assert kinds == [("intent", "", None), ("outcome", "ok", None)]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_outcome_that_was_sent_again_is_found_once_and_another_one_too(here: Place, *, at_once: bool) -> None:
    log = new_log(here)
    call, intent, outcome, _ = one(1)
    other = record.outcome(call, 5, Answer("lost", message="another"))
    alone = record.outcome(call._replace(call="alone"), 5)
    for kind, body in (
        ("intent", intent),
        *(("outcome", each) for each in (outcome, outcome, other, other, alone, alone)),
    ):
        log.append(kind, (1000, 42), body)
        log.commit()
        if not at_once:
            found(here, Wanted())
    rows = [(each.kind, each.call, each.status) for each in found(here, Wanted())]
    assert rows == [("outcome", "alone", "ok"), ("outcome", "c1", "lost"), ("intent", "c1", "ok")]


def test_the_lines_of_a_call_come_from_the_log_itself(here: Place) -> None:
    log = new_log(here)
    write(log, 0, 10)
    with index.opened(here) as database:
        (row,) = query.call(database, "c3")
        lines = query.lines(here, database, row)
        assert [line.kind for line in lines if line] == ["intent", "outcome"]
        data = path_of(log.folder, 1).read_bytes()
        path_of(log.folder, 1).write_bytes(data.replace(b'"c3.intent"', b'"c4.intent"'))
        assert query.lines(here, database, row)[0] is None


def test_what_was_retired_is_no_longer_found(here: Place) -> None:
    log = new_log(here)
    write(log, 0, 400)
    assert len(numbers(log.folder)) > 3
    assert len(found(here, Wanted())) == 400
    log.rules = Rules(segment_bytes=100_000, keep_bytes=150_000)
    log.retire(held=1 << 62)
    report = verify.verify_log(log.folder, [], [])
    left = found(here, Wanted())
    assert 0 < len(left) < 400
    assert len(left) <= report.records
    assert len(found(here, Wanted(path="/shared/x"))) == len(left)
    assert len(found(here, Wanted(text="note"))) == len(left)


@pytest.mark.parametrize("damage", [b"garbage", b""])
def test_an_index_that_is_none_is_made_anew(here: Place, damage: bytes) -> None:
    write(new_log(here), 0, 20)
    found(here, Wanted())
    for path in here.indexes.iterdir():
        path.write_bytes(damage)
    assert len(found(here, Wanted())) == 20
    with index.opened(here, rebuild=True) as database:
        assert len(query.search(database, Wanted(), -1)) == 20


def test_beside_a_copy_of_a_log_the_index_is_made_in_memory(here: Place) -> None:
    write(new_log(here), 0, 20)
    shutil.rmtree(here.indexes)
    assert len(found(here, Wanted())) == 20
    assert not here.indexes.exists()


def test_a_line_that_was_changed_is_told_and_the_rest_is_found(here: Place) -> None:
    log = new_log(here)
    write(log, 0, 20)
    path = path_of(log.folder, 1)
    path.write_bytes(path.read_bytes().replace(b'"c3.intent"', b'"c4.intent"'))
    with index.opened(here) as database:
        assert query.faults(database) == 1
        assert len(query.search(database, Wanted(tool="read"), -1)) + len(
            query.search(database, Wanted(tool="write"), -1)
        ) in (19, 20)


def test_words_are_words_and_no_language(here: Place) -> None:
    write(new_log(here), 0, 20)
    assert found(here, Wanted(text='word1" OR "note')) == []
    assert len(found(here, Wanted(text="NOTE word1"))) == len(found(here, Wanted(text="word1")))
    with pytest.raises(ConfigError, match="there is no word in it"):
        found(here, Wanted(text="***"))


def test_half_a_character_in_a_record_hides_no_other(here: Place) -> None:
    log = new_log(here)
    call, *_ = one(1)
    halves = b'{"odd":"\\ud800","whole":"\\ud83d\\ude00 word1"}'
    log.append("intent", (0, 1), record.intent(call._replace(call="odd"), halves))
    log.commit()
    write(log, 0, 20)
    assert len(found(here, Wanted())) == 21
    assert "odd" in {each.call for each in found(here, Wanted(text="word1"))}


def test_a_line_that_never_ends_is_told_and_the_rest_is_found(here: Place) -> None:
    log = new_log(here)
    write(log, 0, 20)
    path = path_of(log.folder, 1)
    path.write_bytes(path.read_bytes() + b"x" * 3_000_000 + b"\n")
    with index.opened(here) as database:
        assert query.faults(database) >= 1
        assert len(query.search(database, Wanted(), -1)) == 20
