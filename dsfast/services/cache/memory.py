"""The built-in cache: records in the memory of the server (caches.md section 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dsfast._core.json_text import dumps, loads
from dsfast._core.record_cache import RecordCache
from dsfast.plugin import Cache

__all__ = ["MemoryCache"]


class MemoryCache(Cache):
    """A front for the core's :class:`RecordCache`.

    The record handler uses ``core`` directly; the methods here are the plugin interface, for everybody else.
    They hand out copies, never the document the core works on.
    """

    description = "local cache"

    def init(self) -> None:
        """Make the core cache with the bounds of the options (bytes, entries, seconds)."""
        options = self.options
        self._ttl = options.get("ttl") or 0
        self.core = RecordCache(
            options.get("maxBytes") or 0, options.get("maxEntries") or 0, self._ttl * 1000
        )
        self._timer: asyncio.TimerHandle | None = None
        self._limit_logged = False

    async def when_ready(self) -> None:
        """Start to look for records that were not used for ``ttl`` seconds."""
        if self._ttl or self.core.max_bytes or self.core.max_entries:
            self._look_after()

    async def close(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
        self.core.close()

    def _look_after(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(self._ttl / 4, 1.0), self._look_after)
        if self._ttl:
            self.core.expire()
        if self.core.over_limit:
            self.core.shrink()
            if self.core.over_limit and not self._limit_logged:
                self._limit_logged = True
                self.logger.warn("INFO", "the cache is over its limit: what is not stored cannot be evicted")

    async def get(self, name: str) -> tuple[int, Any]:
        """See :meth:`dsfast.plugin.Cache.get`."""
        record = self.core.lookup(name)
        return (-1, None) if record is None else (record.version, loads(record.text()))

    async def set(self, name: str, version: int, data: Any) -> None:
        """See :meth:`dsfast.plugin.Cache.set`."""
        self.core.store(name, version, dumps(data))

    async def delete(self, name: str) -> None:
        """See :meth:`dsfast.plugin.Cache.delete`."""
        self.core.remove(name)

    async def head(self, name: str) -> int:
        """See :meth:`dsfast.plugin.Cache.head`."""
        record = self.core.lookup(name)
        return -1 if record is None else record.version

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """See :meth:`dsfast.plugin.Cache.head_bulk`."""
        found: dict[str, int] = {}
        missing: list[str] = []
        for name in names:
            record = self.core.lookup(name)
            if record is None:
                missing.append(name)
            else:
                found[name] = record.version
        return found, missing
