"""``dsfast migrate``: databases that older connectors of deepstream have made."""

from __future__ import annotations

import asyncio

import click

__all__ = ["migrate"]


@click.group()
def migrate() -> None:
    """Bring the tables of an old connector into today's layout."""


@migrate.command()
@click.argument("url")
@click.option("--schema", default="ds", show_default=True, help="Schema that holds the tables.")
def postgres(url: str, schema: str) -> None:
    """Migrate tables that deepstream's PostgreSQL connector 1.x or 2.x has made.

    URL is postgresql://user:password@host:port/database. Servers may run meanwhile. An interrupted migration
    goes on where it stopped.
    """
    try:
        import asyncpg  # noqa: PLC0415 - an extra

        from dsfast_plugins.options import OptionError  # noqa: PLC0415
        from dsfast_plugins.postgres.migrate import migrate as run  # noqa: PLC0415
        from dsfast_plugins.postgres.options import postgres_options  # noqa: PLC0415
    except ImportError:
        raise click.ClickException("this needs asyncpg: pip install dsfast[postgres]") from None

    incomplete = False

    def report(table: str, count: int, refused: list[str]) -> None:
        nonlocal incomplete
        text = f"{table}: {count} records migrated"
        if refused:
            incomplete = True
            more = ", ..." if len(refused) > 10 else ""
            text += f", {len(refused)} in no known layout left: {', '.join(refused[:10])}{more}"
        click.echo(text)

    try:
        options, _ = postgres_options({"connectionString": url, "schema": schema})
    except OptionError as error:
        raise click.ClickException(str(error)) from None
    try:
        asyncio.run(run(options, report))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error
    if incomplete:
        raise click.ClickException("some records were left as they are")
