"""The cache plugin: upstream's key layout, calls of one turn of the loop joined into few commands.

A record is two keys: ``<keyPrefix><name>_v`` is the version as text, ``<keyPrefix><name>_d`` the data as
JSON. In a cluster both begin with the hash tag of the record's part, ``{<prefix>:<part>}``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xxhash

from dsfast.plugin import Cache, PluginError
from dsfast.services.storage import decode_json, encode_json
from dsfast_plugins.options import OptionError
from dsfast_plugins.redis.client import RedisClient
from dsfast_plugins.redis.link import pack
from dsfast_plugins.redis.options import redis_options
from dsfast_plugins.redis.topology import topology

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["RedisCache"]

NAMES_PER_COMMAND = 1000
BYTES_PER_COMMAND = 4 << 20

# Version and data live and end together. KEYS: v, d; ARGV: version, data, milliseconds.
_SET_WITH_TTL = (
    "redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[3]) redis.call('SET',KEYS[2],ARGV[2],'PX',ARGV[3]) return 1"
)

Result = asyncio.Future[Any]


class _Batch:
    """Calls of one part of the records that are not sent yet. Sent in the order sets, deletes, gets."""

    __slots__ = ("bytes", "deletes", "gets", "sets")

    def __init__(self) -> None:
        self.sets: dict[bytes, tuple[int, bytes, list[Result]]] = {}
        self.deletes: dict[bytes, list[Result]] = {}
        self.gets: dict[bytes, list[Result]] = {}
        self.bytes = 0

    def is_full(self) -> bool:
        """True if one more call would make a command too large."""
        names = max(len(self.sets), len(self.deletes), len(self.gets))
        return names >= NAMES_PER_COMMAND or self.bytes >= BYTES_PER_COMMAND


class RedisCache(Cache):
    """See docs/plugins/cache.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = redis_options(options)
        self._lanes = topology(self._options).lanes
        tags = [
            f"{{{self._options.prefix}:{lane}}}" if self._lanes > 1 else "" for lane in range(self._lanes)
        ]
        self._starts = [(tag + self._options.key_prefix).encode() for tag in tags]
        """What the keys of a part of the records begin with."""
        self._ttl = None if self._options.ttl is None else max(1, round(self._options.ttl * 1000))
        self._batches = [_Batch() for _ in range(self._lanes)]
        self._scheduled = False
        self._client: RedisClient | None = None
        self._leaked: tuple[str, ...] = ()

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"redis cache: {warning}")
        # Upstream's MongoDB storage puts these into the object that it shares with the cache.
        if str(getattr(self.config.storage, "name", "")).lower() == "mongodb":
            self._leaked = ("ds_key", "ds_version")

    async def when_ready(self) -> None:
        """Connect; waits for a server that is away and says so in the log."""
        self._loop = asyncio.get_running_loop()
        timeout = self._options.command_timeout or self.config.record.cache_retrieval_timeout
        self._client = RedisClient(self._options, timeout / 1000, self.logger)
        self.description = f"redis cache, {self._client.description}"
        await self._client.start()
        await self._check_eviction(self._client)

    async def close(self) -> None:
        """Send what was asked for, and end."""
        if self._client is not None:
            self._flush()
            await self._client.close()

    async def _check_eviction(self, client: RedisClient) -> None:
        """A server that forgets what it likes can forget a record that is not stored yet."""
        if self._options.allow_eviction:
            return
        try:
            reply = await client.call(0, "CONFIG", "GET", "maxmemory-policy")
            policy = reply[1].decode()
        except (PluginError, IndexError) as error:
            self.logger.warn("CACHE_ERROR", f"redis cache: maxmemory-policy cannot be read ({error})")
            return
        if not policy.startswith("allkeys"):
            return
        text = f"redis has maxmemory-policy {policy} and may drop records that are not stored yet"
        if self.config.record.durability == "cache":
            self.logger.warn("CACHE_ERROR", f"{text}; noeviction or volatile-* is safe")
        else:
            raise OptionError(f"{text}: use noeviction or volatile-*, or set allowEviction: true")

    # ---- the contract

    async def get(self, name: str) -> tuple[int, Any]:
        """See :meth:`dsfast.plugin.Cache.get`."""
        key = name.encode()
        lane = self._lane(key)
        batch = self._batch(lane)
        result: Result = self._loop.create_future()
        batch.gets.setdefault(key, []).append(result)
        found: tuple[int, Any] = await result
        if found[1] is None and self._options.legacy_read:
            return await self._get_legacy(name)
        return found

    async def set(self, name: str, version: int, data: Any) -> None:
        """See :meth:`dsfast.plugin.Cache.set`."""
        text = encode_json(data)
        key = name.encode()
        lane = self._lane(key)
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
        lane = self._lane(key)
        batch = self._batch(lane)
        if key in batch.gets:
            batch = self._seal(lane)
        result: Result = self._loop.create_future()
        batch.deletes.setdefault(key, []).append(result)
        await result

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """See :meth:`dsfast.plugin.Cache.delete_bulk`."""
        calls = [
            self._running.call(lane, "DEL", *self._both(lane, [name.encode() for name in part]))
            for lane, part in self._parts(names)
        ]
        await _all(calls)

    async def head(self, name: str) -> int:
        """See :meth:`dsfast.plugin.Cache.head`."""
        return (await self.head_bulk((name,)))[0].get(name, -1)

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """See :meth:`dsfast.plugin.Cache.head_bulk`. Moves and parses versions only."""
        parts = self._parts(names)
        calls: list[Result] = []
        for lane, part in parts:
            start = self._starts[lane].decode()
            calls.append(self._running.call(lane, "MGET", *[f"{start}{name}_v" for name in part]))
        found: dict[str, int] = {}
        for (_, part), versions in zip(parts, await _all(calls), strict=True):
            for name, version in zip(part, versions, strict=True):
                if version is not None:
                    found[name] = _version(version)
        return found, [] if len(found) == len(names) else [name for name in names if name not in found]

    # ---- batches

    @property
    def _running(self) -> RedisClient:
        if self._client is None:
            raise PluginError("the redis cache is not started")
        return self._client

    def _lane(self, key: bytes) -> int:
        return 0 if self._lanes == 1 else xxhash.xxh3_64_intdigest(key) % self._lanes

    def _both(self, lane: int, keys: Iterable[bytes]) -> list[bytes]:
        """The two keys of each record."""
        start = self._starts[lane]
        return [whole for key in keys for whole in (start + key + b"_v", start + key + b"_d")]

    def _parts(self, names: Iterable[str]) -> list[tuple[int, list[str]]]:
        """Names by part of the records and in portions; calls made before are sent first."""
        self._flush()
        parts: dict[int, list[str]] = {}
        if self._lanes == 1:
            parts[0] = list(names)
        else:
            for name in names:
                parts.setdefault(self._lane(name.encode()), []).append(name)
        return [
            (lane, part[at : at + NAMES_PER_COMMAND])
            for lane, part in parts.items()
            for at in range(0, len(part), NAMES_PER_COMMAND)
        ]

    def _batch(self, lane: int) -> _Batch:
        """What was gathered for a part in this turn of the loop."""
        if not self._scheduled:
            self._running  # noqa: B018 - raises before anything waits for an answer that never comes
            self._scheduled = True
            self._loop.call_soon(self._flush)
        batch = self._batches[lane]
        return self._seal(lane) if batch.is_full() else batch

    def _flush(self) -> None:
        self._scheduled = False
        for lane in range(self._lanes):
            self._seal(lane)

    def _seal(self, lane: int) -> _Batch:
        """Hand a batch to the client, and the next one to the caller."""
        batch = self._batches[lane]
        if not (batch.sets or batch.deletes or batch.gets):
            return batch
        submit = self._running.submit
        if batch.sets:
            self._send_sets(lane, batch)
        if batch.deletes:
            waiting = [result for results in batch.deletes.values() for result in results]
            submit(lane, pack(["DEL", *self._both(lane, batch.deletes)]), _answer_all(waiting))
        if batch.gets:
            submit(lane, pack(["MGET", *self._both(lane, batch.gets)]), self._on_gets(batch.gets))
        self._batches[lane] = _Batch()
        return self._batches[lane]

    def _send_sets(self, lane: int, batch: _Batch) -> None:
        keys = iter(self._both(lane, batch.sets))
        if self._ttl is None:
            words: list[str | bytes | int] = ["MSET"]
            for version, text, _ in batch.sets.values():
                words += (next(keys), version, next(keys), text)
            waiting = [result for _, _, results in batch.sets.values() for result in results]
            self._running.submit(lane, pack(words), _answer_all(waiting))
            return
        for version, text, results in batch.sets.values():
            command = ("EVAL", _SET_WITH_TTL, 2, next(keys), next(keys), version, text, self._ttl)
            self._running.submit(lane, pack(command), _answer_all(results))

    def _on_gets(self, gets: dict[bytes, list[Result]]) -> Callable[[Any], None]:
        def done(reply: Any) -> None:
            if isinstance(reply, Exception):
                for results in gets.values():
                    _answer(results, reply)
                return
            values = iter(reply)
            for (key, results), version, text in zip(gets.items(), values, values, strict=True):
                found: tuple[int, Any] | Exception = (-1, None)
                if version is not None and text is not None:
                    try:
                        found = (_version(version), self._data(text))
                    except ValueError as error:
                        found = PluginError(f"redis: the entry of {key.decode()} cannot be read: {error}")
                _answer(results, found)

        return done

    def _data(self, text: bytes) -> Any:
        data = decode_json(text)
        if self._leaked and isinstance(data, dict):
            for key in self._leaked:
                data.pop(key, None)
        return data

    async def _get_legacy(self, name: str) -> tuple[int, Any]:
        """The form of server 3, ``{"_v":…,"_d":…}`` under the name itself; written back in today's."""
        key = name.encode()
        lane = self._lane(key)
        text = await self._running.call(lane, "GET", self._starts[lane] + key)
        if text is None:
            return -1, None
        try:
            entry = decode_json(text)
            version, data = entry["_v"], entry["_d"]
        except (ValueError, TypeError, KeyError):
            return -1, None  # not a record of server 3
        if not isinstance(version, int) or not isinstance(data, dict | list):
            return -1, None
        await self.set(name, version, data)
        return version, data


def _version(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("its version is no number") from None


def _answer(results: Iterable[Result], value: Any) -> None:
    for result in results:
        if result.done():
            continue  # its caller has given up
        if isinstance(value, Exception):
            result.set_exception(value)
        else:
            result.set_result(value)


def _answer_all(results: list[Result]) -> Callable[[Any], None]:
    def done(reply: Any) -> None:
        _answer(results, reply if isinstance(reply, Exception) else None)

    return done


async def _all(calls: list[Result]) -> list[Any]:
    """The results in order; the first error after all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
