"""Turns a mapping into a :class:`Config`: defaults filled in, everything checked, every problem listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta

from dsfast.config.annotations import (
    choices_of,
    hints_of,
    members_of,
    metas_of,
    plain_kinds,
    sections_of,
    type_names,
    unwrapped,
    upper_bound,
)
from dsfast.config.files import Source
from dsfast.config.pending import is_pending, pending_in
from dsfast.config.problems import ConfigError, Problem
from dsfast.config.schema import (
    INTEGER_LIMIT,
    ClusterNodeSection,
    Config,
    NoStorageSection,
    PluginSection,
    Section,
)
from dsfast.config.syntax import escaped
from dsfast.config.variable import Variable, typed

__all__ = ["load", "set_value", "suggestion"]

KINDS = {
    "auth": "authentication",
    "permission": "permission",
    "monitoring": "monitoring",
    "httpServer": "httpServer",
    "telemetry": "telemetry",
}
"""Sections whose type is called unknown by the texts of the specification (configuration.md section 3)."""


def load(
    given: Mapping[str, Any] | Source | str | Path | Config | None = None,
    *,
    warnings: list[Problem] | None = None,
) -> Config:
    """Check a configuration and complete it with the defaults.

    ``given`` is a mapping or the path of a file, in which case environment variables count too
    (:func:`dsfast.config.load_from`); a :class:`Config` is used as it is. Mappings merge with the defaults,
    lists and scalars replace them. ``warnings`` receives what is accepted but unwise; it is also in
    ``config.warnings``. Raises :class:`ConfigError`.
    """
    if isinstance(given, str | Path):
        from dsfast.config.layers import load_from  # noqa: PLC0415 - it uses this module

        config = load_from(given)
    elif isinstance(given, Config):
        config = given
    else:
        source = given if isinstance(given, Source) else Source({} if given is None else given)
        config = _Reader(source).read_config()
    if warnings is not None:
        warnings += config.warnings
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
        target = _inside(target, name, path)
    if isinstance(target, dict):  # options of a plugin, which nobody but the plugin knows
        target[last] = value
        return
    attribute = _attribute(target, last, path)
    reader = _Reader(Source())
    section: type[Section] = type(target)
    annotation = hints_of(section)[attribute]
    converted = reader.read_value(annotation, value, "/" + path.replace(".", "/"))
    reader.finish()
    setattr(target, attribute, converted)


def _inside(target: Any, name: str, path: str) -> Any:
    if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
        return target[int(name)]
    if isinstance(target, dict) and name in target:
        return target[name]
    return getattr(target, _attribute(target, name, path))


def _attribute(target: Any, name: str, path: str) -> str:
    if isinstance(target, Section):
        if name in target.__struct_fields__:
            return name
        if name in target.__struct_encode_fields__:
            return target.__struct_fields__[target.__struct_encode_fields__.index(name)]
    raise KeyError(path)


class _Reader:
    """One pass over a configuration; collects problems instead of stopping at the first."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def read_config(self) -> Config:
        """The whole configuration. Raises :class:`ConfigError`."""
        config = self.read_section(Config, self._source.values, "")
        if config is not UNSET:
            self._check_whole(config)
        self.finish()
        config.source = self._source
        config.warnings.extend(self.warnings)
        result: Config = config
        return result

    def _check_whole(self, config: Config) -> None:
        """What several values say together."""
        for pointer, text, refused in pending_in(config):
            if refused:
                self._problem(pointer, text)
            else:
                self._warn(pointer, text)
        self._check_endpoints(config)
        if "storage" not in self._source.values and not isinstance(config.cluster_node, ClusterNodeSection):
            # A file of one node is no storage for several.
            config.storage = NoStorageSection()
            self._warn("/clusterNode", "there is no storage section, so records are not stored")
        if config.listen.rematch_interval <= 1000:
            self._warn("/listen/rematchInterval", "1000 and less means that there is no rematching")

    def _check_endpoints(self, config: Config) -> None:
        endpoints = config.connection_endpoints
        if all(is_pending(f"/connectionEndpoints/*/{entry.get('type')}") for entry in endpoints):
            self._problem("/connectionEndpoints", "No connection endpoints configured that can be served yet")
        paths: dict[str, int] = {}
        for index, entry in enumerate(endpoints):
            path = None if isinstance(entry, PluginSection) else entry.options.get("urlPath")
            if path is not None and paths.setdefault(path, index) != index:
                pointer = f"/connectionEndpoints/{index}/options/urlPath"
                self._problem(pointer, f"{path} is the path of entry {paths[path]} already")

    def finish(self) -> None:
        if self._problems:
            raise ConfigError(self._problems)

    def read_section(self, section: type[Section], given: Any, pointer: str) -> Any:
        """An instance of ``section``; UNSET if that is impossible (then there are problems)."""
        if not isinstance(given, Mapping):
            return self._problem(pointer, "must be a mapping")
        attributes = dict(zip(section.__struct_encode_fields__, section.__struct_fields__, strict=True))
        for key in given:
            if key in attributes:
                continue
            at = f"{pointer}/{escaped(key)}"
            if section.ignores_unknown:
                self._warn(at, "has no effect here")
            else:
                text = f"Property {key} is not expected to be here"
                self._problem(pointer, text + suggestion(str(key), attributes), at)
        hints = hints_of(section)
        values: dict[str, Any] = {}
        for key, attribute in attributes.items():
            if key in given:
                # `options:` with nothing below it is how files look whose options are commented out.
                value_given = {} if key == "options" and given[key] is None else given[key]
                value = self.read_value(hints[attribute], value_given, f"{pointer}/{escaped(key)}")
                if value is not UNSET:
                    values[attribute] = value
        required = [field for field in msgspec.structs.fields(section) if field.required]
        for field in required:
            if field.encode_name not in given:
                self._problem(pointer, f"Property {field.encode_name} is required")
        return section(**values) if all(field.name in values for field in required) else UNSET

    def read_value(self, annotation: Any, value: Any, pointer: str) -> Any:
        """The value converted to the annotated type; UNSET if it does not fit."""
        kind, metas = unwrapped(annotation)
        if isinstance(value, Variable):
            value = value.as_kind(annotation)
        for meta in metas:
            value = (meta.extra or {}).get("before", _same)(value)
        if sections := sections_of(kind):
            if value is None and NoneType in members_of(kind):
                return None
            return self._checked(metas, self._read_alternative(sections, value, pointer), pointer)
        if get_origin(kind) is list and (sections := sections_of(unwrapped(get_args(kind)[0])[0])):
            return self._read_list(sections, metas, value, pointer)
        if get_origin(kind) is dict and (sections := sections_of(unwrapped(get_args(kind)[1])[0])):
            return self._read_named(sections, value, pointer)
        choices = choices_of(kind)
        if choices and value not in choices:
            return self._not_allowed(pointer, value, choices)
        return self._converted(annotation, value, pointer)

    def _converted(self, annotation: Any, value: Any, pointer: str) -> Any:
        kinds = plain_kinds(annotation)
        if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
            value = int(value)  # 1e3 is a whole number
        value = typed(value)
        if isinstance(value, int) and not isinstance(value, bool) and value < -INTEGER_LIMIT:
            return self._problem(pointer, f"must be >= {-INTEGER_LIMIT}")
        try:
            converted = msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$")
            index = where.rstrip("`").replace("[", "/").replace("]", "")
            if bool in kinds and value in ("yes", "no", "on", "off"):
                text += "; in YAML 1.2 only true and false are booleans"
            return self._problem(pointer + index, text.replace("`", ""))
        if type(converted) is int and converted > upper_bound(annotation):
            return self._problem(pointer, f"must be <= {upper_bound(annotation)}")
        return self._checked(metas_of(annotation), converted, pointer)

    def _checked(self, metas: Sequence[Meta], value: Any, pointer: str) -> Any:
        """The value, unless a check of the schema finds something wrong with it."""
        for meta in metas if value is not UNSET else ():
            extra = meta.extra or {}
            if "check" in extra and (text := extra["check"](value)):
                return self._problem(pointer, text)
            minimum = extra.get("advisory_minimum")
            if minimum is not None and value < minimum:
                self._warn(pointer, f"should be >= {minimum}")
        return value

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
                kind = KINDS.get(pointer.removeprefix("/"))
                text = f"No {kind} type specified" if kind else "No connection endpoints configured"
                return self._problem(pointer, text)
        return [entry for entry in entries if entry is not UNSET]

    def _read_named(self, sections: Sequence[type[Section]], value: Any, pointer: str) -> Any:
        if not isinstance(value, Mapping):
            return {} if value is None else self._problem(pointer, "must be a mapping")
        entries = {
            str(name): self._read_alternative(sections, entry, f"{pointer}/{escaped(name)}")
            for name, entry in value.items()
            if entry is not None
        }
        return {name: entry for name, entry in entries.items() if entry is not UNSET}

    def _read_alternative(self, sections: Sequence[type[Section]], given: Any, pointer: str) -> Any:
        """Read the kind of section that ``class``, ``path``, ``name`` or ``type`` asks for."""
        if len(sections) == 1 and sections[0] is not PluginSection:
            return self.read_section(sections[0], given, pointer)
        if not isinstance(given, Mapping):
            return self._problem(pointer, "must be a mapping")
        builtin = {name: section for section in sections for name in type_names(section)}
        if given.get("class") is not None or given.get("path") is not None:
            return self._read_plugin(given, pointer)
        if (name := given.get("name")) is not None:
            if name in list(builtin):
                rest = {key: value for key, value in given.items() if key != "name"}
                return self.read_section(builtin[name], {**rest, "type": name}, pointer)
            return self._read_plugin(given, pointer)
        if sections[0] is PluginSection:
            text = f"Neither name nor path property found for plugin type: {given.get('type', 'undefined')}"
            return self._problem(pointer, text)
        if "type" not in given:
            return self.read_section(sections[0], given, pointer)
        if given["type"] not in list(builtin):
            return self._unknown_type(pointer, given["type"], list(builtin))
        return self.read_section(builtin[given["type"]], given, pointer)

    def _read_plugin(self, given: Mapping[str, Any], pointer: str) -> Any:
        # What the plugin replaces does not matter, whatever it is.
        return self.read_section(
            PluginSection, {key: value for key, value in given.items() if key != "type"}, pointer
        )

    def _unknown_type(self, pointer: str, value: Any, choices: Sequence[str]) -> Any:
        kind = KINDS.get(pointer.split("/")[1])
        if kind is None:
            return self._not_allowed(f"{pointer}/type", value, choices)
        text = f"Unknown {kind} type {value}, it can be {', '.join(choices)}{suggestion(str(value), choices)}"
        return self._problem(f"{pointer}/type", text)

    def _not_allowed(self, pointer: str, value: Any, choices: Sequence[Any]) -> Any:
        allowed = ", ".join(str(choice) for choice in choices)
        text = f"must be equal to one of the allowed values: {allowed}"
        return self._problem(pointer, text + suggestion(str(value), choices))

    def _warn(self, pointer: str, text: str) -> None:
        self.warnings.append(self._located(Problem(pointer, text)))

    def _problem(self, pointer: str, text: str, at: str | None = None) -> Any:
        """Note a problem; ``at`` is what to look for in the files, if that is not the pointer."""
        self._problems.append(self._located(Problem(pointer, text), at))
        return UNSET

    def _located(self, problem: Problem, at: str | None = None) -> Problem:
        place = self._source.place(problem.pointer if at is None else at)
        return problem if place is None else Problem(problem.pointer, problem.text, str(place))


def _same(value: Any) -> Any:
    return value


def suggestion(given: str, allowed: Iterable[Any]) -> str:
    """`` Did you mean x?`` if something similar is allowed, else nothing."""
    import difflib  # noqa: PLC0415 - only for those who made a mistake

    plain = {str(name).lower(): str(name) for name in allowed}
    close = difflib.get_close_matches(given.replace("_", "").lower(), plain, n=1)
    return f". Did you mean {plain[close[0]]}?" if close else ""
