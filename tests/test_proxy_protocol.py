"""The PROXY protocol: its parser, and what the server makes of it."""

import asyncio
import contextlib
import ipaddress
import os
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_client import connect, serve_mqtt
from wire import ACCEPT, CHALLENGE, Client, Users, auth_request, serve, upgrade_request

from dsfast import ConfigError
from dsfast.endpoints.proxy_protocol import MAX_LINE, SIGNATURE, Header, ProxyProtocolError, parse

ROUNDS = int(os.environ.get("DSFAST_FUZZ", "20000"))
SEED = int(os.environ.get("DSFAST_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


def version_2(source="1.2.3.4", *, command=1, family=None, transport=1, extra=b"", length=None, head=0x20):
    address = ipaddress.ip_address(source)
    other = address.packed
    body = address.packed + other + struct.pack(">HH", 1234, 443) + extra
    family = (1 if address.version == 4 else 2) if family is None else family
    length = len(body) if length is None else length
    return SIGNATURE + bytes([head | command, family << 4 | transport]) + struct.pack(">H", length) + body


GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n": "192.0.2.1",
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": "255.255.255.255",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 0 443\r\n": "2001:db8::1",
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n": "192.0.2.1",
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": None,
    version_2(): "1.2.3.4",
    version_2("2001:db8::1"): "2001:db8::1",
    version_2("::ffff:1.2.3.4"): "1.2.3.4",
    version_2(extra=b"\x04\x00\x03abc"): "1.2.3.4",
    version_2(extra=b"\xff" * 1000): "1.2.3.4",
    version_2(command=0): None,
    version_2(transport=2): None,
    version_2(family=0, transport=0): None,
    version_2(family=3): None,
    SIGNATURE + b"\x20\x00\x00\x00": None,
}


@pytest.mark.parametrize(("header", "address"), GOOD.items(), ids=repr)
def test_headers(header, address):
    for at in range(len(header)):
        assert parse(header[:at]) is None, at
    for rest in (b"", b"G", b"\r\n", header):
        assert parse(header + rest) == Header(len(header), address)


BAD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01",
    b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n",
    b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "PROXY TCP4 1.2.3.4 1.2.3.4 \u0661 2\r\n".encode(),
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY UNKNOWN " + b"x" * MAX_LINE,
    version_2(head=0x10),
    version_2(command=2),
    version_2(family=4),
    version_2(transport=3),
    version_2(length=11),
    version_2("::1", family=2, length=35),
    version_2(length=2033) + b"x" * 3000,
    version_2(length=65535),
]


@pytest.mark.parametrize("header", BAD, ids=repr)
def test_what_is_no_header(header):
    with pytest.raises(ProxyProtocolError):
        parse(header)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]),
)
def test_whatever_comes_the_answer_is_one_of_three(data, begin):
    try:
        header = parse(begin + data)
    except ProxyProtocolError:
        return
    if header is None:
        assert len(begin + data) < 2048
    else:
        assert 0 < header.size <= len(begin + data)
        assert header.address is None or ipaddress.ip_address(header.address)


def test_mutated_headers():
    rng = random.Random(SEED)
    headers = list(GOOD)
    for _ in range(ROUNDS):
        data = bytearray(rng.choice(headers))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ProxyProtocolError):
            header = parse(bytes(data))
            assert header is None or header.size <= len(data), SEED


# --- the server


def config(*trusted, **options):
    always = {"host": "127.0.0.1", "port": 0, "proxyProtocol": True}
    return {"httpServer": {"options": {**always, "trustedProxies": list(trusted), **options}}}


