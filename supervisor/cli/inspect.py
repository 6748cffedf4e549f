"""`explain`, `profile`, `check`: they look and tell, and start nothing."""

from __future__ import annotations

import argparse
import json
import sys

from supervisor.cli import entry
from supervisor.errors import ConfigError
from supervisor.model import HostFacts, SandboxSpec
from supervisor.profile import diff, load, offers, plan, toml
from supervisor.profile import explain as told
from supervisor.profile.entry import Account, ServerEntry
from supervisor.runtimes import native
from supervisor.shown import printable


def explain(options: argparse.Namespace, tail: list[str]) -> int:
    """What would be granted, and which steps would be taken; 4 when this host cannot."""
    written = toml.made(entry.build(options, tail), ServerEntry)
    chain = load.load(written.profile)
    if options.diff:
        return _print_diff(options, load.load(options.diff).profile, chain.profile)
    from supervisor.cli import runtimes
    from supervisor.registry import engines

    found = None
    if written.image:
        from supervisor.registry import images

        found = images.find(written)
    ready = plan.plan(chain, written, found.image if found else None)
    if ready.spec.runtime == "gvisor":
        ready = engines.guest(ready)
    if found and ready.spec.runtime in engines.ENGINES:
        ready = engines.fitted(ready, ready.spec.runtime, written, found)
    elif found:
        ready = ready.model_copy(update={"gaps": ready.gaps | offers.no_image()})
    others = engines.others(ready, written, found) if found else ()
    facts = offers.probe()
    ready, said, problem = runtimes.chosen(ready, others, written.accept_missing, facts)
    if options.json:
        gaps = problem.gaps if problem else {}
        shown = {"digest": ready.spec.digest, "spec": ready.spec.model_dump(), "gaps": gaps}
        print(json.dumps(shown, indent=2))
    else:
        _print(chain, ready, facts, said)
    if problem:
        print(f"supervisor: {problem}", file=sys.stderr)
        return problem.exit_status
    return 0


def _print(chain: load.Chain, ready: Account, facts: HostFacts, said: list[str]) -> None:
    spec = ready.spec
    print(printable(f"{spec.profile}: {chain.profile.summary}"))
    print(f"made of: {' <- '.join(str(source.data['name']) for source in chain.sources)}")
    print(f"spec:    {spec.digest}\ncommand: {printable(' '.join(spec.argv))}")
    print(f"in:      {printable(spec.cwd)}\n\ngranted:")
    rows = [(grant.what, f"{grant.why} ({grant.origin})") for grant in ready.grants]
    limits = spec.limits
    rows.append((f"memory {limits.memory >> 20} MiB", chain.origin("limits", "memory")))
    rows.append(
        (f"{limits.millicpus / 1000:g} processor{'s' * (limits.millicpus != 1000)}", chain.origin("limits", "cpus"))
    )
    # of gVisor, the limit itself is what its processes cost outside
    pids = spec.rlimits.get("NPROC", limits.pids)
    rows.append((f"{pids} processes and threads", chain.origin("limits", "pids")))
    if any(each.mode == "rw" for each in spec.mounts):
        added = f"{limits.disk >> 20} MiB and {limits.disk_files} files added to what it may write"
        rows.append((added, chain.origin("limits", "disk")))
    only = "" if spec.network.allow else ", no host allowed yet (--allow HOST:PORT)"
    reach = "only these hosts" + only if spec.network.mode == "allowlist" else "none"
    rows.append((f"network: {reach}", chain.origin("network", "mode")))
    rows.append((f"system calls: {', '.join(spec.seccomp.groups)}", chain.origin("seccomp", "groups")))
    rows.append((_recorded(spec, facts), chain.origin("audit", "files")))
    width = min(70, max(len(what) for what, _ in rows))
    for what, why in rows:
        print(printable(f"  {what:<{width}}  {why}"))
    print("\nruntime:\n  " + "\n  ".join(map(printable, said)))
    if spec.runtime != "native":
        return  # how it is built is the engine's business
    print("\nsteps:")
    steps = told.steps(native.document(spec, facts))
    for number, step in enumerate(steps, 1):
        print(f"  {number:2} {printable(step)}")
    last = f"execute {spec.argv[0]}; pid 1, closed to everybody inside, stays to reap"
    print(printable(f"  {len(steps) + 1:2} {last}"))


