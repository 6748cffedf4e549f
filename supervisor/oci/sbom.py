"""The list of what an image is made of, as CycloneDX JSON, by its library (the extra `build`).

Runs as whoever builds. Nothing in it but names and versions: no time, no host, so the same image has the same list.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from supervisor.errors import ConfigError
from supervisor.oci.recipe import Deb

try:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL
except ImportError:
    _MISSING = "image build wants a library: pip install 'mcp-sandbox-supervisor[build]'"
else:
    _MISSING = ""
MEDIA_TYPE = "application/vnd.cyclonedx+json"


def check() -> None:
    """ConfigError where the library is missing, before anything has been downloaded."""
    if _MISSING:
        raise ConfigError(_MISSING)


def cyclonedx(
    name: str, digest: str, debian: list[Deb], python: list[tuple[str, str]], npm: list[tuple[str, str]]
) -> bytes:
    """The document."""
    check()
    root = Component(name=name, version=digest, type=ComponentType.CONTAINER, bom_ref=f"{name}@{digest}")
    rows: list[tuple[str, str | None, str, str]] = [("deb", "debian", deb.name, deb.version) for deb in debian]
    rows += [("pypi", None, each, version) for each, version in python]
    for each, version in npm:
        scope, _, short = each.rpartition("/")
        rows.append(("npm", scope or None, short, version))
    components = []
    for kind, namespace, short, version in rows:
        url = PackageURL(kind, namespace, short, version)
        components.append(Component(name=short, version=version, purl=url, bom_ref=url.to_string()))
    metadata = BomMetaData(component=root, timestamp=datetime.fromtimestamp(0, UTC))
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{name}@{digest}")
    bom = Bom(components=components, serial_number=serial, metadata=metadata)
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=1).encode()
