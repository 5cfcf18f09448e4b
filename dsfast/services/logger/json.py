"""One JSON object per line, as pino writes them (configuration.md section 6)."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import orjson

from dsfast.plugin import LogLevel
from dsfast.services.logger.metadata import MetadataCleaner, plain_text
from dsfast.services.logger.stream import StreamLogger, lost_text

__all__ = ["JsonLogger"]

_LEVELS = {
    LogLevel.DEBUG: 20,
    LogLevel.INFO: 30,
    LogLevel.WARN: 40,
    LogLevel.ERROR: 50,
    LogLevel.FATAL: 60,
}
# JSON escapes the others itself. These could drive a terminal, or break the line for some readers.
_UNSAFE = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class JsonLogger(StreamLogger):
    """Writes to standard output only.

    Metadata becomes keys beside those of the line, which it cannot replace; :class:`MetadataCleaner` says
    what of it is written. Option ``redact`` names more that is not.
    """

    description = "json logger"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._process = {"pid": os.getpid(), "hostname": socket.gethostname()}
        self._cleaner = MetadataCleaner(self.options.get("redact") or ())

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Write one line, whatever the level that is set."""
        self.output(sys.stdout).write(self._line(level, event, message, meta))
        if level >= LogLevel.FATAL:
            self.flush()

    def lost_line(self, count: int) -> bytes:
        """See :class:`StreamLogger`."""
        return self._line(LogLevel.WARN, "LOG_LINES_LOST", lost_text(count), None)

    def _line(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None) -> bytes:
        line = {
            "level": _LEVELS[LogLevel(level)],
            "time": int(time.time() * 1000),
            **self._process,
            "event": plain_text(event),
            "message": plain_text(message),
        }
        if meta:
            line = {**line, **self._cleaner.clean(meta), **line}
        return _UNSAFE.sub(_escape, orjson.dumps(line).decode()).encode() + b"\n"


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
