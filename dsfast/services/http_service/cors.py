"""Which pages and hosts may ask, and what browsers are told about it (http.md section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dsfast.services.http_service.routes import TEXT, HttpResponse, text_answer

if TYPE_CHECKING:
    from dsfast.config.schema import HttpServerOptions

__all__ = ["METHODS", "Cors"]

METHODS = "GET, POST, OPTIONS"
HEADERS = "X-Requested-With, X-HTTP-Method-Override, Content-Type, Accept"
"""The headers that upstream supports, which clients may look for in this form."""
SUPPORTED = {name.strip().lower(): name.strip() for name in HEADERS.split(",")}
ALSO_SUPPORTED = {
    "authorization": "Authorization",
    "if-none-match": "If-None-Match",
    "last-event-id": "Last-Event-ID",
}
"""Named to whoever asks for them."""


class Cors:
    """The rules of one port."""

    def __init__(self, options: HttpServerOptions) -> None:
        self._all = options.allow_all_origins
        self._origins = frozenset(origin.rstrip("/") for origin in options.origins)
        host = options.host_url
        # Some write it as an address.
        self._host = None if host is None else host.partition("://")[2].rstrip("/").lower() or host.lower()
        self._for_all = {"Access-Control-Allow-Origin": "*"} if self._all else {}
        self.error_headers = {**TEXT, **self._for_all}
        """Headers of an answer to what is no HTTP request."""

    def refusal(self, headers: Mapping[str, str]) -> HttpResponse | None:
        """The answer to a request from a page that may not ask, or to a host that is not meant."""
        if self._host is not None and headers.get("host", "").lower() != self._host:
            return text_answer(403, "Forbidden Host.")
        if self._all:
            return None
        origin = _origin(headers)
        if not origin:
            text = 'CORS is configured for this. All requests must set a valid "Origin" header.'
            return text_answer(403, text)
        if origin not in self._origins:
            return text_answer(403, f'Origin "{origin}" is forbidden.')
        return None

    def headers(self, request_headers: Mapping[str, str]) -> dict[str, str]:
        """What an answer tells the browser."""
        if self._all:
            return self._for_all
        origin = _origin(request_headers)
        if origin not in self._origins:
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }

    @staticmethod
    def preflight(headers: Mapping[str, str]) -> HttpResponse:
        """The answer to OPTIONS."""
        method = headers.get("access-control-request-method")
        if not method:
            return text_answer(400, 'Missing header "Access-Control-Request-Method".')
        if method not in ("GET", "POST", "OPTIONS"):
            return text_answer(403, f"Method {method} is forbidden. Supported methods: {METHODS}")
        asked = headers.get("access-control-request-headers", "")
        more: list[str] = []
        for name in asked.split(","):
            key = name.strip().lower()
            if key in ALSO_SUPPORTED:
                more.append(ALSO_SUPPORTED[key])
            elif key and key not in SUPPORTED:
                return text_answer(403, f"Header {name} is forbidden. Supported headers: {HEADERS}")
        allowed = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join([HEADERS, *more]),
        }
        return 204, allowed, b""


def _origin(headers: Mapping[str, str]) -> str:
    """The origin of the page that asks: ``Origin``, else that of the address in ``Referer``; else empty."""
    origin = headers.get("origin")
    if origin or not (referer := headers.get("referer")):
        return origin or ""
    try:
        parts = urlsplit(referer)
    except ValueError:
        return referer
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else referer
