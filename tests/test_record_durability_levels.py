"""When a write is acknowledged, and when others are told: `record.durability` (cluster.md section 2.12)."""

from collections.abc import AsyncIterator

import pytest

from tests.record_client import GatedStorage, R
from tests.test_record_waiting import ACK, BROKEN, Scene, scene


@pytest.fixture
async def strict() -> AsyncIterator[Scene]:
    """Nobody is told about a change before the storage has it."""
    async for it in scene({"record": {"durability": "strict"}}, storage=GatedStorage):
        yield it


@pytest.fixture
async def quick() -> AsyncIterator[Scene]:
    """The cache is enough for an acknowledgement."""
    async for it in scene({"record": {"durability": "cache"}}, storage=GatedStorage):
        yield it


async def test_strict_tells_nobody_before_the_storage(strict: Scene) -> None:
    await strict.b.subscribe("r")
    strict.storage.gate.block("set")
    strict.a.send(R.CREATEANDUPDATE, name="r", version=1, data={"a": 1}, **ACK)
    await strict.storage.gate.called("set")
    await strict.b.fence()  # nothing came
    strict.storage.gate.release("set")
    await strict.b.expect(R.UPDATE, name="r", version=1, data={"a": 1}, is_write_ack=False)
    await strict.a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)
    assert strict.storage.rows["r"] == (1, {"a": 1})


async def test_strict_write_that_fails_was_never_there(strict: Scene) -> None:
    await strict.a.set("r", {"a": 1})
    await strict.b.subscribe("r")
    strict.storage.gate.block("set")
    strict.a.send(R.PATCH, name="r", version=2, path="a", data=2, **ACK)
    await strict.storage.gate.called("set", 2)
    strict.storage.gate.release("set", BROKEN)
    await strict.a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, **ACK)
    assert await strict.b.read("r") == (1, {"a": 1})
    strict.a.send(R.PATCH, name="r", version=2, path="a", data=3, **ACK)
    await strict.b.expect(R.PATCH, name="r", version=2, path="a", data=3, is_write_ack=False)
    await strict.a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)


async def test_cache_acknowledges_before_the_storage(quick: Scene) -> None:
    quick.storage.gate.block("set")
    quick.a.send(R.CREATEANDUPDATE, name="r", version=1, data={"a": 1}, **ACK)
    await quick.a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)
    assert "r" not in quick.storage.rows
    quick.storage.gate.release("set")
    await quick.saved()
    assert quick.storage.rows["r"] == (1, {"a": 1})
