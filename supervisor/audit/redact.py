"""What must not be written down is taken out before a record leaves the proxy.

Pure; runs in the proxy. A value goes when its key says that it is a secret, when it looks like one, or when it
contains one of the values that this server was given as secrets. What stands in its place says which rule it was.
Every text is first searched for what a rule needs in it, which costs next to nothing; only then for the rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from supervisor.secrets.marks import Marks


class Rule(NamedTuple):
    """A pattern of secrets, and what every one of them has in it: one of `anchors`, in lower case."""

    name: str
    anchors: tuple[str, ...]
    pattern: re.Pattern[str]


KEYS = (
    "*token*", "*password*", "*passwd*", "*passphrase*", "*secret*", "*authorization*", "*credential*", "*api_key*",
    "*apikey*", "*api-key*", "*private_key*", "*privatekey*", "cookie", "set-cookie", "*session_key*", "pin", "otp",
)  # fmt: skip
# the only keys whose numbers are secrets: max_tokens is none
NUMBERS = ("*password*", "*passwd*", "pin", "otp")
RULES = (
    Rule(
        "private key",
        ("-----begin",),
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"),
    ),
    Rule("bearer", ("bearer ", "basic "), re.compile(r"(?i)\b(?:bearer|basic) +[a-z0-9._~+/=-]{8,}")),
    Rule(
        "token",
        (
            "ghp_",
            "gho_",
            "ghu_",
            "ghs_",
            "ghr_",
            "github_pat_",
            "glpat-",
            "xox",
            "sk-",
            "npm_",
            "pypi-",
            "akia",
            "aiza",
        ),
        re.compile(
            r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
            r"|sk-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{16,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,})"
        ),
    ),
    # whole words, each looked at once: a text of a hundred thousand beginnings must not cost their square
    Rule("web token", ("eyj",), re.compile(r"(?<![\w-])(?>[\w-]*?\beyJ)[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*")),
    Rule("password in an address", ("://",), re.compile(r"(?<=://)[^/\s:@]*:[^/\s]+(?=@)")),
    # of JSON in a text, a query, an option, a header; "token:ci" is a name
    Rule(
        "key in a text",
        (
            *("token", "passw", "passphrase", "secret", "authorization", "credential"),
            *("api_key", "apikey", "api-key", "private_key", "privatekey"),
        ),
        re.compile(
            r"(?i)(?:token(?!s\b)|passw(?:or)?d|passphrase|secret|authorization|credential|api[_-]?key|private_?key)"
            r"""[\w-]{0,40}(?:\\{0,4}["']\s{0,2}:|\s{0,2}=|:\s)\s{0,2}\\{0,4}["']?[^\s"'\\&,;<>(){}\[\]]{4,}"""
        ),
    ),
)
MARK = "[redacted: "
_DEEPEST = 100
_SIGNS = "_-: "


class _Keys:
    """Patterns of keys: a word, or `*word*`. Case does not matter."""

    def __init__(self, patterns: Iterable[str]) -> None:
        lowered = [each.lower() for each in patterns]
        self._whole = frozenset(each for each in lowered if "*" not in each)
        inside = [re.escape(each.strip("*")) for each in lowered if "*" in each]
        # an empty pattern would match everything
        self._inside = re.compile("|".join(inside) or r"(?!)")
        # what a JSON text that has one of them has in it
        self.anchors = [f'"{each}"' if "*" not in each else each.strip("*") for each in lowered]

    def match(self, key: str) -> bool:
        """Whether this is one of them."""
        key = key.lower()
        return key in self._whole or self._inside.search(key) is not None


class Redactor:
    """Rules that are made once. `secrets` finds the values that a session was given, without knowing them."""

    def __init__(
        self, keys: Iterable[str] = KEYS, rules: Sequence[Rule] = RULES, secrets: Marks | None = None
    ) -> None:
        self._keys, self._numbers, self._rules = _Keys(keys), _Keys(NUMBERS), tuple(rules)
        # by their values first: a secret may stand inside of something that a rule would take
        self._secrets = secrets or None
        anchors = [
            *self._keys.anchors,
            *self._numbers.anchors,
            *(each for rule in self._rules for each in rule.anchors),
        ]
        # those that have one of these characters in them need not be searched for where it is not
        self._anchors: dict[str, list[str]] = {}
        for each in dict.fromkeys(anchors):
            self._anchors.setdefault(next((sign for sign in _SIGNS if sign in each), ""), []).append(each)

    def harmless(self, written: bytes) -> bool:
        """Whether `clean` would leave the value of this JSON as it is; False if that takes longer to find out."""
        if self._secrets or not written.isascii() or b"\\" in written:
            return False
        text = written.decode("ascii").lower()
        for sign, anchors in self._anchors.items():
            if sign in text:
                for anchor in anchors:
                    if anchor in text:
                        return False
        return text.count("[") + text.count("{") < _DEEPEST

    def clean(self, value: object, deep: int = 0) -> object:
        """The value without its secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (bool, int, float)) or value is None:
            return value
        if deep >= _DEEPEST:
            return f"{MARK}too deep]"
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._entry(str(key), each, deep) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.clean(each, deep + 1) for each in value]
        return self.text(str(value))

    def _entry(self, key: str, value: object, deep: int) -> object:
        keys = self._numbers if isinstance(value, (int, float)) else self._keys
        if value is not None and not isinstance(value, bool) and keys.match(key):
            return f"{MARK}key {key[:100]}]"
        return self.clean(value, deep + 1)

    def text(self, text: str) -> str:
        """The same for a text, such as a message or the first bytes of an answer."""
        if self._secrets:
            text = self._secrets.replace(text, _secret)
        lowered = text.lower()
        for rule in self._rules:
            for anchor in rule.anchors:
                if anchor in lowered:
                    text = rule.pattern.sub(f"{MARK}{rule.name}]", text)
                    break
        return text


class Withheld(Redactor):
    """While it is not known what a server's secrets are: none of what it was given may be written down."""

    def harmless(self, written: bytes) -> bool:
        """Nobody knows."""
        return False

    def clean(self, value: object, deep: int = 0) -> object:
        """No value at all; its digest is in the record."""
        return f"{MARK}its server has secrets, and does not run]" if value else value


def _secret(name: str) -> str:
    return f"{MARK}secret {name}]"


def knowing(secrets: object) -> Redactor:
    """What takes out of a record what its session was given in confidence, by its marks."""
    return Redactor(secrets=Marks(secrets))