def _recorded(spec: SandboxSpec, facts: HostFacts) -> str:
    """Whether somebody sees which files it opens."""
    if spec.runtime == "gvisor":
        return "not recorded: which files it opens (what gVisor has open already is opened again unseen)"
    if spec.audit.files == "off":
        return f"not recorded: which files it opens{f' ({facts.unseen})' if facts.unseen else ''}"
    return f"recorded: which files it opens{', those of the system as well' if spec.audit.system else ''}"


def profile(options: argparse.Namespace, _tail: list[str]) -> int:
    """The shipped profiles, or the merged text of one."""
    if options.action == "list":
        chains = [load.load(name) for name in load.names()]
        if options.json:
            rows = [{"name": each.profile.name, "summary": each.profile.summary} for each in chains]
            print(json.dumps(rows, indent=2))
        for chain in [] if options.json else chains:
            print(f"{chain.profile.name:15} {chain.profile.summary}")
            for name, param in chain.profile.params.items():
                default = f" (default {param.default})" if param.default else ""
                print(f"{'':15}   --param {name}=...  {param.help}{default}")
        return 0
    if options.action == "diff":
        return _diff(options)
    if not options.name:
        raise ConfigError("profile show: name one (supervisor profile list shows all)")
    chain = load.load(options.name)
    if options.json:
        print(json.dumps(load.plain(chain.profile), indent=2, ensure_ascii=False))
    for source in [] if options.json else chain.sources:
        print("\n".join(printable(each.expandtabs()) for each in source.text.split("\n")))
    return 0


def _diff(options: argparse.Namespace) -> int:
    if not options.name or not options.other:
        raise ConfigError("profile diff: name two, as in: supervisor profile diff fs-scoped ci-runner")
    return _print_diff(options, load.load(options.name).profile, load.load(options.other).profile)


def _print_diff(options: argparse.Namespace, old: load.Profile, new: load.Profile) -> int:
    rows = diff.compare(old, new)
    if options.json:
        print(json.dumps([{"sign": sign, "what": said} for sign, said in rows], indent=2))
        return 0
    calls = {
        sign: [said.removeprefix("call ") for each, said in rows if each == sign and said.startswith("call ")]
        for sign in "+-"
    }
    for sign, said in rows:
        if not said.startswith("call "):
            print(f"{sign} {said}")
    for sign, names in calls.items():
        if names:
            print(f"{sign} {len(names)} system calls: {', '.join(names)}")
    return 0


def check(options: argparse.Namespace, _tail: list[str]) -> int:
    """What the native runtime needs of this host, layer by layer; 4 when something is missing."""
    facts = offers.probe()
    layers = {
        "namespaces": "user, mount, pid, ipc, uts, network, time and cgroup namespaces",
        "landlock": f"Landlock ABI {facts.landlock}",
        "seccomp": "system call filters",
        "limits.memory": f"memory limit, cgroup {facts.cgroup}",
        "limits.cpus": f"processor limit, cgroup {facts.cgroup}",
        "limits.pids": "process limit",
    }
    notes = [said for said in (crashes(_line("/proc/sys/kernel/core_pattern")),) if said]
    if facts.unseen:
        notes.append(f"which files a server opens is not seen here: {facts.unseen}")
    if options.json:
        found = {"facts": facts.model_dump(), "ok": not facts.missing, "notes": notes}
        print(json.dumps(found, indent=2))
    else:
        print(f"native runtime, as {'root' if facts.root else 'an ordinary user'}:")
        for name, what in layers.items():
            state, text = ("missing", facts.missing[name]) if name in facts.missing else ("ok", what)
            print(f"  {name:14} {state:8} {text}")
        for said in notes:
            print(f"  {'note':14} {'':8} {said}")
        from supervisor.cli import runtimes

        print("other runtimes:")
        for name, text in runtimes.there():
            print(f"  {name:14} {text}")
    return 4 if facts.missing else 0


def crashes(pattern: str) -> str:
    """What a core_pattern means for sandboxes, "" when nothing: no limit of a process keeps a pipe from it."""
    if not pattern.startswith("|"):
        return ""
    program = pattern[1:].split(" ", 1)[0]
    return (
        f"the memory of what crashes in a sandbox goes to {program} on the host, as root (kernel.core_pattern); "
        "sysctl kernel.core_pattern=core ends that"
    )


def _line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
