"""The test kit itself: its suites pass for what fulfils the contract and fail for what does not."""

import asyncio

import pytest

from dsfast.plugin import Cache
from dsfast.services.cache.memory import MemoryCache
from dsfast.services.storage.sqlite import SqliteStorage
from dsfast.testing import CacheConformance, FaultProxy, StorageConformance, started

loops = ["asyncio", "uvloop"]


class DictCache(Cache):
    description = "dict"

    def init(self):
        self.rows = {}

    async def get(self, name):
        return self.rows.get(name, (-1, None))

    async def set(self, name, version, data):
        self.rows[name] = (version, data)

    async def delete(self, name):
        self.rows.pop(name, None)


class TestMemoryCache(CacheConformance):
    plugin_class = MemoryCache


class TestDictCache(CacheConformance):
    """The smallest cache: everything else comes from the base class."""

    plugin_class = DictCache
    bulk = 1000


class TestSqlite(StorageConformance):
    plugin_class = SqliteStorage

    @pytest.fixture
    def options(self, tmp_path):
        return {"path": str(tmp_path / "dsfast.db")}

    @pytest.mark.skip("one process, one instance: the file is locked")
    async def test_batch_of_interleaved_writers(self):
        pass


class Forgetful(DictCache):
    async def set(self, name, version, data):
        if version:  # the mistake: 0 counts as nothing
            await super().set(name, version, data)


class Late(DictCache):
    async def set(self, name, version, data):
        await asyncio.sleep(0)  # the mistake: a later read overtakes
        await asyncio.sleep(0)
        await super().set(name, version, data)


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (Forgetful, "test_version_0_is_a_version"),
        (Late, "test_calls_of_one_name_take_effect_in_order"),
        (Late, "test_random_calls_agree_with_a_dictionary"),
    ],
)
async def test_the_suite_finds_mistakes(wrong, test):
    async with started(wrong) as cache:
        with pytest.raises(AssertionError):
            await getattr(CacheConformance(), test)(cache)


# ---- the proxy


@pytest.fixture
async def echo():
    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def proxy(echo):
    async with FaultProxy("127.0.0.1", echo) as proxy:
        yield proxy


async def connect(proxy):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

    async def ask(text):
        writer.write(text)
        return await asyncio.wait_for(reader.readexactly(len(text)), 20)

    return reader, writer, ask


async def test_proxy_passes_everything(proxy):
    _, writer, ask = await connect(proxy)
    assert await ask(b"x" * 300_000) == b"x" * 300_000
    assert proxy.accepted == 1
    writer.close()


async def test_proxy_cuts_and_goes_on(proxy):
    reader, _, ask = await connect(proxy)
    await ask(b"hello")
    proxy.cut()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    _, writer, ask = await connect(proxy)
    assert await ask(b"again") == b"again"
    writer.close()


async def test_proxy_cuts_in_the_middle(proxy):
    reader, writer, ask = await connect(proxy)
    await ask(b"12345")
    proxy.cut_after(3)
    writer.write(b"abcdef")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(6)


async def test_proxy_stalls_and_resumes(proxy):
    _, writer, ask = await connect(proxy)
    await ask(b"before")
    proxy.stall()
    asking = asyncio.create_task(ask(b"during"))
    done, _ = await asyncio.wait([asking], timeout=0.05)
    assert not done
    proxy.resume()
    assert await asking == b"during"
    writer.close()


async def test_proxy_stops_and_comes_back(proxy):
    reader, _, ask = await connect(proxy)
    await ask(b"hello")
    port = proxy.port
    await proxy.stop()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    with pytest.raises(ConnectionError):
        await connect(proxy)
    await proxy.restart()
    assert proxy.port == port
    _, writer, ask = await connect(proxy)
    assert await ask(b"back") == b"back"
    writer.close()
