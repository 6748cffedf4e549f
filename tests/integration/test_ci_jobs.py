"""`supervisor exec --profile ci-runner`, as a CI job uses it: compilers, test runners, node and git in one folder.

Three ways: each caller over a folder of its own, and root over the ordinary user's folder, as a runner's daemon
does. Whoever starts the job, what it makes belongs to the owner of the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.escape.arena import Arena
from tests.integration.caller import Caller
from tests.integration.remains import nothing_left

PROGRAM = '#include <stdio.h>\n\nint main(void) {\n    printf("six times seven is %d\\n", 6 * 7);\n}\n'
MAKEFILE = """all: program
\t./program > result.txt
\t@cat result.txt
program: program.o
\t$(CC) -o $@ $^
program.o: program.c
\t$(CC) -O2 -Wall -Werror -c -o $@ $<
broken:
\t@echo about to fail >&2; exit 7
"""
TESTS = """import subprocess

def test_a_file(tmp_path):
    (tmp_path / "file").write_text("text")
    assert (tmp_path / "file").read_text() == "text"

def test_a_process():
    assert subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout == "hello\\n"
"""
SCRIPT = """const { Worker, isMainThread, parentPort } = require('node:worker_threads');
const fs = require('node:fs');
const { execFileSync } = require('node:child_process');
if (!isMainThread) {
  parentPort.postMessage(6 * 7);
} else {
  new Worker(__filename).on('message', (sum) => {
    const kernel = execFileSync('uname', ['-s'], { encoding: 'utf8' }).trim();
    fs.mkdirSync('out/deep', { recursive: true });
    fs.writeFileSync('out/deep/result.json', JSON.stringify({ sum, kernel }));
    console.log(fs.readFileSync('out/deep/result.json', 'utf8'));
  });
}
"""


@dataclass(frozen=True)
class Job:
    """A folder with sources, and who runs jobs in it."""

    caller: Caller
    folder: Path
    owner: tuple[int, int]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """One command in the sandbox, from the folder."""
        head = self.caller.command("exec", "--profile", "ci-runner", *self.caller.start_options())
        with nothing_left(self.caller, writes=self.folder):
            return self.caller.finish([*head, "--", *command], cwd=self.folder)

    def owners(self) -> set[tuple[int, int]]:
        """The owners of everything in the folder."""
        found = (path.lstat() for path in self.folder.rglob("*"))
        return {(each.st_uid, each.st_gid) for each in found}


@pytest.fixture(params=["root", "user", "root over a user's folder"])
def job(request: pytest.FixtureRequest, arena: Arena) -> Job:
    caller = Caller(arena, "user" if request.param == "user" else "root")
    owner = Caller(arena, "root" if request.param == "root" else "user")
    for each in (caller, owner):
        each.reset()
    folder = owner.plot.scope
    shutil.rmtree(folder)
    folder.mkdir()
    sources = {"program.c": PROGRAM, "Makefile": MAKEFILE, "test_it.py": TESTS, "script.js": SCRIPT}
    for name, text in sources.items():
        (folder / name).write_text(text, encoding="utf-8")
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.plot.uid, owner.plot.gid)
    return Job(caller, folder, (owner.plot.uid, owner.plot.gid))


def test_make_builds_and_runs_a_c_program(job: Job) -> None:
    done = job.run("make")
    assert done.returncode == 0, done.stderr
    assert "six times seven is 42" in done.stdout
    assert (job.folder / "result.txt").read_text(encoding="utf-8") == "six times seven is 42\n"
    assert os.access(job.folder / "program", os.X_OK)
    assert job.owners() == {job.owner}


def test_the_exit_status_and_the_error_output_of_a_job_are_its_own(job: Job) -> None:
    done = job.run("make", "broken")
    assert done.returncode == 2
    assert "about to fail" in done.stderr


def test_pytest_runs(job: Job, servers: Path) -> None:
    done = job.run(servers / "python" / "bin" / "pytest", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert job.owners() == {job.owner}


def test_a_node_script_with_a_worker_and_a_child_runs(job: Job) -> None:
    done = job.run("node", "script.js")
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{"sum":42,"kernel":"Linux"}\n'
    assert job.owners() == {job.owner}


def test_git_commits_in_the_folder(job: Job) -> None:
    """A repository that the owner made, a commit from the sandbox: no word of dubious ownership."""
    owner = Caller(job.caller.arena, "root" if job.owner == (0, 0) else "user")
    setup = "git init -q && git config user.name Ada && git config user.email ada@example.com"
    made = owner.finish(["/bin/sh", "-euc", setup], cwd=job.folder)
    assert made.returncode == 0, made.stderr
    done = job.run("/bin/sh", "-euc", "git add -A && git commit -qm 'from the job' && git status --porcelain")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert all("WITHOUT" in line for line in done.stderr.splitlines()), "git itself says nothing"
    log = owner.finish(["git", "log", "--format=%s by %an"], cwd=job.folder)
    assert log.stdout == "from the job by Ada\n"
    assert job.owners() == {job.owner}
