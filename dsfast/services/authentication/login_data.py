"""Reads what clients and web services send with a login: any JSON, which never raises an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsfast._core.js_values import number_text

__all__ = ["id_text", "text_parameter", "well_formed"]


def text_parameter(auth_data: Any, key: str) -> str | None:
    """A text of the login data; None if it is missing or no text. Any JSON may be given."""
    value = auth_data.get(key) if isinstance(auth_data, Mapping) else None
    return well_formed(value) if isinstance(value, str) else None


def id_text(value: Any) -> str | None:
    """A user id that was stored or answered as text or number; None for anything else."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_text(value)
    return None


def well_formed(text: str) -> str:
    """The text with each half of a surrogate pair replaced by U+FFFD, as JavaScript does it for UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
