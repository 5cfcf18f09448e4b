"""The configuration as it is in force, for people to look at; ``dsfast config show`` prints it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from dsfast.config.annotations import hints_of, metas_of
from dsfast.config.schema import Config, PluginSection, Section

__all__ = ["MASK", "effective"]

MASK = "*****"
_SECRET_KEY = re.compile(
    r"passw(or)?d|passphrase|secret|token|credential|private_?key|api_?key|access_?key|^key$", re.IGNORECASE
)
_SECRET_IN_URL = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")


def effective(config: Config, *, mask: bool = True) -> dict[str, Any]:
    """All values as plain data with the keys of a file; secrets are replaced by ``*****``.

    Secret is what the schema marks as such; in the options of plugins, and in other data without a schema,
    what has a name like ``password`` or ``token``. Passwords in URLs are masked everywhere.
    """
    return _section(config, mask)


def _section(section: Section, mask: bool) -> dict[str, Any]:
    hints = hints_of(type(section))
    result: dict[str, Any] = {}
    for attribute, key in zip(section.__struct_fields__, section.__struct_encode_fields__, strict=True):
        value = getattr(section, attribute)
        if isinstance(section, PluginSection) and value is None:
            continue
        secret = any((meta.extra or {}).get("secret") for meta in metas_of(hints[attribute]))
        result[key] = MASK if mask and secret and value else _plain(value, mask)
    return result


def _plain(value: Any, mask: bool) -> Any:
    if isinstance(value, Section):
        return _section(value, mask)
    if isinstance(value, Mapping):
        return {
            str(key): MASK if mask and item and _hides(str(key), item) else _plain(item, mask)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, mask) for item in value]
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, str):
        return _SECRET_IN_URL.sub(rf"\1:{MASK}@", value) if mask else value
    return value if isinstance(value, bool | int | float | None) else repr(value)


def _hides(key: str, value: Any) -> bool:
    is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return is_plain and _SECRET_KEY.search(key) is not None
