"""Turns a mapping into a :class:`Config`: defaults filled in, everything checked, every problem listed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta

from dsfast.config.schema import Config, PluginSection, Section

__all__ = ["ConfigError", "Problem", "load", "sections_of", "set_value", "type_names", "unwrapped"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where (JSON pointer; empty for the top level)."""

    pointer: str
    text: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.text}" if self.pointer else f" {self.text}"


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` lists everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"{number}){problem}" for number, problem in enumerate(self.problems, 1)]
        super().__init__("\n".join(["There was an error validating your configuration:", *lines]))


def load(given: Mapping[str, Any] | Config | None = None, *, warnings: list[Problem] | None = None) -> Config:
    """Check a configuration and complete it with the defaults.

    Mappings merge with the defaults, lists and scalars replace them. A :class:`Config` is used as it is.
    ``warnings`` receives what is accepted but unwise. Raises :class:`ConfigError`.
    """
    if isinstance(given, Config):
        return given
    reader = _Reader(warnings)
    config = reader.read_section(Config, {} if given is None else given, "")
    reader.finish()
    assert isinstance(config, Config)
    return config


def set_value(config: Config, path: str, value: Any) -> None:
    """Change one value of a configuration in use.

    ``path`` is dotted; both spellings of a name are accepted and lists are entered by index
    (``record.storageExclusionPrefixes``, ``connectionEndpoints.0.options.maxAuthAttempts``). Raises
    :class:`KeyError` for an unknown path and :class:`ConfigError` for a value that does not fit.
    """
    *parents, last = path.split(".")
    target: Any = config
    for name in parents:
        if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        else:
            target = getattr(target, _attribute(target, name, path))
    attribute = _attribute(target, last, path)
    reader = _Reader(None)
    annotation = get_type_hints(type(target), include_extras=True)[attribute]
    converted = reader.read_value(annotation, value, "/" + path.replace(".", "/"))
    reader.finish()
    setattr(target, attribute, converted)


def _attribute(target: Any, name: str, path: str) -> str:
    if isinstance(target, Section):
        if name in target.__struct_fields__:
            return name
        if name in target.__struct_encode_fields__:
            return target.__struct_fields__[target.__struct_encode_fields__.index(name)]
    raise KeyError(path)


class _Reader:
    """One pass over a configuration; collects problems instead of stopping at the first."""

    def __init__(self, warnings: list[Problem] | None) -> None:
        self._problems: list[Problem] = []
        self._warnings = warnings

    def finish(self) -> None:
        if self._problems:
            raise ConfigError(self._problems)

    def read_section(self, section: type[Section], given: Any, pointer: str) -> Any:
        """An instance of ``section``; UNSET if that is impossible (then there are problems)."""
        if not isinstance(given, Mapping):
            return self._problem(pointer, "must be a mapping")
        attributes = dict(zip(section.__struct_encode_fields__, section.__struct_fields__, strict=True))
        for key in given:
            if key not in attributes:
                text = f"Property {key} is not expected to be here"
                self._problem(pointer, text + _suggestion(str(key), attributes))
        hints = get_type_hints(section, include_extras=True)
        values: dict[str, Any] = {}
        for key, attribute in attributes.items():
            if key in given:
                value = self.read_value(hints[attribute], given[key], f"{pointer}/{_escaped(key)}")
                if value is not UNSET:
                    values[attribute] = value
        missing = [
            field.encode_name
            for field in msgspec.structs.fields(section)
            if field.required and field.encode_name not in given
        ]
        for key in missing:
            self._problem(pointer, f"Property {key} is required")
        complete = not missing and all(
            f.name in values for f in msgspec.structs.fields(section) if f.required
        )
        return section(**values) if complete else UNSET

    def read_value(self, annotation: Any, value: Any, pointer: str) -> Any:
        """The value converted to the annotated type; UNSET if it does not fit."""
        kind, metas = unwrapped(annotation)
        for meta in metas:
            value = (meta.extra or {}).get("before", _same)(value)
        if sections := sections_of(kind):
            return self._read_alternative(sections, value, pointer)
        if get_origin(kind) is list and (sections := sections_of(unwrapped(get_args(kind)[0])[0])):
            return self._read_list(sections, metas, value, pointer)
        choices = _choices(kind)
        if choices and value not in choices:
            return self._not_allowed(pointer, value, choices)
        try:
            converted = msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$")
            index = where.rstrip("`").replace("[", "/").replace("]", "")
            return self._problem(pointer + index, text.replace("`", ""))
        for meta in metas:
            minimum = (meta.extra or {}).get("advisory_minimum")
            if minimum is not None and converted < minimum and self._warnings is not None:
                self._warnings.append(Problem(pointer, f"should be >= {minimum}"))
        return converted

    def _read_list(
        self, sections: Sequence[type[Section]], metas: Sequence[Meta], value: Any, pointer: str
    ) -> Any:
        if isinstance(value, Mapping):
            # Upstream documents the form `auth: {type: file}` but ignores it, i.e. lets everybody in.
            value = [value]
        if not isinstance(value, list | tuple):
            return self._problem(pointer, "must be a list")
        # null is the documented way to switch off an entry.
        entries = [
            self._read_alternative(sections, entry, f"{pointer}/{index}")
            for index, entry in enumerate(value)
            if entry is not None
        ]
        for meta in metas:
            if len(entries) < (meta.min_length or 0):
                return self._problem(pointer, f"must have at least {meta.min_length} entry")
        return [entry for entry in entries if entry is not UNSET]

    def _read_alternative(self, sections: Sequence[type[Section]], given: Any, pointer: str) -> Any:
        """Read the one of several kinds of section that ``type``, ``name`` or ``class`` asks for."""
        if len(sections) == 1 or not isinstance(given, Mapping):
            return self.read_section(sections[0], given, pointer)
        builtin = {name: section for section in sections for name in type_names(section)}
        if given.get("class") is not None:
            rest = {key: value for key, value in given.items() if key != "type"}
            return self.read_section(PluginSection, rest, pointer)
        name = given.get("name")
        if name is not None:
            rest = {key: value for key, value in given.items() if key not in ("type", "name")}
            if name in builtin:
                return self.read_section(builtin[name], {**rest, "type": name}, pointer)
            return self.read_section(PluginSection, {**rest, "name": name}, pointer)
        if "type" not in given:
            return self.read_section(sections[0], given, pointer)
        if given["type"] not in list(builtin):
            return self._not_allowed(f"{pointer}/type", given["type"], list(builtin))
        return self.read_section(builtin[given["type"]], given, pointer)

    def _not_allowed(self, pointer: str, value: Any, choices: Sequence[Any]) -> Any:
        allowed = ", ".join(str(choice) for choice in choices)
        text = f"must be equal to one of the allowed values: {allowed}"
        return self._problem(pointer, text + _suggestion(str(value), choices))

    def _problem(self, pointer: str, text: str) -> Any:
        self._problems.append(Problem(pointer, text))
        return UNSET