async def login_behind(s, header, pieces=1):
    client = await s.connect()
    stream = header + upgrade_request()
    size = max(1, len(header) // pieces)
    for at in range(0, len(header), size):
        client.write(stream[at : min(at + size, len(header))])
        await client.drain()
        await asyncio.sleep(0)
    client.write(upgrade_request())
    assert (await client.response()).status == 101
    client.send(CHALLENGE)
    assert await client.payload() == ACCEPT
    client.send(auth_request())
    await client.payload()
    return client


@pytest.mark.parametrize(("header", "address"), GOOD.items(), ids=repr)
async def test_the_address_of_the_client_is_the_one_in_the_header(header, address):
    async with serve(config("127.0.0.1"), authentication=Users) as s:
        await login_behind(s, header)
        (entry,) = s.services.authentication.entries
        assert entry.seen[0][0]["remoteAddress"] == (address or "127.0.0.1")


async def test_a_header_in_small_pieces():
    async with serve(config("127.0.0.1"), authentication=Users) as s:
        for header in (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", version_2(extra=b"x" * 500)):
            await login_behind(s, header, pieces=len(header))


@pytest.mark.parametrize("header", [b"", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", b"\r\n\r\n\0\r\nQUIX\n"])
async def test_a_trusted_proxy_has_to_send_it(header):
    async with serve(config("127.0.0.1")) as s:
        client = await s.connect()
        client.write(header + upgrade_request())
        await client.ended()
        (text,) = await s.log.wait_for("CONNECTION_ERROR")
        assert text.startswith("connection of 127.0.0.1 refused: PROXY protocol: ")
        assert s.endpoint.core.connections == set()


async def test_nobody_else_can_send_it():
    async with serve(config("192.0.2.1")) as s:
        client = await s.connect()
        client.write(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + upgrade_request())
        assert (await client.response()).status == 400
        await s.login()


async def test_a_header_that_does_not_come_is_not_waited_for():
    async with serve(config("127.0.0.1", headTimeout=100)) as s:
        silent, slow = await s.connect(), await s.connect()
        slow.write(b"PROXY TCP4 1.")
        await asyncio.gather(silent.ended(), slow.ended())
        gone = await s.connect()
        gone.writer.close()
        texts = await s.log.wait_for("CONNECTION_ERROR", 3)
        assert sum("it did not begin in time" in text for text in texts) == 2


async def test_forwarded_headers_count_behind_it_only_if_the_next_proxy_is_trusted_too():
    async with serve(config("127.0.0.1", "192.0.2.1"), authentication=Users) as s:
        (entry,) = s.services.authentication.entries
        for address, expected in (("192.0.2.1", "9.9.9.9"), ("192.0.2.2", "192.0.2.2")):
            client = await s.connect()
            client.write(f"PROXY TCP4 {address} 1.1.1.1 1 2\r\n".encode())
            client.write(upgrade_request(X_Forwarded_For="9.9.9.9"))
            assert (await client.response()).status == 101
            client.send(CHALLENGE, auth_request())
            await client.payload()
            await client.payload()
            assert entry.seen[-1][0]["remoteAddress"] == expected


async def test_it_needs_to_be_said_who_is_trusted():
    with pytest.raises(ConfigError, match="proxyProtocol needs trustedProxies"):
        async with serve(config()):
            pass


async def test_the_port_of_mqtt_too():
    settings = {"httpServer": {"options": {"host": "127.0.0.1", "port": 0, "trustedProxies": ["127.0.0.1"]}}}
    async with serve_mqtt(settings, options={"proxyProtocol": True}) as s:
        for header in (b"PROXY TCP4 192.0.2.1 1.1.1.1 1 2\r\n", version_2()):
            client = await Client.connect(s.port)
            client.write(header + connect("c"))
            assert await client.reader.readexactly(4) == bytes.fromhex("20020000")
            client.writer.close()
        client = await Client.connect(s.port)
        client.write(connect("c"))
        await client.ended()


# --- limits for connections


async def behind(s, address):
    client = await s.connect()
    client.write(f"PROXY TCP4 {address} 1.1.1.1 1 2\r\n".encode() + upgrade_request())
    return client


async def test_connections_per_address():
    async with serve(config("127.0.0.1", maxConnectionsPerAddress=2)) as s:
        first, second = await behind(s, "192.0.2.1"), await behind(s, "192.0.2.1")
        for client in (first, second):
            assert (await client.response()).status == 101
        await (await behind(s, "192.0.2.1")).ended()
        (text,) = await s.log.wait_for("CONNECTION_ERROR")
        assert "192.0.2.1 refused: it has 2 connections (maxConnectionsPerAddress)" in text
        assert (await (await behind(s, "192.0.2.2")).response()).status == 101
        first.writer.close()
        await s.until(lambda: len(s.endpoint.core.connections) == 2)
        assert (await (await behind(s, "192.0.2.1")).response()).status == 101


async def test_the_trusted_proxy_itself_is_not_counted():
    async with serve(config("127.0.0.1", "192.0.2.0/24", maxConnectionsPerAddress=1)) as s:
        for _ in range(3):
            assert (await (await behind(s, "192.0.2.1")).response()).status == 101


@pytest.mark.parametrize("proxy", [True, False])
async def test_connections_of_all(proxy):
    options = config("127.0.0.1", maxConnections=2)
    options["httpServer"]["options"]["proxyProtocol"] = proxy
    async with serve(options) as s:
        connect = (lambda: behind(s, "192.0.2.1")) if proxy else s.connect
        clients = [await connect() for _ in range(2)]
        if not proxy:
            for client in clients:
                client.write(upgrade_request())
        for client in clients:
            assert (await client.response()).status == 101
        refused = await connect()
        if not proxy:
            refused.write(upgrade_request())
        await refused.ended()
        clients[0].writer.close()
        await s.until(lambda: len(s.endpoint.core.connections) == 1)
        await Client.connect(s.port)
