"""Storage in files: one per record, ``{"v":version,"d":data}``, as upstream's example plugin writes them.

For people who want to read and edit records with ordinary tools, and for tests. Every write is a new file
that takes the place of the old one, so a file is always a whole record.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsfast.services.storage import (
    BatchStorage,
    PermanentStorageError,
    StorageClosed,
    WriteOp,
    decode_json,
    encode_json,
)
from dsfast_plugins.options import Options, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["FileStorage", "file_name"]

MAX_FILE_NAME = 250
"""Bytes; most file systems end at 255."""

_UNSAFE = re.compile(r"[%/\x00-\x1f\x7f]|^\.")
_LOCK = ".lock"
_NEW = ".new"


class FileOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/storage.md."""

    directory: str
    sync: bool = True


class FileStorage(BatchStorage):
    """See docs/plugins/storage.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(FileOptions, options, required=("directory",))
        self._directory = Path(self._options.directory)
        self.description = f"file storage, {self._directory}"
        self._threads: ThreadPoolExecutor | None = None

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"file storage: {warning}")

    async def when_ready(self) -> None:
        """Make the directory. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / _NEW).unlink(missing_ok=True)
        self._threads = ThreadPoolExecutor(4, "file-storage")

    async def close(self) -> None:
        """Let the threads end."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        """See :meth:`dsfast.services.storage.BatchStorage.get_text`."""
        return await asyncio.get_running_loop().run_in_executor(self._running, self._read, name)

    async def write_batch(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        """See :meth:`dsfast.services.storage.BatchStorage.write_batch`."""
        return await asyncio.get_running_loop().run_in_executor(self._running, self._write_all, ops)

    @property
    def _running(self) -> ThreadPoolExecutor:
        if self._threads is None:
            raise StorageClosed("the file storage is closed")
        return self._threads

    # ---- in a thread

    def _read(self, name: str) -> tuple[int, bytes | None]:
        path = self._directory / file_name(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return -1, None
        return _parsed(content, path)

    def _write_all(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        with self._lock():
            for op in ops:
                self._write(op)
            if self._options.sync:
                self._sync_directory()
        return [None] * len(ops)

    def _write(self, op: WriteOp) -> None:
        path = self._directory / file_name(op.name)
        if op.text is None:
            path.unlink(missing_ok=True)
            return
        if not op.forced and self._version(path) > op.version:
            return
        new = self._directory / _NEW
        with new.open("wb") as file:
            file.write(b'{"v":%d,"d":%b%b}' % (op.version, op.text, _name_field(op.name)))
            if self._options.sync:
                file.flush()
                os.fsync(file.fileno())
        new.replace(path)

    def _version(self, path: Path) -> int:
        try:
            return _parsed(path.read_bytes(), path)[0]
        except (FileNotFoundError, PermanentStorageError):
            return -1  # what nobody can read may be replaced

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Between looking at a version and replacing it nobody else may write."""
        lock = os.open(self._directory / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def file_name(name: str) -> str:
    """The file of a record: its name, where ``/``, ``%``, control characters and a dot in front are ``%XX``.

    A name that is too long for a file becomes ``%sha256-`` and the hash of its UTF-8 bytes.
    """
    encoded = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name)
    if len(encoded.encode()) <= MAX_FILE_NAME:
        return encoded
    return f"%sha256-{hashlib.sha256(name.encode()).hexdigest()}"


def _name_field(name: str) -> bytes:
    """Where the file's name cannot tell the record's, the file does."""
    is_hashed = file_name(name).startswith("%sha256-")
    return b',"n":' + encode_json(name) if is_hashed else b""


def _parsed(content: bytes, path: Path) -> tuple[int, bytes]:
    try:
        found = decode_json(content)
        version, data = found["v"], found["d"]
        if not isinstance(version, int) or not isinstance(data, dict | list):
            raise TypeError("v is no integer, or d neither an object nor a list")
    except (ValueError, TypeError, KeyError) as error:
        raise PermanentStorageError(f"{path} holds no record: {error!r}") from error
    return version, encode_json(data)
