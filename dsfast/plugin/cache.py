"""Cache: the records in use (plugins.md B.4)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from dsfast.plugin.base import Plugin

__all__ = ["Cache"]


class Cache(Plugin):
    """Holds the records in use (plugins.md B.4).

    ``data`` is the parsed JSON value and must be treated as immutable. Time limits are the server's job.
    """

    @abstractmethod
    async def get(self, name: str) -> tuple[int, Any]:
        """Version and data of a record; ``(-1, None)`` if it is not here."""

    @abstractmethod
    async def set(self, name: str, version: int, data: Any) -> None:
        """Keep a version of a record."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Forget a record; a missing one is no error."""

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """Forget several records. The default deletes one after the other."""
        for name in names:
            await self.delete(name)

    async def head(self, name: str) -> int:
        """Version of a record, -1 if it is not here. The default reads the whole record."""
        return (await self.get(name))[0]

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """Versions of the records that are here, and the names of those that are not."""
        found: dict[str, int] = {}
        missing: list[str] = []
        for name in names:
            version = await self.head(name)
            if version >= 0:
                found[name] = version
            else:
                missing.append(name)
        return found, missing
