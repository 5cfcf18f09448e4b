"""The commands that look after the SQLite storage, beside a running storage and without one."""

import asyncio
import contextlib
import json
import os
import random
import re
import sys
from pathlib import Path

import click
import pytest
import sqlite_drivers
from click.testing import CliRunner
from storage_fakes import services

from dsfast.cli import cli
from dsfast.services.storage import WriteOp, sqlite_driver
from dsfast.services.storage.sqlite import SqliteStorage
from dsfast.services.storage.sqlite_file import LockFile

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=sqlite_drivers.DRIVERS, autouse=True)
def driver(request, monkeypatch):
    sqlite_drivers.use(monkeypatch, request.param)
    return request.param


def run(*arguments, given=None, ok=True):
    """Run a command; its result. A failure has to be one line."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=given)
    if ok:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.splitlines()) == 1
    return result


@contextlib.asynccontextmanager
async def running(path):
    storage = SqliteStorage({"path": str(path)}, services(), None)
    await storage.when_ready()
    try:
        yield storage
    finally:
        await storage.close()


def sample(count):
    chance = random.Random(count)
    records = {}
    for number in range(count):
        size = chance.choice([0, 10, 100, 1000, 9000, 40_000])
        records[f"rec/{number:05} ä\"'"] = (number % 7, {"n": number, "text": "x" * size, "list": [1, [2]]})
    return records


def store(path, records):
    async def write():
        async with running(path) as storage:
            await asyncio.gather(*(storage.set(name, *row) for name, row in records.items()))

    asyncio.run(write())


async def read(path):
    async with running(path) as storage:
        with contextlib.closing(sqlite_driver.connect(path)) as connection:
            names = [row[0] for row in connection.execute("SELECT name FROM records")]
        return dict(zip(names, await asyncio.gather(*map(storage.get, names)), strict=True))


def load(path):
    return asyncio.run(read(path))


def lines(records):
    return "".join(
        json.dumps({"name": name, "version": version, "data": data}) + "\n"
        for name, (version, data) in records.items()
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "dsfast.db"


# ---- export and import


def test_export_and_import_are_each_others_inverse(path, tmp_path):
    records = sample(3000)
    store(path, records)
    file = tmp_path / "all.ndjson"
    result = run("export", file, "--data-dir", path.parent)
    assert "3000 records exported" in result.stderr
    exported = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert {row["name"]: (row["version"], row["data"]) for row in exported} == records
    assert [row["name"] for row in exported] == sorted(records)

    copy = tmp_path / "other" / "copy.db"
    result = run("import", file, "--path", copy)
    assert "3000 records imported" in result.stderr
    assert load(copy) == records
    assert run("export", "--path", copy).stdout_bytes == file.read_bytes()


def test_export_keeps_the_text_of_values_but_one_record_a_line(path):
    async def write():
        async with running(path) as storage:
            await storage.write_batch(
                [
                    WriteOp("a", 1, b'{\n "exact": 123456789012345678901234567890,\r\n "s": "\\ud800\\n"}'),
                    WriteOp("b\n", 1, b"[]"),
                ]
            )

    asyncio.run(write())
    assert run("export", "--path", path).stdout_bytes.splitlines() == [
        b'{"name":"a","version":1,"data":{  "exact": 123456789012345678901234567890,   "s": "\\ud800\\n"}}',
        b'{"name":"b\\n","version":1,"data":[]}',
    ]


def test_import_obeys_the_version_unless_forced(path):
    store(path, {"a": (5, {"old": 5}), "b": (5, {"old": 5})})
    news = lines({"a": (4, {"new": 4}), "b": (6, {"new": 6}), "c": (0, {})})
    assert "2 records imported, 1 left alone" in run("import", "--path", path, given=news).stderr
    assert load(path) == {"a": (5, {"old": 5}), "b": (6, {"new": 6}), "c": (0, {})}
    run("import", "-", "--force", "--path", path, given=news)
    assert load(path)["a"] == (4, {"new": 4})


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nonsense", "line 3: "),
        ('{"name": "x", "version": 1}', "line 3: .*data"),
        ('{"name": "x", "version": "1", "data": {}}', "line 3: .*version"),
        ('{"name": "", "version": 1, "data": {}}', "line 3: the name is empty"),
        ('{"name": "x", "version": -1, "data": {}}', "line 3: the version is negative"),
        ('{"name": "x", "version": 1, "data": 7}', "line 3: the data is neither an object nor an array"),
        ('{"name": "x", "version": 1, "data": {}, "extra": 1}', "line 3: .*extra"),
        ('{"name": "x", "version": 9223372036854775808, "data": {}}', "line 3: "),
    ],
)
def test_import_stops_at_a_wrong_line_and_says_which(path, line, text):
    good = '{"name": "a", "version": 1, "data": {}}\n\n'
    result = run("import", "--path", path, given=good + line + "\n" + good, ok=False)
    assert re.search(text, result.stderr)


async def test_export_and_backup_work_beside_a_server_and_import_refuses(path, tmp_path):
    async with running(path) as storage:
        await asyncio.gather(*(storage.set(f"r{number}", 1, {"n": number}) for number in range(2000)))
        writing = True

        async def write():
            version = 2
            while writing:
                await asyncio.gather(*(storage.set(f"r{n}", version, {"n": n}) for n in range(0, 2000, 40)))
                version += 1

        writer = asyncio.create_task(write())
        exported = await command("export", "--path", path)
        assert exported.returncode == 0
        assert len(exported.stdout.splitlines()) == 2000
        saved = await command("sqlite", "backup", tmp_path / "backup.db", "--path", path)
        assert saved.returncode == 0, saved.stderr
        checked = await command("sqlite", "check", "--path", path)
        assert (checked.returncode, checked.stdout) == (0, b"ok: 2000 records\n")
        refused = await command("import", "--path", path)
        assert refused.returncode == 1
        assert f"in use by process {os.getpid()}".encode() in refused.stderr
        recovering = await command("sqlite", "recover", tmp_path / "recovered.db", "--path", path)
        assert recovering.returncode == 1
        writing = False
        await writer
    assert run("sqlite", "check", "--path", tmp_path / "backup.db").stdout == "ok: 2000 records\n"
    assert {data["n"] for _, data in (await read(tmp_path / "backup.db")).values()} == set(range(2000))


async def command(*arguments):
    """A command as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dsfast",
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process_output = await process.communicate()
    return _Done(process.returncode, *process_output)


