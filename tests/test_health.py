"""The health check tells how the storage is."""

import asyncio
from typing import Any

from dsfast import Server
from dsfast.plugin import Storage
from dsfast.services.storage import TransientStorageError, WriteBehind


class Sick(Storage):
    """A storage whose writes fail as long as ``down`` is set."""

    healthy = True
    down = True

    async def get(self, name: str) -> tuple[int, Any]:
        return -1, None

    async def set(self, name: str, version: int, data: Any) -> None:
        if self.down:
            raise TransientStorageError("away")

    async def delete(self, name: str) -> None:
        await self.set(name, 0, None)


async def health(port: int) -> tuple[str, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health-check?x=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.split(b"\r\n")[0].decode().split(" ", 1)[1], body


async def test_health_follows_the_storage() -> None:
    server = Server({"httpServer": {"options": {"host": "127.0.0.1", "port": 0}}, "logLevel": "off"})
    server.set("storage", Sick)
    await server.start()
    try:
        services = server.get_services()
        (address,) = services.connection_endpoints[0].addresses
        assert await health(address[1]) == ("200 OK", b"")
        storage, writer = services.storage, services.storage_writer
        assert isinstance(storage, Sick)
        assert isinstance(writer, WriteBehind)
        record = services.message_distributor.record_handler.admit(b"r", 1, b"{}", False)
        failed = asyncio.Event()
        noted = writer._note_failure

        def note(*args: Any) -> None:
            noted(*args)
            failed.set()

        writer._note_failure = note  # type: ignore[method-assign]
        writer.put("r", record)
        await failed.wait()
        assert await health(address[1]) == ("200 OK", b'{"status":"degraded"}')
        storage.healthy = False
        assert await health(address[1]) == ("503 Service Unavailable", b'{"status":"unhealthy"}')
        storage.healthy, storage.down = True, False
        await writer.flush()
        assert await health(address[1]) == ("200 OK", b"")
    finally:
        await server.stop()
