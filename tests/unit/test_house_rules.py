"""The rules of the house, as tests: linters, types, import contracts, sizes, and what the spawner may import."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CODE = sorted(path for part in ("supervisor", "images", "benchmarks") for path in (ROOT / part).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
# Everything that the processes with power (monitor, spawner, sandbox up to execve) import of ours.
ROOT_CODE = (
    "errors.py",
    "wire.py",
    "model.py",
    "monitor",
    "sandbox",
    "runtimes/__init__.py",
    "runtimes/native.py",
    "profile/__init__.py",
    "profile/host.py",
    "profile/granted.py",
)
# runs in the sandbox alone, as the session's own uid: with the capabilities of its namespaces, without any outside
INSIDE = ("sandbox/rights.py", "sandbox/inside.py", "sandbox/network.py")
ROOT_CODE_LIMIT = 2500


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def code_lines(path: Path) -> set[int]:
    """The lines of a file that hold code: no blank line, comment or docstring."""
    text = path.read_text(encoding="utf-8")
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        for said in docstring(node):
            lines.difference_update(said)
    return lines


def docstring(node: ast.AST) -> Iterator[range]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, kinds) and node.body and ast.get_docstring(node) is not None:
        first = node.body[0]
        yield range(first.lineno, (first.end_lineno or first.lineno) + 1)


def test_ruff_finds_nothing() -> None:
    assert run(BIN / "ruff", "check", ".") == ""


def test_the_code_is_formatted() -> None:
    assert run(BIN / "ruff", "format", "--check", ".") == ""


def test_the_types_are_strict_and_right() -> None:
    assert run(BIN / "mypy") == ""


def test_the_import_contracts_hold_without_an_exception() -> None:
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert run(BIN / "lint-imports", "--no-cache") == ""


def test_root_running_code_stays_within_its_budget() -> None:
    files = [
        file
        for part in ROOT_CODE
        for file in (
            [ROOT / "supervisor" / part] if part.endswith(".py") else (ROOT / "supervisor" / part).rglob("*.py")
        )
    ]
    inside = {ROOT / "supervisor" / part for part in INSIDE}
    total = sum(len(code_lines(file)) for file in files if file not in inside)
    assert 1000 < total <= ROOT_CODE_LIMIT


def test_the_monitor_imports_no_code_of_ours_that_is_not_counted_as_root_running() -> None:
    program = "import sys, supervisor.monitor.main\nprint(*(n for n in sys.modules if n.startswith('supervisor')))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    counted = {part.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for part in ROOT_CODE}
    for name in done.stdout.split():
        short = name.removeprefix("supervisor").lstrip(".")
        assert not short or short in counted or short.split(".")[0] in {"monitor", "sandbox"}, name


@pytest.mark.parametrize("path", CODE + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    if path.name != "__init__.py" or path.stat().st_size:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_imports_inside_functions_are_the_command_line_s_alone() -> None:
    for path in CODE:
        if "cli" in path.parts or path.parts[-3:-1] == ("images", "filesystem"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [each for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom)]
                assert not inner, f"{path}: {node.name}"


HOLDERS = (
    "sandbox.spawner",
    "egress.broker",
    "audit.ledger",
    "audit.client",
    "runtimes.docker",
    "runtimes.gvisor",
    "runtimes.podman",
    "runtimes.keeper",
)


@pytest.mark.parametrize("module", HOLDERS)
def test_what_holds_power_or_the_log_imports_the_standard_library_alone(module: str) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import supervisor.{module}\n"
        "print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    argv = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__main__", "supervisor"}


def test_the_proxy_imports_nothing_that_plans() -> None:
    program = "import sys, supervisor.cli.start, supervisor.proxy.relay\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"pydantic", "pyseccomp", "tomllib", "mcp"} & set(done.stdout.split())


def test_the_top_level_stays_as_it_is_drawn() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    plain = {name for name in top if not name.startswith(".")}
    assert plain <= {"pyproject.toml", "supervisor", "profiles", "images", "tests", "benchmarks", "README.md"}
