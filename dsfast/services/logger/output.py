"""Log lines on a standard stream that may be closed, full, or read by nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TextIO

__all__ = ["Output"]

MAX_WAITING = 1 << 20
"""Bytes that wait for a reader; lines beyond are lost, and counted."""
RETRY = 0.05
"""Seconds until the next attempt while bytes wait and no line is written."""
LAST_CHANCE = 0.25
"""Seconds that the reader has, at most, to take what waits when the process is about to end."""


class Output:
    """Writes lines without ever waiting for their reader.

    A pipe or a terminal that nobody reads is full at some time, and an ordinary write would then stop the
    server for ever. Here a line that does not fit waits in memory, and beyond ``MAX_WAITING`` bytes it is
    lost; ``lost_line(n)`` makes the line that tells so when the reader is back. A stream that is closed loses
    its lines and nothing else. Threads may share an output.
    """

    def __init__(self, stream: TextIO | None, lost_line: Callable[[int], bytes]) -> None:
        self.stream = stream
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"
        self.is_terminal = False
        self._fd: int | None = None
        self._poll = select.poll()
        self._lost_line = lost_line
        self._lost = 0
        self._waiting = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()
        # A stream may be closed, or have no descriptor (that of a test, of a notebook).
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                self.is_terminal = stream.isatty()
                self._fd = stream.fileno()
        if self.is_terminal:
            self._fd = self._own_terminal(self._fd)
        if self._fd is not None:
            self._poll.register(self._fd, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Write a line, which ends with its line break; returns at once."""
        if self._fd is None:
            self._write_text(line)
            return
        with self._lock:
            if self._waiting:
                self._send_waiting()
            if not self._waiting:
                self._waiting += line
                self._send_waiting()
            elif len(self._waiting) + len(line) <= MAX_WAITING:
                self._waiting += line
            else:
                self._lost += 1
            if self._waiting:
                self._schedule()

    def flush(self) -> None:
        """Give the reader a last chance to take what waits; takes at most ``LAST_CHANCE`` seconds."""
        deadline = monotonic() + LAST_CHANCE
        with self._lock:
            while self._waiting and (left := deadline - monotonic()) > 0:
                self._poll.poll(left * 1000)
                self._send_waiting()

    def close(self) -> None:
        """Flush, and end the attempts. The stream stays open: it belongs to the process."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()

    def _own_terminal(self, fd: int | None) -> int | None:
        """A descriptor for the terminal that does not block.

        A terminal is called writable when it can take a single byte, and the flag cannot be set on a
        descriptor that the shell has too.
        """
        try:
            own = os.open(os.ttyname(-1 if fd is None else fd), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return fd
        weakref.finalize(self, os.close, own)
        return own

    def _send_waiting(self) -> None:
        """Write what waits as far as the stream takes it without blocking."""
        assert self._fd is not None
        try:
            # What poll calls writable takes at least PIPE_BUF bytes at once.
            while self._waiting and self._poll.poll(0):
                del self._waiting[: os.write(self._fd, self._waiting[: select.PIPE_BUF])]
                if not self._waiting and self._lost:
                    self._waiting += self._lost_line(self._lost)
                    self._lost = 0
        except BlockingIOError:
            # Somebody else has made the stream non-blocking.
            pass
        except OSError:
            self._waiting.clear()

    def _schedule(self) -> None:
        if self._timer is None:
            # Outside of an event loop, the next line is the next attempt.
            with contextlib.suppress(RuntimeError):
                self._timer = asyncio.get_running_loop().call_later(RETRY, self._retry)

    def _retry(self) -> None:
        self._timer = None
        with self._lock:
            self._send_waiting()
            if self._waiting:
                self._schedule()

    def _write_text(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.stream is not None:
                self.stream.write(line.decode(self.encoding))
                self.stream.flush()
