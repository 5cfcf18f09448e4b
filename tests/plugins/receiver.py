"""A web service of a test: takes what is posted to it, and answers as the test says."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from aiohttp import web

from tests.wire import TIMEOUT


class Posted:
    """One request."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body


class Receiver:
    """``async with Receiver() as receiver``: posts to ``receiver.url``.

    Each request takes the next of ``answers`` (a status, or a response), then 200. ``open`` holds them all
    back while it is cleared.
    """

    def __init__(self) -> None:
        self.answers: deque[int | web.Response] = deque()
        self.body = b""
        self.requests: list[Posted] = []
        self.open = asyncio.Event()
        self.open.set()
        self._came = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, after a :meth:`stop` on the same port."""
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            self.open.set()
            await self._runner.cleanup()
            self._runner = None

    async def wait_for(self, count: int) -> list[Posted]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(TIMEOUT), self._came:
            await self._came.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._came:
            self.requests.append(Posted(request.path, dict(request.headers), body))
            self._came.notify_all()
        await self.open.wait()
        answer = self.answers.popleft() if self.answers else 200
        return web.Response(status=answer, body=self.body) if isinstance(answer, int) else answer
