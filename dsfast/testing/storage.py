"""What every storage plugin has to do (storages.md sections 1 and 11)."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast.plugin import Storage
from dsfast.services.storage import BatchStorage, PermanentStorageError, WriteOp
from dsfast.services.storage.batch import encode_json
from dsfast.testing.plugins import started
from dsfast.testing.samples import LARGE, NAMES, VALUES

__all__ = ["StorageConformance"]


class StorageConformance:
    """Subclass it, name the class in ``plugin_class`` and give its options in a fixture ``options``.

    Two instances with the same options, one after the other, have to find the same records. The tests whose
    name has ``batch`` in it are for subclasses of :class:`dsfast.services.storage.BatchStorage`.
    """

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[Storage]]
    bulk: ClassVar[int] = 3000
    """Names of the bulk test."""
    large: ClassVar[Any] = LARGE
    """The largest value that has to be kept."""
    refused_names: ClassVar[frozenset[str]] = frozenset()
    """Names for which the storage may raise an error instead (a limit of the database)."""

    def refuses(self, value: Any) -> bool:
        """True for values that the storage cannot keep and refuses with PermanentStorageError."""
        return False

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest_asyncio.fixture
    async def storage(self, options: Mapping[str, Any]) -> AsyncIterator[Storage]:
        """The plugin, ready."""
        async with started(self.plugin_class, options) as storage:
            yield storage

    async def test_describes_itself(self, storage: Storage) -> None:
        assert storage.description

    async def test_a_missing_record_is_no_error(self, storage: Storage) -> None:
        for name in ("missing", "no-such-table/missing"):
            assert await storage.get(name) == (-1, None)
            await storage.delete(name)
            await storage.delete_bulk([name])

    async def test_version_0_is_a_version(self, storage: Storage) -> None:
        await storage.set("kit/zero", 0, {})
        assert await storage.get("kit/zero") == (0, {})

    @pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
    async def test_values_come_back_equal(self, storage: Storage, value: Any) -> None:
        if self.refuses(value):
            with pytest.raises(PermanentStorageError):
                await storage.set("kit/value", 3, value)
            return
        given = copy.deepcopy(value)
        await storage.set("kit/value", 3, given)
        assert given == value, "set changed the object that it was given"
        assert await storage.get("kit/value") == (3, value)
        await storage.delete("kit/value")

    @pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
    async def test_any_name_will_do(self, storage: Storage, name: str) -> None:
        if name in self.refused_names:
            pytest.skip("refused by this storage")
        await storage.set(name, 1, {"name": name})
        assert await storage.get(name) == (1, {"name": name})
        await storage.delete(name)
        assert await storage.get(name) == (-1, None)

    async def test_names_do_not_meet(self, storage: Storage) -> None:
        names = [name for name in NAMES if name not in self.refused_names]
        await asyncio.gather(*(storage.set(name, i, {"name": name}) for i, name in enumerate(names)))
        found = await asyncio.gather(*(storage.get(name) for name in names))
        assert found == [(i, {"name": name}) for i, name in enumerate(names)]
        await storage.delete_bulk(names)
        assert await asyncio.gather(*(storage.get(name) for name in names)) == [(-1, None)] * len(names)

    async def test_a_large_value(self, storage: Storage) -> None:
        await storage.set("kit/large", 1, self.large)
        assert await storage.get("kit/large") == (1, self.large)
        await storage.delete("kit/large")

    async def test_set_replaces(self, storage: Storage) -> None:
        await storage.set("kit/replaced", 4, {"a": 1, "b": 2})
        await storage.set("kit/replaced", 5, {"c": 3})
        assert await storage.get("kit/replaced") == (5, {"c": 3})
        await storage.set("kit/replaced", 6, ["now", "a", "list"])
        assert await storage.get("kit/replaced") == (6, ["now", "a", "list"])
        await storage.set("kit/replaced", 7, {"back": True})
        assert await storage.get("kit/replaced") == (7, {"back": True})

    async def test_deleted_and_created_again(self, storage: Storage) -> None:
        await storage.set("kit/again", 30, {"a": 1})
        await storage.delete("kit/again")
        assert await storage.get("kit/again") == (-1, None)
        await storage.set("kit/again", 0, {"b": 2})
        assert await storage.get("kit/again") == (0, {"b": 2})

    async def test_many_names(self, storage: Storage) -> None:
        names = [f"kit-bulk/{i}" for i in range(self.bulk)]
        await _write(storage, [WriteOp(name, i, encode_json({"i": i})) for i, name in enumerate(names)])
        found = await asyncio.gather(*(storage.get(name) for name in names))
        assert found == [(i, {"i": i}) for i in range(self.bulk)]
        await storage.delete_bulk(names)
        assert await asyncio.gather(*(storage.get(name) for name in names)) == [(-1, None)] * self.bulk

    async def test_the_next_instance_finds_everything(self, options: Mapping[str, Any]) -> None:
        async with started(self.plugin_class, options) as first:
            await first.set("kit/kept", 3, {"kept": True})
            await first.set("kit/gone", 3, {"kept": False})
            await first.delete("kit/gone")
        async with started(self.plugin_class, options) as second:
            assert await second.get("kit/kept") == (3, {"kept": True})
            assert await second.get("kit/gone") == (-1, None)

    async def test_close_without_a_start_and_twice(
        self, options: Mapping[str, Any], storage: Storage
    ) -> None:
        other = self.plugin_class(options, storage.services, storage.config)
        other.init()
        await other.close()
        await other.close()

    # ---- storages that write in batches

    async def test_batch_keeps_the_highest_version(self, storage: Storage) -> None:
        batches = _batches(storage)
        assert await _one(batches, 5) is None
        assert await _one(batches, 4) is None, "a refused write is a success: someone newer has won"
        assert await batches.get("kit/guard") == (5, {"v": 5})
        assert await _one(batches, 5) is None
        assert await _one(batches, 6) is None
        assert await batches.get("kit/guard") == (6, {"v": 6})
        assert await _one(batches, 0, forced=True) is None
        assert await batches.get("kit/guard") == (0, {"v": 0})

    async def test_batch_of_everything(self, storage: Storage) -> None:
        batches = _batches(storage)
        await batches.set("kit/old", 9, {"old": True})
        await batches.set("kit/leaves", 1, {})
        ops = [
            WriteOp("kit/old", 2, b'{"old":false}'),
            WriteOp("kit/leaves", -1, None),
            WriteOp("kit/never-was", -1, None),
            WriteOp("kit/new", 0, b"[]"),
            WriteOp("kit-other/forced", 0, b'{"f":1}', forced=True),
            WriteOp("untabled", 4, b'{"u":1}'),
        ]
        assert await batches.write_batch(ops) == [None] * 6
        names = [op.name for op in ops]
        found = [await batches.get(name) for name in names]
        assert found == [(9, {"old": True}), (-1, None), (-1, None), (0, []), (0, {"f": 1}), (4, {"u": 1})]
        await batches.delete_bulk(names)

    async def test_batch_of_interleaved_writers(self, options: Mapping[str, Any], storage: Storage) -> None:
        """Two instances write shuffled versions of the same names; the highest one stays."""
        first = _batches(storage)
        rng = random.Random(11)
        names = [f"kit-race/{i}" for i in range(10)]
        async with started(self.plugin_class, options) as second:
            await first.delete_bulk(names)
            rounds = [(name, version) for name in names for version in range(1, 13)]
            rng.shuffle(rounds)

            async def write(part: list[tuple[str, int]], writer: BatchStorage) -> None:
                for name, version in part:
                    op = WriteOp(name, version, encode_json({"version": version}))
                    assert await writer.write_batch([op]) == [None]

            await asyncio.gather(write(rounds[::2], first), write(rounds[1::2], _batches(second)))
        assert [await first.get(name) for name in names] == [(12, {"version": 12})] * len(names)


def _batches(storage: Storage) -> BatchStorage:
    if not isinstance(storage, BatchStorage):
        pytest.skip("not a batch storage")
    return storage


async def _one(storage: BatchStorage, version: int, *, forced: bool = False) -> Exception | None:
    [error] = await storage.write_batch(
        [WriteOp("kit/guard", version, encode_json({"v": version}), forced=forced)]
    )
    return error


async def _write(storage: Storage, ops: list[WriteOp]) -> None:
    if isinstance(storage, BatchStorage):
        assert await storage.write_batch(ops) == [None] * len(ops)
        return
    data = [(op.name, op.version, {"i": op.version}) for op in ops]
    await asyncio.gather(*(storage.set(*row) for row in data))
