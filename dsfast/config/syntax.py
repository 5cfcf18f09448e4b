"""From the text of a YAML 1.2 or JSON file to values, with the line of each.

YAML is read from the events of PyYAML's parser, because its own construction is YAML 1.1 (``yes`` is true
there), knows no lines, takes the last of two equal keys and lets aliases multiply without limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

__all__ = ["Document", "SyntaxProblem", "escaped", "parse_json", "parse_yaml", "scalar"]

MAX_DEPTH = 100
MAX_ALIASED = 100_000
"""Values that aliases may add to a document; a few lines of them can ask for billions."""


class SyntaxProblem(Exception):
    """A text that cannot be used; ``line`` counts from 1 and is 0 where it is not known."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


class Document(NamedTuple):
    """The value of a text, and the line of each value in it by JSON pointer (the whole is ``""``)."""

    value: Any
    lines: dict[str, int]


def escaped(key: object) -> str:
    """A key as a JSON pointer writes it."""
    return str(key).replace("~", "~0").replace("/", "~1")


# Scalars: the core schema of YAML 1.2, with the underscores and 0b numbers that deepstream.io's parser takes.

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)(?<!_)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?)(?<!_)"
)
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
_BASES = {"0b": 2, "0o": 8, "0x": 16}
_MAX_DIGITS = 300


