"""Upstream's tables in the words of SQL: what they are called, how they are made, what they look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dsfast_plugins.names import split_first
from dsfast_plugins.postgres.options import PostgresOptions

__all__ = ["Table", "Tables", "quoted"]

MAX_IDENTIFIER = 63
"""Bytes of an identifier; PostgreSQL cuts off the rest."""

# Any two processes that start at the same time would otherwise trip over each other.
LOCK = "SELECT pg_advisory_xact_lock(hashtext('dsfast ' || $1::text))"

DESCRIBE = """
    SELECT a.attname, format_type(a.atttypid, NULL)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
"""

FUNCTIONS = """
    CREATE OR REPLACE FUNCTION {schema}.count_rows(schema text, tablename text) RETURNS integer
    LANGUAGE plpgsql AS $body$
    DECLARE
        found integer;
    BEGIN
        EXECUTE format('SELECT count(*) FROM %I.%I', schema, tablename) INTO found;
        RETURN found;
    END $body$;

    CREATE OR REPLACE FUNCTION {schema}.delete_if_empty(schema text, tablename text) RETURNS void
    LANGUAGE plpgsql AS $body$
    DECLARE
        is_used boolean;
    BEGIN
        -- Nobody may insert between the look and the drop.
        EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', schema, tablename);
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I)', schema, tablename) INTO is_used;
        IF NOT is_used THEN
            EXECUTE format('DROP TABLE %I.%I CASCADE', schema, tablename);
            PERFORM pg_notify(schema, 'DESTROY_TABLE:"' || tablename || '"');
        END IF;
    END $body$;

    CREATE OR REPLACE FUNCTION {schema}.broadcast_update() RETURNS trigger
    LANGUAGE plpgsql AS $body$
    DECLARE
        told text;
    BEGIN
        told := TG_OP || ':' || TG_TABLE_NAME || ':' || CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END;
        IF octet_length(told) < 8000 THEN  -- longer ones would make the write fail
            PERFORM pg_notify(TG_TABLE_SCHEMA, told);
        END IF;
        RETURN NULL;
    END $body$;
"""


@dataclass(frozen=True, slots=True)
class Table:
    """What a table that exists looks like."""

    value_type: str
    has_version: bool


class Tables:
    """Names and statements of the tables of one schema."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self.schema = clipped(options.schema)

    def place(self, name: str) -> tuple[str, str]:
        """Table and id of a record. Names whose table is too long share one, as they always did."""
        table, key = split_first(name, self._options.default_table)
        return clipped(table), key

    def full(self, table: str) -> str:
        """A table's name in a statement."""
        return f"{quoted(self.schema)}.{quoted(table)}"

    def select(self, table: str) -> str:
        """Version and JSON text of a record. $1: id."""
        return f"SELECT version, val::text FROM {self.full(table)} WHERE id = $1"

    def select_old(self, table: str) -> str:
        """The value of a record in a table without versions. $1: id."""
        return f"SELECT val::text FROM {self.full(table)} WHERE id = $1"

    def upsert(self, table: str, value_type: str, *, forced: bool) -> str:
        """Write many records; a higher version stays unless ``forced``. $1: ids, $2: versions, $3: texts."""
        guard = "" if forced else " WHERE COALESCE(t.version, 0) <= EXCLUDED.version"
        return (
            f"INSERT INTO {self.full(table)} AS t (id, version, val)"
            f" SELECT id, version, val::{value_type} FROM unnest($1::text[], $2::bigint[], $3::text[])"
            " AS u (id, version, val)"
            f" ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, val = EXCLUDED.val{guard}"
        )

    def delete(self, table: str) -> str:
        """Delete many records. $1: ids."""
        return f"DELETE FROM {self.full(table)} WHERE id = ANY($1::text[])"

    async def describe(self, connection: Any, table: str) -> Table | None:
        """What a table looks like; None if there is none."""
        columns = dict(await connection.fetch(DESCRIBE, self.schema, table))
        return Table(columns.get("val", "text"), "version" in columns) if columns else None

    async def create_schema(self, connection: Any) -> None:
        """The schema. An existing one needs no right to create it."""
        async with connection.transaction():
            await connection.execute(LOCK, self.schema)
            known = await connection.fetchval("SELECT 1 FROM pg_namespace WHERE nspname = $1", self.schema)
            if known is None:
                await connection.execute(f"CREATE SCHEMA {quoted(self.schema)}")

    async def create_functions(self, connection: Any) -> None:
        """The functions, of which the triggers need one and upstream's servers the others."""
        async with connection.transaction():
            await connection.execute(LOCK, self.schema)
            await connection.execute(FUNCTIONS.format(schema=quoted(self.schema)))

    async def create(self, connection: Any, table: str) -> None:
        """A table with its trigger, unless somebody has just made it."""
        options = self._options
        value_type = "jsonb" if options.use_jsonb else "text"
        version_type = "bigint" if options.big_versions else "integer"
        async with connection.transaction():
            await connection.execute(LOCK, f"{self.schema}.{table}")
            if await self.describe(connection, table) is not None:
                return
            await connection.execute(
                f"CREATE TABLE {self.full(table)}"
                " (id text NOT NULL PRIMARY KEY,"
                f" version {version_type} DEFAULT 0, val {value_type} NOT NULL)"
            )
            if options.role:
                await connection.execute(f"ALTER TABLE {self.full(table)} OWNER TO {quoted(options.role)}")
            events = [event for event in ("INSERT", "UPDATE", "DELETE") if options.notifies(event)]
            if events:
                await connection.execute(
                    f"CREATE TRIGGER {quoted(f'broadcast_update_{self.schema}_{table}')}"
                    f" AFTER {' OR '.join(events)} ON {self.full(table)}"
                    f" FOR EACH ROW EXECUTE PROCEDURE {quoted(self.schema)}.broadcast_update()"
                )
            if options.notifies("CREATE_TABLE"):
                await connection.execute("SELECT pg_notify($1, $2)", self.schema, f"CREATE_TABLE:{table}")


def quoted(identifier: str) -> str:
    """An identifier in a statement."""
    return '"' + clipped(identifier).replace('"', '""') + '"'


def clipped(identifier: str) -> str:
    """An identifier as PostgreSQL keeps it: at most 63 bytes, whole characters."""
    return identifier.encode()[:MAX_IDENTIFIER].decode(errors="ignore")
