"""`selftest`: prove from inside that a profile holds on this host, and show what it allows on purpose."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

from supervisor.cli import entry, personal
from supervisor.egress import match
from supervisor.errors import FAILED, ConfigError, SupervisorError
from supervisor.model import SandboxSpec
from supervisor.profile import diff, load, plan, seccomp, toml
from supervisor.profile.entry import ServerEntry
from supervisor.profile.image import Image
from supervisor.proxy import identity, pump
from supervisor.proxy.link import Link
from supervisor.shown import printable

# "probes" and "reach" are lists of rows, "calls" of numbers
Answer = dict[str, list[list[object]]]
_STATES = {
    "answers": "answers",
    "silent": "does not answer (the host, not the sandbox)",
    "refused": "is allowed, and was refused",
    "pattern": "was not tried",
}


def run(options: argparse.Namespace, _tail: list[str]) -> int:
    """0 only if everything the profile promises holds; 1 otherwise."""
    source = Path(__file__).with_name("probes.py").read_text(encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-c", source, "{}"]
    asked = entry.build(options, command)
    written = toml.made(asked, ServerEntry)
    chain = load.load(written.profile)
    found = _image(written)
    spec = plan.plan(chain, written, found).spec
    command[-1] = json.dumps(_question(spec, written.accept_missing))
    if found:
        # what is tried must be tried in there: by its own interpreter, from its own file system
        asked, command = asked | {"entrypoint": [_interpreter(found), *command[1:]]}, []
    # before privileges are given up: afterwards the files may be out of reach
    groups = seccomp.load_groups(load.share_folder("profiles") / "syscalls", spec.seccomp.groups)
    expected = seccomp.told(groups) | seccomp.reachable(groups)
    allowed = [said for said in sorted(diff.words(chain.profile)) if not said.startswith("call ")]
    answer, refusals = _inside(asked | {"command": command})
    known = {number: name for name, number in expected.items()}
    calls = [known.get(int(str(number)), f"number {number}") for number in answer["calls"]]
    strange = [name for name in calls if name not in expected]
    rows = [
        *answer["probes"],
        ["kernel", "answer a system call that is in none of its groups", not strange, strange],
    ]
    failed = [row for row in rows if not row[2]]
    if options.json:
        shown = [dict(zip(("boundary", "tried", "held", "seen"), row, strict=True)) for row in rows]
        reach = [dict(zip(("host", "state", "seen"), row, strict=True)) for row in _reach(answer, refusals)]
        result = {"profile": spec.profile, "held": not failed, "calls": len(calls)}
        print(json.dumps(result | {"reachable": sorted(calls), "probes": shown, "reach": reach}, indent=2))
    else:
        print(f"{spec.profile}: {chain.profile.summary}")
        _print(rows)
        print(f"  {len(calls)} system calls are answered:")
        print(textwrap.fill(" ".join(sorted(calls)), 110, initial_indent="    ", subsequent_indent="    "))
        for where, state, seen in _reach(answer, refusals):
            print(f"  {where} {_STATES[state]}: {printable(seen)}")
        print("allowed on purpose:")
        for said in allowed:
            print(f"  {said}")
    return FAILED if failed else 0


def _image(written: ServerEntry) -> Image | None:
    if not written.image:
        return None
    from supervisor.registry import images

    found = images.find(written)
    return found.image if found else None


def _interpreter(image: Image) -> str:
    """The Python of an image: its entry point's; ConfigError where that is something else."""
    program = image.entrypoint[0] if image.entrypoint else ""
    if re.fullmatch(r"(?:/[^\0]*/)?python[0-9.]*", program):
        return program
    raise ConfigError(
        f"selftest: what tries the boundaries is a Python program, and the entry point of {image.root.name} is "
        f'"{program}": try the profile in an image with a Python for its entry point, or without --image'
    )


def _question(spec: SandboxSpec, accepted: tuple[str, ...]) -> dict[str, object]:
    bounds = {"files": spec.limits.files, "tmp": spec.tmp.size, "pids": spec.limits.pids}
    if "limits.memory" not in accepted:
        bounds["memory"] = spec.limits.memory
    system = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "dev", "proc", "tmp", "etc", ".sealed")
    granted = [*(mount.target for mount in spec.mounts), *(f"/{name}" for name in system)]
    names = [spec.hostname, *sorted(spec.env), "LC_CTYPE"]
    asked: dict[str, object] = {
        "environment": names,
        "granted": granted,
        "bounds": bounds,
        "targets": _targets(spec),
    }
    return asked | {"network": "network" in spec.seccomp.groups, "image": spec.image is not None}


def _targets(spec: SandboxSpec) -> list[tuple[str, str, int]]:
    found = [match.parse(each) for each in spec.network.allow]
    return [
        (
            "pattern" if each.labels else each.kind,
            f"{'*' * each.labels}{'.' * bool(each.labels)}{each.host}",
            each.port,
        )
        for each in found
    ]


def _reach(answer: Answer, refusals: list[str]) -> list[tuple[str, str, str]]:
    """What was dialled, with the broker's own reason where it gave one."""
    rows = []
    for where, state, seen in answer["reach"]:
        told = [
            said.removeprefix(f"egress: {where}: ") for said in refusals if said.startswith(f"egress: {where}: ")
        ]
        rows.append((str(where), str(state), told[0] if told and state != "answers" else str(seen)))
    return rows


def _inside(asked: dict[str, object]) -> tuple[Answer, list[str]]:
    refusals: list[str] = []
    tree = personal.start(asked)
    identity.drop()
    link = Link(tree.monitor)
    link.refused = refusals.append
    try:
        identity.confine(link.hello()[1])
        opened = link.open(entry.NAME)
        pump.start_errors(opened)
        with open(opened.stdout, "rb") as file:
            text = file.read()
        ended = link.event()
    finally:
        tree.close()
    try:
        found: Answer = json.loads(text)
    except ValueError:
        why = ended.reason if ended else "the monitor ended"
        raise SupervisorError(f"the probes did not finish: {why}") from None
    return found, refusals


def _print(rows: list[list[object]]) -> None:
    boundaries: dict[str, list[list[object]]] = defaultdict(list)
    for row in rows:
        boundaries[str(row[0])].append(row)
    for name, tried in boundaries.items():
        held = sum(1 for row in tried if row[2])
        print(f"  {name:12} {held:3} of {len(tried):3} held  {'ok' if held == len(tried) else 'FAILED'}")
        for row in tried:
            if not row[2]:
                print(f"      NOT HELD: {row[1]}: {printable(str(row[3]))}")
