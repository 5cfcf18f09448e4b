"""What a configuration may ask for and dsfast does not do yet: the one list of it.

Whoever builds one of these deletes its line. A line is a path into the configuration, where ``*`` stands for
every entry of a list or mapping, with the value at its end that is meant: a ``type``, ``plugin`` for an
implementation by name or path, ``given`` for anything but null.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsfast.config.schema import Section

__all__ = ["IGNORED", "REFUSED", "is_pending", "pending_in"]

REFUSED = {
    "/clusterNode/vertical": "several processes cannot work together yet",
    "/clusterNode/plugin": "several servers cannot work together yet",
}
"""Without these the server would be less than what was asked for, so it does not start."""

IGNORED = {
    "/enabledFeatures/monitoring/true": "clients cannot ask for monitoring yet; they get UNKNOWN_TOPIC",
}
"""The server works as well and as safely without these, so it starts with a warning."""


def is_pending(path: str) -> bool:
    """Whether a path is on one of the lists."""
    return path in REFUSED or path in IGNORED


def pending_in(config: Section) -> Iterator[tuple[str, str, bool]]:
    """What a configuration asks for in vain: JSON pointer, what that means, and whether it is refused."""
    for refused, entries in ((True, REFUSED), (False, IGNORED)):
        for path, text in entries.items():
            *keys, wanted = path.split("/")[1:]
            for pointer, value in _reach(config, keys, ""):
                if _is(value, wanted):
                    yield pointer, text, refused


def _reach(value: Any, keys: list[str], pointer: str) -> Iterator[tuple[str, Any]]:
    if not keys:
        yield pointer, value
    elif keys[0] == "*":
        entries = enumerate(value) if isinstance(value, list) else value.items()
        for key, entry in entries:
            yield from _reach(entry, keys[1:], f"{pointer}/{key}")
    elif keys[0] in value:
        yield from _reach(value[keys[0]], keys[1:], f"{pointer}/{keys[0]}")


def _is(value: Any, wanted: str) -> bool:
    if wanted == "given":
        return value is not None
    if wanted == "true":
        return value is True
    is_plugin = "class" in value
    return is_plugin if wanted == "plugin" else not is_plugin and value.get("type") == wanted
