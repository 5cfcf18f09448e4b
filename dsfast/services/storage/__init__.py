"""Storages: where records are kept for good, and the write-behind layer in front of them (storages.md)."""

from dsfast.services.storage.batch import (
    BatchStorage,
    PermanentStorageError,
    StorageClosed,
    StorageError,
    StorageFull,
    TransientStorageError,
    WriteAckTimeout,
    WriteOp,
    decode_json,
    encode_json,
)
from dsfast.services.storage.write_behind import Snapshot, TextSnapshot, WriteBehind

__all__ = [
    "BatchStorage",
    "PermanentStorageError",
    "Snapshot",
    "StorageClosed",
    "StorageError",
    "StorageFull",
    "TextSnapshot",
    "TransientStorageError",
    "WriteAckTimeout",
    "WriteBehind",
    "WriteOp",
    "decode_json",
    "encode_json",
]
