"""The schema of the configuration as JSON Schema, for editors; ``dsfast config schema`` prints it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Meta

from dsfast.config.annotations import (
    choices_of,
    hints_of,
    members_of,
    metas_of,
    sections_of,
    type_names,
    unwrapped,
    upper_bound,
)
from dsfast.config.schema import ALSO_ACCEPTED, INTEGER_LIMIT, Config, PluginSection, Section

__all__ = ["json_schema"]

NULL = {"type": "null"}
MACRO = r"^\s*(file|fileLoad)\(|\$\{"
"""A macro stands where a value of any type is expected, until the file is loaded."""
_TEXT = {"type": "string", "minLength": 1}


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) that accepts what the server accepts, before macros are resolved.

    What depends on several values together is left to the server.
    """
    builder = _Builder()
    whole = builder.section(Config)
    definitions = dict(sorted(builder.definitions.items()))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of dsfast",
        **whole,
        "$defs": definitions,
    }


class _Builder:
    """Writes schemas of sections; those that stand alone become definitions."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def section(self, section: type[Section]) -> dict[str, Any]:
        hints = hints_of(section)
        properties: dict[str, Any] = {}
        required: list[str] = []
        for field in msgspec.structs.fields(section):
            value = self._value(hints[field.name])
            if field.encode_name == "options" and not field.required:
                value = _either(value, NULL)
            properties[field.encode_name] = {**self._described(hints[field.name], field), **value}
            if field.required:
                required.append(field.encode_name)
        result: dict[str, Any] = {"type": "object", "properties": properties}
        if description := inspect.cleandoc(section.__doc__ or ""):
            result["description"] = description
        if required:
            result["required"] = required
        if not section.ignores_unknown:
            result["additionalProperties"] = False
        return result

    @staticmethod
    def _described(annotation: Any, field: msgspec.structs.FieldInfo) -> dict[str, Any]:
        described: dict[str, Any] = {}
        if text := " ".join(meta.description for meta in unwrapped(annotation)[1] if meta.description):
            described["description"] = text
        if field.default is not msgspec.NODEFAULT and not sections_of(unwrapped(annotation)[0]):
            default = field.default
            described["default"] = default.value if isinstance(default, Enum) else default
        return described

    def _value(self, annotation: Any) -> dict[str, Any]:
        kind, metas = unwrapped(annotation)
        result = self._kind(kind, annotation)
        for meta in metas:
            if (also := ALSO_ACCEPTED.get((meta.extra or {}).get("before"))) is not None:
                result = _either(result, also)
        # Text is taken as it is; everything else may be written as a macro.
        return result if kind in (str, Any) else _either(result, {"type": "string", "pattern": MACRO})

    def _kind(self, kind: Any, annotation: Any) -> dict[str, Any]:
        if sections := sections_of(kind):
            alternatives = self._alternatives(sections)
            return _either(alternatives, NULL) if NoneType in members_of(kind) else alternatives
        if isinstance(kind, type) and issubclass(kind, Enum):
            names = "|".join("".join(f"[{c}{c.lower()}]" for c in member.name) for member in kind)
            text = {"type": "string", "pattern": f"^({names})$"}
            return {"anyOf": [{"enum": [member.value for member in kind]}, text]}
        if choices := choices_of(kind):
            return {"enum": list(choices)}
        if get_origin(kind) is list:
            return self._list(get_args(kind)[0], metas_of(annotation))
        if get_origin(kind) is dict:
            inner = get_args(kind)[1]
            values = {} if inner is Any else self._value(inner)
            named = sections_of(unwrapped(inner)[0])
            result: dict[str, Any] = {"type": "object"}
            if values:
                result["additionalProperties"] = _either(values, NULL) if named else values
            return _either(result, NULL) if named else result
        if len(members := members_of(kind)) > 1:
            return _either(*(self._value(member) if member is not NoneType else NULL for member in members))
        return self._plain(kind, annotation)

    @staticmethod
    def _plain(kind: Any, annotation: Any) -> dict[str, Any]:
        if kind is Any:
            return {}
        result: dict[str, Any] = {
            "type": {int: "integer", bool: "boolean", str: "string", NoneType: "null"}[kind]
        }
        if kind is int:
            result |= {"minimum": -INTEGER_LIMIT, "maximum": upper_bound(annotation)}
        for meta in unwrapped(annotation)[1]:
            if meta.ge is not None:
                result["minimum"] = int(meta.ge)
            if meta.min_length is not None:
                result["minLength"] = meta.min_length
            if meta.pattern is not None:
                result["pattern"] = meta.pattern
        return result

    def _list(self, element: Any, metas: list[Meta]) -> dict[str, Any]:
        sections = sections_of(unwrapped(element)[0])
        items = self._alternatives(sections) if sections else self._value(element)
        result: dict[str, Any] = {"type": "array", "items": _either(items, NULL) if sections else items}
        if minimum := max((meta.min_length or 0 for meta in metas), default=0):
            result["minItems"] = minimum
        # A mapping is a list with one entry.
        return _either(result, items) if sections else result

    def _alternatives(self, sections: list[type[Section]]) -> dict[str, Any]:
        """Sections of which ``path``, ``name`` or ``type`` chooses one."""
        if PluginSection not in sections:
            return _either(*map(self._reference, sections))
        built_in = [section for section in sections if section is not PluginSection]
        names = sorted(name for section in built_in for name in type_names(section))
        return _either(
            *(self._by_type(section, section is sections[0]) for section in built_in),
            *(self._by_name(section) for section in built_in),
            self._plugin({"path": _TEXT, "name": {"type": ["string", "null"]}}, "path"),
            self._plugin({"name": {**_TEXT, "not": {"enum": names}}}, "name"),
        )

    def _by_type(self, section: type[Section], is_default: bool) -> dict[str, Any]:
        result = self.section(section)
        result["properties"] |= {"name": NULL, "path": NULL}
        required = set(result.get("required", ())) | (set() if is_default else {"type"})
        return {**result, "required": sorted(required)}

    def _by_name(self, section: type[Section]) -> dict[str, Any]:
        result = self.section(section)
        result["properties"] |= {"type": {}, "name": {"enum": list(type_names(section))}, "path": NULL}
        required = set(result.get("required", ())) - {"type"} | {"name"}
        return {**result, "required": sorted(required)}

    def _plugin(self, properties: Mapping[str, Any], required: str) -> dict[str, Any]:
        plugin = self.section(PluginSection)
        own = {**plugin["properties"], "type": {}, "path": NULL, **properties}
        del own["class"]
        return {**plugin, "properties": own, "required": [required]}

    def _reference(self, section: type[Section]) -> dict[str, Any]:
        if section.__name__ not in self.definitions:
            self.definitions[section.__name__] = self.section(section)
        return {"$ref": f"#/$defs/{section.__name__}"}


def _either(*alternatives: dict[str, Any]) -> dict[str, Any]:
    """``anyOf``, without one in another and without doubles."""
    flat: list[dict[str, Any]] = []
    for alternative in alternatives:
        inner = alternative["anyOf"] if set(alternative) == {"anyOf"} else [alternative]
        flat += [item for item in inner if item not in flat]
    return flat[0] if len(flat) == 1 else {"anyOf": flat}
