"""What every cache plugin has to do (caches.md sections 1 and 9)."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast.plugin import Cache
from dsfast.testing.plugins import started
from dsfast.testing.samples import LARGE, NAMES, VALUES

__all__ = ["CacheConformance"]


class CacheConformance:
    """Subclass it, name the class in ``plugin_class`` and give its options in a fixture ``options``.

    The cache may hold records already; the suite uses names of its own and expects that nobody else does.
    """

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[Cache]]
    bulk: ClassVar[int] = 30_000
    """Names of the bulk test."""
    large: ClassVar[Any] = LARGE
    """The largest value that has to be kept."""

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest_asyncio.fixture
    async def cache(self, options: Mapping[str, Any]) -> AsyncIterator[Cache]:
        """The plugin, ready."""
        async with started(self.plugin_class, options) as cache:
            yield cache

    async def test_describes_itself(self, cache: Cache) -> None:
        assert cache.description

    async def test_a_missing_record_is_no_error(self, cache: Cache) -> None:
        assert await cache.get("kit/missing") == (-1, None)
        assert await cache.head("kit/missing") == -1
        assert await cache.head_bulk(["kit/missing"]) == ({}, ["kit/missing"])
        await cache.delete("kit/missing")
        await cache.delete_bulk(["kit/missing"])

    async def test_version_0_is_a_version(self, cache: Cache) -> None:
        await cache.set("kit/zero", 0, {})
        assert await cache.get("kit/zero") == (0, {})
        assert await cache.head("kit/zero") == 0
        assert await cache.head_bulk(["kit/zero"]) == ({"kit/zero": 0}, [])

    @pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
    async def test_values_come_back_equal(self, cache: Cache, value: Any) -> None:
        given = copy.deepcopy(value)
        await cache.set("kit/value", 3, given)
        assert given == value, "set changed the object that it was given"
        assert await cache.get("kit/value") == (3, value)

    @pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
    async def test_any_name_will_do(self, cache: Cache, name: str) -> None:
        other = name + "x"
        await cache.set(name, 1, {"name": name})
        await cache.set(other, 2, {"name": other})
        assert await cache.get(name) == (1, {"name": name})
        assert await cache.head_bulk([other, name]) == ({name: 1, other: 2}, [])
        await cache.delete(name)
        assert await cache.get(name) == (-1, None)
        assert await cache.get(other) == (2, {"name": other})

    async def test_names_do_not_meet(self, cache: Cache) -> None:
        """All of them at the same time, so that two names that share an entry are found."""
        await asyncio.gather(*(cache.set(name, i, {"name": name}) for i, name in enumerate(NAMES)))
        found = await asyncio.gather(*(cache.get(name) for name in NAMES))
        assert found == [(i, {"name": name}) for i, name in enumerate(NAMES)]
        assert await cache.head_bulk(NAMES) == ({name: i for i, name in enumerate(NAMES)}, [])
        await cache.delete_bulk(NAMES)
        assert await cache.head_bulk(NAMES) == ({}, list(NAMES))

    async def test_a_large_value(self, cache: Cache) -> None:
        await cache.set("kit/large", 1, self.large)
        assert await cache.get("kit/large") == (1, self.large)

    async def test_set_replaces(self, cache: Cache) -> None:
        await cache.set("kit/replaced", 4, {"a": 1, "b": 2})
        await cache.set("kit/replaced", 5, {"c": 3})
        assert await cache.get("kit/replaced") == (5, {"c": 3})
        await cache.set("kit/replaced", 2, ["older"])  # versions are the server's business
        assert await cache.get("kit/replaced") == (2, ["older"])

    async def test_head_bulk_of_found_and_missing(self, cache: Cache) -> None:
        await cache.set("kit/head/1", 7, {})
        await cache.set("kit/head/2", 0, [])
        names = ["kit/head/no", "kit/head/1", "kit/head/2", "kit/head/1", "kit/head/nope"]
        found, missing = await cache.head_bulk(names)
        assert found == {"kit/head/1": 7, "kit/head/2": 0}
        assert sorted(set(missing)) == ["kit/head/no", "kit/head/nope"]
        assert await cache.head_bulk([]) == ({}, [])

    async def test_two_writes_of_one_turn(self, cache: Cache) -> None:
        await asyncio.gather(cache.set("kit/twice", 1, {"n": 1}), cache.set("kit/twice", 2, {"n": 2}))
        assert await cache.get("kit/twice") == (2, {"n": 2})

    async def test_calls_of_one_name_take_effect_in_order(self, cache: Cache) -> None:
        """Reads see exactly the writes before them, also when all are made in one turn of the loop."""
        name = "kit/order"
        await cache.delete(name)
        calls: list[Any] = []
        expected: list[Any] = []
        for version in range(50):
            calls += [cache.set(name, version, {"n": version}), cache.get(name)]
            expected += [None, (version, {"n": version})]
        calls += [cache.delete(name), cache.get(name), cache.set(name, 99, []), cache.get(name)]
        expected += [None, (-1, None), None, (99, [])]
        calls += [cache.head(name), cache.delete_bulk([name]), cache.head_bulk([name])]
        expected += [99, None, ({}, [name])]
        assert await asyncio.gather(*calls) == expected

    async def test_random_calls_agree_with_a_dictionary(self, cache: Cache) -> None:
        rng = random.Random(4)
        names = [f"kit/random/{i}" for i in range(20)]
        await cache.delete_bulk(names)
        rows: dict[str, tuple[int, Any]] = {}
        calls: list[Any] = []
        expected: list[Any] = []
        for step in range(2000):
            name = rng.choice(names)
            kind = rng.random()
            if kind < 0.4:
                calls.append(cache.get(name))
                expected.append(rows.get(name, (-1, None)))
            elif kind < 0.5:
                calls.append(cache.head(name))
                expected.append(rows.get(name, (-1, None))[0])
            elif kind < 0.9:
                rows[name] = (step, {"step": step})
                calls.append(cache.set(name, *rows[name]))
                expected.append(None)
            else:
                rows.pop(name, None)
                calls.append(cache.delete(name))
                expected.append(None)
            if rng.random() < 0.02:
                assert await asyncio.gather(*calls) == expected
                calls, expected = [], []
        assert await asyncio.gather(*calls) == expected

    async def test_many_names(self, cache: Cache) -> None:
        names = [f"kit/bulk/{i}" for i in range(self.bulk)]
        await asyncio.gather(*(cache.set(name, i, {"i": i}) for i, name in enumerate(names)))
        assert await cache.head_bulk(names) == ({name: i for i, name in enumerate(names)}, [])
        found = await asyncio.gather(*(cache.get(name) for name in names))
        assert found == [(i, {"i": i}) for i in range(self.bulk)]
        await cache.delete_bulk(names)
        assert await cache.head_bulk(names) == ({}, names)

    async def test_a_caller_that_gives_up_harms_nobody(self, cache: Cache) -> None:
        await cache.set("kit/given-up", 1, {"a": 1})
        for moment in range(6):
            tasks = [asyncio.create_task(cache.get("kit/given-up")) for _ in range(3)]
            for _ in range(moment):
                await asyncio.sleep(0)
            tasks[0].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[1:] == [(1, {"a": 1})] * 2
        assert await cache.get("kit/given-up") == (1, {"a": 1})

    async def test_close_without_a_start_and_twice(self, options: Mapping[str, Any], cache: Cache) -> None:
        other = self.plugin_class(options, cache.services, cache.config)
        other.init()
        await other.close()
        await other.close()
