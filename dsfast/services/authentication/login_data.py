"""Reads what clients and web services send with a login: any JSON, which never raises an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["id_text", "number_text", "text_parameter", "well_formed"]


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


def number_text(number: float) -> str:
    """A number as JavaScript's ``String(number)`` writes it."""
    try:
        value = float(number)
    except OverflowError:
        value = float("inf") if number > 0 else float("-inf")
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    if value.is_integer() and abs(value) < 1e21:
        # Digits beyond a double's precision are the shortest ones that identify it, then zeros.
        digits, _, exponent = f"{value!r}".partition("e")
        if not exponent:
            return digits.removesuffix(".0")
        whole, _, fraction = digits.partition(".")
        return whole + fraction.ljust(int(exponent), "0")
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        mantissa = mantissa.removesuffix(".0")
        power = int(exponent)
        if power in (-5, -6):
            sign, digits = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
            return f"{sign}0.{'0' * (-power - 1)}{digits.replace('.', '')}"
        return f"{mantissa}e{'+' if power > 0 else '-'}{abs(power)}"
    return text
