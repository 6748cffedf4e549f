"""Which runtime an entry gets, and why not another, asked for by the user who explains; what engines there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.cli.entry import NAME
from supervisor.errors import Unenforceable
from supervisor.model import HostFacts, Plan
from supervisor.profile.entry import Account, ServerEntry
from supervisor.registry import engines
from supervisor.runtimes import native

if TYPE_CHECKING:
    from supervisor.runtimes.engine import Engine


def _kinds() -> dict[str, type[Engine]]:
    from supervisor.runtimes.docker import Docker
    from supervisor.runtimes.podman import Podman

    return {"podman": Podman, "docker": Docker}


def chosen(
    made: Account, others: tuple[Plan, ...], accept: tuple[str, ...], facts: HostFacts
) -> tuple[Account, list[str], Unenforceable | None]:
    """(the plan that would be used, a line for each runtime that was looked at, what is wrong with the last)."""
    said: list[str] = []
    problem: Unenforceable | None = None
    for plan in (made, *others):
        try:
            spec = native.check(plan, facts, accept)
            _asked(native.document(spec, facts), spec.runtime)
        except Unenforceable as error:
            problem = problem or error
            missing = "; ".join(f"{name}: {reason}" for name, reason in sorted(error.gaps.items()))
            said.append(f"{plan.spec.runtime}: cannot: {missing}")
        else:
            first = ", and is the tightest" if others and not said else ""
            said.append(f"{spec.runtime}: can hold every field{first}")
            return made.model_copy(update={"spec": spec}), said, None
    return made, said, problem


def _asked(document: dict[str, object], runtime: str) -> None:
    if runtime == "native":
        return
    from supervisor.runtimes import gvisor
    from supervisor.runtimes.engine import Gaps

    if runtime == "gvisor":
        if found := gvisor.gaps(document):
            raise Unenforceable(found, runtime=runtime, optional=set())
        return
    parts = document["engine"]
    path = str(parts["socket"]) if isinstance(parts, dict) else ""
    try:
        _kinds()[runtime](path, NAME).check(document)
    except Gaps as gaps:
        raise Unenforceable(gaps.found, runtime=runtime, optional=set()) from None


def _gvisor() -> str:
    from supervisor.runtimes import bundle

    if not bundle.there():
        return f"not there: no {bundle.RUNSC}"
    try:
        return f"{bundle.version()} at {bundle.RUNSC}, platform {bundle.platform()}"
    except OSError as error:
        return f"not there: {bundle.RUNSC}: {error}"


def there() -> list[tuple[str, str]]:
    """(runtime, its version or why it cannot be asked), at their usual places."""
    from supervisor.runtimes.api import ApiError

    entry = ServerEntry(name=NAME, profile="none", origin="")
    found = [("gvisor", _gvisor())]
    for name, kind in _kinds().items():
        path = engines.socket(name, entry)
        try:
            facts = kind(path, NAME).facts()
        except ApiError as error:
            found.append((name, f"not there: {error.strerror}"))
        else:
            found.append((name, f"{facts['version']} at {path}"))
    return found
