"""What every lock plugin has to do (plugins.md B.10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast.plugin import LockRegistry
from dsfast.testing.plugins import PATIENCE, started
from dsfast.testing.samples import NAMES

__all__ = ["LockConformance"]


class LockConformance:
    """Subclass it, name the class in ``plugin_class`` and give its options in a fixture ``options``.

    If the locks are shared by several servers, override the fixture ``other`` with those of a second one. If
    they expire, give options with a short ``holdTimeout`` and set ``expires``.
    """

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[LockRegistry]]
    expires: ClassVar[bool] = False

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest_asyncio.fixture
    async def locks(self, options: Mapping[str, Any]) -> AsyncIterator[LockRegistry]:
        """The plugin, ready."""
        async with started(self.plugin_class, options) as locks:
            yield locks

    @pytest_asyncio.fixture
    async def other(self, locks: LockRegistry) -> AsyncIterator[LockRegistry | None]:
        """The same locks, on another server; None if there is none."""
        yield None

    async def test_describes_itself(self, locks: LockRegistry) -> None:
        assert locks.description

    async def test_a_lock_is_held_once(self, locks: LockRegistry) -> None:
        assert await locks.get("kit/a") is True
        assert await locks.get("kit/a") is False
        assert await locks.get("kit/b") is True
        locks.release("kit/a")
        await self._granted(locks, "kit/a")
        assert await locks.get("kit/b") is False
        locks.release("kit/a")
        locks.release("kit/b")

    async def test_one_of_many_gets_it(self, locks: LockRegistry) -> None:
        for _ in range(3):
            answers = await asyncio.gather(*[locks.get("kit/many") for _ in range(50)])
            assert sorted(answers) == [False] * 49 + [True]
            locks.release("kit/many")
            await self._granted(locks, "kit/many")
            locks.release("kit/many")
            await self._granted(locks, "kit/many")
            locks.release("kit/many")
            await self._free(locks, "kit/many")

    async def test_names_do_not_meet(self, locks: LockRegistry) -> None:
        assert await asyncio.gather(*[locks.get(name) for name in NAMES]) == [True] * len(NAMES)
        for name in NAMES:
            locks.release(name)

    async def test_what_is_not_held_can_be_released(self, locks: LockRegistry) -> None:
        locks.release("kit/unknown")
        assert await locks.get("kit/unknown") is True
        locks.release("kit/unknown")
        locks.release("kit/unknown")
        await self._free(locks, "kit/unknown")

    async def test_a_lock_that_is_held_can_be_renewed(self, locks: LockRegistry) -> None:
        assert await locks.get("kit/renewed") is True
        assert await locks.renew("kit/renewed") is True
        assert await locks.get("kit/renewed") is False
        locks.release("kit/renewed")

    async def test_a_lock_that_nobody_releases_expires(self, locks: LockRegistry) -> None:
        if not self.expires:
            pytest.skip("these locks do not expire")
        assert await locks.get("kit/expiring") is True
        await self._granted(locks, "kit/expiring")
        locks.release("kit/expiring")

    async def test_another_server_does_not_get_it_and_cannot_release_it(
        self, locks: LockRegistry, other: LockRegistry | None
    ) -> None:
        if other is None:
            pytest.skip("these locks are those of one server")
        assert await locks.get("kit/shared") is True
        assert await other.get("kit/shared") is False
        other.release("kit/shared")
        assert await other.get("kit/shared") is False
        assert await locks.renew("kit/shared") is True
        locks.release("kit/shared")
        await self._granted(other, "kit/shared")
        assert await locks.get("kit/shared") is False
        other.release("kit/shared")
        await self._free(locks, "kit/shared")

    async def test_close_without_a_start_and_twice(
        self, options: Mapping[str, Any], locks: LockRegistry
    ) -> None:
        other = self.plugin_class(options, locks.services, locks.config)
        other.init()
        await other.close()
        await other.close()

    async def _granted(self, locks: LockRegistry, name: str) -> None:
        """Take a lock that is about to be free: a release may travel, and an expiry takes its time."""
        async with asyncio.timeout(PATIENCE):
            while not await locks.get(name):  # noqa: ASYNC110 - there is nothing to be told by
                await asyncio.sleep(0.005)

    async def _free(self, locks: LockRegistry, name: str) -> None:
        await self._granted(locks, name)
        locks.release(name)
