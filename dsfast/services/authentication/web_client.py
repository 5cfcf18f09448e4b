"""The server's own HTTP requests, to webhooks and for key sets.

aiohttp is loaded by the first authentication that asks somebody, so that nobody else pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "WebClient", "WebError", "shown_url"]

KEEP_ALIVE = 4.0
"""Seconds an idle connection is kept: less than the 5 s after which common servers close them, since a
request that meets the closing is lost."""
MAX_CONNECTIONS = 100


class WebError(Exception):
    """There is no usable answer; the text is for the log and contains nothing that was sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``content_type`` is in lower case without parameters, empty if there is none."""

    status: int
    content_type: str
    charset: str | None
    body: bytes

    def text(self) -> str:
        """The body as text; what is not valid in its charset is replaced."""
        try:
            return self.body.decode(self.charset or "utf-8", "replace")
        except LookupError:
            return self.body.decode("utf-8", "replace")


class WebClient:
    """Requests with kept connections, without redirects and cookies, and with bounded answers.

    ``timeout`` (ms) holds for connecting, for the first byte, and for each pause between two pieces of the
    answer; the whole takes at most three times as long. ``max_size`` bytes of body are read at most.
    """

    def __init__(self, *, timeout: int, max_size: int) -> None:
        self._timeout = timeout / 1000
        self._max_size = max_size
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request. Raises :class:`WebError`."""
        import aiohttp  # noqa: PLC0415 - only loaded where it is used

        if self._closed:
            raise WebError("the server is stopping")
        session = self._session or self._open()
        try:
            async with session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return Answer(
                    response.status,
                    response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                    response.charset,
                    await self._read(response.content),
                )
        except TimeoutError:
            raise WebError(f"no answer within {self._timeout * 1000:g} ms") from None
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise WebError(f"{type(error).__name__}: {error}") from None

    async def close(self) -> None:
        """End all connections."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415 - only loaded where it is used

        limit = self._timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=3 * limit, connect=limit, sock_read=limit),
            # What one user's answer sets must not be sent with the next user's request.
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        parts: list[bytes] = []
        left = self._max_size
        async for part in content.iter_any():
            left -= len(part)
            if left < 0:
                raise WebError(f"the answer is larger than {self._max_size} bytes")
            parts.append(part)
        return b"".join(parts)


def shown_url(url: str) -> str:
    """A URL for people: without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