def scalar(text: str) -> Any:
    """What an unquoted scalar means: null, a boolean, a number, or its text."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        digits = text.lstrip("+-").replace("_", "")
        number = int(digits[2:], _BASES[digits[:2]]) if digits[:2] in _BASES else int(digits)
        return -number if text.startswith("-") else number
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if special := _SPECIAL.fullmatch(text):
        return float(special[1] + special[2].lower())
    return text


# JSON


def parse_json(text: str) -> Document:
    """Read a JSON text. Raises :class:`SyntaxProblem`."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise SyntaxProblem(f"{error.msg}, column {error.colno}", error.lineno) from None
    except RecursionError:
        raise SyntaxProblem(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # a number of thousands of digits
        raise SyntaxProblem(str(error)) from None
    return Document(value, _json_lines(text))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_JSON_TOKEN = re.compile(r'\n|"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')


def _json_lines(text: str) -> dict[str, int]:
    """The lines of a text that is known to be valid JSON."""
    lines: dict[str, int] = {}
    parents: list[tuple[str, bool]] = []  # pointer, and whether it is a list
    index: list[int] = []
    line, key, previous = 1, "", ""
    for token in _JSON_TOKEN.findall(text):
        if token == "\n":
            line += 1
            continue
        if token in "]}":
            parents.pop()
            index.pop()
        elif token == ",":
            index[-1] += 1
        elif token != ":":
            in_list = bool(parents) and parents[-1][1]
            if parents and not in_list and previous != ":":
                key = json.loads(token)
                pointer = f"{parents[-1][0]}/{escaped(key)}"
                if pointer in lines:
                    raise SyntaxProblem(f"the key {key} is there twice", line)
                lines[pointer] = line
            else:
                last = index[-1] if in_list else escaped(key)
                pointer = f"{parents[-1][0]}/{last}" if parents else ""
                lines[pointer] = line
                if token in "[{":
                    if len(parents) >= MAX_DEPTH:
                        raise SyntaxProblem(f"nested deeper than {MAX_DEPTH} levels", line)
                    parents.append((pointer, token == "["))
                    index.append(0)
        previous = token
    return lines


# YAML


def parse_yaml(text: str) -> Document:
    """Read a YAML text; an empty one is None. Raises :class:`SyntaxProblem`."""
    import yaml  # noqa: PLC0415 - a start without files, or with JSON, does without

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    try:
        return _YamlBuilder(yaml.parse(text, Loader=loader)).build()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", column {mark.column + 1}" if mark else ""
        words = f"{error.context} {error.problem}" if error.context else str(error.problem)
        raise SyntaxProblem(words + where, mark.line + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        # libyaml counts bytes and gives a number, the parser in Python characters.
        is_byte = isinstance(error.character, int)
        code = error.character if is_byte else ord(error.character)
        before = text.encode()[: error.position] if is_byte else text[: error.position].encode()
        line = before.count(b"\n") + 1
        raise SyntaxProblem(f"the character #x{code:04x} is not allowed", line) from None
    except UnicodeEncodeError:
        raise SyntaxProblem("not valid Unicode") from None


_TAGS = "tag:yaml.org,2002:"
_MERGE = object()
"""The key ``<<``."""


class _YamlBuilder:
    """Builds values from parser events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._lines: dict[str, int] = {}
        self._anchors: dict[str, Any] = {}
        self._unfinished: set[str] = set()
        self._aliased = 0

    def build(self) -> Document:
        value = None
        documents = 0
        for event in self._events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise SyntaxProblem("there is a second document", event.start_mark.line + 1)
                value = self._value(next(self._events), "", 0)
        return Document(value, self._lines)

    def _value(self, event: Any, pointer: str, depth: int) -> Any:
        line = event.start_mark.line + 1
        self._lines.setdefault(pointer, line)
        name = type(event).__name__
        if name == "AliasEvent":
            return self._alias(event.anchor, depth, line)
        if depth > MAX_DEPTH:
            raise SyntaxProblem(f"nested deeper than {MAX_DEPTH} levels", line)
        if event.anchor:
            self._unfinished.add(event.anchor)
        value: Any
        if name == "ScalarEvent":
            value = _tagged_scalar(event, line)
        elif name == "SequenceStartEvent":
            _check_tag(event, "seq", line)
            value = self._sequence(pointer, depth)
        else:
            _check_tag(event, "map", line)
            value = self._mapping(pointer, depth)
        if event.anchor:
            self._unfinished.discard(event.anchor)
            self._anchors[event.anchor] = value
        return value

    def _sequence(self, pointer: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            values.append(self._value(event, f"{pointer}/{len(values)}", depth + 1))
        return values

    def _mapping(self, pointer: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: list[Any] = []
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            line = event.start_mark.line + 1
            key = self._key(event, line)
            if key is _MERGE:
                merged += self._merged(self._value(next(self._events), f"{pointer}/<<", depth + 1), line)
                continue
            if key in values:
                raise SyntaxProblem(f"the key {key} is there twice", line)
            place = f"{pointer}/{escaped(key)}"
            self._lines[place] = line
            values[key] = self._value(next(self._events), place, depth + 1)
        for mapping in merged:
            for key, value in mapping.items():
                values.setdefault(key, value)
        return values

    def _key(self, event: Any, line: int) -> Any:
        """A key as text, as in JavaScript: ``1:`` and ``"1":`` are the same."""
        if type(event).__name__ == "AliasEvent":
            key = self._alias(event.anchor, 0, line)
            if isinstance(key, str):
                return key
        elif type(event).__name__ == "ScalarEvent":
            if event.anchor:
                self._anchors[event.anchor] = event.value
            return _MERGE if event.value == "<<" and event.implicit[0] else event.value
        raise SyntaxProblem("a key must be a single value", line)

    def _merged(self, value: Any, line: int) -> list[dict[str, Any]]:
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise SyntaxProblem("<< needs a mapping or a list of mappings", line)
        return mappings

    def _alias(self, anchor: str, depth: int, line: int) -> Any:
        if anchor in self._unfinished:
            raise SyntaxProblem(f"the alias *{anchor} contains itself", line)
        if anchor not in self._anchors:
            raise SyntaxProblem(f"the alias *{anchor} has no anchor", line)
        value = self._anchors[anchor]
        self._aliased += _size(value, depth, line)
        if self._aliased > MAX_ALIASED:
            raise SyntaxProblem(f"aliases add more than {MAX_ALIASED} values", line)
        return deepcopy(value)


def _check_tag(event: Any, kind: str, line: int) -> None:
    if event.tag not in (None, "!", _TAGS + kind):
        raise SyntaxProblem(f"the tag {event.tag.removeprefix(_TAGS)} is not known here", line)


def _tagged_scalar(event: Any, line: int) -> Any:
    if event.tag in (None, "!"):
        return scalar(event.value) if event.implicit[0] else event.value
    value = event.value if event.tag == _TAGS + "str" else scalar(event.value)
    kinds = {"str": str, "int": int, "float": int | float, "bool": bool, "null": type(None)}
    kind: Any = kinds.get(event.tag.removeprefix(_TAGS)) if event.tag.startswith(_TAGS) else None
    if kind is None:
        raise SyntaxProblem(f"the tag {event.tag.removeprefix(_TAGS)} is not known here", line)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SyntaxProblem(f"{event.value} is no {event.tag.removeprefix(_TAGS)}", line)
    return value


def _size(value: Any, depth: int, line: int) -> int:
    """How many values there are in a value that is put at this depth."""
    if depth > MAX_DEPTH:
        raise SyntaxProblem(f"nested deeper than {MAX_DEPTH} levels", line)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(_size(item, depth + 1, line) for item in inner)
