"""Debian's docker-registry on loopback, with TLS and a password, filled by skopeo.

Runs as root. Everything it makes is in one folder, and the process ends with the block.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NAME, PASSWORD = "reader", "open sesame"
_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http:
  addr: 127.0.0.1:{port}
  tls: {{certificate: {folder}/cert.pem, key: {folder}/key.pem}}
auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}
"""


@dataclass(frozen=True)
class Registry:
    """Where it is, and the files that its clients need."""

    folder: Path
    port: int

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def authfile(self) -> str:
        auth = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
        return json.dumps({"auths": {self.host: {"auth": auth}}})

    @property
    def registries(self) -> str:
        return f'[registry."{self.host}"]\nca = "{self.folder}/cert.pem"\n'

    def push(self, layout: Path, tag: str, repository: str = "team/server") -> None:
        """Copy what has this tag in an OCI layout, as it is."""
        target = f"docker://{self.host}/{repository}:{tag}"
        argv = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-creds", f"{NAME}:{PASSWORD}"]
        argv += ["--dest-cert-dir", str(self.folder / "certs"), f"oci:{layout}:{tag}", target]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)


def _certificate(folder: Path) -> None:
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    argv += ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(argv, check=True, capture_output=True)
    (folder / "certs").mkdir()
    (folder / "certs" / "ca.crt").write_bytes((folder / "cert.pem").read_bytes())


@contextmanager
def running(folder: Path) -> Iterator[Registry]:
    """A registry that answers."""
    folder.chmod(0o755)
    _certificate(folder)
    secret = subprocess.run(["htpasswd", "-Bbn", NAME, PASSWORD], check=True, capture_output=True, text=True)
    (folder / "htpasswd").write_text(secret.stdout)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.yml").write_text(_CONFIG.format(folder=folder, port=port))
    with subprocess.Popen(
        ["docker-registry", "serve", f"{folder}/config.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            _await(port, process)
            yield Registry(folder, port)
        finally:
            process.kill()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("docker-registry does not answer")
