"""server.json, the format of the MCP registry: which package of npm, PyPI or an image registry a server is.

Runs as whoever types `supervisor discover`. Asks no registry and downloads nothing. Only an exact version with the
hash of its file, or an image's digest, is a proposal: anything else means another program tomorrow.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from supervisor.errors import ConfigError, SupervisorError
from supervisor.profile.written import explain
from supervisor.registry import jsonc, propose
from supervisor.registry.discover.proposal import Proposal, fetch, plain
from supervisor.registry.installed import Machine

_HASH = re.compile(r"[0-9a-f]{64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_IMAGE = re.compile(r"(?:[a-z0-9-]+(?:[.:][a-z0-9-]+)+|localhost)/[a-z0-9._/-]+@sha256:[0-9a-f]{64}")
_NPM = re.compile(r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*")
_PYPI = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_SEMVER = re.compile(r"\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?")
_PEP440 = re.compile(r"\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\+[a-z0-9.]+)?")
# the kind -> its public registry, its names, its exact versions
_KINDS = {"npm": ("https://registry.npmjs.org", _NPM, _SEMVER), "pypi": ("https://pypi.org", _PYPI, _PEP440)}


class _Foreign(BaseModel):
    # the format grows: what we do not know is not ours to refuse, and is not used
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, alias_generator=to_camel)


class Value(_Foreign):
    """An argument or a variable, as far as it is filled in."""

    type: str = "positional"
    name: str = ""
    value: str = ""
    default: str = ""
    is_required: bool = False


class Transport(_Foreign):
    type: str = ""


class Package(_Foreign):
    registry_type: str
    identifier: str
    version: str = ""
    registry_base_url: str = ""
    file_sha256: str = Field(default="", alias="fileSha256")
    transport: Transport = Transport()
    runtime_arguments: tuple[Value, ...] = Field(default=(), strict=False, max_length=64)
    package_arguments: tuple[Value, ...] = Field(default=(), strict=False, max_length=64)
    environment_variables: tuple[Value, ...] = Field(default=(), strict=False, max_length=64)


class Document(_Foreign):
    name: str = Field(min_length=1)
    description: str = ""
    packages: tuple[Package, ...] = Field(default=(), strict=False, max_length=16)


def is_document(root: jsonc.Node) -> bool:
    """Whether a JSON value is one of these, and no client's configuration."""
    schema = jsonc.find(root, ("$schema",))
    named = isinstance(schema, jsonc.Text) and "server.schema.json" in schema.value
    return named or isinstance(jsonc.find(root, ("packages",)), jsonc.Array)


def propose_all(source: str, place: str, data: object, machine: Machine) -> list[Proposal]:
    """A proposal for each package of a document."""
    try:
        document = Document.model_validate(data)
        name = propose.name_for(plain(document.name, "name").rpartition("/")[2], lambda _: False)
        summary = plain(document.description[:200], "description")
    except ValidationError as error:
        return [Proposal(source, place, "", refused=explain(error)[0])]
    except ConfigError as error:
        return [Proposal(source, place, "", refused=str(error))]
    if not document.packages:
        return [Proposal(source, place, name, refused="it has no package: there is nothing to run on this machine")]
    made = []
    for number, each in enumerate(document.packages):
        where = f"{place}#packages.{number}"
        try:
            fields, why = _fields(each, machine)
            said = {"summary": summary} if summary else {}
            made.append(Proposal(source, where, name, said | fields, tuple(why)))
        except SupervisorError as error:
            made.append(Proposal(source, where, name, refused=str(error)))
    return made


def _fields(package: Package, machine: Machine) -> tuple[dict[str, object], list[str]]:
    if package.transport.type != "stdio":
        kind = plain(package.transport.type, "transport.type")
        raise ConfigError(f'its transport is "{kind}": only servers on stdio are run here')
    arguments = _arguments(package.package_arguments)
    env, why = _environment(package.environment_variables)
    if package.runtime_arguments:
        why.append("its runtimeArguments are not taken: what a server may touch is the profile's business")
    if package.registry_type == "oci":
        fields: dict[str, object] = {"profile": "none", "image": _image(package)}
        why.append(fetch(package.identifier))
        return fields | ({"command": arguments} if arguments else {}) | ({"env": env} if env else {}), why
    argv, checked = _pinned(package)
    try:
        made = propose.propose([*argv, *arguments], env, project="", cwd="", machine=machine)
    except ConfigError as error:
        raise ConfigError(f"{error}\n{checked}") from None
    return made.fields, [*made.why, *why, checked]


def _image(package: Package) -> str:
    written = plain(package.identifier, "identifier")
    if not _IMAGE.fullmatch(written):
        tag = "" if ":" in written.rpartition("/")[2] else f":{plain(package.version, 'version') or 'TAG'}"
        name = written.partition("@")[0]
        raise ConfigError(
            f'image "{written}" is not pinned by its digest (registry/name@sha256:...); '
            f"supervisor image add {shlex.quote(name + tag)} looks the digest up and writes it down"
        )
    return written


def _pinned(package: Package) -> tuple[list[str], str]:
    """The command that a client would start, and the words that check the file behind it."""
    kind, name = plain(package.registry_type, "registryType"), plain(package.identifier, "identifier")
    version, digest = plain(package.version, "version"), plain(package.file_sha256, "fileSha256").lower()
    if kind not in _KINDS:
        raise ConfigError(f'registryType "{kind}": only {", ".join(_KINDS)} and oci are known here')
    base, names, versions = _KINDS[kind]
    if package.registry_base_url.rstrip("/") not in ("", base):
        raise ConfigError(f'registryBaseUrl "{plain(package.registry_base_url, "registryBaseUrl")}" is not {base}')
    if not names.fullmatch(name):
        raise ConfigError(f'"{name}" is no name of a package of {kind}')
    if not versions.fullmatch(version):
        raise ConfigError(f'version "{version}" is not exact: whoever publishes {name} next decides what runs')
    if not _HASH.fullmatch(digest):
        raise ConfigError(f"{name} {version} has no fileSha256: nothing says which file was meant")
    fetch = f"npm pack {name}@{version}" if kind == "npm" else f"pip download --no-deps {name}=={version}"
    argv = ["npx", "-y", f"{name}@{version}"] if kind == "npm" else ["uvx", f"{name}=={version}"]
    return argv, f"its file must have sha256 {digest} (what is installed does not say): {fetch} && sha256sum *"


def _arguments(values: Sequence[Value]) -> list[str]:
    """The arguments that are filled in; ConfigError for one that must be and is not."""
    words = []
    for each in values:
        name = plain(each.name, "an argument's name")
        value = plain(each.value or each.default, f"argument {name}")
        if not value and not each.is_required:
            continue
        if not value or "{" in value:
            raise ConfigError(
                f'argument "{name or value}" is yours to fill in: supervisor add NAME --profile ... -- COMMAND'
            )
        words += [name, value] if each.type == "named" else [value]
    return words


def _environment(values: Sequence[Value]) -> tuple[dict[str, str], list[str]]:
    env, why = {}, []
    for each in values:
        name = plain(each.name, "a variable's name")
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(f'"{name}" is no name of a variable')
        value = plain(each.value or each.default, f"variable {name}")
        if value and "{" not in value:
            env[name] = value
        elif each.is_required:
            why.append(f"env.{name}: it needs this variable, which is yours to fill in")
    return env, why


def parse(text: str) -> object:
    """JSON that has one meaning: no key twice, no NaN. ConfigError otherwise."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ConfigError("a key is written twice")
        return made

    try:
        found: object = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ConfigError("nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"no JSON: {str(error)[:120]}") from None
    return found
