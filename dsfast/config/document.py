"""Writes ``docs/configuration.md`` from the schema; ``python -m dsfast.config.document`` prints it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from dsfast.config.annotations import hints_of, sections_of, type_names, unwrapped
from dsfast.config.pending import IGNORED, REFUSED
from dsfast.config.schema import MEMORY_LIMIT, Config, PluginSection, Section

__all__ = ["render"]

INTRODUCTION = """\
# Configuration

<!-- Generated from dsfast/config/schema.py by `make docs`; changes belong there. -->

No configuration is needed: every key has a default. Files, environment variables and flags, and which of
them wins, are the subject of [operations.md](operations.md#configuration); the keys are the same everywhere.

- Times are milliseconds and sizes bytes unless the meaning says otherwise. An integer without an upper bound
  may be as large as 2147483647.
- Mappings merge with the defaults, lists and single values replace them. A mapping where a list is expected
  counts as a list with one entry; an entry that is null is dropped.
- An unknown key or a value that does not fit stops the start; all problems are listed, each with its place
  and, where one is close, a suggestion. "advised" marks bounds that only cause a warning, because
  deepstream.io never enforced them.
- A section with a `type` chooses a built-in implementation; the [last section](#a-plugin-of-your-own) says
  how to choose another one. `name` with the name of a built-in type means the same as `type`.
- `server.set("rpc.ackTimeout", 500)` changes a value at run time.
"""


def render() -> str:
    """The whole document."""
    return "\n".join([INTRODUCTION, *_Document().lines()]).rstrip() + "\n"


class _Document:
    """Writes the sections; remembers which were written, so that none is repeated."""

    def __init__(self) -> None:
        self._written: dict[type[Section], str] = {}

    def lines(self) -> Iterator[str]:
        yield from self._heading("##", "Top level", inspect.cleandoc(Config.__doc__ or ""))
        yield from _table(Config)
        hints = hints_of(Config)
        for field in msgspec.structs.fields(Config):
            kind, metas = unwrapped(hints[field.name])
            container = get_origin(kind) if get_origin(kind) in (list, dict) else None
            element = unwrapped(get_args(kind)[-1])[0] if container else kind
            if sections := sections_of(element):
                yield from self._key(field.encode_name, container, sections, metas)
        own = inspect.cleandoc(PluginSection.__doc__ or "")
        yield from self._heading("##", "A plugin of your own", own)
        yield from _table(PluginSection)

    def _key(
        self, key: str, container: Any, sections: list[type[Section]], metas: list[Meta]
    ) -> Iterator[str]:
        """One key of the top level whose value is a section, or several."""
        meaning = _meaning(metas)
        if container is list:
            meaning += " A list."
        if container is dict:
            meaning += " A mapping of names to them."
        yield from self._heading("##", f"`{key}`", meaning)
        star = "/*" if container else ""
        for section in sections:
            if section is not PluginSection:
                yield from self._alternative(section, f"/{key}{star}")
        if note := REFUSED.get(f"/{key}{star}/plugin"):
            yield from [f"A plugin of your own: not yet, {note}.", ""]

    def _alternative(self, section: type[Section], path: str) -> Iterator[str]:
        about = inspect.cleandoc(section.__doc__ or "")
        if types := type_names(section):
            if note := {**REFUSED, **IGNORED}.get(f"{path}/{types[0]}"):
                about += f" **Not yet**: {note}."
            yield from self._heading("###", "Type " + " or ".join(f"`{name}`" for name in types), about)
        else:
            yield from [about, ""]
        yield from self._content(section, path)

    def _content(self, section: type[Section], path: str) -> Iterator[str]:
        """The table of a section, then the sections in it."""
        yield from _table(section)
        hints = hints_of(section)
        for field in msgspec.structs.fields(section):
            kind = unwrapped(hints[field.name])[0]
            for inner in sections_of(kind):
                place = f"{path}/{field.encode_name}"
                note = REFUSED.get(f"{place}/given")
                about = inspect.cleandoc(inner.__doc__ or "") + (f" **Not yet**: {note}." if note else "")
                yield from [f"`{field.encode_name}`: {about}", ""]
                yield from self._inner(inner, place)

    def _inner(self, section: type[Section], path: str) -> Iterator[str]:
        if section in self._written:
            yield from [f"The keys are those of `{self._written[section]}`.", ""]
            return
        self._written[section] = path.strip("/").replace("/*", "[]").replace("/", ".")
        base = section.__base__
        if base in self._written:
            yield from _table(section, lambda field: field not in msgspec.structs.fields(base))
        else:
            yield from self._content(section, path)

    @staticmethod
    def _heading(level: str, title: str, about: str) -> list[str]:
        return [f"{level} {title}", "", *([about, ""] if about else [])]


def _table(section: type[Section], wanted: Callable[[Any], bool] = lambda field: True) -> list[str]:
    """The keys of a section that are no sections themselves."""
    hints = hints_of(section)
    rows: list[str] = []
    for field in msgspec.structs.fields(section):
        kind, metas = unwrapped(hints[field.name])
        element = unwrapped(get_args(kind)[-1])[0] if get_origin(kind) in (list, dict) else kind
        if field.encode_name == "type" or sections_of(element) or not wanted(field):
            continue
        rows.append(
            f"| `{field.encode_name}` | {_type_text(kind)} | {_default_text(field, metas)} "
            f"| {_bounds_text(kind, metas)} | {_meaning(metas)} |"
        )
    head = ["| Key | Type | Default | Bounds | Meaning |", "|---|---|---|---|---|"]
    return [*head, *rows, ""] if rows else []


def _type_text(kind: Any) -> str:
    kind = unwrapped(kind)[0]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        return f"list of {_type_text(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "mapping"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "level"
    if members := get_args(kind):
        return " or ".join(_type_text(member) for member in members)
    names = {int: "integer", str: "text", bool: "boolean", type(None): "null"}
    return names.get(kind, "class")


def _default_text(field: msgspec.structs.FieldInfo, metas: list[Meta]) -> str:
    for meta in metas:
        if shown := (meta.extra or {}).get("shown_default"):
            return str(shown)
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return f"`{json.dumps(value.value if isinstance(value, Enum) else value)}`"


def _bounds_text(kind: Any, metas: list[Meta]) -> str:
    for member in get_args(kind):
        metas = metas + unwrapped(member)[1]
    bounds: list[str] = []
    for meta in metas:
        if meta.ge is not None:
            bounds.append(f">= {meta.ge}")
        if meta.le is not None and meta.le != MEMORY_LIMIT:
            bounds.append(f"<= {meta.le}")
        if meta.min_length:
            bounds.append("not empty")
        if (advised := (meta.extra or {}).get("advisory_minimum")) is not None:
            bounds.append(f"advised >= {advised}")
    return ", ".join(bounds)


def _meaning(metas: list[Meta]) -> str:
    return " ".join(meta.description for meta in metas if meta.description).replace("|", "\\|")


if __name__ == "__main__":
    print(render(), end="")
