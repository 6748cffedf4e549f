"""What is shown of a host for a node program: node_modules, prefixes, workspaces, stores of links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.errors import Refused

if TYPE_CHECKING:
    from tests.unit.profile.conftest import Host


def test_a_command_of_node_modules_brings_that_folder_only(host: Host) -> None:
    command = host.local(host.cwd)
    program = host.resolve("node_modules/.bin/mcp-srv", host.home / "notes")
    assert program.argv == (str(command), str(host.home / "notes"))
    assert host.trees(command) == ["home/u/proj/node_modules"]


def test_node_modules_in_the_home_does_not_show_the_home(host: Host) -> None:
    host.package(host.home, "home")
    assert host.trees(host.local(host.home)) == ["home/u/node_modules"]


def test_a_node_of_its_own_prefix_brings_that_prefix(host: Host) -> None:
    prefix = host.home / ".nvm/versions/node/v20.1.0"
    host.binary(prefix / "bin/node")
    host.script(prefix / "lib/node_modules/srv/x.js", "/usr/bin/env node")
    host.link(prefix / "lib/node_modules/mine", host.package(host.home / "mine", "mine"))
    command = host.link(prefix / "bin/srv", "../lib/node_modules/srv/x.js")
    nvm = f"{prefix}/bin:{host.search_path}"
    assert host.resolve("srv", search_path=nvm).argv == (str(command),)
    assert host.resolve("srv", search_path=nvm).path == (f"{prefix}/bin",)
    assert host.trees("srv", search_path=nvm) == ["home/u/.nvm/versions/node/v20.1.0"]
    assert len(host.trees(host.local(host.cwd), search_path=nvm)) == 2


def test_a_node_directly_in_the_local_folder_is_shown_alone(host: Host) -> None:
    node = host.binary(host.home / ".local/bin/node")
    host.write(host.home / ".local/lib/node_modules/x/y")
    assert host.trees(node) == ["home/u/.local/bin/node"]


def test_a_workspace_brings_the_packages_and_the_shared_node_modules(host: Host) -> None:
    repo = host.home / "repo"
    host.package(repo, "repo")
    for name in ("a", "b"):
        host.package(host.cwd.parent / f"repo/packages/{name}", name)
        host.link(repo / f"node_modules/@me/{name}", f"../../packages/{name}")
    host.script(repo / "packages/a/cli.js", "/usr/bin/env node")
    host.link(repo / "packages/a/node_modules/.bin/a", "../../cli.js")
    host.link(repo / "node_modules/stray", host.home / "documents")
    host.write(host.home / "documents/x")
    expected = ["home/u/repo/node_modules", "home/u/repo/packages/a", "home/u/repo/packages/b"]
    assert host.trees(host.link(repo / "node_modules/.bin/a", "../@me/a/cli.js")) == expected
    assert host.trees(repo / "packages/a/node_modules/.bin/a") == expected
    assert host.trees("node", repo / "packages/a/cli.js") == expected


def test_a_link_to_another_project_does_not_show_it(host: Host) -> None:
    """Links come with a repository: this one is a stranger's, and the other lies beside it."""
    other = host.package(host.home / "work/private", "private")
    host.write(other / ".env", "SECRET=1")
    host.package(other / "packages/a", "a")
    host.link(other / "node_modules/a", "../packages/a")
    host.write(other / "node_modules/real/package.json", '{"name": "real"}')
    host.package(host.cwd, "stranger")
    for name, target in (("one", "private"), ("two", "private/packages/a"), ("three", "private/node_modules/real")):
        host.link(host.cwd / f"node_modules/{name}", f"../../work/{target}")
    host.script(host.cwd / "cli.js", "/usr/bin/env node")
    shown = host.trees(host.link(host.cwd / "node_modules/.bin/cli", "../../cli.js"))
    assert shown == ["home/u/proj", "home/u/work/private/node_modules"]


def test_a_farm_of_links_brings_the_store_behind_it(host: Host) -> None:
    store = host.home / ".local/share/pnpm/store/links"
    host.script(store / "srv/1/node_modules/srv/x.js", "/usr/bin/env node")
    host.write(store / "dep/2/node_modules/dep/package.json", '{"name": "dep"}')
    host.link(store / "srv/1/node_modules/dep", store / "dep/2/node_modules/dep")
    host.link(host.cwd / "node_modules/srv", store / "srv/1/node_modules/srv")
    command = host.script(host.cwd / "node_modules/.bin/srv", f"{host.usr}/bin/bash")
    node = host.binary(host.home / "tools/node")
    path = f"{node.parent}:{host.search_path}"
    assert host.trees(command, search_path=path) == [
        "home/u/.local/share/pnpm/store/links/dep/2/node_modules",
        "home/u/.local/share/pnpm/store/links/srv/1/node_modules",
        "home/u/proj/node_modules",
        "home/u/tools/node",
    ]
    assert host.resolve(command, search_path=path).path[-1] == str(node.parent)


def test_a_script_of_a_package_brings_the_package(host: Host) -> None:
    host.package(host.cwd, "app")
    host.write(host.cwd / "dist/package.json", '{"type": "module"}')
    server = host.write(host.cwd / "dist/server.js")
    assert host.resolve("node", "dist/server.js").argv[1] == str(server)
    assert host.trees("node", "--import", "x", "dist/server.js") == ["home/u/proj"]
    assert host.resolve("node", ".").argv[1] == str(host.cwd)
    host.package(host.home, "home")
    host.write(host.home / "s.js")
    assert host.trees("node", "../s.js") == ["home/u/s.js"]


def test_too_many_trees_are_refused(host: Host) -> None:
    for number in range(200):
        package = host.package(host.cwd / f"p/{number}", f"p{number}")
        host.link(host.cwd / f"node_modules/p{number}", package)
    with pytest.raises(Refused, match="over 128 trees"):
        host.resolve(host.local(host.cwd))
