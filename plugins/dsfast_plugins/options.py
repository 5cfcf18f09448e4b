"""Options of a plugin: one class lists them, a mapping is checked against it before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

__all__ = ["Milliseconds", "OptionError", "Options", "Port", "Positive", "Seconds", "read_options"]

Positive = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class OptionError(ValueError):
    """Options that cannot be used; the text names each with what is expected of it."""


class Options(msgspec.Struct, kw_only=True, frozen=True, rename="camel"):
    """Base of the options of a plugin; attributes are snake_case, keys of the configuration camelCase."""


T = TypeVar("T", bound=Options)


def read_options(
    kind: type[T], given: Mapping[str, Any], *, known: Iterable[str] = (), required: Iterable[str] = ()
) -> tuple[T, list[str]]:
    """The options as an instance of ``kind``, and warnings about those that have no effect.

    ``known`` are names that upstream's connector accepts and that mean nothing here. Values may be text where
    a number is expected, as they are when they come from the environment. Raises OptionError.
    """
    if not isinstance(given, Mapping):
        raise OptionError(f"options: expected a mapping, got {type(given).__name__}")
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    hints = get_type_hints(kind, include_extras=True)
    problems = [f"option {name}: is required" for name in required if given.get(name) is None]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key in fields:
            try:
                values[fields[key].name] = _converted(value, hints[fields[key].name])
            except msgspec.ValidationError as error:
                problems.append(f"option {key}: {_readable(error)}")
    if problems:
        raise OptionError("; ".join(problems))
    harmless = set(known)
    warnings = [
        f"option {key} has no effect"
        if key in harmless
        else f"option {key} is unknown{_suggestion(key, fields)}"
        for key in given
        if key not in fields
    ]
    return kind(**values), warnings


def _converted(value: Any, hint: Any) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        if not isinstance(value, str):
            raise
        return msgspec.convert(value, hint, strict=False)


def _readable(error: msgspec.ValidationError) -> str:
    """``Expected `int`, got `str` - at `$[0].port``` without its decoration; never shows the value."""
    text, _, where = str(error).replace("`", "").partition(" - at $")
    return f"{where.lstrip('.')}: {text[0].lower()}{text[1:]}" if where else f"{text[0].lower()}{text[1:]}"


def _suggestion(key: str, known: Iterable[str]) -> str:
    plain = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(key).replace("_", "").lower(), plain, n=1)
    return f", did you mean {plain[close[0]]}?" if close else ""
