"""What is suggested for a client's server: the least that its command line speaks of, and the reasons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.registry import propose
from supervisor.registry.installed import Machine
from supervisor.registry.propose import Proposal


class Home:
    """A home with programs in it, where npm, pipx, uv and people put them."""

    def __init__(self, top: Path) -> None:
        self.path = top / "home"
        self.notes = self.folder("notes")
        self.project = self.folder("code")
        self.machine = Machine(str(self.path), str(self.path), {"PATH": "/usr/bin:/bin"})

    def folder(self, name: str) -> Path:
        made = self.path / name
        made.mkdir(parents=True)
        return made

    def program(self, name: str, text: str = "#!/bin/sh\n") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def npm(self, folder: str, package: str, version: str = "1.0.0", **more: object) -> str:
        """A package that npm has put into `folder`/node_modules, with its program."""
        usual = package.rpartition("/")[2]
        name = f"mcp-{usual}" if usual.startswith("server-") else usual
        about = {"name": package, "version": version, "bin": {name: "index.js"}} | more
        root = f"{folder}/node_modules/{package}"
        self.program(f"{root}/index.js", "#!/usr/bin/env node\n")
        (self.path / root / "package.json").write_text(json.dumps(about))
        return str(self.program(f"{folder}/node_modules/.bin/{name}"))

    def tool(self, folder: str, package: str, version: str = "1.0.0") -> str:
        """A Python package in an environment of its own."""
        normal = package.replace("-", "_")
        self.program(f"{folder}/{package}/lib/python3.11/site-packages/{normal}-{version}.dist-info/METADATA")
        return str(self.program(f"{folder}/{package}/bin/{package}"))

    def propose(self, *argv: object, project: str = "", cwd: str = "", **env: str) -> Proposal:
        words = [str(each) for each in argv]
        return propose.propose(words, env, project=project, cwd=cwd, machine=self.machine)

    def refusal(self, *argv: object, project: str = "", **env: str) -> str:
        with pytest.raises(ConfigError) as raised:
            self.propose(*argv, project=project, **env)
        return str(raised.value)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_filesystem_server_may_write_the_folders_that_it_names(home: Home) -> None:
    program = home.npm(".", "@modelcontextprotocol/server-filesystem")
    other = home.folder("other")
    made = home.propose("npx", "-y", "@modelcontextprotocol/server-filesystem", home.notes, other)
    assert made.fields == {
        "profile": "fs-scoped",
        "command": [program, str(home.notes), str(other)],
        "params": {"root": str(home.notes), "scope": str(home.notes)},
        "rw": [str(other)],
    }
    assert any("1.0.0 is installed" in each for each in made.why)


@pytest.mark.parametrize(
    ("words", "says"), [([], "names no folder"), (["/no/such/folder"], "the folder /no/such/folder is not there")]
)
def test_a_filesystem_server_without_a_folder_is_not_adopted(words: list[str], says: str, home: Home) -> None:
    home.npm(".", "@modelcontextprotocol/server-filesystem")
    assert says in home.refusal("npx", "@modelcontextprotocol/server-filesystem", *words)


def test_the_memory_server_may_write_the_folder_of_its_file(home: Home) -> None:
    home.npm(".", "@modelcontextprotocol/server-memory")
    made = home.propose("npx", "@modelcontextprotocol/server-memory", MEMORY_FILE_PATH=f"{home.notes}/m.json")
    assert made.fields["params"] == {"root": str(home.notes), "scope": str(home.notes)}
    assert made.fields["env"] == {"MEMORY_FILE_PATH": f"{home.notes}/m.json"}


def test_a_memory_in_the_home_itself_is_a_file_of_its_own(home: Home) -> None:
    home.npm(".", "@modelcontextprotocol/server-memory")
    path = home.path / "memory.json"
    words = ("npx", "@modelcontextprotocol/server-memory")
    assert "too much to grant" in home.refusal(*words, MEMORY_FILE_PATH=str(path))
    path.write_text("")
    made = home.propose(*words, MEMORY_FILE_PATH=str(path))
    assert (made.fields["profile"], made.fields["rw"]) == ("none", [str(path)])
    assert "params" not in made.fields


@pytest.mark.parametrize(
    ("env", "says"), [({}, "set MEMORY_FILE_PATH"), ({"MEMORY_FILE_PATH": "m.json"}, "no such folder")]
)
def test_a_memory_without_a_place_is_not_adopted(env: dict[str, str], says: str, home: Home) -> None:
    home.npm(".", "@modelcontextprotocol/server-memory")
    assert says in home.refusal("npx", "@modelcontextprotocol/server-memory", **env)


@pytest.mark.parametrize("option", ["--repository", "-r"])
def test_the_git_server_may_write_its_repository(option: str, home: Home) -> None:
    program = home.tool(".local/share/uv/tools", "mcp-server-git")
    made = home.propose("uvx", "mcp-server-git", option, home.project)
    assert made.fields["command"] == [program, option, str(home.project)]
    assert made.fields["params"] == {"root": str(home.project), "scope": str(home.project)}
    assert "name its repository" in home.refusal("uvx", "mcp-server-git")


def test_a_database_gets_its_folder_because_a_journal_is_made_beside_it(home: Home) -> None:
    home.tool(".local/share/pipx/venvs", "mcp-server-sqlite")
    made = home.propose("uvx", "mcp-server-sqlite", f"--db-path={home.notes}/x.db")
    assert made.fields["params"] == {"root": str(home.notes), "scope": str(home.notes)}
    (home.path / "x.db").write_text("")
    assert "too much to grant" in home.refusal("uvx", "mcp-server-sqlite", "--db-path", home.path / "x.db")


@pytest.mark.parametrize("name", ["time", "sequential-thinking", "everything"])
def test_a_server_that_needs_nothing_gets_nothing(name: str, home: Home) -> None:
    home.npm(".", f"@modelcontextprotocol/server-{name}")
    made = home.propose("npx", "-y", f"@modelcontextprotocol/server-{name}")
    assert set(made.fields) == {"profile", "command"}
    assert made.fields["profile"] == "none"


def test_fetch_is_told_of_the_addresses_that_it_will_see_if_it_knows_the_option(home: Home) -> None:
    home.tool(".local/share/uv/tools", "mcp-server-fetch")
    plain = home.propose("uvx", "mcp-server-fetch")
    assert plain.fields["profile"] == "net-allowlist"
    assert any("no host is allowed yet" in each for each in plain.why)
    site = ".local/share/uv/tools/mcp-server-fetch/lib/python3.11/site-packages"
    home.program(f"{site}/mcp_server_fetch/__init__.py", 'parser.add_argument("--allow-private-ips")\n')
    command = home.propose("uvx", "mcp-server-fetch").fields["command"]
    assert isinstance(command, list)
    assert command[-1] == "--allow-private-ips"


def test_a_server_of_a_known_service_may_reach_it(home: Home) -> None:
    home.npm(".", "@modelcontextprotocol/server-github")
    made = home.propose("npx", "@modelcontextprotocol/server-github", GITHUB_PERSONAL_ACCESS_TOKEN="x")
    assert (made.fields["profile"], made.fields["allow"]) == ("net-allowlist", ["api.github.com:443"])
    assert made.fields["env"] == {"GITHUB_PERSONAL_ACCESS_TOKEN": "x"}
    assert any("GITHUB_PERSONAL_ACCESS_TOKEN: kept in the registry" in each for each in made.why)


def test_an_unknown_server_may_read_what_it_names(home: Home) -> None:
    program = home.program("bin/server")
    file = home.program("notes/settings.json", "{}")
    made = home.propose(program, f"--config={file}", home.project, "/no/such", "/usr/share", DATA=str(home.notes))
    assert made.fields["ro"] == [str(file), str(home.project), str(home.notes)]
    assert "rw" not in made.fields
    assert made.fields["profile"] == "none"


def test_an_unknown_server_may_go_where_it_is_told_to_go(home: Home) -> None:
    program = home.program("bin/server")
    made = home.propose(
        program,
        "--api",
        "https://api.example.com/v1",
        "postgresql://me:secret@db.example.com/x",
        "http://a.example.com:8080",
        "http://b.example.com",
        "wss://192.0.2.7:99",
    )
    assert made.fields["profile"] == "net-allowlist"
    assert made.fields["allow"] == [
        "api.example.com:443",
        "tcp:db.example.com:5432",
        "http:a.example.com:8080",
        "b.example.com:80",
        "192.0.2.7:99",
    ]


def test_a_server_of_this_machine_s_loopback_is_not_adopted(home: Home) -> None:
    program = home.program("bin/server")
    assert "the sandbox itself" in home.refusal(program, "postgres://localhost/x")
    assert "the sandbox itself" in home.refusal(program, API="http://127.0.0.1:8080")


def test_a_server_with_a_key_gets_a_network_without_hosts(home: Home) -> None:
    made = home.propose(home.program("bin/server"), SOME_API_KEY="x")
    assert made.fields["profile"] == "net-allowlist"
    assert "allow" not in made.fields
    assert any("no host is allowed yet" in each for each in made.why)


def test_variables_of_whoever_starts_the_client_do_not_go_in(home: Home) -> None:
    made = home.propose(home.program("bin/server"), HOME=str(home.path), KEEP="1")
    assert made.fields["env"] == {"KEEP": "1"}
    assert "HOME is the sandbox's own" in made.why


def test_links_are_replaced_by_what_they_lead_to(home: Home) -> None:
    link = home.path / "link"
    link.symlink_to(home.notes)
    made = home.propose(home.program("bin/server"), f"--root={link}", DATA=str(link))
    assert made.fields["ro"] == [str(home.notes)]
    assert made.fields["command"] == [str(home.path / "bin/server"), f"--root={home.notes}"]
    assert made.fields["env"] == {"DATA": str(home.notes)}


def test_what_is_written_from_a_project_is_meant_from_there(home: Home) -> None:
    script = home.program("code/server.py", "")
    home.program("code/sub/x.txt", "")
    made = home.propose("python3", "server.py", "./sub", "word", project=str(home.project))
    assert made.fields["command"] == ["python3", str(script), f"{home.project}/sub", "word"]
    assert made.fields["ro"] == [f"{home.project}/sub"]
    again = home.propose("python3", "../server.py", project=str(home.project), cwd="sub")
    assert again.fields["command"] == ["python3", str(script)]


def test_variables_that_are_known_here_are_filled_in(home: Home) -> None:
    made = home.propose(
        home.program("bin/server"),
        "${workspaceFolder}",
        "${userHome}/notes",
        "${workspaceFolderBasename}",
        project=str(home.project),
    )
    assert made.fields["command"] == [str(home.path / "bin/server"), str(home.project), str(home.notes), "code"]


@pytest.mark.parametrize(
    "hole", ["${input:token}", "${env:TOKEN}", "${TOKEN}", "${TOKEN:-x}", "${workspaceFolder}"]
)
def test_what_only_the_client_can_fill_in_is_not_adopted(hole: str, home: Home) -> None:
    said = home.refusal(home.program("bin/server"), KEY=f"a {hole}")
    assert said.startswith(f'KEY: "{hole}" is filled in by the client')


@pytest.mark.parametrize(
    "folder", ["code", ".", ".local/share/supervisor/npm", ".npm-global/lib", ".local/lib", "custom/lib"]
)
def test_a_package_is_found_where_npm_puts_it(folder: str, home: Home) -> None:
    (home.path / ".npmrc").write_text(f"prefix={home.path}/custom\n")
    program = home.npm(folder, "some-server")
    made = home.propose("npx", "-y", "some-server@latest", "-x", project=str(home.project))
    assert made.fields["command"] == [str(Path(program).resolve()), "-x"]


@pytest.mark.parametrize(
    "folder",
    [".local/share/uv/tools", ".local/share/pipx/venvs", ".local/pipx/venvs", ".local/share/supervisor/python"],
)
@pytest.mark.parametrize("words", [("uvx",), ("uv", "tool", "run"), ("pipx", "run")])
def test_a_package_is_found_where_uv_and_pipx_put_it(folder: str, words: tuple[str, ...], home: Home) -> None:
    program = home.tool(folder, "some-server")
    assert home.propose(*words, "some-server==1.0.0", "-x").fields["command"] == [program, "-x"]


def test_a_program_that_a_package_brings_is_named(home: Home) -> None:
    home.npm(".", "some-package")
    program = home.program("node_modules/.bin/tool")
    assert home.propose("npx", "-p", "some-package", "tool").fields["command"] == [str(program)]
    home.tool(".local/share/uv/tools", "some-server")
    other = home.program(".local/share/uv/tools/some-server/bin/other")
    assert home.propose("uvx", "--from", "some-server", "other").fields["command"] == [str(other)]


def test_another_version_than_the_one_that_is_asked_for_is_not_taken(home: Home) -> None:
    home.npm(".", "some-server", "1.0.0")
    said = home.refusal("npx", "some-server@1.0.1")
    assert "(1.0.0 at " in said
    assert f"npm install --prefix {home.path}/.local/share/supervisor/npm some-server@1.0.1" in said
    program = home.npm(".local/share/supervisor/npm", "some-server", "1.0.1")
    assert home.propose("npx", "some-server@1.0.1").fields["command"] == [program]


def test_what_is_not_installed_is_told_with_what_installs_it(home: Home) -> None:
    assert home.refusal("npx", "-y", "nothing").endswith(
        f"first: npm install --prefix {home.path}/.local/share/supervisor/npm nothing"
    )
    own = f"{home.path}/.local/share/supervisor/python/nothing"
    assert home.refusal("uvx", "nothing@2.0").endswith(
        f"first: python3 -m venv {own} && {own}/bin/pip install nothing==2.0"
    )


def test_a_project_of_uv_needs_its_environment(home: Home) -> None:
    words = ("uv", "run", "--directory", str(home.project), "server.py", "-x")
    assert f"uv sync --directory {home.project}" in home.refusal(*words)
    python = home.program("code/.venv/bin/python")
    script = home.program("code/server.py", "")
    assert home.propose(*words).fields["command"] == [str(python), str(script), "-x"]


def test_what_env_sets_is_a_variable(home: Home) -> None:
    program = home.npm(".", "some-server")
    made = home.propose("env", "A=b", "C=", "npx", "some-server", D="e")
    assert made.fields["command"] == [program]
    assert made.fields["env"] == {"A": "b", "C": "", "D": "e"}


@pytest.mark.parametrize(
    "words",
    [("bash", "-c", "npx x"), ("/bin/sh", "-lc", "npx x"), ("cmd", "/c", "npx", "x"), ("env", "sh", "-c", "x")],
)
def test_what_a_shell_would_have_to_read_is_not_adopted(words: tuple[str, ...], home: Home) -> None:
    assert "write the command itself" in home.refusal(*words)


def test_a_text_that_is_no_text_is_not_adopted(home: Home) -> None:
    program = home.program("bin/server")
    assert "cannot be written as UTF-8" in home.refusal(program, "\ud800")
    assert "cannot be written as UTF-8" in home.refusal(program, A="\udfff")
    for words, env in ((("\0",), {}), ((program, "a\0b"), {}), ((program,), {"A": "\0"})):
        assert "has a NUL character in it" in home.refusal(*words, **env)


def test_a_container_is_not_adopted(home: Home) -> None:
    assert "outside this sandbox" in home.refusal("docker", "run", "-i", "--rm", "mcp/time")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("files", "files"),
        ("GitHub", "github"),
        ("My Server!", "my-server"),
        ("a__b", "a_b"),
        ("my_server", "my_server"),
        ("-x.", "x"),
        ("日本", "server"),
        ("x" * 100, "x" * 56),
    ],
)
def test_a_name_is_like_the_client_s_own(key: str, name: str) -> None:
    assert propose.name_for(key, lambda _: False) == name


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert propose.name_for("a", lambda each: each in ("a", "a-2")) == "a-3"


def test_where_this_user_s_data_is_decides_what_is_advised(home: Home) -> None:
    home.machine = replace(home.machine, environ={"PATH": "/usr/bin", "XDG_DATA_HOME": "/data"})
    assert home.refusal("npx", "nothing").endswith("first: npm install --prefix /data/supervisor/npm nothing")
