"""What the labels of a container may say: that it is a server, and how much less than the bound it needs.

Pure; runs as whoever types `supervisor discover`. Whoever builds an image writes its labels, so they name no
command, no mount, no host and no user. One label too many, and the container is listed as refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

from supervisor.errors import ConfigError
from supervisor.profile import diff, load
from supervisor.registry.discover.proposal import Proposal, fetch, plain

PREFIX = "supervisor."
_PATTERNS = re.compile(r"supervisor\.(tools|prompts|resources)\.(allow|deny)")
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_IMAGE = re.compile(r"[a-z0-9.:\[\]-]+/[a-z0-9._/-]+@sha256:[0-9a-f]{64}")
_MOST = 64


def propose(
    source: str, container: Mapping[str, object], names: Callable[[str], list[str]], bound: str
) -> Proposal:
    """The proposal for one container; `names` tells by which digests its image is known."""
    place = _place(container)
    labels = container.get("Labels")
    labels = labels if isinstance(labels, dict) else {}
    name = labels.get("supervisor.server")
    shown = name if isinstance(name, str) and name.isprintable() else ""
    try:
        fields, why = _fields(labels, bound)
        image = _image(container, names)
        return Proposal(source, place, shown, {"image": image} | fields, (*why, fetch(image)))
    except ConfigError as error:
        return Proposal(source, place, shown[:64], refused=str(error))


def _place(container: Mapping[str, object]) -> str:
    """A container by its name and the beginning of its id."""
    names, number = container.get("Names"), str(container.get("Id"))
    first = names[0] if isinstance(names, list) and names else ""
    short = number[:12] if _ID.fullmatch(number) else "?"
    shown = str(first).removeprefix("/")[:64]
    return f"container {shown if shown.isprintable() else ascii(shown)} {short}"


def _fields(labels: Mapping[object, object], bound: str) -> tuple[dict[str, object], list[str]]:
    own = {key: value for key, value in labels.items() if isinstance(key, str) and key.startswith(PREFIX)}
    fields: dict[str, object] = {"profile": bound}
    why = [f"profile {bound} is the bound"]
    for key, value in own.items():
        label = plain(key, "a label's name")
        if not isinstance(value, str):
            raise ConfigError(f"label {label} is no text")
        text = plain(value, f"label {label}")
        patterns = _PATTERNS.fullmatch(label)
        if patterns:
            _narrow(fields, patterns[1], patterns[2], text, label)
        elif label == "supervisor.profile":
            fields["profile"] = within(text, bound, "label supervisor.profile")
            why = [f"profile {text} is its label's, and grants no more than the bound, {bound}"]
        elif label == "supervisor.summary":
            fields["summary"] = text
        elif label != "supervisor.server":
            raise ConfigError(
                f"label {label}: labels name no command, mount, host or user; known are supervisor.server, "
                ".profile, .summary, and .tools, .prompts, .resources with .allow or .deny"
            )
    if not own.get("supervisor.server"):
        raise ConfigError("label supervisor.server is empty: it is the server's name")
    holes = [name for name, each in load.load(str(fields["profile"])).profile.params.items() if each.type == "path"]
    why += [f"params.{each}: yours to fill in; labels name no path" for each in holes]
    return fields, why


def _narrow(fields: dict[str, object], kind: str, way: str, text: str, label: str) -> None:
    patterns = [each.strip() for each in text.split(",")]
    if not all(patterns) or len(patterns) > _MOST:
        raise ConfigError(f"label {label}: at most {_MOST} patterns with commas between them, none of them empty")
    table = fields.setdefault(kind, {})
    if isinstance(table, dict):
        table[way] = patterns


def within(name: str, bound: str, what: str) -> str:
    """A shipped profile that grants nothing that the bound does not; ConfigError calls it `what`."""
    if name not in load.names():
        raise ConfigError(f'{what}: "{name[:64]}" is none of {", ".join(load.names())}')
    if more := _more(name, bound):
        others = f" and {len(more) - 1} more" if len(more) > 1 else ""
        raise ConfigError(
            f"{what}: {name} grants more than the bound, {bound}: {more[0]}{others}; "
            f"a wider bound is yours to give: --bound {name}"
        )
    return name


@cache
def _more(name: str, bound: str) -> tuple[str, ...]:
    """What one shipped profile grants and another does not; asked for each of a stranger's servers."""
    asked, most = load.load(name).profile, load.load(bound).profile
    return tuple(said for sign, said in diff.compare(most, asked) if sign == "+")


def _image(container: Mapping[str, object], names: Callable[[str], list[str]]) -> str:
    """The container's image by digest."""
    written, number = str(container.get("Image")), str(container.get("ImageID"))
    if not _ID.fullmatch(number):
        raise ConfigError("the engine does not say which image it has")
    known = [each for each in names(number) if _IMAGE.fullmatch(each)]
    repository = re.sub(r":[^/:]*$", "", written.partition("@")[0])
    for each in sorted(known, key=lambda each: (each != written, not each.startswith(f"{repository}@"), each)):
        return each
    raise ConfigError(
        "its image has no digest of a registry, so nothing says which one it is: save it to an archive, and "
        "supervisor image add oci-archive:FILE --as NAME"
    )
