"""``dsfast export`` and ``dsfast import``: records as lines of JSON (storages.md 10.5)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec

from dsfast.cli.sqlite import database_option, errors_in_one_line

if TYPE_CHECKING:
    from dsfast.services.storage.sqlite_file import RecordFile

__all__ = ["export", "import_"]

BATCH_RECORDS = 1000
BATCH_BYTES = 4 << 20
PROGRESS_SECONDS = 0.5


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of an export. ``data`` keeps its text, so that numbers survive exactly."""

    name: str
    version: int
    data: msgspec.Raw


class _Progress:
    """A counter on standard error, if that is a terminal."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._shown = time.monotonic()
        self._visible = sys.stderr.isatty()

    def show(self, count: int) -> None:
        now = time.monotonic()
        if self._visible and now - self._shown >= PROGRESS_SECONDS:
            self._shown = now
            click.echo(f"\r{count} records {self._verb}", nl=False, err=True)

    def end(self, message: str) -> None:
        click.echo(("\r" if self._visible else "") + message, err=True)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-")
@database_option
def export(file: Path, path: Path) -> None:
    """Write all records as lines of JSON.

    FILE is standard output unless it is given. A line is {"name": ..., "version": ..., "data": ...}. Works
    while a server uses the database; a record that changes meanwhile is written in its old or its new state.
    """
    from dsfast.services.storage.sqlite_file import connect_reader, iterate_records  # noqa: PLC0415

    progress = _Progress("exported")
    count = 0
    with errors_in_one_line(), contextlib.closing(connect_reader(path)) as reader, _output(file) as output:
        encode = msgspec.json.Encoder().encode
        for name, version, text in iterate_records(reader):
            # Line breaks can only be white space between the tokens: in strings they are escaped.
            data = text.replace(b"\n", b" ").replace(b"\r", b" ")
            output.write(b'{"name":%b,"version":%d,"data":%b}\n' % (encode(name), version, data))
            count += 1
            progress.show(count)
        output.flush()
    progress.end(f"{count} records exported")


@contextlib.contextmanager
def _output(file: Path) -> Iterator[BinaryIO]:
    """Standard output, or a file that gets its name when it is complete."""
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as output:
            yield output
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-")
@click.option("--force", is_flag=True, help="Replace records whatever version is stored.")
@database_option
def import_(file: Path, force: bool, path: Path) -> None:
    """Read records that were exported.

    FILE is standard input unless it is given. A record is left alone if the database has a newer version. No
    server may use the database. A wrong line ends the import; the records before it are imported.
    """
    from dsfast.services.storage.sqlite_file import open_exclusively  # noqa: PLC0415

    with errors_in_one_line(), _input(file) as lines, open_exclusively(path) as database:
        _import_lines(lines, database, force)


@contextlib.contextmanager
def _input(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with file.open("rb") as source:
        yield source


def _import_lines(lines: BinaryIO, database: RecordFile, force: bool) -> None:
    from dsfast.services.storage import WriteOp  # noqa: PLC0415
    from dsfast.services.storage.sqlite_file import transaction  # noqa: PLC0415

    progress = _Progress("imported")
    decoder = msgspec.json.Decoder(_Line)
    batch: list[WriteOp] = []
    numbers: list[int] = []
    size = count = 0

    def write() -> None:
        nonlocal size, count
        with transaction(database):
            errors = database.apply(batch)
            for number, error in zip(numbers, errors, strict=True):
                if error is not None:
                    raise click.ClickException(f"line {number}: {error}; {count} records imported before")
        count += len(batch)
        batch.clear()
        numbers.clear()
        size = 0
        progress.show(count)

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        problem: object
        try:
            record = decoder.decode(line)
            text = bytes(record.data)
            problem = _problem(record, text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            problem = error
        if problem is not None:
            write()
            raise click.ClickException(f"line {number}: {problem}; {count} records imported before")
        batch.append(WriteOp(record.name, record.version, text, force))
        numbers.append(number)
        size += len(text)
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            write()
    write()
    kept = database.guard_refused
    message = f"{count - kept} records imported"
    progress.end(message + (f", {kept} left alone because the database has newer ones" if kept else ""))


def _problem(record: _Line, text: bytes) -> str | None:
    """What is wrong with a line, in words; None if it can be stored."""
    if not record.name:
        return "the name is empty"
    if record.version < 0:
        return "the version is negative"
    if not text.lstrip().startswith((b"{", b"[")):
        return "the data is neither an object nor an array"
    return None
