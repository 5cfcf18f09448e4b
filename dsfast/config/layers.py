"""Puts the layers of a configuration together: file, environment variables, command line.

The later layer wins: mappings merge, lists and single values replace. Naming another implementation of a
section (``type``, ``name``, ``path`` or ``class``) empties the section first, since its options belong to the
implementation that had been chosen before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from dsfast.config.annotations import hints_of, sections_of, unwrapped
from dsfast.config.files import Note, Place, Source, find_file, read_file
from dsfast.config.loader import load, suggestion
from dsfast.config.problems import ConfigError, Problem
from dsfast.config.schema import Config, PluginSection
from dsfast.config.syntax import SyntaxProblem, escaped, parse_json, parse_yaml
from dsfast.config.variable import Variable

__all__ = ["load_from"]

PREFIX = "DSFAST_"
COMMAND_LINE = Place("command line")
# Kubernetes sets these for a service that has the name "dsfast".
_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT)(_.*)?|PORT(_\d+_.*)?")
_CHOICES = ("type", "name", "path", "class")
"""Keys that choose an implementation, the weakest first."""


def load_from(
    path: str | Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """The configuration of a server that is started by a command.

    Each value is that of the file, unless an environment variable ``DSFAST_...`` gives another one, unless
    ``flags`` does (a mapping with the keys of the file; only what was given). Without ``path`` the file is
    looked for (:func:`find_file`); no file at all means the defaults. Raises :class:`ConfigError`.
    """
    if path is None:
        path = find_file(environ)
    source = Source() if path is None else read_file(path, environ)
    if isinstance(source.values, dict):
        overlay = _Overlay(source)
        overlay.apply_environment(environ)
        overlay.apply_flags(flags or {})
    if directory := environ.get("DEEPSTREAM_LIBRARY_DIRECTORY"):
        source.library_directory = Path(os.path.abspath(directory))
    return load(source)


class _Choosable(NamedTuple):
    """A key of the configuration whose implementation can be chosen."""

    depth: int
    """Keys that lead to the implementation: 1, or 2 in a list or mapping of them."""
    default: Any
    """What stands for an absent key."""


def _choosable() -> dict[str, _Choosable]:
    hints = hints_of(Config)
    defaults = Config()
    found: dict[str, _Choosable] = {}
    for field in msgspec.structs.fields(Config):
        kind = unwrapped(hints[field.name])[0]
        many = get_origin(kind) in (list, dict)
        if PluginSection in sections_of(unwrapped(get_args(kind)[-1])[0] if many else kind):
            found[field.encode_name] = _Choosable(1 + many, getattr(defaults, field.name))
    return found


class _Overlay:
    """Writes the values of later layers into those of a source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._choosable = _choosable()

    def apply_flags(self, flags: Mapping[str, Any]) -> None:
        """Values given on a command line."""
        self._assign([], flags, COMMAND_LINE)

    def apply_environment(self, environ: Mapping[str, str]) -> None:
        """Values of the variables ``DSFAST_<KEY>__<KEY>...``."""
        problems: list[Problem] = []
        # A whole section comes before its parts, the choice of an implementation before its options.
        order = sorted(self._variables(environ), key=lambda item: [(_rank(key), key) for key in item[1]])
        for name, keys in order:
            try:
                self._assign(keys, _value(environ[name]), Place(name))
            except ValueError as error:
                problems.append(Problem("", str(error), name))
        if problems:
            raise ConfigError(problems)

    def _variables(self, environ: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
        known = list(Config.__struct_encode_fields__)
        for name in environ:
            if not name.startswith(PREFIX) or _KUBERNETES.fullmatch(name.removeprefix(PREFIX)):
                continue
            keys = name.removeprefix(PREFIX).split("__")
            if _camel(keys[0]) in known:
                yield name, keys
            else:
                text = f"{name} is no option of the configuration{suggestion(keys[0], known)}"
                self._source.notes.append(Note("INVALID_CONFIG_DATA", text))

    def _assign(self, keys: list[str], value: Any, place: Place) -> None:
        """Put a value at its place; of a mapping, each value. Raises :class:`ValueError`."""
        if isinstance(value, Mapping) and value:
            for key in sorted(value, key=_rank):
                self._assign([*keys, key], value[key], place)
            return
        container: Any = self._source.values
        found: list[Any] = []
        for index, segment in enumerate(keys):
            key = _key_in(container, segment)
            found.append(key)
            pointer = "".join(f"/{escaped(part)}" for part in found)
            inner = container.get(key) if isinstance(container, dict) else _item(container, key)
            if index == len(keys) - 1:
                if not isinstance(value, Mapping) or not isinstance(inner, dict):
                    self._choose(container, found, value)
                    _put(container, key, value)
                    self._source.forget_places(pointer)
                    self._source.places[pointer] = place
                return
            if not isinstance(inner, dict | list) or (isinstance(inner, dict) and self._is_list(found)):
                inner = self._fresh(found, inner, keys[index + 1])
                self._source.places.setdefault(pointer, place)
            _put(container, key, inner)
            container = inner

    def _is_list(self, found: list[Any]) -> bool:
        return len(found) == 1 and isinstance(self._default(found), list)

    def _default(self, found: list[Any]) -> Any:
        choosable = self._choosable.get(found[0]) if len(found) == 1 else None
        return choosable.default if choosable else None

    def _fresh(self, found: list[Any], value: Any, next_key: str) -> Any:
        """What a value that is absent, or no container, becomes so that something can be put into it."""
        if self._is_list(found) and isinstance(value, Mapping):
            return [value]
        if isinstance(default := self._default(found), list):
            return [{"type": entry.type} for entry in default]
        return [] if next_key.isdecimal() else {}

    def _choose(self, section: Any, found: list[Any], value: Any) -> None:
        """Empty a section that is about to name another implementation."""
        choosable = self._choosable.get(found[0])
        if choosable is None or len(found) != choosable.depth + 1 or found[-1] not in _CHOICES:
            return
        present = [(key, section[key]) for key in _CHOICES if section.get(key) is not None]
        default = ("type", getattr(choosable.default, "type", None))
        if (found[-1], value) != (present[-1] if present else default):
            section.clear()
            self._source.forget_places("".join(f"/{escaped(key)}" for key in found[:-1]))


def _rank(key: str) -> int:
    """Choices of an implementation are applied before its options, the strongest choice last."""
    return _CHOICES.index(key.lower()) if key.lower() in _CHOICES else len(_CHOICES)


def _value(text: str) -> Any:
    """Text that begins like a list or a mapping is one; other text waits for the type of its option."""
    if not text.startswith(("{", "[")):
        return Variable(text)
    try:
        return parse_json(text).value
    except SyntaxProblem:
        pass
    try:
        return parse_yaml(text).value
    except SyntaxProblem as problem:
        raise ValueError(f"neither JSON nor YAML: {problem}") from None


def _camel(segment: str) -> str:
    if not segment.isupper():
        return segment
    head, *rest = segment.lower().split("_")
    return head + "".join(word.capitalize() for word in rest)


def _key_in(container: Any, segment: str) -> Any:
    """The key that a part of a variable's name, or a key of a flag, means here."""
    if isinstance(container, list):
        if not segment.isdecimal() or int(segment) > len(container):
            raise ValueError(f"{segment} is no index of a list with {len(container)} entries")
        return int(segment)
    if not segment:
        raise ValueError("there have to be two underscores between two keys, not more")
    if segment in container:
        return segment
    plain = segment.replace("_", "").lower()
    like = (key for key in container if key.replace("_", "").replace("-", "").lower() == plain)
    return next(like, _camel(segment))


def _item(container: list[Any], index: int) -> Any:
    return container[index] if index < len(container) else None


def _put(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, list) and key == len(container):
        container.append(value)
    else:
        container[key] = value
