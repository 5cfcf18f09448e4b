"""What is wrong with a configuration, told so that it can be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ConfigError", "Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where.

    ``pointer`` is a JSON pointer, empty for the top level; ``place`` is the file and line, or the environment
    variable, that the value comes from, where that is known.
    """

    pointer: str
    text: str
    place: str = ""

    def __str__(self) -> str:
        line = f"{self.pointer}: {self.text}" if self.pointer else f" {self.text}"
        return _printable(f"{line} ({self.place})" if self.place else line)


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` lists everything that is wrong with it.

    The text is complete: it is what a command writes to standard error.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"{number}){problem}" for number, problem in enumerate(self.problems, 1)]
        super().__init__("\n".join(["There was an error validating your configuration:", *lines]))

    @classmethod
    def file(cls, text: str) -> ConfigError:
        """A file that cannot be found, read or parsed; ``text`` is all that is said."""
        error = cls([Problem("", text)])
        error.args = (_printable(text),)
        return error


def _printable(text: str) -> str:
    """One line that every terminal can show, whatever keys, values and file names are in it."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
