"""From a profile and a server entry to a SandboxSpec: every look-up happens here, none when a session opens.

Runs in the planner, which can only read, and as the user in `explain`. Starts nothing.
"""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from typing import Annotated, TypeVar

from msgspec import Meta

from supervisor.errors import ConfigError, Unenforceable
from supervisor.model import Audit, Frozen, Limits, Mount, SandboxSpec, Seccomp, SessionRules, Tmp
from supervisor.profile import (
    explain,
    gitconfig,
    granted,
    kept,
    load,
    network,
    program,
    root,
    seccomp,
    secrets,
    sources,
    toml,
    writable,
)
from supervisor.profile.entry import Account, Grant, ServerEntry
from supervisor.profile.image import Image

UID = 1000
# the system call filter of whoever is told which files are opened
WATCHER = "file-audit"
# the sandbox gets its mounts in one message
MAX_MOUNTS = 64
_HOLE = re.compile(r"\$\{([^}]*)\}")


class ImageText(Frozen):
    """`images/NAME/server.toml`: the command of a reference server."""

    name: str
    command: Annotated[tuple[str, ...], Meta(min_length=1)]


Value = TypeVar("Value")


def _set(value: Value | None) -> Value:
    """A field that the floor sets; only a floor that was edited by hand can lack it."""
    if value is None:
        raise ConfigError("none.toml: the floor must set every limit, time, and process key")
    return value


