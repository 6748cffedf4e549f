"""What is said at one end arrives at the other as it was said: every byte of every message, in both directions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.integration import fidelity_scripts
from tests.integration.caller import Caller
from tests.integration.fidelity import Step, Tape, changed, different, listed, play, unfaithful
from tests.integration.gateway import copied

Script = Callable[[str], Iterator[Step]]
SCRIPTS: dict[str, Script] = {"legacy": fidelity_scripts.legacy, "modern": fidelity_scripts.modern}
ERAS = pytest.mark.parametrize("era", SCRIPTS)
PYTHON = ("/usr/bin/python3", "-I", "-S")


class Session:
    """The awkward server, alone or behind a command of the product's."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.start = copied(caller, "awkward")
        self.record = caller.plot.scope / "record"

    def server(self, *options: str) -> list[str]:
        return [*PYTHON, str(self.start), "--record", str(self.record), *options]

    def through(self, *options: str) -> list[str]:
        """`supervisor run` with the server's command line."""
        words = ["--profile", "none", "--rw", str(self.record.parent), *self.caller.start_options()]
        return self.caller.command("run", *words, "--", *self.server(*options))

    def play(self, argv: Sequence[str], script: Script, prefix: str = "") -> Tape:
        def start() -> subprocess.Popen[bytes]:
            return self.caller.process(argv, stdin=subprocess.PIPE)

        return play(start, script(prefix), fidelity_scripts.REPLIES, self.record)


@pytest.fixture
def session(caller: Caller) -> Session:
    return Session(caller)


@ERAS
def test_nothing_is_changed_where_nothing_stands_between(era: str, session: Session) -> None:
    """The control: the comparison finds nothing, and finds what is there to be found."""
    tape = session.play(session.server(), SCRIPTS[era])
    assert unfaithful(tape) == []
    assert (tape.heard, tape.got) == (tape.sent, tape.said)
    longest = max(map(len, tape.got)), max(map(len, tape.heard))
    assert min(longest) > 2 << 20
    spelled = [line for line in (*tape.got, *tape.heard) if "1.0" in line and len(line) < 1 << 20]
    assert len(spelled) > 50
    for line in spelled:
        assert different([line], [line.replace("1.0", "1", 1)]), line
    assert different(tape.got, tape.got[1:])


def test_items_of_lists_are_read_as_they_were_written(session: Session) -> None:
    tape = session.play(session.server("--pages", "1"), fidelity_scripts.pages)
    assert [len(listed(tape, method)) for method in fidelity_scripts.LISTS] == [2, 2, 2, 2]
    assert listed(tape, "tools/list")[0]["title"] == '"The \\u0074ool"'


@ERAS
def test_run_changes_nothing(era: str, session: Session) -> None:
    direct, through = session.play(session.server(), SCRIPTS[era]), session.play(session.through(), SCRIPTS[era])
    assert unfaithful(through) == []
    assert changed(direct, through) == []
    assert through.heard == direct.heard


def test_run_changes_no_page_of_a_list(session: Session) -> None:
    through = session.play(session.through("--pages", "1"), fidelity_scripts.pages)
    assert unfaithful(through) == []
    assert len(through.got) == 2 * len(fidelity_scripts.LISTS)
