"""The two drivers of SQLite: the same answers, the same errors, and a server that has only the second one."""

import asyncio
import contextlib
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from sqlite_drivers import CLASSES, environment

from dsfast.services.storage import sqlite_driver
from dsfast.services.storage.sqlite_driver import SqliteError, used_log_bytes

ROOT = Path(__file__).parent.parent
TIMEOUT = 20


@pytest.fixture(params=CLASSES)
def opened(request, tmp_path):
    """Opens a file with one of the drivers; everything is closed at the end."""
    with contextlib.ExitStack() as stack:

        def connect(name="a.db", **options):
            connection = CLASSES[request.param](tmp_path / name, **options)
            stack.callback(connection.close)
            return connection

        yield connect


def test_results_are_lists_of_tuples(opened):
    connection = opened()
    assert connection.execute("CREATE TABLE t(name TEXT PRIMARY KEY, val BLOB)") == []
    assert connection.execute("INSERT INTO t VALUES(?1,?2),(?3,?2)", ("ä\0b", b"\0\xff", "c")) == []
    assert connection.changes == 2
    assert connection.execute("SELECT * FROM t ORDER BY name") == [("c", b"\0\xff"), ("ä\0b", b"\0\xff")]
    connection.execute("INSERT INTO t VALUES('c', x'00') ON CONFLICT DO UPDATE SET val=x'01' WHERE 0")
    assert connection.changes == 0
    assert connection.execute("DELETE FROM t RETURNING name") != []
    assert connection.changes == 2
    assert not connection.in_transaction
    connection.execute("BEGIN IMMEDIATE")
    assert connection.in_transaction


@pytest.mark.parametrize(("value", "error"), [("\ud800", UnicodeEncodeError), (2**63, OverflowError)])
def test_values_that_sqlite_does_not_know_are_refused(opened, value, error):
    with pytest.raises(error):
        opened().execute("SELECT ?", (value,))


def code_of(connection, statement):
    with pytest.raises(SqliteError) as caught:
        connection.execute(statement)
    assert str(caught.value)
    return caught.value.code


def test_errors_have_the_codes_of_sqlite(opened, tmp_path):
    writer, other = opened(), opened()
    assert code_of(writer, "nonsense") == 1
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE t(x UNIQUE)")
    writer.execute("INSERT INTO t VALUES(1)")
    assert code_of(writer, "INSERT INTO t VALUES(1)") == 2067
    writer.execute("BEGIN IMMEDIATE")
    assert code_of(other, "BEGIN IMMEDIATE") == sqlite_driver.BUSY
    writer.execute("COMMIT")
    assert code_of(opened(readonly=True), "DELETE FROM t") == sqlite_driver.READONLY
    writer.execute("PRAGMA max_page_count=4")
    assert code_of(writer, "INSERT INTO t VALUES(zeroblob(100000))") == sqlite_driver.FULL
    (tmp_path / "letter").write_bytes(b"Dear Sir or Madam, " * 100)
    assert code_of(opened("letter"), "SELECT * FROM sqlite_schema") == sqlite_driver.NOTADB
    with pytest.raises(SqliteError) as caught:
        opened("missing", readonly=True).execute("SELECT 1 FROM sqlite_schema")
    assert caught.value.result == sqlite_driver.CANTOPEN
    assert not (tmp_path / "missing").exists()


