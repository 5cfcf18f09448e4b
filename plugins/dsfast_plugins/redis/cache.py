"""The cache plugin: upstream's key layout, calls of one turn of the loop joined into few commands.

A record is two keys: ``<keyPrefix><name>_v`` is the version as text, ``<keyPrefix><name>_d`` the data as
JSON. In a cluster both begin with the hash tag of the record's part, ``{<prefix>:<part>}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xxhash

from dsfast.plugin import PluginError
from dsfast.services.storage import decode_json, encode_json
from dsfast_plugins.options import OptionError
from dsfast_plugins.pipeline import Client, PipelinedCache, Result, answer, answer_all
from dsfast_plugins.redis.client import RedisClient, pack
from dsfast_plugins.redis.options import redis_options
from dsfast_plugins.redis.topology import topology

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["RedisCache"]

# Version and data live and end together. KEYS: v, d; ARGV: version, data, milliseconds.
_SET_WITH_TTL = (
    "redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[3]) redis.call('SET',KEYS[2],ARGV[2],'PX',ARGV[3]) return 1"
)


class RedisCache(PipelinedCache):
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
        timeout = self._options.command_timeout or self.config.record.cache_retrieval_timeout
        client = RedisClient(self._options, timeout / 1000, self.logger)
        self.description = f"redis cache, {client.description}"
        await self.start(client, self._lanes)
        await self._check_eviction(client)

    async def _check_eviction(self, client: Client) -> None:
        """A server that forgets what it likes can forget a record that is not stored yet."""
        if self._options.allow_eviction:
            return
        try:
            reply = await client.call(0, pack(("CONFIG", "GET", "maxmemory-policy")))
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
        found = await super().get(name)
        if found[1] is None and self._options.legacy_read:
            return await self._get_legacy(name)
        return found

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """See :meth:`dsfast.plugin.Cache.delete_bulk`."""
        calls = [
            self.client.call(lane, pack(("DEL", *self._both(lane, [name.encode() for name in part]))))
            for lane, part in self.parts(names)
        ]
        await self.all(calls)

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """See :meth:`dsfast.plugin.Cache.head_bulk`. Moves and parses versions only."""
        parts = self.parts(names)
        calls: list[Result] = []
        for lane, part in parts:
            start = self._starts[lane].decode()
            calls.append(self.client.call(lane, pack(("MGET", *[f"{start}{name}_v" for name in part]))))
        found: dict[str, int] = {}
        for (_, part), versions in zip(parts, await self.all(calls), strict=True):
            for name, version in zip(part, versions, strict=True):
                if version is not None:
                    found[name] = _version(version)
        return found, [] if len(found) == len(names) else [name for name in names if name not in found]

    # ---- commands

    def lane(self, key: bytes) -> int:
        """The part of the records, of which only a cluster has several."""
        return 0 if self._lanes == 1 else xxhash.xxh3_64_intdigest(key) % self._lanes

    def encode(self, name: str, version: int, data: Any) -> bytes:
        """The data alone; the version has a key of its own."""
        return encode_json(data)

    def _both(self, lane: int, keys: Iterable[bytes]) -> list[bytes]:
        """The two keys of each record."""
        start = self._starts[lane]
        return [whole for key in keys for whole in (start + key + b"_v", start + key + b"_d")]

    def send_sets(self, lane: int, sets: dict[bytes, tuple[int, bytes, list[Result]]]) -> None:
        """All in one MSET; with a ttl one script each."""
        keys = iter(self._both(lane, sets))
        if self._ttl is None:
            words: list[str | bytes | int] = ["MSET"]
            for version, text, _ in sets.values():
                words += (next(keys), version, next(keys), text)
            waiting = [result for _, _, results in sets.values() for result in results]
            self.client.submit(lane, pack(words), answer_all(waiting))
            return
        for version, text, results in sets.values():
            command = ("EVAL", _SET_WITH_TTL, 2, next(keys), next(keys), version, text, self._ttl)
            self.client.submit(lane, pack(command), answer_all(results))

    def send_deletes(self, lane: int, deletes: dict[bytes, list[Result]]) -> None:
        """All in one DEL."""
        waiting = [result for results in deletes.values() for result in results]
        self.client.submit(lane, pack(["DEL", *self._both(lane, deletes)]), answer_all(waiting))

    def send_gets(self, lane: int, gets: dict[bytes, list[Result]]) -> None:
        """All in one MGET."""
        self.client.submit(lane, pack(["MGET", *self._both(lane, gets)]), self._on_gets(gets))

    def _on_gets(self, gets: dict[bytes, list[Result]]) -> Callable[[Any], None]:
        def done(reply: Any) -> None:
            if isinstance(reply, Exception):
                for results in gets.values():
                    answer(results, reply)
                return
            values = iter(reply)
            for (key, results), version, text in zip(gets.items(), values, values, strict=True):
                found: tuple[int, Any] | Exception = (-1, None)
                if version is not None and text is not None:
                    try:
                        found = (_version(version), self._data(text))
                    except ValueError as error:
                        found = PluginError(f"redis: the entry of {key.decode()} cannot be read: {error}")
                answer(results, found)

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
        lane = self.lane(key)
        text = await self.client.call(lane, pack(("GET", self._starts[lane] + key)))
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
