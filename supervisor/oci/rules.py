"""The form of trust.toml, which of its rules decides, and what a verdict by that rule stands on.

Pure, and without a look at any key: the planner uses it to see whether what decided when an image was verified
would decide now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import Field

from supervisor.errors import Refused
from supervisor.profile import toml
from supervisor.profile.written import Name, Written, validate

Names = Annotated[tuple[Name, ...], Field(strict=False)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]


class KeyText(Written):
    """`[keys.NAME]`: PEM; `repository` is the one whose images it signs, if it signs for one alone."""

    public: str
    repository: str = ""


class IdentityText(Written):
    """`[identities.NAME]`: who a certificate must name, and who must have vouched for it."""

    subject: str = Field(min_length=1)
    issuer: str = Field(min_length=1)
    repository: str = ""


class RuleText(Written):
    """`[[repository]]`: the images, and who must have signed them."""

    pattern: str
    keys: Names = ()
    identities: Names = ()
    threshold: int = Field(default=1, ge=1)
    predicates: Texts = ()
    builders: Texts = ()


class TrustText(Written):
    """The whole file."""

    trust: Literal[1]
    keys: dict[Name, KeyText] = {}
    identities: dict[Name, IdentityText] = {}
    repository: Annotated[tuple[RuleText, ...], Field(strict=False)] = ()


class _Rule(Protocol):
    @property
    def pattern(self) -> str: ...


Rule = TypeVar("Rule", bound=_Rule)


def chosen(path: str, found: Sequence[Rule], name: str) -> Rule:
    """The rule that decides for a repository; Refused where there is none."""
    fitting = [each for each in found if matches(each.pattern, name)]
    if not fitting:
        raise Refused(f"{name}: no pattern in {path} matches it; add a [[repository]] with a pattern and signers")
    return max(fitting, key=lambda each: (len(each.pattern.removesuffix("*")), not each.pattern.endswith("*")))


def matches(pattern: str, name: str) -> bool:
    """`host/path` matches itself, `host/path/*` everything below."""
    return name.startswith(pattern[:-1]) if pattern.endswith("/*") else name == pattern


def basis(path: str, data: bytes, name: str, trusted_root: str) -> str:
    """SHA-256 of everything in the policy that a verdict about this repository's images depends on.

    ConfigError names file and line; Refused where no rule decides.
    """
    written = validate(toml.parse(path, data), TrustText)
    rule = chosen(path, written.repository, name)
    keys = {each: written.keys[each].model_dump() for each in rule.keys if each in written.keys}
    who = {each: written.identities[each].model_dump() for each in rule.identities if each in written.identities}
    stands = {"rule": rule.model_dump(mode="json"), "keys": keys, "identities": who}
    root = trusted_root if who else ""
    return hashlib.sha256(json.dumps([stands, root], sort_keys=True).encode()).hexdigest()
