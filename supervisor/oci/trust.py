"""trust.toml: whose signature counts for which repository. What no pattern matches is refused.

Pure, over a text whose file the caller has checked; runs in the verifier. Of the patterns that match, the longest
decides alone: nothing is added up, so that what counts for a repository can be read in one place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from supervisor.errors import ConfigError
from supervisor.oci import keys, rules
from supervisor.oci.reference import repository
from supervisor.oci.rules import RuleText, TrustText, matches
from supervisor.profile import toml
from supervisor.profile.written import validate

_PATTERN = re.compile(r"[a-z0-9.\[\]:_-]+(?:/[a-z0-9._-]+)*(?:/\*)?")


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
        return rules.chosen(self.path, self.rules, name)


def parse(path: str, data: bytes) -> Trust:
    """The text of a trust.toml; ConfigError names file and line."""
    source = toml.parse(path, data)
    written = validate(source, TrustText)
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
    found = tuple(_rule(source, number, text, signers) for number, text in enumerate(written.repository))
    for number, rule in enumerate(found):
        if any(rule.pattern == other.pattern for other in found[:number]):
            raise source.error(f'the pattern "{rule.pattern}" is there twice', "repository", number)
    return Trust(path, found)


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