def _same(value: Any) -> Any:
    return value


def unwrapped(annotation: Any) -> tuple[Any, list[Meta]]:
    """The type below ``Annotated``, and what was annotated."""
    if get_origin(annotation) is Annotated:
        kind, *extras = get_args(annotation)
        return kind, [extra for extra in extras if isinstance(extra, Meta)]
    return annotation, []


def sections_of(kind: Any) -> list[type[Section]]:
    """The sections among the alternatives of a type."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return [
        member
        for member in members
        if member is not NoneType and isinstance(member, type) and issubclass(member, Section)
    ]


def _choices(kind: Any) -> tuple[Any, ...]:
    """The allowed values of a type that lists them."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return (*(member.value for member in kind), *(member.name.lower() for member in kind))
    return get_args(kind) if get_origin(kind) is Literal else ()


def type_names(section: type[Section]) -> tuple[str, ...]:
    """The values of ``type`` that select a section."""
    hint = get_type_hints(section).get("type")
    return get_args(hint) if get_origin(hint) is Literal else ()


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _suggestion(given: str, allowed: Any) -> str:
    plain = {str(name).lower(): str(name) for name in allowed}
    close = difflib.get_close_matches(given.replace("_", "").lower(), plain, n=1)
    return f". Did you mean {plain[close[0]]}?" if close else ""