class _Done:
    def __init__(self, returncode, stdout, stderr):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


# ---- backup, check, recovery


def test_backup_is_complete_private_and_replaces_only_when_told(path, tmp_path):
    records = sample(500)
    store(path, records)
    target = tmp_path / "backup.db"
    run("sqlite", "backup", target, "--path", path)
    assert load(target) == records
    assert target.stat().st_mode & 0o777 == 0o600
    assert "exists" in run("sqlite", "backup", target, "--path", path, ok=False).stderr
    store(path, {"one more": (1, {})})
    run("sqlite", "backup", target, "--force", "--path", path)
    assert len(load(target)) == 501
    assert list(tmp_path.glob("*.part*")) == []


def test_commands_without_a_database_say_so(path, tmp_path):
    for arguments in (["export"], ["sqlite", "check"], ["sqlite", "backup", tmp_path / "x"]):
        assert "does not exist" in run(*arguments, "--path", path, ok=False).stderr
    assert "does not exist" in run("sqlite", "recover", tmp_path / "x", "--path", path, ok=False).stderr
    assert not path.exists()


def damage(path, *pages):
    with path.open("r+b") as file:
        for page in pages:
            file.seek(8192 * (page - 1))
            file.write(random.Random(page).randbytes(8192))


def test_check_finds_damage_and_recovery_saves_the_rest(path, tmp_path):
    records = sample(2000)
    store(path, records)
    damage(path, 1, 30, 31, 32)
    result = CliRunner().invoke(cli, ["sqlite", "check", "--path", str(path)])
    assert result.exit_code == 1
    assert f"dsfast sqlite recover --path {path}" in result.stderr

    target = tmp_path / "recovered.db"
    result = run("sqlite", "recover", target, "--path", path)
    saved = load(target)
    assert 1900 < len(saved) < 2000
    assert all(records[name] == row for name, row in saved.items())
    assert f"{len(saved)} records" in result.stderr
    assert "exists" in run("sqlite", "recover", target, "--path", path, ok=False).stderr


def test_recovery_of_an_intact_file_finds_exactly_what_it_holds(path, tmp_path):
    records = sample(1000)
    store(path, records)

    async def change():
        async with running(path) as storage:
            for name in list(records)[::3]:
                records.pop(name)
                await storage.delete(name)
            for name in list(records)[::5]:
                records[name] = (50, {"changed": name})
                await storage.set(name, *records[name])

    asyncio.run(change())
    run("sqlite", "recover", tmp_path / "recovered.db", "--path", path)
    assert load(tmp_path / "recovered.db") == records


def test_recovery_reads_the_write_ahead_log(path, tmp_path):
    """The file and its log as a killed process leaves them."""
    records = sample(300)

    async def write():
        async with running(path) as storage:
            for name, row in records.items():
                await storage.set(name, *row)
            left = tmp_path / "left"
            left.mkdir()
            for name in ("dsfast.db", "dsfast.db-wal"):
                (left / name).write_bytes((path.parent / name).read_bytes())

    asyncio.run(write())
    left = tmp_path / "left" / "dsfast.db"
    assert left.with_name("dsfast.db-wal").stat().st_size > 1_000_000
    run("sqlite", "recover", tmp_path / "recovered.db", "--path", left)
    assert load(tmp_path / "recovered.db") == records


def test_recovery_waits_for_no_one(path, tmp_path):
    store(path, sample(10))
    with LockFile(path):
        result = run("sqlite", "recover", tmp_path / "x.db", "--path", path, ok=False)
    assert "in use" in result.stderr
    assert not (tmp_path / "x.db").exists()


def test_help_of_every_command_names_its_options():
    for arguments in (
        ["export"],
        ["import"],
        ["sqlite", "backup"],
        ["sqlite", "check"],
        ["sqlite", "recover"],
    ):
        with contextlib.suppress(click.exceptions.Exit):
            text = run(*arguments, "--help").output
            assert "--path" in text
            assert "--data-dir" in text
