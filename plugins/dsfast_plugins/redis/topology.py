"""Where the Redis server of a record is: at a fixed address, where the sentinels say, or in a cluster."""

from __future__ import annotations

import binascii
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import hiredis

from dsfast_plugins.pipeline import Address, Link, Refused, ServerError
from dsfast_plugins.redis.options import RedisOptions

__all__ = ["SHARDS", "Cluster", "Sentinels", "Standalone", "Topology", "pack", "topology"]

SHARDS = 16
"""Parts of the records in a Redis Cluster; the keys of each share a hash tag (cluster.md 2.2)."""

SLOTS = 16384

Opener = Callable[..., Awaitable[Link]]


class Topology(ABC):
    """Finds servers. ``lanes`` is the number of parts of the records that may live at different addresses."""

    lanes = 1
    description = ""

    @abstractmethod
    async def refresh(self, connect: Opener) -> None:
        """Find out where everything is. Raises OSError, TimeoutError, ServerError or Refused."""

    @abstractmethod
    def address(self, lane: int) -> Address | None:
        """Where a part is, as of the last refresh; None if nobody has it."""

    async def check(self, link: Link) -> None:  # noqa: B027 - an optional hook
        """Raise ServerError if a new connection has not reached what it should have."""

    def moved(self, lane: int, address: Address) -> None:  # noqa: B027 - an optional hook
        """A server says that a part is elsewhere now."""


class Standalone(Topology):
    """One server at an address that never changes."""

    def __init__(self, options: RedisOptions) -> None:
        self._address = (
            Address(options.path, 0) if options.path is not None else Address(options.host, options.port)
        )
        self.description = str(self._address)

    async def refresh(self, connect: Opener) -> None:
        """Nothing to find out."""

    def address(self, lane: int) -> Address:
        """Always the same."""
        return self._address


class Sentinels(Topology):
    """The primary that the sentinels name; asked again at every new connection."""

    def __init__(self, options: RedisOptions) -> None:
        assert options.sentinels
        self._group = options.name
        self._sentinels = [
            (Address(sentinel.host, sentinel.port), sentinel.password) for sentinel in options.sentinels
        ]
        self._primary: Address | None = None
        self.description = f"{self._group} of sentinel {self._sentinels[0][0]}"

    async def refresh(self, connect: Opener) -> None:
        """Ask one sentinel after the other; the one that answered is asked first the next time."""
        errors: list[Exception] = []
        for index, (address, password) in enumerate(self._sentinels):
            try:
                found = await _ask(
                    connect(address, sentinel=True, password=password),
                    "SENTINEL", "get-master-addr-by-name", self._group,
                )  # fmt: skip
            except (OSError, ServerError) as error:
                errors.append(error)
                continue
            if found is None:
                errors.append(ServerError(f"sentinel {address} knows no {self._group}"))
                continue
            self._primary = Address(found[0].decode(), int(found[1]))
            self._sentinels.insert(0, self._sentinels.pop(index))
            return
        raise _worst(errors)

    def address(self, lane: int) -> Address | None:
        """The primary."""
        return self._primary

    async def check(self, link: Link) -> None:
        """A server that was the primary a moment ago may have become a replica."""
        role = (await link.call(pack(("ROLE",))))[0]
        if role != b"master":
            raise ServerError(f"{link.address} is no primary but a {role.decode()}")


class Cluster(Topology):
    """The primaries of a Redis Cluster. Records are spread over :data:`SHARDS` hash tags."""

    lanes = SHARDS

    def __init__(self, options: RedisOptions) -> None:
        assert options.nodes
        self._seeds = [Address(node.host, node.port) for node in options.nodes]
        self._password = next((node.password for node in options.nodes if node.password), None)
        self._known: list[Address] = []
        self._slots = [
            binascii.crc_hqx(f"{options.prefix}:{shard}".encode(), 0) % SLOTS for shard in range(SHARDS)
        ]
        self._owners: list[Address | None] = [None] * SHARDS
        self.description = f"cluster of {self._seeds[0]}"

    async def refresh(self, connect: Opener) -> None:
        """Ask the nodes that are known, then those of the configuration, until one answers."""
        errors: list[Exception] = []
        for address in dict.fromkeys([*self._known, *self._seeds]):
            try:
                ranges = await _ask(connect(address, password=self._password), "CLUSTER", "SLOTS")
            except (OSError, ServerError) as error:
                if "cluster support disabled" in str(error):
                    error = Refused(f"{address} is no node of a Redis Cluster")
                errors.append(error)
                continue
            self._take(ranges, address)
            return
        raise _worst(errors)

    def _take(self, ranges: Iterable[Any], asked: Address) -> None:
        self._known = []
        owners: list[Address | None] = [None] * SHARDS
        for first, last, primary, *_replicas in ranges:
            host = (primary[0] or b"").decode()
            address = Address(asked.host if host in ("", "?") else host, primary[1])
            self._known.append(address)
            for shard, slot in enumerate(self._slots):
                if first <= slot <= last:
                    owners[shard] = address
        self._owners = owners

    def address(self, lane: int) -> Address | None:
        """The primary that has the slot of a shard."""
        return self._owners[lane]

    def moved(self, lane: int, address: Address) -> None:
        """Believe the server, it is newer than the last refresh."""
        self._owners[lane] = address


def topology(options: RedisOptions) -> Topology:
    """The kind of topology that the options describe."""
    if options.sentinels:
        return Sentinels(options)
    return Cluster(options) if options.nodes else Standalone(options)


def pack(words: Sequence[str | bytes | int]) -> bytes:
    """A command as it travels."""
    packed: bytes = hiredis.pack_command(tuple(words))  # type: ignore[arg-type] # of any length, in truth
    return packed


async def _ask(connecting: Awaitable[Link], *words: str) -> Any:
    link = await connecting
    try:
        return await link.call(pack(words))
    finally:
        link.close()


def _worst(errors: list[Exception]) -> Exception:
    """What to report: a refusal only if nothing else went wrong, since it ends a start."""
    return next((error for error in errors if not isinstance(error, Refused)), errors[0])
