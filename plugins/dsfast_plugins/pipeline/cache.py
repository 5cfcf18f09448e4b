"""A cache whose calls of one turn of the loop are joined into few commands."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsfast.plugin import Cache, PluginError
from dsfast_plugins.pipeline.client import Client

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["Batch", "PipelinedCache", "Result", "answer", "answer_all"]

BYTES_PER_BATCH = 4 << 20

Result = asyncio.Future[Any]


class Batch:
    """Calls of one lane that are not sent yet, by key (the record's name in UTF-8).

    Sent in the order sets, deletes, gets; a call for which that would be wrong begins a new batch.
    """

    __slots__ = ("bytes", "deletes", "gets", "sets")

    def __init__(self) -> None:
        self.sets: dict[bytes, tuple[int, bytes, list[Result]]] = {}
        self.deletes: dict[bytes, list[Result]] = {}
        self.gets: dict[bytes, list[Result]] = {}
        self.bytes = 0


class PipelinedCache(Cache):
    """Base of such a cache. A lane is what one connection keeps in order; several servers have several."""

    names_per_command = 1000

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._batches: list[Batch] = []
        self._scheduled = False
        self._client: Client | None = None

    @abstractmethod
    def lane(self, key: bytes) -> int:
        """The lane of a record."""

    @abstractmethod
    def send_sets(self, lane: int, sets: dict[bytes, tuple[int, bytes, list[Result]]]) -> None:
        """Send writes: version, JSON text and who waits."""

    @abstractmethod
    def send_deletes(self, lane: int, deletes: dict[bytes, list[Result]]) -> None:
        """Send deletions."""

    @abstractmethod
    def send_gets(self, lane: int, gets: dict[bytes, list[Result]]) -> None:
        """Send reads; the results are (version, data) or (-1, None)."""

    @abstractmethod
    def encode(self, name: str, version: int, data: Any) -> bytes:
        """What is stored as data. Raises PluginError for what the server cannot keep."""

    async def start(self, client: Client, lanes: int) -> None:
        """Use a client; return when it is connected."""
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._batches = [Batch() for _ in range(lanes)]
        await client.start()

    async def close(self) -> None:
        """Send what was asked for, and end."""
        if self._client is not None:
            self.flush()
            await self._client.close()

    @property
    def client(self) -> Client:
        """The client. Raises PluginError before the start."""
        if self._client is None:
            raise PluginError("the cache is not started")
        return self._client

    # ---- the contract

    async def get(self, name: str) -> tuple[int, Any]:
        """See :meth:`dsfast.plugin.Cache.get`."""
        key = name.encode()
        batch = self._batch(self.lane(key))
        result: Result = self._loop.create_future()
        batch.gets.setdefault(key, []).append(result)
        found: tuple[int, Any] = await result
        return found

    async def set(self, name: str, version: int, data: Any) -> None:
        """See :meth:`dsfast.plugin.Cache.set`."""
        text = self.encode(name, version, data)
        key = name.encode()
        lane = self.lane(key)
        batch = self._batch(lane)
        if key in batch.gets or key in batch.deletes:
            batch = self._seal(lane)
        result: Result = self._loop.create_future()
        waiting = batch.sets.pop(key)[2] if key in batch.sets else []
        waiting.append(result)
        batch.sets[key] = (version, text, waiting)
        batch.bytes += len(text)
        await result

    async def delete(self, name: str) -> None:
        """See :meth:`dsfast.plugin.Cache.delete`."""
        key = name.encode()
        lane = self.lane(key)
        batch = self._batch(lane)
        if key in batch.gets:
            batch = self._seal(lane)
        result: Result = self._loop.create_future()
        batch.deletes.setdefault(key, []).append(result)
        await result

    async def head(self, name: str) -> int:
        """See :meth:`dsfast.plugin.Cache.head`."""
        return (await self.head_bulk((name,)))[0].get(name, -1)

    # ---- batches

    def _batch(self, lane: int) -> Batch:
        """What was gathered for a lane in this turn of the loop."""
        if not self._scheduled:
            self.client  # noqa: B018 - raises before anything waits for an answer that never comes
            self._scheduled = True
            self._loop.call_soon(self.flush)
        batch = self._batches[lane]
        names = max(len(batch.sets), len(batch.deletes), len(batch.gets))
        if names >= self.names_per_command or batch.bytes >= BYTES_PER_BATCH:
            return self._seal(lane)
        return batch

    def flush(self) -> None:
        """Send what was gathered."""
        self._scheduled = False
        for lane in range(len(self._batches)):
            self._seal(lane)

    def _seal(self, lane: int) -> Batch:
        """Hand a batch to the client, and the next one to the caller."""
        batch = self._batches[lane]
        if not (batch.sets or batch.deletes or batch.gets):
            return batch
        if batch.sets:
            self.send_sets(lane, batch.sets)
        if batch.deletes:
            self.send_deletes(lane, batch.deletes)
        if batch.gets:
            self.send_gets(lane, batch.gets)
        self._batches[lane] = Batch()
        return self._batches[lane]

    def parts(self, names: Iterable[str]) -> list[tuple[int, list[str]]]:
        """Names by lane and in portions; calls made before are sent first."""
        self.flush()
        lanes: dict[int, list[str]] = {}
        if len(self._batches) == 1:
            lanes[0] = list(names)
        else:
            for name in names:
                lanes.setdefault(self.lane(name.encode()), []).append(name)
        size = self.names_per_command
        return [
            (lane, part[at : at + size]) for lane, part in lanes.items() for at in range(0, len(part), size)
        ]

    @staticmethod
    async def all(calls: Sequence[Result]) -> list[Any]:
        """The results in order; the first error after all have ended."""
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


def answer(results: Iterable[Result], value: Any) -> None:
    """Give a result, or an Exception, to those who still wait for it."""
    for result in results:
        if result.done():
            continue  # its caller has given up
        if isinstance(value, Exception):
            result.set_exception(value)
        else:
            result.set_result(value)


def answer_all(results: list[Result]) -> Callable[[Any], None]:
    """A callback that says no more than done or failed."""

    def done(reply: Any) -> None:
        answer(results, reply if isinstance(reply, Exception) else None)

    return done
