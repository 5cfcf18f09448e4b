"""One connection to a Redis server: commands go out once per turn of the loop, answers come in order."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from dsfast_plugins.redis.options import Address, RedisOptions

__all__ = ["Command", "Link", "RedisError", "Refused", "connect", "pack"]

_NOTHING = object()
"""What the parser gives when it has no complete answer."""


_REFUSALS = (
    "WRONGPASS", "NOAUTH", "NOPERM", "DENIED", "ERR invalid password", "ERR Client sent AUTH", "ERR AUTH",
    "ERR DB index", "ERR invalid DB index",
)  # fmt: skip


class RedisError(Exception):
    """The server answered with an error, or gave no answer that can be understood."""


class Refused(RedisError):
    """The server does not want us: wrong password, unknown database. Trying again does not help."""


def pack(words: Sequence[str | bytes | int]) -> bytes:
    """A command as it travels."""
    packed: bytes = hiredis.pack_command(tuple(words))  # type: ignore[arg-type] # of any length, in truth
    return packed


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


class Link(asyncio.Protocol):
    """A connection.

    ``on_reply(command, reply)`` is called for each answer, ``on_lost(link, unanswered, error)`` once at the
    end.
    """

    def __init__(
        self,
        address: Address,
        on_reply: Callable[[Command, Any], None],
        on_lost: Callable[[Link, list[Command], Exception], None],
    ) -> None:
        self.address = address
        self.last_received = 0.0
        self.pending: deque[Command] = deque()
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
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

    def call(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        """Send one command of the connection itself; the answer, errors raised as RedisError."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(
                    RedisError(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply
                )
            else:
                future.set_result(reply)

        self.send(Command(pack(words), done))
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
            while (reply := reader.gets()) is not _NOTHING:
                if not pending:
                    raise hiredis.ProtocolError("an answer to nothing")
                on_reply(pending.popleft(), reply)
        except hiredis.ProtocolError as error:
            self.abort(RedisError(f"this is no Redis server: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        unanswered, self.pending = list(self.pending), deque()
        self._transport = None
        self._on_lost(
            self, unanswered, self._why or exc or ConnectionError("the server closed the connection")
        )


async def connect(
    address: Address,
    options: RedisOptions,
    tls: ssl.SSLContext | None,
    on_reply: Callable[[Command, Any], None],
    on_lost: Callable[[Link, list[Command], Exception], None],
    *,
    sentinel: bool = False,
    password: str | None = None,
) -> Link:
    """A connection that has logged in. Raises OSError, TimeoutError, RedisError, or Refused."""
    loop = asyncio.get_running_loop()
    made: list[Link] = []

    def make() -> Link:
        made.append(Link(address, on_reply, on_lost))
        return made[-1]

    try:
        async with asyncio.timeout(options.connect_timeout / 1000):
            if address.port:
                name = None if tls is None else _server_name(options, address)
                family = {0: 0, 4: socket.AF_INET, 6: socket.AF_INET6}[options.family]
                await loop.create_connection(
                    make, address.host, address.port, ssl=tls, server_hostname=name, family=family
                )
            else:
                await loop.create_unix_connection(make, address.host)
            await _log_in(made[0], options, sentinel, password)
    except BaseException as error:
        for link in made:
            link.abort(error if isinstance(error, Exception) else ConnectionError("given up"))
        if isinstance(error, ssl.SSLCertVerificationError):
            raise Refused(f"{address}: {error}") from error
        if isinstance(error, TimeoutError) and not str(error):
            raise TimeoutError(f"no answer within {options.connect_timeout} ms") from None
        raise
    return made[0]


def _server_name(options: RedisOptions, address: Address) -> str:
    name = options.tls.get("servername") if isinstance(options.tls, dict) else None
    return str(name or address.host)


async def _log_in(link: Link, options: RedisOptions, sentinel: bool, password: str | None) -> None:
    user = options.sentinel_username if sentinel else options.username
    secret = options.sentinel_password if sentinel else options.password
    secret = secret if password is None else password
    try:
        if secret:
            await (link.call("AUTH", user, secret) if user else link.call("AUTH", secret))
        if options.connection_name:
            await link.call("CLIENT", "SETNAME", options.connection_name)
        if options.db and not sentinel:
            await link.call("SELECT", options.db)
        await link.call("PING")
    except RedisError as error:
        if not str(error).startswith(_REFUSALS):
            raise
        raise Refused(f"{link.address} refuses the connection: {error}") from error
