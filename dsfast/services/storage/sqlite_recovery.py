"""Copies of a database file: of an intact one while a server uses it, and of what is left of a damaged one.

The recovery does not ask SQLite, which gives up at the first inconsistency. It looks at every page for cells
of the shape of a row of ``records`` (https://sqlite.org/fileformat2.html), with the pages of the write-ahead
log in place of older ones. So a broken index, a broken inner page or a broken header loses nothing, and a
broken leaf loses what is on it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dsfast.services.storage.batch import StorageError, WriteOp, decode_json
from dsfast.services.storage.sqlite_driver import SqliteError
from dsfast.services.storage.sqlite_file import (
    PAGE_SIZE,
    connect_reader,
    decode_value,
    open_exclusively,
    transaction,
    write_error,
)

__all__ = ["Recovered", "backup", "recover"]

BACKUP_STEP_PAGES = 1000
TABLE_LEAF = 0x0D
WRITE_BATCH = 1000


def backup(source: Path, target: Path, progress: Callable[[int, int], object] | None = None) -> None:
    """Copy a database that may be in use, with SQLite's online backup (10.5).

    The copy is the state at the start; writers go on meanwhile. ``progress(done, total)`` counts pages. The
    target appears under its name only when it is complete and on the disk. Raises StorageError.
    """
    part = target.with_name(target.name + ".part")
    try:
        with contextlib.closing(connect_reader(source)) as reader:
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            # One read transaction around all steps: else each commit of the server would make them start
            # again.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_schema")
            reader.copy_to(part, BACKUP_STEP_PAGES, progress)
            reader.execute("ROLLBACK")
        _sync(part)
        part.replace(target)
        _sync(target.parent)
    except SqliteError as error:
        raise StorageError(f"the backup of {source} failed: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class Recovered:
    """Result of a recovery."""

    records: int = 0
    """Records written to the new file."""
    unreadable: int = 0
    """Rows that were found but whose content is broken."""


def recover(source: Path, target: Path) -> Recovered:
    """Write every record that can still be read from ``source`` to the new database ``target``.

    The source is only read, and must not be in use. Of several copies of a record the latest written counts.
    Raises StorageError.
    """
    found = Recovered()
    latest: dict[str, tuple[int, int]] = {}
    batch: list[WriteOp] = []
    try:
        with open_exclusively(target) as file, _Pages(source) as pages:

            def write() -> None:
                with transaction(file):
                    for op, error in zip(batch, file.apply(batch), strict=True):
                        if error is not None:
                            found.unreadable += 1
                            del latest[op.name]
                batch.clear()

            for row in _rows(pages):
                record = _record(row) if row is not None else None
                if record is None:
                    found.unreadable += 1
                    continue
                op, written = record
                key = (written, op.version)
                if latest.get(op.name, (-1, -1)) >= key:
                    continue
                latest[op.name] = key
                batch.append(op)
                if len(batch) >= WRITE_BATCH:
                    write()
            write()
    except SqliteError as error:
        raise write_error(error) from error
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {source}: {error}") from error
    found.records = len(latest)
    return found


def _record(row: list[int | bytes]) -> tuple[WriteOp, int] | None:
    """The operation that restores a row, and when the row was written; None if its content is broken."""
    name, version, val, enc, written = row
    assert isinstance(name, bytes) and isinstance(val, bytes)
    assert isinstance(version, int) and isinstance(enc, int) and isinstance(written, int)
    try:
        text = decode_value(val, enc)
        decode_json(text)
        return WriteOp(name.decode("utf-8"), version, text, forced=True), written
    except (StorageError, ValueError):
        return None


class _Pages:
    """The pages of a database file, with the committed ones of its write-ahead log on top."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        size = os.fstat(self._file.fileno()).st_size
        if size < 512:
            self._file.close()
            raise ValueError("the file is empty")
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        page_size = int.from_bytes(self._map[16:18], "big")
        page_size = 65536 if page_size == 1 else page_size
        if page_size < 512 or page_size & (page_size - 1):
            page_size = PAGE_SIZE  # the header is broken
        self.size = page_size
        reserved = self._map[20]
        self.usable = page_size - (reserved if reserved <= 32 else 0)
        self._newer = _committed_frames(path.with_name(path.name + "-wal"), page_size)
        self.count = max([size // page_size, *self._newer])

    def __enter__(self) -> _Pages:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()
        self._file.close()

    def get(self, number: int) -> bytes:
        """Content of a page (from 1); shorter than a page if the file ends there."""
        newer = self._newer.get(number)
        if newer is not None:
            return newer
        return self._map[(number - 1) * self.size : number * self.size] if number > 0 else b""

    def free(self) -> set[int]:
        """The pages on the free list, as far as that can be followed: they hold deleted rows."""
        found: set[int] = set()
        trunk = int.from_bytes(self.get(1)[32:36], "big")
        while 0 < trunk <= self.count and trunk not in found:
            found.add(trunk)
            page = self.get(trunk)
            leaves = min(int.from_bytes(page[4:8], "big"), self.usable // 4 - 2)
            if len(page) >= 8 + 4 * leaves:
                found.update(struct.unpack_from(f">{leaves}I", page, 8))
            trunk = int.from_bytes(page[0:4], "big")
        return found


def _committed_frames(path: Path, page_size: int) -> dict[int, bytes]:
    """The newest committed content of each page in a write-ahead log, as SQLite's own recovery finds it."""
    try:
        log = path.read_bytes()
    except FileNotFoundError:
        return {}
    if len(log) < 32 or log[:4] not in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"):
        return {}
    order = ">" if log[3] & 1 else "<"
    sums = _checksum(log[:24], (0, 0), order)
    if struct.unpack(">II", log[24:32]) != sums or struct.unpack(">I", log[8:12])[0] != page_size:
        return {}
    committed: dict[int, bytes] = {}
    uncommitted: dict[int, bytes] = {}
    for start in range(32, len(log) - page_size - 23, page_size + 24):
        header, content = log[start : start + 24], log[start + 24 : start + 24 + page_size]
        number, pages_after_commit = struct.unpack(">II", header[:8])
        sums = _checksum(content, _checksum(header[:8], sums, order), order)
        if header[8:16] != log[16:24] or struct.unpack(">II", header[16:24]) != sums:
            break  # left over from before the log was started anew, or never completely written
        uncommitted[number] = content
        if pages_after_commit:
            committed.update(uncommitted)
            uncommitted.clear()
    return committed


def _checksum(data: bytes, start: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for index in range(0, len(words), 2):
        first = (first + words[index] + second) & 0xFFFFFFFF
        second = (second + words[index + 1] + first) & 0xFFFFFFFF
    return first, second


def _rows(pages: _Pages) -> Iterator[list[int | bytes] | None]:
    """Every row of the shape of ``records``; None for one whose content is incomplete."""
    free = pages.free()
    for number in range(1, pages.count + 1):
        if number in free:
            continue
        page = pages.get(number)
        header = 100 if number == 1 else 0
        if len(page) < pages.usable or page[header] != TABLE_LEAF:
            continue
        cells = int.from_bytes(page[header + 3 : header + 5], "big")
        pointers = header + 8
        if pointers + 2 * cells > pages.usable:
            continue
        for cell in range(cells):
            offset = int.from_bytes(page[pointers + 2 * cell : pointers + 2 * cell + 2], "big")
            try:
                row = _row(pages, page, offset)
            except (IndexError, ValueError):
                yield None
                continue
            if row:
                yield row


def _row(pages: _Pages, page: bytes, offset: int) -> list[int | bytes]:
    """The five values of a cell, empty if it is a row of another table. Raises IndexError or ValueError if it
    is broken."""
    length, offset = _varint(page, offset)
    _rowid, offset = _varint(page, offset)
    header_length, position = _varint(page, offset)
    types: list[int] = []
    end = offset + header_length
    while position < end and len(types) <= 5:
        kind, position = _varint(page, position)
        types.append(kind)
    if len(types) != 5 or not _is_record_shape(types):
        return []
    payload = _payload(pages, page, offset, length)
    position = header_length
    values: list[int | bytes] = []
    for kind in types:
        value, position = _value(payload, position, kind)
        values.append(value)
    return values


def _is_record_shape(types: list[int]) -> bool:
    name, version, val, enc, written = types
    integers = all(kind in _INTEGER_BYTES for kind in (version, enc, written))
    return integers and name >= 13 and name % 2 == 1 and val >= 12 and val % 2 == 0


_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}


def _value(payload: bytes, position: int, kind: int) -> tuple[int | bytes, int]:
    if kind in (8, 9):
        return kind - 8, position
    length = _INTEGER_BYTES[kind] if kind in _INTEGER_BYTES else (kind - 12) // 2
    content = payload[position : position + length]
    if len(content) != length:
        raise ValueError("the row is cut off")
    if kind in _INTEGER_BYTES:
        return int.from_bytes(content, "big", signed=True), position + length
    return content, position + length


def _payload(pages: _Pages, page: bytes, offset: int, length: int) -> bytes:
    """A row's bytes: the part in its cell and the chain of overflow pages."""
    usable = pages.usable
    local = length
    if length > usable - 35:
        minimum = (usable - 12) * 32 // 255 - 23
        local = minimum + (length - minimum) % (usable - 4)
        if local > usable - 35:
            local = minimum
    parts = [page[offset : offset + local]]
    if local < length:
        following = int.from_bytes(page[offset + local : offset + local + 4], "big")
        left = length - local
        while left > 0:
            content = pages.get(following)
            if not 0 < following <= pages.count or len(content) < usable:
                raise ValueError("the row's continuation is missing")
            parts.append(content[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
            following = int.from_bytes(content[:4], "big")
    return b"".join(parts)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(9):
        byte = data[position + index]
        if index == 8:
            return value << 8 | byte, position + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + index + 1
    raise AssertionError("unreachable")
