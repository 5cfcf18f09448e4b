"""Storages that spread records over tables: each table's part of a batch is written by itself."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dsfast.services.storage import BatchStorage, PermanentStorageError, StorageError, WriteOp

__all__ = ["Row", "TableStorage"]


class Row(NamedTuple):
    """One write of a batch: the operation, its id in the table, its place in the batch."""

    op: WriteOp
    key: str
    number: int


class TableStorage(BatchStorage):
    """Base of such a storage."""

    tables_at_a_time = 4
    """Tables that are written at the same time, each over a connection of its own."""

    rows_at_a_time = 1000
    """Rows that are written in one go."""

    @abstractmethod
    def place(self, name: str) -> tuple[str, str]:
        """Table and id of a record. Raises PermanentStorageError for a name that cannot be stored."""

    @abstractmethod
    async def read(self, table: str, key: str) -> tuple[int, bytes | None]:
        """Version and JSON text; ``(-1, None)`` if there is none."""

    @abstractmethod
    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """Write rows of one table, in which no id occurs twice, all or nothing.

        Raises PermanentStorageError if one of them can never be written, and StorageError.
        """

    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        """See :meth:`dsfast.services.storage.BatchStorage.get_text`."""
        try:
            place = self.place(name)
        except PermanentStorageError:
            return -1, None  # what cannot be stored is not there
        return await self.read(*place)

    async def write_batch(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        """See :meth:`dsfast.services.storage.BatchStorage.write_batch`."""
        results: list[Exception | None] = [None] * len(ops)
        work = iter(self._by_table(ops, results).items())
        await asyncio.gather(*(self._work_off(work, results) for _ in range(self.tables_at_a_time)))
        return results

    def _by_table(
        self, ops: Sequence[WriteOp], results: list[Exception | None]
    ) -> dict[str, list[list[Row]]]:
        """Rows by table, in rounds: names that a database cuts off can share an id."""
        tables: dict[str, list[list[Row]]] = {}
        seen: dict[tuple[str, str], int] = {}
        for index, op in enumerate(ops):
            try:
                table, key = self.place(op.name)
            except PermanentStorageError as error:
                results[index] = error
                continue
            number = seen.get((table, key), 0)
            seen[table, key] = number + 1
            rounds = tables.setdefault(table, [])
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(Row(op, key, index))
        return tables

    async def _work_off(
        self, work: Iterator[tuple[str, list[list[Row]]]], results: list[Exception | None]
    ) -> None:
        for table, rounds in work:
            for rows in rounds:
                for at in range(0, len(rows), self.rows_at_a_time):
                    await self._write(table, rows[at : at + self.rows_at_a_time], results)

    async def _write(self, table: str, rows: Sequence[Row], results: list[Exception | None]) -> None:
        """Write rows; a bad one is found by halves and does not harm the others."""
        try:
            await self.write_rows(table, rows)
        except PermanentStorageError as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                await self._write(table, rows[:middle], results)
                await self._write(table, rows[middle:], results)
            else:
                results[rows[0].number] = error
        except StorageError as error:
            for row in rows:
                results[row.number] = error
