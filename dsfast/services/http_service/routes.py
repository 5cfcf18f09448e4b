"""Which path of the port is answered by whom (http.md sections 1 and 2, plugins.md B.14)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from dsfast._core.connection import Connection
from dsfast._core.json_text import dumps
from dsfast.plugin import HttpMeta
from dsfast.services.http_service.bodies import BodyError, read_json

__all__ = [
    "JSON",
    "HttpResponse",
    "Request",
    "Route",
    "Routes",
    "finished",
    "get_route",
    "json_answer",
    "post_route",
    "text_answer",
]

HttpResponse = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""

END = b"\r\n\r\n"
"""Every answer ends so, as upstream's do."""
JSON = {"Content-Type": "application/json; charset=utf-8"}
TEXT = {"Content-Type": "text/plain; charset=utf-8"}


class Request(Protocol):
    """A complete HTTP request."""

    method: str
    target: bytes
    headers: dict[str, str]
    body: bytearray


Route = Callable[[Connection, Request], HttpResponse | Awaitable[HttpResponse] | None]
"""Answers a request, or gives something to wait for, or None: then it will answer through the connection."""


def text_answer(status: int, text: str) -> HttpResponse:
    """A text as upstream sends it."""
    return status, TEXT, text.encode("utf-8", "replace") + END


def json_answer(value: Any) -> HttpResponse:
    """A JSON value with status 200; nothing for None."""
    return 200, JSON, b"" if value is None else dumps(value) + END


class Routes:
    """Routes by the beginning of the path; the longest one counts, and it ends at a ``/`` or at the end."""

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, Route]] = {}

    def add(self, method: str, prefix: str, route: Route) -> None:
        """Raises ValueError if the prefix is taken."""
        routes = self._routes.setdefault(method, {})
        if prefix in routes:
            raise ValueError(f"{method} {prefix} is answered by somebody else already")
        routes[prefix] = route

    def find(self, method: str, path: str) -> Route | None:
        """The route of a path (without its query)."""
        routes = self._routes.get(method, {})
        while path not in routes:
            path, slash, _ = path.rpartition("/")
            if not slash:
                return None
        return routes[path]


def get_route(handler: Callable[[HttpMeta], Any]) -> Route:
    """The route for a handler of GET requests."""

    def answer(connection: Connection, request: Request) -> HttpResponse | Awaitable[HttpResponse]:
        return finished(handler(_meta(request)))

    return answer


def post_route(handler: Callable[[Any, HttpMeta], Any], limit: int) -> Route:
    """The route for a handler of POST requests with a JSON body of at most ``limit`` bytes."""

    def answer(connection: Connection, request: Request) -> HttpResponse | Awaitable[HttpResponse]:
        try:
            data = read_json(request.headers, request.body, limit)
        except BodyError as error:
            return text_answer(error.status, str(error))
        return finished(handler(data, _meta(request)))

    return answer


def finished(result: Any) -> HttpResponse | Awaitable[HttpResponse]:
    """What a handler returned as a response, or as something to wait for. May raise :class:`HttpError`."""
    if inspect.isawaitable(result):
        return _awaited(result)
    return result if isinstance(result, tuple) else json_answer(result)


async def _awaited(result: Awaitable[Any]) -> HttpResponse:
    value = await result
    return value if isinstance(value, tuple) else json_answer(value)


def _meta(request: Request) -> HttpMeta:
    return HttpMeta(request.headers, request.target.decode("latin-1"))
