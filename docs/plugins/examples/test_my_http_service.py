import aiohttp
import pytest
from my_http_service import OfficeHttp

from dsfast.testing import served


async def test_paths_and_origins():
    async with served(
        {"httpServer": {"class": OfficeHttp, "options": {"host": "127.0.0.1", "port": 0}}}
    ) as s:
        assert await s.get("/about") == (200, {"server": s.server.get_config().server_name})
        assert (await s.post("/echo", {"a": 1}))[1]["you sent"] == {"a": 1}
        assert await s.post("/echo", [1]) == (400, "expected an object")
        await s.connect()
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{s.port}/deepstream-json"
            await (await session.ws_connect(url, origin="https://a.example.org")).close()
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(url, origin="https://elsewhere.com")
