"""One connection: commands go out once per turn of the event loop, answers come in the same order."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from msgspec import Struct

__all__ = ["NOTHING", "Address", "Command", "Link", "Reader", "Refused", "ServerError", "open_link"]

NOTHING = object()
"""What a reader gives when it has no complete answer."""


class ServerError(Exception):
    """The server answered with an error, or with something that cannot be understood."""


class Refused(ServerError):
    """The server does not want us (wrong password, wrong certificate). Trying again does not help."""


class Address(Struct, frozen=True):
    """Where a server listens: a host and port, or a Unix socket (``port`` 0)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Reader(Protocol):
    """Cuts what arrives into answers."""

    def feed(self, data: bytes) -> None:
        """More bytes have arrived."""

    def gets(self) -> Any:
        """The next answer (an error is an Exception), or :data:`NOTHING`.

        Raises ServerError or ValueError for what is no answer at all.
        """


class Command:
    """One command on its way. ``done(reply)`` is called once: an answer, or an Exception."""

    __slots__ = ("deadline", "done", "lane", "number", "packed", "tries")

    def __init__(self, packed: bytes, done: Callable[[Any], None] | None) -> None:
        self.packed = packed
        self.done = done
        self.lane: Any = None
        self.number = 0
        self.deadline = 0.0
        self.tries = 0


OnReply = Callable[[Command, Any], None]
OnLost = Callable[["Link", list[Command], Exception], None]


class Link(asyncio.Protocol):
    """A connection.

    ``on_reply(command, reply)`` is called for each answer, ``on_lost(link, unanswered, error)`` once at the
    end.
    """

    def __init__(self, address: Address, reader: Reader, on_reply: OnReply, on_lost: OnLost) -> None:
        self.address = address
        self.last_received = 0.0
        self.lost: Exception | None = None
        """Why the connection has ended; None as long as it has not."""
        self.pending: deque[Command] = deque()
        self._reader = reader
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._scheduled = False
        self._transport: asyncio.Transport | None = None
        self._why: Exception | None = None

    def send(self, command: Command) -> None:
        """Queue a command; it is written at the end of this turn of the loop, together with all others."""
        self.pending.append(command)
        self._out.append(command.packed)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def call(self, packed: bytes) -> asyncio.Future[Any]:
        """Send one command of the connection itself; the answer, an error raised as ServerError."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                is_ours = isinstance(reply, (OSError, ServerError))
                future.set_exception(reply if is_ours else ServerError(str(reply)))
            else:
                future.set_result(reply)

        self.send(Command(packed, done))
        return future

    def abort(self, why: Exception) -> None:
        """End the connection now."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection after what was sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        self._scheduled = False
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from nothing
        self.last_received = self._loop.time()
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.last_received = self._loop.time()
        reader, pending, on_reply = self._reader, self.pending, self._on_reply
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not NOTHING:
                if not pending:
                    raise ServerError("an answer to nothing")
                on_reply(pending.popleft(), reply)
        except (ServerError, ValueError) as error:
            self.abort(ServerError(f"an answer that cannot be understood: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        unanswered, self.pending = list(self.pending), deque()
        self._transport = None
        self.lost = self._why or exc or ConnectionError("the server closed the connection")
        self._on_lost(self, unanswered, self.lost)


async def open_link(
    make: Callable[[], Link],
    address: Address,
    greet: Callable[[Link], Any],
    *,
    timeout: float,
    family: int = 0,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> Link:
    """A connection after ``await greet(link)``, all within ``timeout`` seconds.

    ``family`` is 4, 6, or 0 for both. Raises OSError (TimeoutError included), ServerError or Refused.
    """
    loop = asyncio.get_running_loop()
    made: list[Link] = []

    def remember() -> Link:
        made.append(make())
        return made[-1]

    try:
        async with asyncio.timeout(timeout):
            if address.port:
                await loop.create_connection(
                    remember,
                    address.host,
                    address.port,
                    ssl=tls,
                    server_hostname=None if tls is None else server_name or address.host,
                    family={0: 0, 4: socket.AF_INET, 6: socket.AF_INET6}[family],
                )
            else:
                await loop.create_unix_connection(remember, address.host)
            await greet(made[0])
    except BaseException as error:
        for link in made:
            link.abort(error if isinstance(error, Exception) else ConnectionError("given up"))
        if isinstance(error, ssl.SSLCertVerificationError):
            raise Refused(f"{address}: {error}") from error
        if isinstance(error, TimeoutError) and not str(error):
            raise TimeoutError(f"no answer within {timeout * 1000:g} ms") from None
        raise
    return made[0]
