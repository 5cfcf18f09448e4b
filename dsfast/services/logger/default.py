"""Lines of text on standard output and standard error (configuration.md section 6)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from dsfast.plugin import LogLevel
from dsfast.services.logger.stream import StreamLogger, lost_text

__all__ = ["DefaultLogger"]

MAX_LINE = 8192
"""Longest line, in characters; what is beyond is cut off."""

_COLOURS = {
    LogLevel.DEBUG: "\x1b[37m",
    LogLevel.INFO: "\x1b[32m",
    LogLevel.WARN: "\x1b[33m",
    LogLevel.ERROR: "\x1b[31m",
    LogLevel.FATAL: "\x1b[34m",
}
_RESET = "\x1b[0m"

# Names and texts of clients reach the log. A control character could forge a line, drive a terminal or turn
# the direction of what follows. One line break may stay: that in the list of authentications.
_UNSAFE = re.compile(r"\n(?!\t\d+\) )|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class DefaultLogger(StreamLogger):
    """Writes ``[<namespace> | ]<EVENT> | <text>``; warnings and errors go to standard error.

    Option ``colors`` colours the lines if the stream is a terminal. Other metadata is not printed.
    """

    description = "default logger"

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Write one line, whatever the level that is set."""
        namespace = meta.get("namespace") if meta else None
        text = f"{event} | {message}" if namespace is None else f"{namespace} | {event} | {message}"
        line = _UNSAFE.sub(_escape, text[:MAX_LINE])
        if len(text) > MAX_LINE:
            line += f"... ({len(text)} characters)"
        output = self.output(sys.stderr if level in (LogLevel.WARN, LogLevel.ERROR) else sys.stdout)
        if output.is_terminal and self.options.get("colors", True):
            line = f"{_COLOURS.get(LogLevel(level), '')}{line}{_RESET}"
        # Lone surrogates, and what the terminal's encoding lacks, must not lose the line.
        output.write(f"{line}\n".encode(output.encoding, "backslashreplace"))
        if level >= LogLevel.FATAL:
            self.flush()

    def lost_line(self, count: int) -> bytes:
        """See :class:`StreamLogger`."""
        return f"LOG_LINES_LOST | {lost_text(count)}\n".encode()


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