class Planner:
    """Collects mounts and their grants for one server; the order of its calls is the order of authority."""

    def __init__(self, chain: load.Chain, entry: ServerEntry, image: Image | None) -> None:
        self.chain = chain
        self.profile = chain.profile
        self.entry = entry
        self.image = image
        self.params = self._params()
        self.mounts: list[Mount] = []
        self.grants: list[Grant] = []

    def plan(self) -> Account:
        """Everything."""
        profile = self.profile
        if bool(self.entry.image) != (self.image is not None):
            raise ConfigError(f"{self.entry.origin}: image {self.entry.image!r} was not looked up")
        self._profile_mounts()
        self._operator_mounts()
        self._keep()
        found = self._program()
        reach, grants = network.plan(self.chain, self.entry)
        self.grants += [*grants, *secrets.grants(self.entry)]
        # an image has its own
        for each in network.authorities() if reach.mode != "none" and not self.image else []:
            self._add(each, "certificate authorities, for TLS", "network")
        if len(self.mounts) > MAX_MOUNTS:
            raise ConfigError(
                f"{self.entry.origin}: {len(self.mounts)} mounts, over the limit of {MAX_MOUNTS}: "
                "grant a folder that holds several"
            )
        secrets.check(self.entry, self.mounts)
        env, hostname = self._env(found), _set(profile.process.hostname)
        spec = SandboxSpec(
            profile=profile.name,
            argv=found.argv,
            cwd=(cwd := self._cwd()),
            env=env,
            hostname=hostname,
            uid=UID,
            mounts=tuple(sorted(self.mounts, key=lambda each: each.target)),
            links={} if self.image else root.links(),
            files=root.etc(uid=UID, hostname=hostname, home=env["HOME"], network=reach),
            tmp=Tmp(size=int(_set(profile.tmp.size)), inodes=_set(profile.tmp.files), noexec=not profile.tmp.exec),
            limits=(limits := self._limits()),
            rlimits=root.rlimits(limits),
            session=self._session(),
            network=reach,
            seccomp=self._seccomp(),
            audit=self._audit(),
            image=self.image.root if self.image else None,
            runtime="native" if self.entry.runtime == "auto" else self.entry.runtime,
            secrets=secrets.wanted(self.entry),
        )
        if self.image:
            origin = self.chain.origin("process", "image_env")
            self.grants += self.image.grants(self._taken(), cwd, origin)
        gaps = writable.gaps(spec.mounts) | root.gaps(spec)
        return Account(spec=spec, grants=tuple(self.grants), told=explain.told(spec), gaps=gaps)

    def _taken(self) -> dict[str, str]:
        return self.image.variables(self.profile.process.image_env) if self.image else {}

    def fill(self, text: str, origin: str) -> str:
        """`text` with its `${param}` holes filled."""

        def value(match: re.Match[str]) -> str:
            if match.group(1) not in self.params:
                raise ConfigError(f'{origin}: unknown param "${{{match.group(1)}}}"')
            return self.params[match.group(1)]

        return _HOLE.sub(value, text)

    def _params(self) -> dict[str, str]:
        entry, known = self.entry, self.profile.params
        for name in entry.params:
            if name not in known:
                listed = ", ".join(sorted(known)) or "none"
                raise ConfigError(
                    f'{entry.origin}: profile "{self.profile.name}" has no param "{name}"; it has: {listed}'
                )
        values = {}
        for name, param in known.items():
            value = entry.params.get(name)
            if value is None and entry.personal:
                value = param.default
            if value is None:
                raise ConfigError(f'{entry.origin}: param "{name}" is not set: {param.help}')
            values[name] = self._path(value, f'param "{name}"')[0] if param.type == "path" else value
        return values

    def _path(self, written: str, what: str) -> tuple[str, bool]:
        entry = self.entry
        return sources.source(
            written, f"{entry.origin}: {what}", cwd=entry.cwd, home=entry.home, relative=entry.personal
        )

    def _profile_mounts(self) -> None:
        for text in self.profile.mount:
            path = self.fill(text.source, text.origin)
            what = f"{text.origin}: mount"
            real, is_file = sources.source(path, what, cwd="/", home=self.entry.home, relative=False)
            self._add(
                Mount(
                    source=real,
                    target=sources.target(self.fill(text.target, text.origin), what),
                    mode=text.mode,
                    noexec="noexec" in text.flags,
                    is_file=is_file,
                    map_owner=True,
                    per_session=True,
                ),
                f"profile {self.profile.name}",
                text.origin,
            )

    def _operator_mounts(self) -> None:
        for mode, paths in (("ro", self.entry.ro), ("rw", self.entry.rw)):
            for written in paths:
                what = f"--{mode} {written}" if self.entry.personal else f'{mode} "{written}"'
                path, _, place = written.partition(":")
                real, is_file = self._path(path, what)
                inside = sources.target(place or real, f"{self.entry.origin}: {what}")
                mount = Mount(
                    source=real, target=inside, mode="ro", is_file=is_file, map_owner=True, per_session=True
                )
                mount = mount.model_copy(update={"mode": mode, "noexec": False})
                self._add(mount, "the operator's own grant", self.entry.origin)

    def _keep(self) -> None:
        origin = self.chain.origin("writable", "keep")
        obeyed = gitconfig.named(self.mounts, self.entry.home)
        for each in kept.kept(self.mounts, self.profile.writable.keep, obeyed):
            self.mounts.append(each)
            if each.mode == "ro":
                what, why = f"{each.target} stays as it is", "tools of the host obey it unasked"
                self.grants.append(Grant(what=what, why=why, origin=obeyed.get(each.source, origin)))

    def _add(self, mount: Mount, why: str, origin: str) -> None:
        self.mounts = sources.merge(self.mounts, mount, origin)
        flags = "" if not mount.noexec else ", nothing in it can be executed"
        verb = "read" if mount.mode == "ro" else "read and write"
        at = "" if mount.source == mount.target else f" at {mount.target}"
        self.grants.append(Grant(what=f"{verb} {mount.source}{at}{flags}", why=why, origin=origin))

    def _program(self) -> program.Program:
        entry = self.entry
        if self.image:
            return self.image.program(entry.command, entry.entrypoint)
        command = entry.command or self._default_command()
        found = program.resolve(command, cwd=entry.cwd, search_path=entry.search_path, home=entry.home)
        people = {entry.home, *granted.homes()} - {"/nonexistent"}
        for tree in found.trees:
            if any(
                granted.below(tree.path, each.target) and each.source == each.target and not each.noexec
                for each in self.mounts
            ):
                continue
            mount = Mount(
                source=tree.source,
                target=tree.path,
                noexec=False,
                is_file=tree.is_file,
                map_owner=any(granted.below(tree.source, home) for home in people),
            )
            self._add(mount, f"the program's own files: {tree.why}", "program")
        return found

    def _default_command(self) -> tuple[str, ...]:
        if self.profile.server is None:
            raise ConfigError(
                f'{self.entry.origin}: profile "{self.profile.name}" starts no server of its own; '
                "name a command after --"
            )
        name = self.profile.server.default
        folder = load.share_folder("images") / name
        if "/" in name or not folder.is_dir():
            raise ConfigError(f'{self.chain.origin("server", "default")}: no server "{name}" in images/')
        image = toml.read(str(folder / "server.toml"))
        values = {"python": sys.executable, "image": str(folder)}
        command = image.validate(ImageText).command
        return tuple(_HOLE.sub(lambda match: values.get(match.group(1), match.group(0)), each) for each in command)

    def _cwd(self) -> str:
        where = self.chain.origin("process", "cwd")
        cwd = self.fill(_set(self.profile.process.cwd), where)
        if not cwd.startswith("/"):
            raise ConfigError(f'{where}: process.cwd "{cwd}" is relative; write it from /')
        here = self.entry.cwd
        shown = [each for each in self.mounts if each.per_session and each.source == each.target]
        if cwd == "/tmp" and any(granted.below(here, each.target) for each in shown):
            return here
        own = self.image.folder if self.image else ""
        return own if own.startswith("/") and self._of_floor("process", "cwd") else cwd

    def _of_floor(self, *key: str) -> bool:
        """Whether no profile above the floor has set it."""
        return self.chain.origin(*key) == self.chain.sources[0].at(*key)

    def _env(self, found: program.Program) -> dict[str, str]:
        env = {
            key: self.fill(value, self.chain.origin("process", "env", key))
            for key, value in self.profile.process.env.items()
        }
        # the floor's own stand where the image has none
        written = {key for key in env if not self._of_floor("process", "env", key)}
        env |= {key: value for key, value in self._taken().items() if key not in {*written, "HOME", "TMPDIR"}}
        env["PATH"] = ":".join([*found.path, env["PATH"]])
        env |= dict(found.env)
        env |= self.entry.env
        for key, value in env.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                raise ConfigError(f"{self.entry.origin}: {key!r} is no name for an environment variable")
            if "\0" in value:
                raise ConfigError(f"{self.entry.origin}: environment variable {key} has a NUL in it")
        for key in self.entry.env:
            self.grants.append(
                Grant(what=f"environment variable {key}", why="the operator's own grant", origin=self.entry.origin)
            )
        return env

    def _limits(self) -> Limits:
        text = self.profile.limits
        return Limits(
            memory=int(_set(text.memory)),
            millicpus=int(_set(text.cpus)),
            pids=_set(text.pids),
            files=_set(text.files),
            file_size=int(_set(text.file_size)),
            disk=int(_set(text.disk)),
            disk_files=_set(text.disk_files),
            output_line=int(_set(text.output_line)),
            output=int(_set(text.output)),
            output_rate=int(_set(text.output_rate)),
            stderr=int(_set(text.stderr)),
        )

    def _session(self) -> SessionRules:
        text = self.profile.session
        return SessionRules(
            start=float(_set(text.start)),
            idle=float(_set(text.idle)),
            life=float(_set(text.life)),
            grace=float(_set(text.grace)),
            share=_set(text.share),
        )

    def _audit(self) -> Audit:
        text = self.profile.audit
        program = "" if text.files == "off" else seccomp.own(WATCHER)
        places = ("/",) if _set(text.system) else ("/tmp", *self._given())
        return Audit(files=_set(text.files), system=_set(text.system), places=places, filter=program)

    def _given(self) -> list[str]:
        """Where what is granted is seen: under another name too, if the program lies in it, or around it."""
        sources = [each.source for each in self.mounts if each.per_session]

        def given(source: str) -> bool:
            return any(granted.below(source, each) or granted.below(each, source) for each in sources)

        return [each.target for each in self.mounts if given(each.source)]

    def _seccomp(self) -> Seccomp:
        names = self.profile.seccomp.groups
        try:
            groups = seccomp.load_groups(load.share_folder("profiles") / "syscalls", names)
        except ConfigError as error:
            raise ConfigError(f"{self.chain.origin('seccomp', 'groups')}: {error}") from None
        try:
            code = seccomp.compile_filter(groups, write_execute=_set(self.profile.process.write_execute))
        except OSError:
            # libseccomp asks the kernel first what it knows
            raise Unenforceable({"seccomp": seccomp.MISSING}, runtime="native", optional=set()) from None
        return Seccomp(groups=names, program=b64encode(code).decode())


def plan(chain: load.Chain, entry: ServerEntry, image: Image | None = None) -> Account:
    """Plan one server. ConfigError or Refused name what is wrong, where it is written, and the next step.

    `image` is what was found of the one that the entry names.
    """
    return Planner(chain, entry, image).plan()
