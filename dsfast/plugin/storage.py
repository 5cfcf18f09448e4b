"""Storage: records for good (plugins.md B.5)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from dsfast.plugin.base import Plugin

__all__ = ["Storage"]


class Storage(Plugin):
    """Keeps records for good (plugins.md B.5, storages.md section 1).

    The server never runs two writes of one name at the same time. ``data`` is the parsed JSON value.
    """

    @abstractmethod
    async def get(self, name: str) -> tuple[int, Any]:
        """Version and data of a record; ``(-1, None)`` if it is not stored."""

    @abstractmethod
    async def set(self, name: str, version: int, data: Any) -> None:
        """Return when this version is as durable as the storage promises."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Remove a record for good; a missing one is no error."""

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """Remove several records. The default deletes one after the other."""
        for name in names:
            await self.delete(name)
