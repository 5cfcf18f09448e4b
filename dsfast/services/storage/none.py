"""The storage that keeps nothing (configuration ``type: none``; upstream's ``default``)."""

from __future__ import annotations

from collections.abc import Sequence

from dsfast.services.storage.batch import BatchStorage, WriteOp

__all__ = ["NoStorage"]


class NoStorage(BatchStorage):
    """Writes and deletes succeed, nothing is ever found (storages.md section 1)."""

    description = "none"
    flush_interval = 0.0
    acks_when_queued = True

    async def write_batch(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        """Forget them all."""
        return [None] * len(ops)

    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        """Not found."""
        return -1, None
