"""Documents off the way of a start: records, locks, rules, settings; validated by pydantic.

Used by the command line, whoever adds images, and the planner where there are images. What every start needs is in
supervisor.model.Frozen instead, because an import of pydantic takes longer than all of that.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from supervisor.profile.toml import Path, Source

# as those of supervisor.model, whose patterns pydantic does not see
AbsPath = Annotated[str, Field(pattern=r"^/")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Written(BaseModel):
    """Base of each: immutable, no unknown keys, no coercion between kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


Model = TypeVar("Model", bound=BaseModel)


def validate(source: Source, model: type[Model]) -> Model:
    """A file as `model`; ConfigError naming file, line and key otherwise."""
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        message, key = explain(error)
        raise source.error(message, *key) from None


def explain(error: ValidationError) -> tuple[str, Path]:
    """(message, key) of the first problem, in the words of somebody who edits the file."""
    first = error.errors()[0]
    key = tuple(first["loc"])
    dotted = ".".join(str(part) for part in key)
    if first["type"] == "extra_forbidden":
        return f'unknown key "{dotted}"', key
    if first["type"] == "missing":
        return f'key "{dotted}" is missing', key[:-1]
    if first["type"] == "value_error":
        return f"{dotted}: {first['ctx']['error']}", key
    # somebody may have written the value of a secret where its source belongs
    given = "" if "secrets" in key else f", not {first['input']!r:.80}"
    return f"{dotted}: {first['msg'][0].lower()}{first['msg'][1:]}{given}", key
