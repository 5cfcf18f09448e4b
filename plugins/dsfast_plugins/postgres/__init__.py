"""Storage in PostgreSQL (storages.md section 4). Needs ``dsfast[postgres]``."""

from dsfast_plugins.postgres.storage import PostgresStorage

__all__ = ["PostgresStorage"]
