"""Several plugins of one kind that act as one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from dsfast.plugin import Plugin

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["Combined"]

P = TypeVar("P", bound=Plugin)


class Combined(Plugin, Generic[P]):
    """The life cycle of several plugins of one kind: each step is done for all of them."""

    def __init__(self, entries: Sequence[P], services: Services, config: Config) -> None:
        super().__init__({}, services, config)
        self.entries = tuple(entries)

    @property
    def description(self) -> str:  # type: ignore[override]
        """That of the single entry, else a line per entry (connection-and-auth.md section 4)."""
        if len(self.entries) == 1:
            return self.entries[0].description
        return "".join(f"\n\t{index}) {entry.description}" for index, entry in enumerate(self.entries))

    def init(self) -> None:
        """Initialise all entries."""
        for entry in self.entries:
            entry.init()

    async def when_ready(self) -> None:
        """Wait for all entries."""
        await asyncio.gather(*(entry.when_ready() for entry in self.entries))

    async def close(self) -> None:
        """Close all entries; the error of one is raised after the others have been closed."""
        results = await asyncio.gather(*(entry.close() for entry in self.entries), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
