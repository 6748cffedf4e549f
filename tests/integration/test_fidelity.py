"""What is said at one end arrives at the other as it was said: every byte of every message, in both directions."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.escape.arena import Arena
from tests.integration import fidelity_scripts
from tests.integration.caller import Caller
from tests.integration.fidelity import PYTHON, Step, Tape, changed, different, listed, play, recorded, unfaithful
from tests.integration.fidelity_http import Visitor, in_order, visit
from tests.integration.gateway import Entry, Gateway, copied, serving

Script = Callable[[str], Iterator[Step]]
SCRIPTS = {"legacy": fidelity_scripts.legacy, "modern": fidelity_scripts.modern}
Direct = Callable[..., Tape]
AS_ROOT = pytest.mark.parametrize("caller", ["root"], indirect=True)
ERAS = pytest.mark.parametrize("era", SCRIPTS)

# What a gateway says, asks and answers by itself; the second where it has several servers.
CHANGED = {f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources", "roots")}
LISTENING = {"subscriptions/listen", "notifications/subscriptions/acknowledged"}
OWN = {
    "initialize",
    "notifications/initialized",
    "server/discover",
    "ping",
    "logging/setLevel",
    *fidelity_scripts.LISTS,
}
OWN |= CHANGED | LISTENING
SEVERAL = {"tasks/list"}


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


@pytest.fixture(scope="module")
def direct(arena: Arena) -> Direct:
    """What is said directly, each session played once: nothing of the product stands between."""

    @functools.cache
    def played(era: str, several: bool = False) -> Tape:
        caller = Caller(arena, "root")
        caller.reset()
        session = Session(caller)
        return session.play(session.server(), functools.partial(SCRIPTS[era], several=several))

    return played


@ERAS
def test_nothing_is_changed_where_nothing_stands_between(era: str, direct: Direct) -> None:
    """The control: the comparison finds nothing, and finds what is there to be found."""
    tape = direct(era)
    assert unfaithful(tape) == []
    assert (tape.heard, tape.got) == (tape.sent, tape.said)
    longest = max(map(len, tape.got)), max(map(len, tape.heard))
    assert min(longest) > 2 << 20
    spelled = [line for line in (*tape.got, *tape.heard) if "1.0" in line and len(line) < 1 << 20]
    assert len(spelled) > 50
    for line in spelled:
        assert different([line], [line.replace("1.0", "1", 1)]), line
    assert different(tape.got, tape.got[1:])


@AS_ROOT
def test_items_of_lists_are_read_as_they_were_written(session: Session) -> None:
    tape = session.play(session.server("--pages", "1"), fidelity_scripts.pages)
    assert [len(listed(tape, method)) for method in fidelity_scripts.LISTS] == [2, 2, 2, 2]
    assert listed(tape, "tools/list")[0]["title"] == '"The \\u0074ool"'


@ERAS
def test_run_changes_nothing(era: str, direct: Direct, caller: Caller) -> None:
    tape, session = direct(era), Session(caller)
    through = session.play(session.through(), SCRIPTS[era])
    found = unfaithful(through) + changed(tape, through)
    assert not found, "\n".join(found)
    assert through.heard == tape.heard


def test_run_changes_no_page_of_a_list(session: Session) -> None:
    through = session.play(session.through("--pages", "1"), fidelity_scripts.pages)
    assert unfaithful(through) == []
    assert len(through.got) == 2 * len(fidelity_scripts.LISTS) + 2


@ERAS
@pytest.mark.parametrize("way", ["serve", "run"])
def test_the_gateway_changes_nothing_but_names(era: str, way: str, direct: Direct, arena: Arena) -> None:
    """`serve` puts the server's name before the names of tools and prompts; `run` does not even that."""
    several = way == "serve"
    tape, script = direct(era, several), functools.partial(SCRIPTS[era], several=several)
    caller = Caller(arena, "root")
    caller.reset()
    session = Session(caller)
    writes = (str(session.record.parent),)
    gateway = Gateway(session.caller, [Entry("awkward", tuple(session.server()), rw=writes)])
    gateway.write()
    gateway.pin()
    prefix, argv = ("awkward__", gateway.command()) if several else ("", gateway.run("awkward"))
    own = OWN | SEVERAL if several else OWN
    through = session.play(argv, script, prefix)
    found = unfaithful(through, own=own, prefix=prefix) + changed(tape, through, own=own)
    assert not found, "\n".join(found)
    for method in fidelity_scripts.LISTS:
        assert listed(through, method, prefix) == listed(tape, method)


@ERAS
def test_the_gateway_changes_nothing_over_http_either(era: str, direct: Direct, arena: Arena) -> None:
    """Answers that come alone are JSON, others streams of events; who started the gateway cannot matter."""
    caller = Caller(arena, "root")
    caller.reset()
    session = Session(caller)
    script = functools.partial(fidelity_scripts.modern, streams=False) if era == "modern" else SCRIPTS[era]
    tape = session.play(session.server(), script) if era == "modern" else direct(era)
    entry = Entry("awkward", tuple(session.server()), rw=(str(session.record.parent),))
    with serving(caller, [entry]) as gateway:
        session.record.unlink(missing_ok=True)
        visitor = Visitor(gateway.port, "/servers/awkward/mcp", fidelity_scripts.REPLIES, modern=era == "modern")
        through = visit(visitor, script(""))
    recorded(through, session.record)
    one, two = in_order(tape), in_order(through)
    found = unfaithful(two, own=OWN) + changed(one, two, own=OWN)
    assert not found, "\n".join(found)
    kinds = {"text/event-stream"} | ({"application/json"} if era == "modern" else set())
    assert kinds <= visitor.kinds.keys()
    for method in fidelity_scripts.LISTS:
        assert listed(through, method) == listed(tape, method)


@AS_ROOT
def test_half_a_surrogate_pair_passes(session: Session) -> None:
    """It is grammatical, and JavaScript writes it where a text was cut in the middle of a character."""
    through = session.play(session.through(), fidelity_scripts.surrogates)
    assert unfaithful(through) == []
    assert "\\ud83d" in through.got[-1]
