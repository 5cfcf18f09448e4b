"""Which pages may open a websocket: ``allowAllOrigins`` and ``origins``."""

import asyncio
from typing import Any

import pytest

from dsfast import ConfigError, Server

UPGRADE = (
    "GET /deepstream HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{}\r\n"
)
GOOD = "https://good.example"


def server(**options: Any) -> Server:
    http = {"host": "127.0.0.1", "port": 0, **options}
    return Server({"httpServer": {"options": http}, "storage": {"type": "none"}, "logLevel": "off"})


async def status(port: int, header: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE.format(header).encode())
    line = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return line.split(b" ")[1]


@pytest.mark.parametrize(
    ("header", "restricted"),
    [
        (f"Origin: {GOOD}\r\n", b"101"),
        (f"Referer: {GOOD}\r\n", b"101"),
        ("Origin: https://evil.example\r\n", b"403"),
        (f"Origin: https://evil.example\r\nReferer: {GOOD}\r\n", b"403"),
        (f"Origin: {GOOD}.evil.example\r\n", b"403"),
        (f"Origin: {GOOD}\r\nOrigin: https://evil.example\r\n", b"403"),
        ("Origin: null\r\n", b"403"),
        ("", b"403"),
    ],
)
async def test_origin_of_an_upgrade(header: str, restricted: bytes) -> None:
    for options, expected in (({}, b"101"), ({"allowAllOrigins": False, "origins": [GOOD]}, restricted)):
        running = server(**options)
        await running.start()
        try:
            ((_, port),) = running.get_services().connection_endpoints[0].addresses
            assert await status(port, header) == expected
        finally:
            await running.stop()


def test_no_origin_at_all_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no origins provided"):
        server(allowAllOrigins=False)
