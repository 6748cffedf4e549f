"""Debian's docker-registry on loopback, with TLS and a password, filled by skopeo.

Runs as root. Everything it makes is in one folder, and the process ends with the block.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
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

    def put(self, layout: Path, digest: str, tag: str, repository: str = "team/server") -> None:
        """Put a manifest of a layout with all it needs, as any client does; this skopeo knows no artifacts."""
        data = (layout / "blobs/sha256" / digest[7:]).read_bytes()
        document = json.loads(data)
        for each in _blob_references(document):
            if "manifests" in document:
                self.put(layout, each, each, repository)
                continue
            place = self._send("POST", f"{repository}/blobs/uploads/", b"", "").headers["Location"]
            joined = "&" if "?" in place else "?"
            body = (layout / "blobs/sha256" / each[7:]).read_bytes()
            self._send("PUT", f"{place}{joined}digest={each}", body, "application/octet-stream")
        self._send("PUT", f"{repository}/manifests/{tag}", data, str(document["mediaType"]))

    def _send(self, method: str, place: str, body: bytes, kind: str) -> HTTPResponse:
        auth = json.loads(self.authfile)["auths"][self.host]["auth"]
        url = place if place.startswith("https:") else f"https://{self.host}/v2/{place}"
        headers = {"Authorization": f"Basic {auth}", "Content-Type": kind}
        request = urllib.request.Request(url, body, headers, method=method)
        context = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        answer: HTTPResponse = urllib.request.urlopen(request, context=context, timeout=20)
        answer.read()
        return answer

    def push(self, layout: Path, tag: str, repository: str = "team/server") -> None:
        """Copy what has this tag in an OCI layout, as it is."""
        target = f"docker://{self.host}/{repository}:{tag}"
        argv = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-creds", f"{NAME}:{PASSWORD}"]
        argv += ["--dest-cert-dir", str(self.folder / "certs"), f"oci:{layout}:{tag}", target]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)


def _blob_references(document: dict[str, object]) -> list[str]:
    """The digests of what a manifest or an index needs to be there first."""
    entries = [document.get("config"), *_list(document, "layers"), *_list(document, "manifests")]
    return [str(each["digest"]) for each in entries if isinstance(each, dict)]


def _list(document: dict[str, object], key: str) -> list[object]:
    value = document.get(key, [])
    return value if isinstance(value, list) else []


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
