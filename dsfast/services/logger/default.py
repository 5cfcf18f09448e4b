"""Lines of text on standard output and standard error (configuration.md section 6)."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from dsfast.plugin import Logger, LogLevel

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

# Names and texts of clients reach the log. A control character could forge a line or drive a terminal. A line
# break followed by a tab may stay: the indentation shows that the line goes on.
_UNSAFE = re.compile(r"\n(?!\t)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class DefaultLogger(Logger):
    """Writes ``[<namespace> | ]<EVENT> | <text>``; warnings and errors go to standard error.

    Option ``colors`` colours the lines if the stream is a terminal. Metadata is not printed. A stream that
    cannot be written to (a closed pipe) loses the line and nothing else.
    """

    description = "default logger"

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Write one line, whatever the level that is set."""
        namespace = meta.get("namespace") if meta else None
        text = f"{event} | {message}" if namespace is None else f"{namespace} | {event} | {message}"
        line = _UNSAFE.sub(_escape, text[:MAX_LINE])
        if len(text) > MAX_LINE:
            line += f"... ({len(text)} characters)"
        stream = sys.stderr if level in (LogLevel.WARN, LogLevel.ERROR) else sys.stdout
        if self.options.get("colors", True) and stream.isatty():
            line = f"{_COLOURS.get(LogLevel(level), '')}{line}{_RESET}"
        with contextlib.suppress(OSError, ValueError):
            _write(stream, line + "\n")


def _write(stream: TextIO, line: str) -> None:
    encoding = stream.encoding or "utf-8"
    # Lone surrogates, and what the terminal's encoding lacks, must not lose the line.
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
