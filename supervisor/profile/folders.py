"""From the files that a command touched to the folders that a profile should grant.

Pure; runs as whoever types `supervisor profile learn`. A folder is granted with everything in it, so one that
was only passed through is not; and never more than the mount of the bound that it lies in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os.path import commonpath, dirname

from supervisor.model import Mount
from supervisor.profile.granted import below

# more folders than this in one mount of the bound are brought together
MOST = 4


@dataclass
class Need:
    """A folder (or file) inside, what is done in it, and the paths that say so."""

    target: str
    bound: Mount
    write: bool = False
    execute: bool = False
    evidence: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Where it is on the host."""
        return self.bound.source + self.target.removeprefix(self.bound.target.rstrip("/"))

    def within(self, other: Need) -> bool:
        """Whether another need grants all of this one."""
        enough = (other.write or not self.write) and (other.execute or not self.execute)
        return enough and below(self.target, other.target)


def bounds(mounts: tuple[Mount, ...], keep: tuple[str, ...]) -> list[Mount]:
    """The mounts of profile and operator, without those that only hold a kept name in a writable folder."""
    own = [each for each in mounts if each.per_session]

    def held(one: Mount) -> bool:
        for whole in own:
            inside = _inside(one.target, whole.target)
            if whole.mode == "rw" and inside and one.source == f"{whole.source.rstrip('/')}/{inside}":
                on_the_way = any(name.startswith(f"{inside}/") for name in keep)
                if on_the_way or (inside in keep and one.mode == "ro"):
                    return True
        return False

    return [each for each in own if not held(each)]


def _inside(path: str, folder: str) -> str:
    """The part of a path below a folder; empty if there is none."""
    return path.removeprefix(folder.rstrip("/")).lstrip("/") if path != folder and below(path, folder) else ""


def kept(found: list[Need], keep: tuple[str, ...]) -> list[str]:
    """The kept names of the bound, as they are called from the writable folders that are granted inside its own."""
    names: dict[str, None] = {}
    for each in found:
        inside = _inside(each.target, each.bound.target) if each.write else ""
        if inside:
            names |= {name.removeprefix(f"{inside}/"): None for name in keep if name.startswith(f"{inside}/")}
    return [name for name in names if name not in keep]


def needs(touched: Mapping[str, set[str]], mounts: list[Mount], is_folder: Callable[[str], bool]) -> list[Need]:
    """The fewest folders in which everything that was touched would have worked, never more than `mounts`."""
    found: list[Need] = []
    for path, kinds in sorted(touched.items()):
        bound = _bound(path, mounts)
        if bound and kinds - {"look", "made"}:
            found.append(_need(path, kinds, bound, touched, is_folder))
    # a folder that was only looked at has to be there
    for path, kinds in sorted(touched.items()):
        bound = _bound(path, mounts)
        seen = any(below(path, each.target) or below(each.target, path) for each in found)
        if bound and "look" in kinds and not seen and "made" not in kinds:
            found.append(Need(path, bound, evidence=[path]))
    made: list[Need] = []
    for bound in mounts:
        made += _few([each for each in found if each.bound == bound])
    return made + _narrower(made, mounts)


def _bound(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount in which a path lies: the innermost."""
    return max((each for each in mounts if below(path, each.target)), key=lambda each: each.target, default=None)


def _narrower(made: list[Need], mounts: list[Mount]) -> list[Need]:
    """The mounts of the bound that lie in what is granted and grant less: they stay as they are."""
    there = {each.target for each in made}
    found = []
    for mount in mounts:
        around = [each for each in made if _inside(mount.target, each.target) and each.bound != mount]
        less = any((each.write and mount.mode == "ro") or (each.execute and mount.noexec) for each in around)
        other = any(Need(mount.target, each.bound).source != mount.source for each in around)
        if mount.target not in there and (less or other):
            found.append(Need(mount.target, mount, evidence=[mount.target]))
    return found


def _need(
    path: str, kinds: set[str], bound: Mount, touched: Mapping[str, set[str]], is_folder: Callable[[str], bool]
) -> Need:
    write = "write" in kinds and bound.mode == "rw"
    need = Need(path, bound, write, "exec" in kinds and not bound.noexec, [path])
    if path != bound.target and not ("list" in kinds and not write):
        need.target = dirname(path)
    # what the command made is not there when it is started again
    while need.target != bound.target and ("made" in touched.get(need.target, ()) or not is_folder(need.source)):
        need.target = dirname(need.target)
    return need


def _few(found: list[Need]) -> list[Need]:
    """Merged until few are left, and none in another that grants as much."""
    kept = list(_merged(found))
    while len(kept) > MOST:
        pairs = [(one, two) for at, one in enumerate(kept) for two in kept[at + 1 :] if one.write == two.write]
        if not pairs:
            break
        one, two = max(pairs, key=lambda pair: len(commonpath([pair[0].target, pair[1].target])))
        joined = Need(
            commonpath([one.target, two.target]),
            one.bound,
            one.write,
            one.execute or two.execute,
            one.evidence + two.evidence,
        )
        kept = list(_merged([each for each in kept if each is not one and each is not two] + [joined]))
    return kept


def _merged(found: list[Need]) -> Iterator[Need]:
    """One need for each folder, without those that lie in another which grants as much."""
    by_target: dict[str, Need] = {}
    for each in found:
        there = by_target.setdefault(each.target, Need(each.target, each.bound))
        there.write |= each.write
        there.execute |= each.execute
        there.evidence += each.evidence
    for each in by_target.values():
        wider = [other for other in by_target.values() if other is not each and each.within(other)]
        if wider:
            wider[0].evidence += each.evidence
        else:
            yield each
