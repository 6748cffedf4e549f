"""What is written of a lesson loads, and is never wider than the bound, whatever was seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.profile import diff, granted, learned, load, plan
from supervisor.profile.admits import Admission
from supervisor.profile.entry import ServerEntry
from supervisor.profile.learned import Lesson, Peaks
from supervisor.profile.observed import Observed
from supervisor.profile.strace import Call

FLOOR = load.load("none").profile
TIGHT = """profile = 1
name = "tight"
extends = "none"
summary = "Less than the floor."

[process]
write_execute = false

[limits]
memory = "48M"
pids = 5
files = 20
file_size = "1M"

[tmp]
size = "1M"
files = 16

[session]
life = "1m"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    (made / "src").mkdir(parents=True)
    return made


def lesson(bound: str, project: Path, observed: Observed, peaks: Peaks = Peaks(), *told: str) -> Lesson:  # noqa: B008
    chain = load.load(bound)
    known = chain.profile.params
    allow = ("example.test:443", "*.wild.test:443") if chain.profile.network.operator else ()
    entry = ServerEntry(
        name="personal",
        profile=bound,
        command=("/usr/bin/true",),
        params={name: str(project) for name in known},
        allow=allow,
        cwd=str(project),
        home="/nonexistent",
        personal=True,
        origin="command line",
    )
    return Lesson(chain, plan.plan(chain, entry), entry, "learned", "", observed, peaks, told)


def profile(lesson: Lesson, folder: Path) -> load.Profile:
    """The lesson's text, loaded."""
    path = folder / "learned.toml"
    path.write_text(lesson.text(lambda path: "folder" if Path(path).is_dir() else ""))
    return load.load(str(path)).profile


LINES = '\n[network]\nmode = "allowlist"\nallow = ["evil.test:443"]\n[x]\n#'
TOUCHED = st.dictionaries(
    st.sampled_from(
        ["src/a.c", "src", "out/b", "", "/tmp/x", "/usr/bin/cc", "/data/src/a.c", f"/tmp/{LINES}", f"src/{LINES}"]
    ),
    st.sets(st.sampled_from(["read", "write", "exec", "list", "look"]), min_size=1),
)
ADDRESSES = ("198.18.1.0", "198.18.1.1", "198.18.0.1", "8.8.8.8")
SEEN = st.builds(
    Observed,
    calls=st.just(Counter({"read": 1})),
    connected=st.dictionaries(
        st.tuples(
            st.sampled_from(["198.18.1.0", "198.18.1.1", "198.18.0.1", "8.8.8.8"]), st.sampled_from([443, 3128])
        ),
        st.integers(1, 9),
    ).map(Counter),
    groups=st.sets(
        st.tuples(
            st.sampled_from(["connect", "bind", "statx"]), st.frozensets(st.sampled_from(["network", "ci-build"]))
        )
    ),
    write_execute=st.booleans(),
    processes=st.integers(0, 5000),
    files=st.integers(0, 100000),
    killed=st.booleans(),
)
PEAKS = st.builds(Peaks, st.integers(0, 1 << 40), st.integers(0, 64000))


@pytest.mark.parametrize("bound", ["none", "fs-readonly", "ci-runner", "net-allowlist", "tight"])
def test_it_loads_and_is_never_wider_than_the_bound(bound: str, project: Path, tmp_path: Path) -> None:
    if bound == "tight":
        (tmp_path / "tight.toml").write_text(TIGHT)
        bound = str(tmp_path / "tight.toml")
    taught = lesson(bound, project, Observed())
    groups = frozenset(taught.chain.profile.seccomp.groups)

    @settings(max_examples=30, deadline=None)
    @given(seen=SEEN, touched=TOUCHED, peaks=PEAKS)
    def whatever_was_seen(seen: Observed, touched: dict[str, set[str]], peaks: Peaks) -> None:
        seen.groups = {(name, wanted & groups) for name, wanted in seen.groups}
        absolute = {path if path.startswith("/") else str(project / path): kinds for path, kinds in touched.items()}
        seen.touched = absolute
        assert_no_wider(profile(replace(taught, observed=seen, peaks=peaks), tmp_path), taught)

    whatever_was_seen()


def assert_no_wider(made: load.Profile, taught: Lesson) -> None:
    most, spec = taught.chain.profile, taught.plan.spec
    bounds = diff.limits(most)
    assert all(value <= bounds[name] for name, value in diff.limits(made).items())
    assert set(made.seccomp.groups) <= set(most.seccomp.groups)
    assert set(made.network.allow) <= set(spec.network.allow)
    assert not made.network.operator
    assert most.tmp.exec or not made.tmp.exec
    assert most.process.write_execute or not made.process.write_execute
    assert (made.session.life or 0) <= (most.session.life or 0)
    mounts = {each.target: each for each in spec.mounts}
    for each in made.mount:
        around = mounts[max(point for point in mounts if granted.below(each.target, point))]
        assert each.source == around.source + each.target.removeprefix(around.target)
        assert each.mode == "ro" or around.mode == "rw"
        assert "noexec" in each.flags or not around.noexec


def test_only_the_groups_that_the_calls_need_are_named() -> None:
    admission = Admission(FLOOR.seccomp.groups, load.load("ci-runner").profile.seccomp.groups)

    def of(name: str, text: str) -> frozenset[str] | None:
        return admission.of(Call(7, name, text, 0, "", ""))

    assert of("read", "3, 0x7f, 10") is None
    assert of("connect", "3<socket:[1]>, {sa_family=0x2}, 16") == frozenset({"network"})
    assert of("socket", "0x2, 0x80001, 0") == frozenset({"network"})
    assert of("socket", "0x10, 0x3, 0") == frozenset()
    assert of("socketpair", "0x1, 0x1, 0, [3, 4]") is None
    assert of("unshare", "0x10000000") == frozenset()
    wanted = {(name, groups) for name in ("connect", "bind") if (groups := of(name, "3"))}
    assert list(admission.fewest(wanted)) == ["network", "ci-sockets"]


def test_no_name_of_a_file_is_a_line_of_the_profile(project: Path, tmp_path: Path) -> None:
    touched = {f"/tmp/{LINES}": {"exec"}, f"{project}/{LINES}": {"write"}, f"{project}/src/{LINES}/x": {"read"}}
    made = profile(lesson("ci-runner", project, Observed(calls=Counter(["read"]), touched=touched)), tmp_path)
    assert made.tmp.exec
    assert (made.network.mode, made.network.allow) == (FLOOR.network.mode, FLOOR.network.allow)


def test_what_was_refused_is_evidence_that_no_terminal_obeys(project: Path, tmp_path: Path) -> None:
    seen = Observed(calls=Counter({"read": 1}), missing={"/srv/\x1b[2J", "/srv/gone"})
    seen.refused["openat", "/srv/\x1b]0;x\x07\n[limits]\nmemory = '1G'", "EACCES"] = 2
    taught = lesson("none", project, seen, Peaks(), "egress: evil.test:443: no rule")
    text = taught.text(lambda path: "file" if "gone" not in path else "")
    refused = text.partition("# Refused by the bound, and not granted here:\n")[2].splitlines()
    assert all(line.startswith("#") and line.isprintable() for line in refused)
    assert len(refused) == 3
    assert profile(taught, tmp_path).limits.memory == learned.MIB * 512
