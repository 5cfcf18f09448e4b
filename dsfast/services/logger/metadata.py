"""Makes metadata of log lines plain data without secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["CENSOR", "MetadataCleaner", "is_secret", "plain_text"]

CENSOR = "[Redacted]"

MAX_TEXT = 8192
"""Longest text, in characters; what is beyond is cut off."""
MAX_DEPTH = 6
"""How deep mappings and lists are followed; those deeper are left out."""
MAX_ENTRIES = 100
"""Entries of one mapping or list that are kept."""

_SECRETS = ("password", "passphrase", "secret", "token", "authdata", "authorization", "cookie", "apikey")

Paths = Sequence[Sequence[str]]


def is_secret(name: str) -> bool:
    """True if a value of this name has to be kept out of sight, as far as the name tells."""
    plain = name.lower().replace("-", "").replace("_", "")
    return any(secret in plain for secret in _SECRETS)


def plain_text(value: object) -> str:
    """A text of bounded length that can be encoded: lone surrogates are written as escapes."""
    full = str(value)
    text = full[:MAX_TEXT].encode("utf-8", "backslashreplace").decode()
    return f"{text}... ({len(full)} characters)" if len(full) > MAX_TEXT else text


class MetadataCleaner:
    """Keeps what JSON knows, names everything else (sockets, messages, objects of plugins) by its type.

    Values with the name of a secret, and those that one of the paths leads to, are replaced by ``CENSOR``. A
    path is as in pino: names separated by dots, ``*`` for any name (``socketWrapper.config``,
    ``users.*.email``).
    """

    def __init__(self, paths: Sequence[str] = ()) -> None:
        self._paths = [path.split(".") for path in paths]

    def clean(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """A copy that can be written."""
        return self._mapping(meta, self._paths, 0)

    def _mapping(self, value: Mapping[Any, Any], paths: Paths, depth: int) -> dict[str, Any]:
        names = list(value)[:MAX_ENTRIES]
        return {plain_text(name): self._entry(str(name), value[name], paths, depth) for name in names}

    def _entry(self, name: str, value: Any, paths: Paths, depth: int) -> Any:
        below = [path[1:] for path in paths if path[0] in (name, "*")]
        if is_secret(name) or [] in below:
            return CENSOR
        if isinstance(value, Mapping):
            return self._mapping(value, below, depth + 1) if depth < MAX_DEPTH else {}
        if isinstance(value, list | tuple):
            entries = value[:MAX_ENTRIES] if depth < MAX_DEPTH else ()
            return [self._entry(str(i), entry, below, depth + 1) for i, entry in enumerate(entries)]
        return _scalar(value)


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, int):
        # Enumerations are their numbers; what does not fit into 64 bits becomes a text.
        return int(value) if -(2**63) <= value < 2**64 else plain_text(int(value))
    if isinstance(value, BaseException):
        return plain_text(f"{type(value).__name__}: {value}")
    return f"[{type(value).__name__}]"
