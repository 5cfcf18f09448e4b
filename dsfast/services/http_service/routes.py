"""Which path of the port is answered by whom (http.md sections 1 and 2, plugins.md B.14)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from dsfast._core.json_text import dumps
from dsfast.plugin import HttpError, HttpMeta

__all__ = ["HttpError", "HttpMeta", "HttpResponse", "Request", "Routes", "json_answer", "text_answer"]

HttpResponse = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""

END = b"\r\n\r\n"
"""Every answer ends so, as upstream's do."""


class Request(Protocol):
    """A complete HTTP request."""

    method: str
    target: bytes
    headers: dict[str, str]
    body: bytearray


GetHandler = Callable[[HttpMeta], Any]
"""Answers a GET with a JSON value, an :class:`HttpResponse`, or an awaitable of one; None is an empty 200."""


def text_answer(status: int, text: str) -> HttpResponse:
    """A text as upstream sends it."""
    return status, {"Content-Type": "text/plain; charset=utf-8"}, text.encode() + END


def json_answer(value: Any) -> HttpResponse:
    """A JSON value with status 200; nothing for None."""
    body = b"" if value is None else dumps(value) + END
    return 200, {"Content-Type": "application/json; charset=utf-8"}, body


class Routes:
    """Handlers by the beginning of the path; the longest one counts, and it ends at a ``/`` or at the end."""

    def __init__(self) -> None:
        self._handlers: dict[str, dict[str, GetHandler]] = {}

    def add(self, method: str, prefix: str, handler: Callable[..., Any]) -> None:
        """Raises ValueError if the prefix is taken."""
        handlers = self._handlers.setdefault(method, {})
        if prefix in handlers:
            raise ValueError(f"{method} {prefix} is answered by somebody else already")
        handlers[prefix] = handler

    def find(self, method: str, path: str) -> Callable[..., Any] | None:
        """The handler of a path (without its query)."""
        handlers = self._handlers.get(method, {})
        while path not in handlers:
            path, slash, _ = path.rpartition("/")
            if not slash:
                return None
        return handlers[path]


def answer_of(result: Any) -> HttpResponse | Awaitable[HttpResponse]:
    """What a handler returned as a response, or as something to wait for."""
    if inspect.isawaitable(result):
        return _awaited(result)
    return result if isinstance(result, tuple) else json_answer(result)


async def _awaited(result: Awaitable[Any]) -> HttpResponse:
    value = await result
    return value if isinstance(value, tuple) else json_answer(value)
