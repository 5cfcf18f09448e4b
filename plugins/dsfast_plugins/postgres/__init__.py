"""Storage in PostgreSQL (storages.md section 4). Needs ``dsfast[postgres]``."""

try:
    from dsfast_plugins.postgres.storage import PostgresStorage
except ModuleNotFoundError as error:
    raise ImportError(f"the postgres storage needs: pip install dsfast[postgres] ({error})") from error

__all__ = ["PostgresStorage"]
