"""The text of an environment variable, whose meaning depends on the option it is for."""

from __future__ import annotations

import json
from typing import Any

from dsfast.config.annotations import plain_kinds
from dsfast.config.syntax import scalar

__all__ = ["Variable", "typed"]


class Variable(str):
    """Not converted yet: ``500`` is a number for a time limit and text for a password."""

    __slots__ = ()

    def as_kind(self, annotation: Any) -> Any:
        """The value for an option of this type: what YAML makes of the text if that fits, else the text."""
        kinds = plain_kinds(annotation)
        if Any in kinds:
            return typed(self)
        value = scalar(self)
        return str(self) if type(value) not in kinds and str in kinds else value


def typed(value: Any) -> Any:
    """A value without variables, for where no type is asked for.

    There a variable is a YAML scalar; what is to stay text is written as a JSON string.
    """
    if isinstance(value, Variable):
        try:
            return json.loads(value) if value.startswith('"') else scalar(value)
        except ValueError:
            return str(value)
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else value
