"""The client of Redis servers: logging in, and what their errors mean."""

from __future__ import annotations

from typing import Any

import hiredis

from dsfast.plugin import Logger
from dsfast_plugins.pipeline import Action, Address, Client, Limits, Link, Refused, ServerError, open_link
from dsfast_plugins.pipeline.link import NOTHING
from dsfast_plugins.redis.options import RedisOptions
from dsfast_plugins.redis.topology import pack, topology
from dsfast_plugins.tls import tls_context

__all__ = ["RedisClient", "pack"]

_LATER = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "ASK")
"""Errors that go away by themselves.

ASK and TRYAGAIN come while a slot is being moved: our commands have several keys, and Redis carries those out
only before and after.
"""

_REFUSALS = (
    "WRONGPASS", "NOAUTH", "NOPERM", "DENIED", "ERR invalid password", "ERR Client sent AUTH", "ERR AUTH",
    "ERR DB index", "ERR invalid DB index",
)  # fmt: skip


class RedisClient(Client):
    """One server, the primary that sentinels name, or the primaries of a cluster."""

    name = "redis"

    def __init__(self, options: RedisOptions, timeout: float, logger: Logger) -> None:
        limits = Limits(
            timeout=timeout,
            connect_timeout=options.connect_timeout / 1000,
            max_queue_bytes=options.max_queue_bytes,
            max_retries=options.max_retries_per_request,
            max_redirections=options.max_redirections,
            queue_while_away=options.enable_offline_queue,
        )
        self._options = options
        self._tls = tls_context(options.tls)
        self._sentinel_tls = tls_context(options.sentinel_tls)
        self._topology = topology(options)
        self.description = self._topology.description
        super().__init__(self._topology.lanes, limits, logger)

    async def refresh(self) -> None:
        """Ask sentinels or nodes where the primaries are."""
        await self._topology.refresh(self._open)

    def address(self, lane: int) -> Address | None:
        """Where a part of the records is."""
        return self._topology.address(lane)

    async def connect(self, address: Address) -> Link:
        """A connection to what should be a primary."""
        link = await self._open(address)
        try:
            await self._topology.check(link)
        except BaseException:
            link.close()
            raise
        return link

    def judge(self, lane: int, error: Exception) -> Action:
        """The first word of an error says what it means."""
        code, _, rest = str(error).partition(" ")
        if code == "MOVED" and len(self._lanes) > 1:
            host, _, port = rest.rpartition(" ")[2].rpartition(":")
            self._topology.moved(lane, Address(host, int(port)))
            return Action.ELSEWHERE
        if code == "READONLY":  # no primary any more
            return Action.RECONNECT
        return Action.LATER if code in _LATER else Action.FAIL

    async def _open(self, address: Address, *, sentinel: bool = False, password: str | None = None) -> Link:
        options = self._options
        given = options.sentinel_tls if sentinel else options.tls

        def make() -> Link:
            reader = hiredis.Reader(notEnoughData=NOTHING, protocolError=ValueError, replyError=ServerError)
            return Link(address, reader, self.on_reply, self.on_lost)

        async def greet(link: Link) -> None:
            await _log_in(link, options, sentinel, password)

        return await open_link(
            make,
            address,
            greet,
            timeout=options.connect_timeout / 1000,
            family=options.family,
            tls=self._sentinel_tls if sentinel else self._tls,
            server_name=given.get("servername") if isinstance(given, dict) else None,
        )


async def _log_in(link: Link, options: RedisOptions, sentinel: bool, password: str | None) -> None:
    user = options.sentinel_username if sentinel else options.username
    secret = options.sentinel_password if sentinel else options.password
    secret = secret if password is None else password
    commands: list[tuple[Any, ...]] = []
    if secret:
        commands.append(("AUTH", user, secret) if user else ("AUTH", secret))
    if options.connection_name:
        commands.append(("CLIENT", "SETNAME", options.connection_name))
    if options.db and not sentinel:
        commands.append(("SELECT", options.db))
    try:
        for command in (*commands, ("PING",)):
            await link.call(pack(command))
    except ServerError as error:
        if not str(error).startswith(_REFUSALS):
            raise
        raise Refused(f"{link.address} refuses the connection: {error}") from error
