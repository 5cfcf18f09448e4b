"""The elements of one HTTP request while they are worked on (http.md section 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dsfast._core.connection import Connection, Endpoint, VirtualConnection
from dsfast._core.protocol import EventAction, Message, RecordAction, Topic
from dsfast.endpoints.http.answers import SUCCESS, Answers
from dsfast.plugin import UNSET

__all__ = ["Batch", "Login"]

SLICE = 500
"""Elements begun in one turn of the loop, so that a long batch does not stop everybody else."""
MAX_ANSWER = 64 << 20
"""Bytes of answers from which on nothing more is begun."""
FENCE = Message(Topic.EVENT, EventAction.UNSUBSCRIBE, names=[])
"""Has no effect and is acknowledged, after what was sent before has been decided about."""
TIMED_OUT = Answers.cut_off(
    "Request exceeded timeout before a response was received.", "HTTP_REQUEST_TIMEOUT"
)
TOO_LARGE = Answers.cut_off("The answers before this one are too large already.", "RESPONSE_TOO_LARGE")


@dataclass(frozen=True, slots=True)
class Login:
    """Who sent a request."""

    user_id: str | None
    server_data: Any = None
    client_data: Any = UNSET
    ends_in: int | None = None
    """Milliseconds."""
    connection_data: dict[str, Any] = field(default_factory=dict)


class Batch:
    """Runs messages as one user and collects the answers.

    Each message has a connection of its own, so that a slow one keeps nobody waiting and every answer is that
    of its message. :meth:`start` returns the body of the answer, or None: then ``on_done(body)`` follows.
    """

    def __init__(
        self,
        core: Endpoint,
        answers: Answers,
        login: Login,
        messages: list[Message],
        on_done: Callable[[bytes], None],
    ) -> None:
        self._core = core
        self._answers = answers
        self._login = login
        self._messages = messages
        self._on_done = on_done
        self._slots: list[bytes | None] = [None] * len(messages)
        self._connections: list[VirtualConnection] = []
        self._open = len(messages)
        self._failures = 0
        self._size = 0
        self._conflicts: dict[int, Message] = {}
        self._waiting = False  # start() has returned
        self._timer: asyncio.TimerHandle | None = None
        self._next: asyncio.Handle | None = None

    def start(self, timeout: float, on_timeout: Callable[[], None]) -> bytes | None:
        """Begin. What has no answer after ``timeout`` seconds is told so, and ``on_timeout`` is called."""
        self._run()
        if not self._open:
            return self._finish()
        self._waiting = True
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(timeout, self._time_out, on_timeout)
        return None

    def abandon(self, connection: Connection) -> None:
        """Nobody waits for the answer any more. What was begun takes effect."""
        self._stop()

    def _run(self) -> None:
        begin = len(self._connections)
        end = min(begin + SLICE, len(self._messages))
        for index in range(begin, end):
            self._begin(index)
        if end < len(self._messages):
            self._next = asyncio.get_running_loop().call_soon(self._run)
        elif not self._open and self._waiting:
            self._complete_soon()

    def _begin(self, index: int) -> None:
        login = self._login
        connection = VirtualConnection(
            self._core,
            partial(self._take, index),
            user_id=login.user_id,
            server_data=login.server_data,
            client_data=login.client_data,
            handshake=login.connection_data,
        )
        self._connections.append(connection)
        if self._size > MAX_ANSWER:
            self._fill(index, False, TOO_LARGE)
            return
        message = self._messages[index]
        connection.handle(message)
        if message.topic == Topic.EVENT and self._slots[index] is None:
            # Nothing comes back for an event that is permitted.
            if connection.lane is None and not connection.held:
                self._fill(index, True, SUCCESS)
            else:
                connection.handle(FENCE)

    def _take(self, index: int, message: Message) -> None:
        """A message for the sender of an element."""
        if self._slots[index] is not None:
            return  # it has had its answer
        conflict = self._conflicts.get(index)
        if conflict is not None:
            found = message.action == RecordAction.READ_RESPONSE
            version, data = (message.version or 0, message.data) if found else (conflict.version or 0, None)
            asked = self._messages[index].version or 0
            self._fill(index, False, self._answers.conflict(conflict, asked, version, data))
            return
        if message.topic == Topic.PARSER:
            self._fill(index, False, self._answers.disabled(self._messages[index].topic))
            return
        if message.topic == Topic.RECORD and message.action == RecordAction.INVALID_VERSION:
            # What is there may only be told to those who may read it.
            self._conflicts[index] = message
            self._connections[index].handle(Message(Topic.RECORD, RecordAction.READ, name=message.name))
            return
        answer = self._answers.final(message)
        if answer is not None:
            self._fill(index, *answer)

    def _fill(self, index: int, success: bool, element: bytes) -> None:
        self._slots[index] = element
        self._size += len(element)
        self._failures += not success
        self._open -= 1
        if not self._open and self._waiting:
            self._complete_soon()

    def _time_out(self, on_timeout: Callable[[], None]) -> None:
        on_timeout()
        for index, element in enumerate(self._slots):
            if element is None:
                self._slots[index] = TIMED_OUT
                self._failures += 1
        self._open = 0
        self._complete()

    def _complete_soon(self) -> None:
        # Not now: this may be called in the middle of a step of a record.
        self._waiting = False
        self._next = asyncio.get_running_loop().call_soon(self._complete)

    def _complete(self) -> None:
        self._on_done(self._finish())

    def _finish(self) -> bytes:
        self._stop()
        if not self._failures:
            result = b"SUCCESS"
        elif self._failures == len(self._slots):
            result = b"FAILURE"
        else:
            result = b"PARTIAL_SUCCESS"
        elements = b",".join(element or b"" for element in self._slots)
        return b'{"result":"%b","body":[%b]}' % (result, elements)

    def _stop(self) -> None:
        self._waiting = False
        if self._timer is not None:
            self._timer.cancel()
        if self._next is not None:
            self._next.cancel()
        for connection in self._connections:
            connection.end()
