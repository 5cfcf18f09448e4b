"""Plain HTTP on the port of the endpoints: the health check, clear answers to everything else (http.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["HttpResponse", "HttpRoutes", "Request"]

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


class HttpRoutes:
    """Which path is answered how."""

    def __init__(
        self, health_check_path: str, trouble: Callable[[], tuple[int, bytes] | None], every_origin: bool
    ) -> None:
        """``trouble()`` tells the status and body of the health check while something is wrong."""
        self._health_check_path = health_check_path.encode()
        self._trouble = trouble
        self._every_origin = every_origin

    def answer(self, request: Request) -> HttpResponse:
        """The answer to one request; the query of the target does not matter."""
        if request.method not in ("GET", "POST"):
            return self._text(405, "Unsupported method. Supported methods: GET, POST, OPTIONS")
        if request.method == "GET" and request.target.partition(b"?")[0] == self._health_check_path:
            status, body = self._trouble() or (200, b"")
            return status, self._headers("application/json; charset=utf-8"), body
        return self._text(404, "Endpoint not found.")

    def _text(self, status: int, text: str) -> HttpResponse:
        return status, self._headers("text/plain; charset=utf-8"), text.encode() + END

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Content-Type": content_type}
        if self._every_origin:
            headers["Access-Control-Allow-Origin"] = "*"
        return headers
