"""server.json: what is pinned is proposed, what is not is listed with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.registry.discover import packages
from supervisor.registry.discover.proposal import Proposal
from supervisor.registry.installed import Machine

HASH = "0f" * 32
IMAGE = f"ghcr.io/team/time@sha256:{HASH}"
Package = dict[str, object]
STDIO: Package = {"transport": {"type": "stdio"}}
FILE: Package = {"fileSha256": HASH} | STDIO
NPM: Package = {"registryType": "npm", "identifier": "@team/server-time", "version": "1.2.3"} | FILE
PYPI: Package = {"registryType": "pypi", "identifier": "team-time", "version": "1.2"} | FILE
OCI: Package = {"registryType": "oci", "identifier": IMAGE} | STDIO


def installed(home: Path) -> Machine:
    """A home in which npm and uv have put the two packages."""
    npm = home / ".local/share/supervisor/npm/node_modules"
    (npm / "@team/server-time").mkdir(parents=True)
    (npm / ".bin").mkdir()
    about = {"name": "@team/server-time", "version": "1.2.3", "bin": {"server-time": "x.js"}}
    (npm / "@team/server-time/package.json").write_text(json.dumps(about))
    python = home / ".local/share/supervisor/python/team-time"
    (python / "bin").mkdir(parents=True)
    (python / "lib/python3.11/site-packages/team_time-1.2.dist-info").mkdir(parents=True)
    for each in (npm / ".bin/server-time", python / "bin/team-time"):
        each.write_text("#!/bin/sh\n")
        each.chmod(0o755)
    return Machine(str(home), str(home), {"PATH": "/usr/bin"})


def proposals(home: Path, *listed: dict[str, object], **more: object) -> list[Proposal]:
    document = {"name": "io.example/time", "description": "Tells the time", "packages": list(listed)} | more
    return packages.propose_all("files", "/x/server.json", document, installed(home))


def test_what_is_pinned_and_installed_is_proposed_from_every_registry(tmp_path: Path) -> None:
    made = proposals(tmp_path, NPM, PYPI, OCI)
    assert [each.refused for each in made] == ["", "", ""]
    assert [each.name for each in made] == ["time"] * 3
    commands = [each.fields.get("command") for each in made]
    own = f"{tmp_path}/.local/share/supervisor"
    assert commands == [
        [f"{own}/npm/node_modules/.bin/server-time"],
        [f"{own}/python/team-time/bin/team-time"],
        None,
    ]
    assert made[2].fields["image"] == IMAGE
    assert all(HASH in " ".join(each.why) for each in made[:2])
    assert made[0].fields["summary"] == "Tells the time"


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (NPM | {"version": "latest"}, "not exact"),
        (NPM | {"version": "^1.2.3"}, "not exact"),
        (NPM | {"version": ""}, "not exact"),
        (NPM | {"fileSha256": ""}, "no fileSha256"),
        (NPM | {"fileSha256": "0f" * 31}, "no fileSha256"),
        (NPM | {"version": "9.9.9"}, "npm install"),
        (NPM | {"identifier": "--package=evil"}, "no name of a package"),
        (NPM | {"identifier": "../evil"}, "no name of a package"),
        (NPM | {"identifier": "a b"}, "no name of a package"),
        (NPM | {"identifier": "a\x1b[2Jb"}, "not printable"),
        (NPM | {"registryBaseUrl": "https://evil.example.org"}, "registryBaseUrl"),
        (NPM | {"transport": {"type": "sse"}}, "transport"),
        (NPM | {"registryType": "mcpb"}, "registryType"),
        (PYPI | {"version": ">=1.0"}, "not exact"),
        (PYPI | {"version": "1.*"}, "not exact"),
        (PYPI | {"identifier": "team-time[extra]"}, "no name of a package"),
        (OCI | {"identifier": "ghcr.io/team/time:1.2"}, "supervisor image add ghcr.io/team/time:1.2"),
        (OCI | {"identifier": "ghcr.io/team/time", "version": "1.2"}, "supervisor image add ghcr.io/team/time:1.2"),
        (OCI | {"identifier": f"time@sha256:{HASH}"}, "not pinned"),
        (OCI | {"identifier": "ghcr.io/team/time:$(id)"}, "supervisor image add 'ghcr.io/team/time:$(id)'"),
        (NPM | {"packageArguments": [{"type": "positional", "isRequired": True}]}, "yours to fill in"),
        (NPM | {"packageArguments": [{"type": "named", "name": "--a", "value": "{b}"}]}, "yours to fill in"),
        (NPM | {"environmentVariables": [{"name": "A=B"}]}, "no name of a variable"),
    ],
)
def test_what_is_not_pinned_or_not_clear_is_refused(
    tmp_path: Path, package: dict[str, object], reason: str
) -> None:
    [made] = proposals(tmp_path, package)
    assert reason in made.refused
    assert made.fields == {}


def test_arguments_and_variables_that_are_filled_in_are_taken_and_the_others_named(tmp_path: Path) -> None:
    arguments = [{"type": "named", "name": "--zone", "value": "UTC"}, {"type": "positional", "default": "x"}]
    variables = [{"name": "MODE", "value": "quiet"}, {"name": "TOKEN", "isRequired": True, "isSecret": True}]
    extra = {
        "packageArguments": arguments,
        "environmentVariables": variables,
        "runtimeArguments": [{"value": "-v"}],
    }
    [made] = proposals(tmp_path, OCI | extra)
    assert made.fields["command"] == ["--zone", "UTC", "x"]
    assert made.fields["env"] == {"MODE": "quiet"}
    assert any(each.startswith("env.TOKEN") for each in made.why)
    assert any("runtimeArguments" in each for each in made.why)


@pytest.mark.parametrize(
    "more", [{"name": ""}, {"name": 7}, {"packages": {}}, {"packages": [{}]}, {"packages": [NPM] * 17}]
)
def test_a_document_that_is_none_is_refused_whole(tmp_path: Path, more: dict[str, object]) -> None:
    [made] = proposals(tmp_path, NPM, **more)
    assert made.refused


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "[" * 100000, "1" * 5000, "{", '"\\q"'])
def test_json_with_two_meanings_or_no_end_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        packages.parse(text)
