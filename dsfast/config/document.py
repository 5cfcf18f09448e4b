"""Writes ``docs/configuration.md`` from the schema; ``python -m dsfast.config.document`` prints it."""

from __future__ import annotations

import inspect
import json
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from dsfast.config.annotations import hints_of, sections_of, type_names, unwrapped
from dsfast.config.schema import Config, PluginSection, Section

__all__ = ["render"]

INTRODUCTION = """\
# Configuration

<!-- Generated from dsfast/config/schema.py by `make docs`; changes belong there. -->

No configuration is needed: every key has a default. Times are milliseconds and sizes bytes unless the
meaning says otherwise. `Server({"rpc": {"ackTimeout": 500}})` takes the keys below; mappings merge with
the defaults, lists and single values replace them. An unknown key or a value that does not fit stops the
start; all problems are listed, each with its place and, where one is close, a suggestion.
`server.set("rpc.ackTimeout", 500)` changes a value at run time.

A mapping where a list is expected counts as a list with one entry; an entry that is null is dropped. A
section with a `type` chooses a built-in implementation; the last section of this page says how to choose
one of your own.

"advised" marks bounds that only cause a warning, because deepstream.io never enforced them.
"""


def render() -> str:
    """The whole document."""
    own = _section_lines(PluginSection, "", "A plugin of your own, for any section with a `type`")
    return "\n".join([INTRODUCTION, *_section_lines(Config, "", "Top level"), *own]).rstrip() + "\n"


def _section_lines(section: type[Section], path: str, title: str) -> list[str]:
    """Heading, description and table of one section, then those of the sections inside it."""
    hints = hints_of(section)
    rows: list[str] = []
    inner: list[str] = []
    for field in msgspec.structs.fields(section):
        kind, metas = unwrapped(hints[field.name])
        key = f"{path}.{field.encode_name}" if path else field.encode_name
        element = unwrapped(get_args(kind)[0])[0] if get_origin(kind) is list else kind
        if sections := sections_of(element):
            entry = f"{key}[]" if element is not kind else key
            for alternative in sections:
                if alternative is PluginSection:
                    continue
                types = type_names(alternative)
                suffix = f" with type {' or '.join(f'`{name}`' for name in types)}" if types else ""
                inner += _section_lines(alternative, entry, f"`{entry}`{suffix}")
            continue
        if field.encode_name == "type":
            continue
        rows.append(
            f"| `{field.encode_name}` | {_type_text(kind)} | {_default_text(field, metas)} "
            f"| {_bounds_text(kind, metas)} | {_meaning(metas)} |"
        )
    lines = [f"## {title}", "", inspect.cleandoc(section.__doc__ or ""), ""]
    if rows:
        lines += ["| Key | Type | Default | Bounds | Meaning |", "|---|---|---|---|---|", *rows, ""]
    return lines + inner


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
        if meta.le is not None:
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
