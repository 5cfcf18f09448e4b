"""The storage in files: the contract, what the files look like, and what happens when a disk is full."""

from __future__ import annotations

import json
import os

import pytest

from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.services.storage import PermanentStorageError, StorageError, WriteOp
from dsfast.testing import MemoryLogger, StorageConformance, plugin_services, started
from dsfast.testing.samples import NAMES
from dsfast_plugins.file import FileStorage, file_name
from dsfast_plugins.options import OptionError
from tests.record_client import RecordClient
from tests.wire import serve

loops = ["uvloop"]


class TestFiles(StorageConformance):
    plugin_class = FileStorage
    bulk = 300

    @pytest.fixture
    def options(self, tmp_path):
        return {"directory": str(tmp_path / "data" / "records"), "sync": False}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "records"


@pytest.fixture
async def storage(directory):
    async with started(FileStorage, {"directory": str(directory)}) as storage:
        yield storage


def test_file_names():
    assert file_name("plain name ä") == "plain name ä"
    assert file_name("user/1") == "user%2F1"
    assert [file_name(name) for name in (".", "..", ".lock", "a.b", "%2F", "\n")] == [
        "%2E", "%2E.", "%2Elock", "a.b", "%252F", "%0A",
    ]  # fmt: skip
    assert file_name("ä" * 125) == "ä" * 125
    assert file_name("ä" * 126) == "%sha256-5f1f56589ca78c37b7a967050049f7cf32dbe49949eacb1f62d580088aaf56c9"
    every = [file_name(name) for name in (*NAMES, "n" * 1000, "n" * 1001, "%sha256-" + "0" * 64)]
    assert len(set(every)) == len(every)
    assert all(len(name.encode()) <= 250 and "/" not in name and name[0] != "." for name in every)


async def test_what_is_in_the_files(storage, directory):
    await storage.set("user/1", 3, {"a": [1]})
    await storage.set("n" * 1000, 0, [])
    assert json.loads((directory / "user%2F1").read_text()) == {"v": 3, "d": {"a": [1]}}
    assert json.loads((directory / file_name("n" * 1000)).read_text()) == {"v": 0, "d": [], "n": "n" * 1000}
    await storage.delete("user/1")
    assert sorted(path.name for path in directory.iterdir()) == sorted([".lock", file_name("n" * 1000)])
    assert directory.stat().st_mode & 0o777 == 0o700


async def test_files_that_people_write(storage, directory):
    (directory / "by hand").write_text('{ "d": {"x": 1.5},\n "v": 7 }\n')
    assert await storage.get("by hand") == (7, {"x": 1.5})
    for text in ("", "[]", '{"v":1}', '{"v":"1","d":{}}', '{"v":1,"d":5}', '{"v":1,"d":{'):
        (directory / "wrong").write_text(text)
        with pytest.raises(PermanentStorageError, match="holds no record"):
            await storage.get("wrong")
    await storage.set("wrong", 1, {})
    assert await storage.get("wrong") == (1, {})


async def test_a_crash_leaves_whole_records(directory):
    """What a crash has left half written is in nobody's way."""
    async with started(FileStorage, {"directory": str(directory)}) as storage:
        await storage.set("r", 1, {"a": 1})
    (directory / ".new").write_text('{"v":2,"d":{"a"')
    async with started(FileStorage, {"directory": str(directory)}) as storage:
        assert await storage.get("r") == (1, {"a": 1})
        assert not (directory / ".new").exists()


async def test_a_full_disk_is_a_transient_error(storage, directory, monkeypatch):
    await storage.set("r", 1, {"a": 1})

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await storage.write_batch([WriteOp("r", 2, b"{}")])
    monkeypatch.undo()
    assert await storage.get("r") == (1, {"a": 1})
    assert await storage.write_batch([WriteOp("r", 2, b"{}")]) == [None]
    assert await storage.get("r") == (2, {})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "option directory: is required"),
        ({"directory": 5}, "option directory: expected str, got int"),
        ({"directory": "d", "sync": "maybe"}, "option sync: expected bool, got str"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(options, text):
    with pytest.raises(OptionError, match=text):
        FileStorage(options, plugin_services(), load())


def test_unknown_options_are_warned_about():
    logger = MemoryLogger()
    FileStorage({"directory": "d", "path": "x"}, plugin_services(logger), load()).init()
    assert logger.texts(LogLevel.WARN) == ["file storage: option path is unknown"]


async def test_after_the_end_calls_fail(storage):
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await storage.get("r")


async def test_a_server_with_files(directory):
    config = {"storage": {"class": FileStorage, "options": {"directory": str(directory)}}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        await client.set("book/1", {"a": 1})
        assert json.loads((directory / "book%2F1").read_text())["d"] == {"a": 1}
    (directory / "prepared").write_text('{"v":7,"d":{"by":"deepstream"}}')
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert await client.read("prepared") == (7, {"by": "deepstream"})
        assert (await client.read("book/1"))[1] == {"a": 1}
