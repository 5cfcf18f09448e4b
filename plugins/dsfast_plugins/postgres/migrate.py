"""Give the tables of upstream's connectors before 3.0 a column for the version (storages.md 4.2).

Rows that are not done yet have no version (NULL) and are still read in their old form, so a server may run
meanwhile, and an interrupted migration goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg

from dsfast.services.storage import PermanentStorageError
from dsfast_plugins.postgres.old_layouts import from_old_value
from dsfast_plugins.postgres.options import PostgresOptions, connect_arguments
from dsfast_plugins.postgres.tables import Tables

__all__ = ["migrate"]

OLD_TABLES = """
    SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind = 'r'
    AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'val')
    AND NOT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'version' AND a.atthasdef)
    ORDER BY c.relname
"""


async def migrate(
    options: PostgresOptions, report: Callable[[str, int, list[str]], None], *, batch: int = 1000
) -> None:
    """Migrate all tables of the schema.

    ``report(table, migrated, refused)`` is called after each table; ``refused`` are ids of rows in no known
    layout, which are left as they are. Raises OSError and asyncpg.PostgresError.
    """
    tables = Tables(options)
    connection = await asyncpg.connect(**connect_arguments(options))
    try:
        for row in await connection.fetch(OLD_TABLES, tables.schema):
            report(row[0], *await _migrate_table(connection, tables, row[0], batch))
    finally:
        await connection.close()


async def _migrate_table(connection: Any, tables: Tables, table: str, batch: int) -> tuple[int, list[str]]:
    full = tables.full(table)
    await connection.execute(f"ALTER TABLE {full} ADD COLUMN IF NOT EXISTS version integer")
    found = await tables.describe(connection, table)
    assert found is not None
    count, last, refused = 0, "", list[str]()
    while True:
        async with connection.transaction():
            rows = await connection.fetch(
                f"SELECT id, val::text FROM {full} WHERE version IS NULL AND id >= $1"
                " ORDER BY id LIMIT $2 FOR UPDATE",
                last,
                batch + len(refused),
            )
            done = []
            for key, text in rows:
                try:
                    version, data = from_old_value(text)
                    done.append((key, version, data.decode()))
                except PermanentStorageError:
                    if key not in refused:
                        refused.append(key)
            if not done:
                break
            await connection.execute(
                f"UPDATE {full} AS t SET version = u.version, val = u.val::{found.value_type}"
                " FROM unnest($1::text[], $2::bigint[], $3::text[]) AS u (id, version, val)"
                " WHERE t.id = u.id",
                *(list(column) for column in zip(*done, strict=True)),
            )
        count += len(done)
        last = done[-1][0]
    if not refused:
        await connection.execute(f"ALTER TABLE {full} ALTER COLUMN version SET DEFAULT 0")
    return count, refused
