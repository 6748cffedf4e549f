"""trust.toml: whose signature counts for which repository. What no pattern matches is refused.

Pure, over a text whose file the caller has checked; runs in the verifier. Of the patterns that match, the longest
decides alone: nothing is added up, so that what counts for a repository can be read in one place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from supervisor.errors import ConfigError, Refused
from supervisor.model import Frozen, Name
from supervisor.oci import keys
from supervisor.oci.reference import repository
from supervisor.profile import toml

_PATTERN = re.compile(r"[a-z0-9.\[\]:_-]+(?:/[a-z0-9._-]+)*(?:/\*)?")
Names = Annotated[tuple[Name, ...], Field(strict=False)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]


class KeyText(Frozen):
    """`[keys.NAME]`: PEM; `repository` is the one whose images it signs, if it signs for one alone."""

    public: str
    repository: str = ""


class IdentityText(Frozen):
    """`[identities.NAME]`: who a certificate must name, and who must have vouched for it."""

    subject: str = Field(min_length=1)
    issuer: str = Field(min_length=1)
    repository: str = ""


class RuleText(Frozen):
    """`[[repository]]`: the images, and who must have signed them."""

    pattern: str
    keys: Names = ()
    identities: Names = ()
    threshold: int = Field(default=1, ge=1)
    predicates: Texts = ()
    builders: Texts = ()


class TrustText(Frozen):
    """The whole file."""

    trust: Literal[1]
    keys: dict[Name, KeyText] = {}
    identities: dict[Name, IdentityText] = {}
    repository: Annotated[tuple[RuleText, ...], Field(strict=False)] = ()


@dataclass(frozen=True)
class Signer:
    """A key, or somebody a certificate can name; `bound` is the one repository it signs for, or ""."""

    name: str
    bound: str
    key: keys.Key | None = None
    subject: str = ""
    issuer: str = ""


@dataclass(frozen=True)
class Rule:
    """What one repository's images need; `origin` is `file:line`."""

    origin: str
    pattern: str
    signers: tuple[Signer, ...]
    threshold: int
    predicates: tuple[str, ...]
    builders: tuple[str, ...]


@dataclass(frozen=True)
class Trust:
    """The rules of one file."""

    path: str
    rules: tuple[Rule, ...]

    def rule(self, name: str) -> Rule:
        """The rule for a repository; Refused where there is none."""
        found = [each for each in self.rules if matches(each.pattern, name)]
        if not found:
            raise Refused(
                f"{name}: no pattern in {self.path} matches it; add a [[repository]] with a pattern and signers"
            )
        return max(found, key=lambda each: (len(each.pattern.removesuffix("*")), not each.pattern.endswith("*")))


def matches(pattern: str, name: str) -> bool:
    """`host/path` matches itself, `host/path/*` everything below."""
    return name.startswith(pattern[:-1]) if pattern.endswith("/*") else name == pattern


def parse(path: str, data: bytes) -> Trust:
    """The text of a trust.toml; ConfigError names file and line."""
    source = toml.parse(path, data)
    written = source.validate(TrustText)
    signers: dict[str, Signer] = {}
    prints: dict[str, str] = {}
    for name, text in written.keys.items():
        try:
            key = keys.read(text.public)
        except ValueError as error:
            raise source.error(f"keys.{name}: {error}", "keys", name, "public") from None
        if (other := prints.setdefault(key.fingerprint, name)) != name:
            raise source.error(f'keys.{name}: the same key as "{other}", which would count twice', "keys", name)
        signers[f"keys.{name}"] = Signer(name, _bound(source, text.repository, "keys", name), key)
    for name, who in written.identities.items():
        bound = _bound(source, who.repository, "identities", name)
        signers[f"identities.{name}"] = Signer(name, bound, None, who.subject, who.issuer)
    rules = tuple(_rule(source, number, text, signers) for number, text in enumerate(written.repository))
    for number, rule in enumerate(rules):
        if any(rule.pattern == other.pattern for other in rules[:number]):
            raise source.error(f'the pattern "{rule.pattern}" is there twice', "repository", number)
    return Trust(path, rules)


def _bound(source: toml.Source, name: str, *key: str) -> str:
    if not name:
        return ""
    try:
        return str(repository(name))
    except ConfigError as error:
        raise source.error(f"{'.'.join(key)}.repository: {error}", *key) from None


def _rule(source: toml.Source, number: int, text: RuleText, signers: dict[str, Signer]) -> Rule:
    where = ("repository", number)
    if _PATTERN.fullmatch(text.pattern) is None or "/" not in text.pattern:
        raise source.error(
            f'pattern "{text.pattern}": write a whole repository name, or HOST/PATH/* for all below', *where
        )
    wanted = [f"keys.{name}" for name in text.keys] + [f"identities.{name}" for name in text.identities]
    for name in wanted:
        if name not in signers:
            raise source.error(f'there is no [{name}]; the repository "{text.pattern}" names it', *where)
    if len(set(wanted)) != len(wanted) or text.threshold > len(wanted):
        raise source.error(f'"{text.pattern}" has {len(set(wanted))} signers, fewer than it needs', *where)
    chosen = tuple(signers[name] for name in wanted)
    for signer in chosen:
        if signer.bound and not matches(text.pattern, signer.bound):
            raise source.error(f'"{signer.name}" signs for {signer.bound} alone, not for {text.pattern}', *where)
    if text.builders and not text.predicates:
        raise source.error("builders: say which predicate they stand in, with predicates", *where)
    origin = source.at(*where)
    return Rule(origin, text.pattern, chosen, text.threshold, text.predicates, text.builders)
