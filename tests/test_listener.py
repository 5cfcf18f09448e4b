"""What the port listens on: several addresses, Unix sockets."""

import asyncio
import os
import socket
import stat

import pytest
from wire import ACCEPT, CHALLENGE, Client, Users, auth_request, serve, upgrade_request

from dsfast import ConfigError, StartError

loops = ["uvloop", "asyncio"]


def config(*listen, **options):
    return {"httpServer": {"options": {"listen": list(listen), **options}}}


async def unix_client(path, **headers):
    client = Client(*await asyncio.open_unix_connection(path))
    client.write(upgrade_request(**headers))
    assert (await client.response()).status == 101
    client.send(CHALLENGE)
    assert await client.payload() == ACCEPT
    client.send(auth_request())
    await client.payload()
    return client


async def test_several_addresses(tmp_path):
    path = str(tmp_path / "s")
    async with serve(config("127.0.0.1:0", f"unix:{path}", "127.0.0.1:0")) as s:
        ports = [port for _, port in s.endpoint.addresses]
        assert len(set(ports)) == 2
        for port in ports:
            s.port = port
            await s.login()
        client = await unix_client(path)
        await client.close()
        told = [text for text in s.log.find("INFO") if text.startswith("Listening for http connections on ")]
        assert told == [f"Listening for http connections on {at}" for at in
                        [f"127.0.0.1:{port}" for port in ports] + [f"unix:{path}"]]  # fmt: skip


@pytest.mark.parametrize("mode", ["600", "660", "666"])
async def test_the_permissions_of_a_socket(tmp_path, mode):
    path = tmp_path / "s"
    async with serve(config("127.0.0.1:0", f"unix:{path}", unixSocketMode=mode)):
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    assert not path.exists()


async def test_the_socket_of_a_dead_server_is_replaced(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serve(config("127.0.0.1:0", f"unix:{path}")):
        await (await unix_client(str(path))).close()


async def test_the_socket_of_a_living_server_is_not(tmp_path):
    path = tmp_path / "s"
    async with serve(config("127.0.0.1:0", f"unix:{path}")):
        with pytest.raises(StartError, match="already in use"):
            async with serve(config("127.0.0.1:0", f"unix:{path}")):
                pass
        await (await unix_client(str(path))).close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_nothing_else_is_replaced(tmp_path, kind):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StartError, match=f"unix:{path}"):
        async with serve(config("127.0.0.1:0", f"unix:{path}")):
            pass
    assert path.is_symlink() or path.exists()


async def test_the_socket_of_a_successor_is_left_alone(tmp_path):
    path = tmp_path / "s"
    async with serve(config("127.0.0.1:0", f"unix:{path}")):
        os.unlink(path)
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.exists()
    other.close()


async def test_a_path_is_relative_to_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with serve(config("127.0.0.1:0", "unix:s")):
        await (await unix_client(str(tmp_path / "s"))).close()


@pytest.mark.parametrize(
    ("trusted", "address"), [([], "unix"), (["unix"], "9.9.9.9"), (["127.0.0.1"], "unix")]
)
async def test_the_address_of_a_client(tmp_path, trusted, address):
    path = str(tmp_path / "s")
    async with serve(
        config("127.0.0.1:0", f"unix:{path}", trustedProxies=trusted), authentication=Users
    ) as s:
        client = await unix_client(path, X_Forwarded_For="9.9.9.9")
        assert s.services.authentication.entries[0].seen[0][0]["remoteAddress"] == address
        await client.close()


async def test_the_proxy_protocol_on_a_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    settings = config("127.0.0.1:0", f"unix:{path}", trustedProxies=["unix"], proxyProtocol=True)
    async with serve(settings, authentication=Users) as s:
        client = Client(*await asyncio.open_unix_connection(path))
        client.write(b"PROXY TCP4 192.0.2.1 1.1.1.1 1 2\r\n" + upgrade_request())
        assert (await client.response()).status == 101
        client.send(CHALLENGE, auth_request())
        await client.payload()
        await client.payload()
        assert s.services.authentication.entries[0].seen[0][0]["remoteAddress"] == "192.0.2.1"
        await s.login()  # whose connections come by TCP, from nobody who is trusted
        await client.close()


@pytest.mark.parametrize(
    "text", ["", "6020", ":6020", "localhost", "a:b", "a:70000", "::1:80", "unix:", "a:1:2"]
)
async def test_what_is_no_address(text):
    with pytest.raises(ConfigError, match="/httpServer/options/listen"):
        async with serve(config(text)):
            pass


async def test_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    async with serve(config("[::1]:0", "127.0.0.1:0")) as s:
        assert [host for host, _ in s.endpoint.addresses] == ["::1", "127.0.0.1"]
        reader, writer = await asyncio.open_connection(*s.endpoint.addresses[0])
        writer.write(b"GET /health-check HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
