"""Authentication ``none``: everybody is let in (connection-and-auth.md section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from dsfast.plugin import Authentication, AuthResult

__all__ = ["OPEN_USER", "OpenAuthentication"]

OPEN_USER = "open"
"""User id of those who gave no name."""


class OpenAuthentication(Authentication):
    """Lets everybody in, under the name the client gives."""

    description = "Open Authentication"

    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult | None:
        """Always valid; see :meth:`user_id`."""
        return AuthResult(True, id=self.user_id(auth_data))

    @staticmethod
    def user_id(auth_data: Any) -> str:
        """The user id for what a client sent; never raises.

        ``username`` counts if it is a non-empty string, a number other than zero, or true; the text is
        JavaScript's, since that is where user ids are compared (``1.0`` is ``1``, True is ``true``). Half of
        a surrogate pair, which no message can carry, becomes U+FFFD as JavaScript does it.
        """
        name = auth_data.get("username") if isinstance(auth_data, Mapping) else None
        if isinstance(name, str):
            return name.encode("utf-16", "surrogatepass").decode("utf-16", "replace") or OPEN_USER
        if name is True:
            return "true"
        if not isinstance(name, int | float) or not name or (isinstance(name, float) and isnan(name)):
            return OPEN_USER
        return _number_text(name)


def _number_text(number: float) -> str:
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