def test_damage_has_its_code(opened, tmp_path):
    connection = opened()
    connection.execute("CREATE TABLE t(x)")
    connection.execute("INSERT INTO t VALUES(zeroblob(100000))")
    connection.close()
    with (tmp_path / "a.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(SqliteError) as caught:
        opened().execute("SELECT * FROM t")
    assert caught.value.result == sqlite_driver.CORRUPT


def test_a_statement_can_be_interrupted(opened):
    connection = opened()
    asked = []
    connection.interrupt_when(lambda: asked.append(1) or len(asked) > 3, 100)
    endless = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n"
    assert code_of(connection, endless) == sqlite_driver.INTERRUPT
    assert len(asked) == 4


@pytest.mark.parametrize("name", ["ä %41?mode=ro&x#y.db", "file:z.db"])
def test_names_of_files_are_taken_as_they_are(opened, tmp_path, name):
    opened(name).execute("CREATE TABLE t(x)")
    assert (tmp_path / name).exists()
    assert opened(name, readonly=True).execute("SELECT name FROM sqlite_schema") == [("t",)]


def test_checkpoints_say_whether_they_were_complete(opened):
    writer, reader = opened(), opened(readonly=True)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE t(x)")
    assert writer.checkpoint(truncate=False)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t")
    writer.execute("INSERT INTO t VALUES(1)")
    assert not writer.checkpoint(truncate=False)
    assert not writer.checkpoint(truncate=True)
    reader.execute("COMMIT")
    assert writer.checkpoint(truncate=True)


def test_length_of_the_log_is_known_as_it_grows_and_starts_anew(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_driver, "MEASURE_BYTES", 1)
    chance = random.Random(1)
    writer, reader = opened(), opened(readonly=True)
    writer.execute("PRAGMA page_size=8192")
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.execute("CREATE TABLE t(x)")
    writer.log_bytes()
    held = False
    sizes = []
    for _ in range(400):
        rows = chance.randrange(1, 4)
        writer.execute(f"INSERT INTO t VALUES{','.join(['(?)'] * rows)}", [chance.randbytes(9000)] * rows)
        size, measured = writer.log_bytes(), used_log_bytes(tmp_path / "a.db-wal")
        if chance.random() < 0.1:
            # This one says how many frames there are.
            [(_, frames, _)] = writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
            assert (size, measured) in ((frames * 8192, frames * 8216), (frames * 8216, frames * 8216))
            sizes.append(frames)
        if chance.random() < 0.05:
            reader.execute("ROLLBACK" if held else "BEGIN")
            held = not held
            reader.execute("SELECT count(*) FROM t")
        if chance.random() < 0.02:
            writer.checkpoint(truncate=True)
    assert sum(after < before for before, after in pairwise(sizes)) > 3, "the log never started anew"
    assert used_log_bytes(tmp_path / "none") == 0


def test_without_apsw_the_standard_module_is_used():
    program = "from dsfast.services.storage import sqlite_driver as d; print(d.driver.__name__, d.warning())"
    for driver, connection in CLASSES.items():
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(driver),
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
        )
        assert done.stdout.startswith(connection.__name__)
        assert ("hidden by a test" in done.stdout) == ("can damage files" in done.stdout and driver != "apsw")


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False),
        ((3, 44, 9), False), ((3, 45, 0), True), ((3, 50, 6), True), ((3, 50, 7), False), ((3, 51, 2), True),
        ((3, 51, 3), False), ((3, 54, 1), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("driver", CLASSES)
def test_warning_for_libraries_that_can_damage_files(monkeypatch, driver, version, affected):
    monkeypatch.setattr(sqlite_driver, "driver", CLASSES[driver])
    monkeypatch.setattr(CLASSES[driver], "version", version)
    text = sqlite_driver.warning()
    assert (text is not None) == affected
    if text is not None:
        assert "can damage files in rare cases; use 3.51.3 or newer" in text
        assert ("install the package apsw" in text) == (driver == "sqlite3")


def test_library_that_is_too_old_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sqlite_driver, "driver", sqlite_driver.StandardConnection)
    monkeypatch.setattr(sqlite_driver.StandardConnection, "version", (3, 36, 0))
    with pytest.raises(SqliteError, match=r"is too old, 3\.37 is needed: install the package apsw"):
        sqlite_driver.connect(tmp_path / "a.db")


async def test_server_without_apsw_stores_and_warns(tmp_path):
    command = ["-m", "dsfast", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env=environment("sqlite3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = []
    try:
        async with asyncio.timeout(TIMEOUT):
            while not re.search("is ready at", line := (await process.stdout.readline()).decode()):
                assert line, "".join(lines)
                lines.append(line)
    finally:
        process.terminate()
        output, _ = await process.communicate()
    assert process.returncode == 0, output
    warned = any("can damage files in rare cases" in line and "apsw" in line for line in lines)
    first, last = sqlite_driver.AFFECTED_BY_WAL_RESET
    version = sqlite_driver.StandardConnection.version
    fixed = any(version[:2] == line[:2] and version >= line for line in sqlite_driver.FIXED_WITHIN)
    assert warned == (first <= version <= last and not fixed)
    assert (tmp_path / "data" / "dsfast.db").stat().st_size > 0
