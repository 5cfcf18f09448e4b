"""A TCP proxy between a connector and its server that is slow, stalls, cuts and comes back when told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType

from dsfast.testing.plugins import PATIENCE

__all__ = ["FaultProxy"]

CHUNK = 65536


class FaultProxy:
    """``async with FaultProxy(host, port) as proxy``: connect to ``127.0.0.1:proxy.port``.

    ``host`` may also be the path of a Unix socket (``port`` 0). All faults can be combined and changed while
    connections are open.
    """

    def __init__(self, host: str, port: int = 0) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Event()
        self.port = 0
        """Where the proxy listens; the same after :meth:`stop` and :meth:`restart`."""
        self.delay = 0.0
        """Seconds that every chunk is held back, in both directions."""
        self.accepted = 0
        """Connections accepted since the start."""
        self.passed = 0
        """Bytes passed on since the start."""
        self._cut_at: int | None = None

    async def __aenter__(self) -> FaultProxy:
        await self.restart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- faults

    def cut(self) -> None:
        """Reset every open connection; new ones are accepted."""
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def cut_after(self, count: int) -> None:
        """Reset everything once after ``count`` more bytes have passed: in the middle of a message."""
        self._cut_at = self.passed + count

    def stall(self) -> None:
        """Pass nothing on any more, without closing anything; new connections are accepted."""
        self._open.clear()

    def resume(self) -> None:
        """The end of :meth:`stall`; what was held back goes on."""
        self._open.set()

    async def stop(self) -> None:
        """The server is gone: connections are reset, new ones refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)

    async def restart(self) -> None:
        """Accept connections (again)."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def wait_for_connections(self, count: int) -> None:
        """Wait until so many connections have been accepted since the start."""
        async with asyncio.timeout(PATIENCE):
            while self.accepted < count:
                self._changed.clear()
                await self._changed.wait()

    # ---- work

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._changed.set()
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        self._writers.add(writer)
        host, port = self._target
        server = None
        try:
            if port:
                answers, server = await asyncio.open_connection(host, port)
            else:
                answers, server = await asyncio.open_unix_connection(host)
            self._writers.add(server)
            back = asyncio.create_task(self._pump(answers, writer))
            try:
                await self._pump(reader, server)
            finally:
                back.cancel()
                await asyncio.wait([back])
        except (OSError, asyncio.CancelledError):
            pass  # the target is away, or the proxy is stopped: both ends are closed below
        finally:
            self._pumps.discard(task)
            for end in (writer, server):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                if self._cut_at is not None and self.passed + len(data) >= self._cut_at:
                    writer.write(data[: self._cut_at - self.passed])
                    self._cut_at = None
                    self.cut()
                    return
                self.passed += len(data)
                writer.write(data)
                await writer.drain()
        # One direction has ended, so this connection has: half-open ones are of no use to a database client.
        writer.close()
