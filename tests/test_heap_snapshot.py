"""Snapshots of the memory: what is in the files, how many there are, and wrong options."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from dsfast import ConfigError, Server, StartError
from dsfast.services import heap_snapshot
from tests.wire import serve

loops = ["uvloop"]


class Leak:
    """Something that can be told from everything else in the process."""


def snapshots(directory, **options):
    given = {"interval": 10_000, "outputDir": str(directory), **options}
    return {"plugins": {"heap": {"name": "heap-snapshot", "options": given}}}


def of_type(content, key="types"):
    return {entry["type"]: entry for entry in content[key]}


async def test_a_leak_is_seen_in_the_second_snapshot(tmp_path):
    async with serve(snapshots(tmp_path / "new" / "heap")) as s:
        await s.login("a")
        heap = s.services.plugins["heap"]
        first = json.loads((await heap.take()).read_text())
        kept = [Leak() for _ in range(5000)]
        second = json.loads((await heap.take()).read_text())
        name = f"{Leak.__module__}.Leak"
        assert first["counters"]["hub"]["deliveries"] >= 0
        assert first["memory"]["resident"] > 1 << 20
        assert "grown" not in first
        assert of_type(second, "grown")[name] == {"type": name, "growth": len(kept)}
        assert of_type(second)[name]["count"] == 5000
        assert of_type(second)[name]["bytes"] >= 5000 * 16
        assert second["objects"] >= first["objects"]
        assert second["server"] == s.server.get_config().server_name


async def test_snapshots_are_taken_by_the_clock(tmp_path):
    async with serve(snapshots(tmp_path)) as s:
        heap = s.services.plugins["heap"]
        heap._work.cancel()
        heap.options.interval = 1  # nobody wants to wait for ten seconds
        heap._work = s.endpoint.core.hub.loop.create_task(heap._repeat())
        while sum(text.startswith("heap snapshot: ") for text in s.log.find("INFO")) < 2:
            await s.log.wait_for("INFO", len(s.log.find("INFO")) + 1)


async def test_only_the_newest_files_stay(tmp_path):
    (tmp_path / "dsfast-heap-1-19700101T000000.000.json").write_text("of another process")
    async with serve(snapshots(tmp_path, maxFiles=2)) as s:
        heap = s.services.plugins["heap"]
        paths = [await heap.take() for _ in range(4)]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            ["dsfast-heap-1-19700101T000000.000.json", *{path.name for path in paths[-2:]}]
        )


async def test_places_of_allocation(tmp_path):
    async with serve(snapshots(tmp_path, traceFrames=2)) as s:
        content = json.loads((await s.services.plugins["heap"].take()).read_text())
        assert all(entry["bytes"] > 0 and entry["place"] for entry in content["allocations"])
    assert not tracemalloc.is_tracing()


async def test_a_disk_that_is_full_is_one_line_and_the_server_goes_on(tmp_path, monkeypatch):
    async with serve(snapshots(tmp_path)) as s:
        heap = s.services.plugins["heap"]

        def full(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(heap, "_write", full)
        heap._work.cancel()
        heap.options.interval = 1
        heap._work = s.endpoint.core.hub.loop.create_task(heap._repeat())
        assert "no heap snapshot: OSError(28" in (await s.log.wait_for("PLUGIN_ERROR"))[0]
        await (await s.login("a")).fence()


def test_objects_of_strange_classes_do_no_harm():
    class Strange:
        def __sizeof__(self):
            raise RuntimeError("boom")

        @property
        def __class__(self):
            raise RuntimeError("boom")

    kept = [Strange()]
    counts, _ = heap_snapshot._survey(None)
    assert counts[f"{__name__}.{Strange.__qualname__}"] == len(kept)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"interval": None}, "interval"),
        ({"interval": 9999}, "interval: Expected `?int`? >= 10000"),
        ({"outputDir": ""}, "outputDir"),
        ({"outputDir": 5}, "outputDir: Expected str, got int"),
        ({"maxFiles": 0}, "maxFiles"),
        ({"traceFrames": "many"}, "traceFrames: Expected int, got str"),
        ({"intervall": 5}, "Property intervall is not expected"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        Server(snapshots(tmp_path, **options))


@pytest.mark.parametrize("missing", ["interval", "outputDir"])
def test_missing_options_are_named(tmp_path, missing):
    config = snapshots(tmp_path)
    del config["plugins"]["heap"]["options"][missing]
    with pytest.raises(ConfigError, match=missing):
        Server(config)


async def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"heap: outputDir: .*Not a directory"):
        async with serve(snapshots(tmp_path / "file" / "heap")):
            pass
