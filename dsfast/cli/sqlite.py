"""``dsfast sqlite``: backup, check and recovery of the SQLite storage."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

__all__ = ["database_option", "errors_in_one_line", "sqlite"]


def database_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--data-dir`` and ``--path``; the command gets the database as ``path``."""

    @functools.wraps(command)
    def with_path(*args: Any, data_dir: Path, path: Path | None, **others: Any) -> Any:
        return command(*args, path=path or data_dir / "dsfast.db", **others)

    path = click.option(
        "--path",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The database file, if it is not dsfast.db in the data directory.",
    )
    data_dir = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default="./data",
        show_default=True,
        help="The server's data directory.",
    )
    return data_dir(path(with_path))


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What a user can cause becomes one line on standard error and exit code 1."""
    from dsfast.services.storage import StorageError  # noqa: PLC0415 - not needed for --help
    from dsfast.services.storage.sqlite_driver import SqliteError  # noqa: PLC0415

    try:
        yield
    except BrokenPipeError:
        raise click.ClickException("the output was closed early") from None
    except (StorageError, OSError, SqliteError) as error:
        raise click.ClickException(str(error).replace("\n", " ")) from error


@click.group()
def sqlite() -> None:
    """Look after the SQLite storage."""


@sqlite.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
@database_option
def backup(target: Path, force: bool, path: Path) -> None:
    """Copy the database to TARGET, also while a server uses it.

    The copy is the state at the start of the command. A plain copy of the file would miss what is in the
    write-ahead log.
    """
    from dsfast.services.storage import sqlite_recovery  # noqa: PLC0415

    if target.exists() and not force:
        raise click.ClickException(f"{target} exists (replace it with --force)")
    with errors_in_one_line():
        sqlite_recovery.backup(path, target, _show_pages)
        _end_progress()
        click.echo(f"{target}: {target.stat().st_size} bytes", err=True)


def _show_pages(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done}/{total} pages", nl=False, err=True)


def _end_progress() -> None:
    if sys.stderr.isatty():
        click.echo(err=True)


@sqlite.command()
@database_option
def check(path: Path) -> None:
    """Check the whole database for damage, also while a server uses it.

    Prints what is wrong, one line each, and ends with code 1 if anything is.
    """
    from dsfast.services.storage.sqlite_file import connect_reader, is_file_damage  # noqa: PLC0415

    with errors_in_one_line():
        try:
            with contextlib.closing(connect_reader(path)) as reader:
                problems = [str(row[0]) for row in reader.execute("PRAGMA integrity_check")]
                if problems == ["ok"]:
                    [(records,)] = reader.execute("SELECT count(*) FROM records")
                    click.echo(f"ok: {records} records")
                    return
        except Exception as error:
            if not is_file_damage(error):
                raise
            problems = [str(error)]
    for problem in problems:
        click.echo(problem)
    raise click.ClickException(
        f"{path} is damaged; save what can be read with: dsfast sqlite recover --path {path} NEW_FILE"
    )


@sqlite.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@database_option
def recover(target: Path, path: Path) -> None:
    """Save what can be read from a damaged database into the new file TARGET.

    The damaged file is not changed. Stop the server first; afterwards put TARGET in the place of the old
    file.
    """
    from dsfast.services.storage.sqlite_file import LockFile  # noqa: PLC0415
    from dsfast.services.storage.sqlite_recovery import recover as rescue  # noqa: PLC0415

    if not path.exists():
        raise click.ClickException(f"{path} does not exist")
    if target.exists():
        raise click.ClickException(f"{target} exists; choose a new file")
    with errors_in_one_line(), LockFile(path):
        result = rescue(path, target)
    message = f"{target}: {result.records} records"
    if result.unreadable:
        message += f"; {result.unreadable} rows were found but could not be read"
    click.echo(message, err=True)
