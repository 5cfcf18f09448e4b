"""A whole server inside somebody else's asyncio program."""

import asyncio
import threading

import pytest

from dsfast import Permission, Server, StartError

UPGRADE = (
    b"GET /deepstream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
GOING_AWAY = b"\x88\x02\x03\xe9"


def config(tmp_path, **more):
    return {
        "logLevel": "error",
        "dataDir": str(tmp_path),
        "httpServer": {"options": {"host": "127.0.0.1", "port": 0}},
        **more,
    }


def port_of(server):
    return server.get_services().connection_endpoints[0].addresses[0][1]


async def health(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health-check HTTP/1.1\r\nHost: x\r\n\r\n")
    status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return status


def test_a_plain_asyncio_program(tmp_path):
    threads = set(threading.enumerate())

    async def program():
        before = asyncio.all_tasks()
        server = Server(config(tmp_path))
        await server.start()
        assert (await health(port_of(server))).startswith(b"HTTP/1.1 200")
        await server.stop()
        assert asyncio.all_tasks() == before

    asyncio.run(program())
    assert set(threading.enumerate()) == threads


async def test_two_servers_in_one_loop(tmp_path):
    servers = [Server(config(tmp_path / name)) for name in ("a", "b")]
    for server in servers:
        await server.start()
    for server in servers:
        assert b"200" in await health(port_of(server))
        await server.stop()


async def test_what_is_left_from_a_start_that_failed_does_not_disturb_the_next(tmp_path):
    class Broken(Permission):
        def can_perform_action(self, socket, message):
            return True

        async def when_ready(self):
            raise RuntimeError("boom")

    server = Server(config(tmp_path))
    server.set("permission", Broken)
    with pytest.raises(StartError, match="permission: boom"):
        await server.start()
    server = Server(config(tmp_path))
    await server.start()
    await server.stop()


async def test_a_taken_port_leaves_the_data_directory_free(tmp_path):
    first = Server(config(tmp_path / "a"))
    await first.start()
    taken = {"httpServer": {"options": {"host": "127.0.0.1", "port": port_of(first)}}}
    with pytest.raises(StartError, match="already in use"):
        await Server(config(tmp_path / "b") | taken).start()
    second = Server(config(tmp_path / "b"))
    await second.start()
    await second.stop()
    await first.stop()


async def test_clients_are_told_that_the_server_goes_away_and_no_new_ones_get_in(tmp_path):
    server = Server(config(tmp_path))
    await server.start()
    port = port_of(server)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    stopping = asyncio.create_task(server.stop())
    assert await reader.readexactly(4) == GOING_AWAY
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    writer.close()
    await asyncio.wait_for(stopping, 10)
