"""What a storage that takes whole batches implements, and the errors by which a storage says what went wrong.

An ordinary storage plugin derives from :class:`dsfast.plugin.Storage` and gets one operation at a time. A
connector that can write many records in one transaction derives from :class:`BatchStorage`: the write-behind
layer (storages.md section 3) then hands it everything that has gathered.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import orjson

from dsfast.plugin import PluginError, Storage

__all__ = [
    "BatchStorage",
    "PermanentStorageError",
    "StorageClosed",
    "StorageError",
    "StorageFull",
    "TransientStorageError",
    "WriteAckTimeout",
    "WriteOp",
    "decode_json",
    "encode_json",
    "is_permanent",
    "is_transient",
]


class StorageError(PluginError):
    """Any failure of a storage whose text may be logged and shown."""


class TransientStorageError(StorageError):
    """The storage cannot work at the moment; the same operation may succeed later and is retried for ever."""


class PermanentStorageError(StorageError):
    """This operation can never succeed (a value the storage refuses); it is not retried."""


class StorageFull(StorageError):
    """The bound of unsaved writes (``maxPending``) is reached; the new write was not accepted."""


class StorageClosed(StorageError):
    """The storage is shut down; what was still waiting was not saved."""


class WriteAckTimeout(StorageError):
    """A write was not confirmed within ``record.writeAckTimeout``. It stays queued and may still be saved."""


def is_transient(error: BaseException) -> bool:
    """True if the error says that trying again can help: :class:`TransientStorageError`, a lost connection, a
    timeout or another error of the operating system."""
    return isinstance(error, (TransientStorageError, OSError))  # ConnectionError, TimeoutError are OSErrors


def is_permanent(error: BaseException) -> bool:
    """True if the error says that trying again is useless. What is neither permanent nor transient is tried
    three times."""
    return isinstance(error, PermanentStorageError)


class WriteOp:
    """One write of a batch: a set (``text`` is the record's data as JSON) or a delete (``text`` is None).

    A normal set applies only if the stored version is not higher; a ``forced`` one always applies. Batches
    are read-only for the storage. Only the fields documented here are part of the contract.
    """

    __slots__ = ("forced", "name", "text", "version")

    def __init__(self, name: str, version: int, text: bytes | None, forced: bool = False) -> None:
        self.name = name
        self.version = version
        self.text = text
        self.forced = forced

    def __repr__(self) -> str:
        kind = "delete" if self.text is None else f"set v{self.version}{' forced' if self.forced else ''}"
        return f"<{kind} {self.name!r}>"


class BatchStorage(Storage):
    """A storage that writes many records at once and keeps JSON text, so that nothing is parsed on the
    way."""

    flush_interval: float = 10.0
    """Milliseconds that a write nobody waits for may gather others before it is sent."""

    acks_when_queued: bool = False
    """True if a write is confirmed as soon as it is queued (SQLite's durability ``async``)."""

    @abstractmethod
    async def write_batch(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        """Write all operations; no name occurs twice.

        Returns when they are as durable as the storage promises, with one entry per operation: None for done
        (also when a newer version was already there) or the error of that one operation. Raises when the
        batch as a whole failed: nothing of it may count as done then, and all of it may be sent again.
        """

    @abstractmethod
    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        """Version and JSON text of a record; ``(-1, None)`` if it is not stored."""

    async def get(self, name: str) -> tuple[int, Any]:
        """Version and parsed data of a record; ``(-1, None)`` if it is not stored."""
        version, text = await self.get_text(name)
        return (-1, None) if text is None else (version, decode_json(text))

    async def set(self, name: str, version: int, data: Any) -> None:
        """Store one record and return when it is durable."""
        await self._write_one(WriteOp(name, version, encode_json(data)))

    async def delete(self, name: str) -> None:
        """Delete one record and return when that is durable."""
        await self._write_one(WriteOp(name, -1, None))

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """Delete several records in one batch. Raises the first error, after all have been tried."""
        unique = dict.fromkeys(names)
        for error in await self.write_batch([WriteOp(name, -1, None) for name in unique]):
            if error is not None:
                raise error

    async def _write_one(self, op: WriteOp) -> None:
        [error] = await self.write_batch([op])
        if error is not None:
            raise error


def decode_json(text: bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is none.

    orjson refuses lone surrogates, which are legal in JavaScript strings (caches.md section 8): the standard
    module reads those.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def encode_json(data: Any) -> bytes:
    """JSON text of a value. Raises TypeError or ValueError if it cannot be written as JSON.

    What orjson refuses but JavaScript knows (lone surrogates, integers beyond 64 bits) is written by the
    standard module.
    """
    try:
        return orjson.dumps(data)
    except TypeError:
        return json.dumps(data, separators=(",", ":"), allow_nan=False).encode("ascii")
