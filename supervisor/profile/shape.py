"""What a TOML text may look like, judged before anything parses it: how long its lines are, how deep its keys.

Runs wherever one is parsed, as the planner or the user. Standard library only, in linear time: `tomllib` takes time
with the square of both, and whoever wrote the text may be a stranger.
"""

from __future__ import annotations

import re

from supervisor.errors import ConfigError

LINE, DOTS = 1 << 13, 32
# texts and comments, as tomllib reads them; where one does not end tomllib stops as well
_QUOTED = re.compile(
    r'"""(?:\\.|(?!""").)*+"{0,5}'
    r"|'''(?:(?!''').)*+'{0,5}"
    r'|"(?:\\.|[^"\\\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)


def text(path: str, data: bytes) -> str:
    """`data` as text; ConfigError with file and line where it is none, or none that is parsed in good time."""
    for number, each in enumerate(data.split(b"\n"), 1):
        if len(each) > LINE:
            raise ConfigError(f"{path}:{number}: a line of more than {LINE} bytes")
    try:
        found = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8") from None
    if found.count(".") > DOTS:
        for number, bare in enumerate(_QUOTED.sub(_lines, found).split("\n"), 1):
            if bare.count(".") > DOTS:
                raise ConfigError(
                    f"{path}:{number}: a line with more than {DOTS} dots outside of texts: too deep a key"
                )
    return found


def _lines(quoted: re.Match[str]) -> str:
    """What stands for a text or a comment: its ends of lines."""
    return '"' + "\n" * quoted[0].count("\n")
