"""A commented configuration file, written from the schema so that it is always true; for ``dsfast init``."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, get_args, get_origin

import msgspec

from dsfast.config.annotations import hints_of, sections_of, type_names, unwrapped
from dsfast.config.pending import is_pending
from dsfast.config.schema import Config, PluginSection, Section
from dsfast.config.syntax import scalar

__all__ = ["sample"]

HEAD = """\
# Configuration of dsfast.
#
# Nothing here is needed. A line that begins with "#" and goes on without a space shows an option with its
# default; remove the "#" (of the lines that lead to it too) and change the value. Times are milliseconds and
# sizes bytes. `dsfast check` tells whether the file is right, docs/configuration.md has all there is.
#
# ${NAME} is an environment variable, file(path) a path relative to this file and fileLoad(path) the content
# of a file.
"""
COLUMN = 44
WIDTH = 110
LEFT_OUT = [
    "telemetry",
    "subscriptions",
    "locks",
    "clusterNode",
    "clusterRegistry",
    "clusterStates",
    "headers",
    "maxBackpressure",
]
"""What has no effect, or none on a single server; accepted for old files."""
_PLAIN = re.compile(r"[A-Za-z/.][\w ./:()@-]*")


def sample(active: Mapping[str, Any] | None = None) -> str:
    """The text of a ``config.yml`` with every option as a comment.

    ``active`` are values that are to be in force; they are written without the comment sign.
    """
    return "\n".join([HEAD, *_section(Config, active or {}, 0, "")]).rstrip() + "\n"


def _section(section: type[Section], active: Mapping[str, Any], depth: int, path: str) -> Iterator[str]:
    hints = hints_of(section)
    for field in msgspec.structs.fields(section):
        key = field.encode_name
        given = active.get(key)
        hidden = key in LEFT_OUT or is_pending(f"{path}/{key}/given") or field.required
        if key != "type" and (given is not None or not hidden):
            value = _default(field) if given is None else given
            yield from _field(hints[field.name], value, given, depth, f"{path}/{key}")


def _field(annotation: Any, value: Any, given: Any, depth: int, path: str) -> Iterator[str]:
    """One key with its value; ``given`` is the value if it is to be in force, else None."""
    key = path.rpartition("/")[2]
    kind, metas = unwrapped(annotation)
    is_active = given is not None
    meaning = " ".join(meta.description for meta in metas if meta.description)
    sections = sections_of(unwrapped(get_args(kind)[0])[0] if get_origin(kind) is list else kind)
    if depth == 0 and (sections or get_origin(kind) is dict):
        yield ""
    if not sections or not isinstance(value, Mapping | list) or not value:
        yield from _setting(f"{key}: {_text(value)}", meaning, depth, is_active)
    elif get_origin(kind) is list:
        path += "/*"
        yield from _setting(f"{key}:", f"{meaning} {_types(sections, path)}", depth, is_active)
        for entry in value:
            yield from _setting(f"- type: {_get(entry, 'type')}", "", depth + 1, is_active)
            yield from _section(_chosen(sections, entry), entry if is_active else {}, depth + 2, path)
    else:
        chosen = _chosen(sections, value)
        about = meaning or inspect.cleandoc(chosen.__doc__ or "").split("\n\n")[0]
        yield from _setting(f"{key}:", f"{about} {_types(sections, path)}", depth, is_active)
        if names := type_names(chosen):
            yield from _setting(f"type: {_get(value, 'type') or names[0]}", "", depth + 1, is_active)
        yield from _section(chosen, given or {}, depth + 1, path)


def _setting(text: str, meaning: str, depth: int, is_active: bool) -> Iterator[str]:
    line = ("" if is_active else "#") + "  " * depth + text
    words = textwrap.wrap(" ".join(meaning.split()), WIDTH - COLUMN - 2)
    if words and len(line) < COLUMN:
        yield f"{line:<{COLUMN}}# {words[0]}"
    else:
        yield line
        words = ["", *words]
    for more in words[1:]:
        yield f"{'' if is_active else '#':<{COLUMN}}# {more}"


def _types(sections: list[type[Section]], at: str) -> str:
    """What can be chosen, where there is a choice."""
    names = [name for section in sections for name in type_names(section) if not is_pending(f"{at}/{name}")]
    plugin = PluginSection in sections and not is_pending(f"{at}/plugin")
    if len(names) < 2 and not plugin:
        return ""
    return f"Types: {', '.join(names)}{'; or a plugin by name or path' if plugin else ''}."


def _chosen(sections: list[type[Section]], value: Any) -> type[Section]:
    name = _get(value, "type")
    return next((section for section in sections if name in type_names(section)), sections[0])


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.encode_name == "serverName":
        return "UUID"
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _text(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, str) and _PLAIN.fullmatch(value) and scalar(value) == value and ": " not in value:
        return value
    return json.dumps(value, ensure_ascii=False)
