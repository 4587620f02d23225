"""What is wrong with a document, in one line that names the key and the nearest right one.

Knows pydantic's errors. Must not know files, plugins or any single model. What was given is not repeated at length.
"""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

LONGEST = 80
"""Characters of one name that are repeated."""


def parse(model: type[M], document: Mapping[str, Any], where: str) -> M:
    """The model made of a document. Raises ConfigError that names the key and the nearest known one."""
    try:
        return model.model_validate(document)
    except ValidationError as e:
        raise ConfigError(f"{where}: {complaint(e, model)}") from None


def complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, with the nearest known name for an unknown key."""
    first = first_of(error)
    where = cut(".".join(cut(str(part)) for part in first["loc"]), 2 * LONGEST)
    if first["type"] == "extra_forbidden":
        known = _known_at(model, first["loc"])
        near = get_close_matches(cut(str(first["loc"][-1])), known, n=1)
        return f"unknown key {where!r}" + (f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}")
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def first_of(error: ValidationError) -> ErrorDetails:
    """The error to speak of: an unknown key before a missing one, because it is often what is missing, misspelt."""
    found = error.errors()
    return next((e for e in found if e["type"] == "extra_forbidden"), found[0])


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, or all of them."""
    known = list(known)
    near = get_close_matches(cut(word), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"


def cut(text: str, length: int = LONGEST) -> str:
    """The text, or its beginning."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def types(annotation: Any) -> list[Any]:
    """An annotation and everything it is made of, e.g. `Path | None` is itself, Path and None."""
    return [annotation, *(t for argument in get_args(annotation) for t in types(argument))]


def _known_at(model: type[BaseModel], location: Collection[int | str]) -> list[str]:
    """Field names beside the last part of a location: what an unknown key may have meant."""
    found: list[type[BaseModel]] = [model]
    for part in list(location)[:-1]:
        fields = [field for m in found if (field := m.model_fields.get(str(part)))]
        inner = [t for field in fields for t in types(field.annotation) if isinstance(t, type)]
        found = [t for t in inner if issubclass(t, BaseModel)] or found  # a part that is no field tells a union apart
    return list(dict.fromkeys(name for m in found for name in m.model_fields))
