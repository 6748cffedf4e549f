"""From hostile programs to verdicts: one batch is one run outside per caller, and one run per sandbox.

A batch's source text is the shared part, the programs and the bait, fed to the system's Python on stdin.
The verdicts of a run are kept for the whole session, so that every program is a test of its own while every
sandbox is started once per batch.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from tests.escape.arena import MODES, PYTHON, Arena, Place
from tests.escape.hostile import PROFILES, Program

SHARED = Path(__file__).with_name("hostile.py").read_text(encoding="utf-8")
Values = dict[str, str | int]


def no_bait(place: Place) -> Values:
    return {}


def no_judge(place: Place) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Batch:
    """The programs of one boundary. `bait` lays out what they look for; `judge` looks at the host afterwards
    and names each program that left a trace there, with the trace. `outside` stands before the control;
    `networked` programs start from the network namespace of the tests."""

    boundary: str
    programs: tuple[Program, ...]
    imports: tuple[str, ...] = ()
    helpers: tuple[Callable[..., object], ...] = ()
    bait: Callable[[Place], Values] = no_bait
    judge: Callable[[Place], dict[str, str]] = no_judge
    outside: tuple[str, ...] = ()
    networked: bool = False

    @classmethod
    def of(
        cls,
        module: Mapping[str, object],
        *,
        helpers: tuple[Callable[..., object], ...] = (),
        bait: Callable[[Place], Values] = no_bait,
        judge: Callable[[Place], dict[str, str]] = no_judge,
        outside: tuple[str, ...] = (),
        networked: bool = False,
    ) -> Batch:
        """Every program defined in a test module, with the module's imports of standard modules."""
        named = [f"import {name}" for name, value in module.items() if isinstance(value, ModuleType)]
        imports = tuple(line for line in named if line.split()[1] in sys.stdlib_module_names)
        programs = tuple(value for value in module.values() if isinstance(value, Program))
        boundary = str(module["__name__"]).rpartition("test_")[2]
        return cls(boundary, programs, imports, helpers, bait, judge, outside, networked)

    @cached_property
    def source(self) -> str:
        parts = [inspect.getsource(part) for part in self.helpers]
        parts += [inspect.getsource(program.attack) for program in self.programs]
        return "\n\n".join([SHARED, *self.imports, *parts])

    def chosen(self, place: Place) -> list[str]:
        """The programs to try at a place: outside, those whose control is that caller."""
        if place.profile is not None:
            return [program.name for program in self.programs if place.profile in program.profiles]
        callers = {"same", place.mode}
        return [program.name for program in self.programs if program.control in callers]

    def cases(self) -> list[Case]:
        return [
            Case(self, program, profile, mode)
            for program in self.programs
            for profile in PROFILES
            if profile in program.profiles
            for mode in MODES
        ]


@dataclass(frozen=True)
class Case:
    """One program, in one profile, for one caller."""

    batch: Batch
    program: Program
    profile: str
    mode: str

    def __str__(self) -> str:
        return f"{self.program.name}-{self.profile}-{self.mode}"


def verdicts(arena: Arena, batch: Batch, place: Place) -> dict[str, str]:
    """What each program of the batch said at that place; run once, remembered.

    Both callers' runs go on at the same time: they share nothing, and most of the time is spent starting up.
    """
    if (batch.boundary, place.profile, place.mode) not in arena.verdicts:
        places = [Place(arena, place.profile, mode) for mode in MODES]
        texts = [prepare(batch, each) for each in places]
        with ThreadPoolExecutor(len(places)) as pool:
            found = pool.map(lambda pair: run(arena, batch, *pair), zip(places, texts, strict=True))
        for each, report in zip(places, found, strict=True):
            arena.verdicts[batch.boundary, each.profile, each.mode] = report
    return arena.verdicts[batch.boundary, place.profile, place.mode]


def prepare(batch: Batch, place: Place) -> str:
    """Lay out the bait, and put the batch's program together."""
    place.plot.reset()
    values = batch.bait(place)
    return f"{batch.source}\n\nrun([{', '.join(batch.chosen(place))}], {values!r})\n"


def run(arena: Arena, batch: Batch, place: Place, text: str) -> dict[str, str]:
    """One run of the batch; when it does not report, every program is BROKEN with the reason."""
    if place.profile is None:
        argv = [*batch.outside, *PYTHON, "-"]
        done = arena.outside(argv, place.mode, text=text, networked=batch.networked)
    else:
        argv = [*PYTHON, "-"]
        done = arena.inside(place.profile, place.mode, argv, text=text, networked=batch.networked)
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        why = f"BROKEN no report, exit {done.returncode}: {done.stdout[-500:]} {done.stderr[-1500:]}"
        return dict.fromkeys(batch.chosen(place), why)
    found = batch.judge(place) if place.profile is not None else {}
    traces = {name: f"CROSSED as seen from the host: {trace}" for name, trace in found.items()}
    return {name: str(said) for name, said in report.items()} | traces


def assert_held(arena: Arena, case: Case) -> None:
    """The promise of every escape test: the program succeeds outside and fails inside."""
    caller = case.mode if case.program.control == "same" else case.program.control
    control = verdicts(arena, case.batch, Place(arena, None, caller))[case.program.name]
    assert control.startswith("CROSSED"), f"the control proves nothing: {control}"
    said = verdicts(arena, case.batch, Place(arena, case.profile, case.mode))[case.program.name]
    assert said.startswith("HELD"), f"{said}\n\n{inspect.getsource(case.program.attack)}"
