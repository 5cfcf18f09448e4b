import asyncio

from my_authentication import Tokens
from my_connection_endpoint import LinesEndpoint
from my_permission import OwnNames

from dsfast.testing import PATIENCE, served

CONFIG = {
    "connectionEndpoints": [{"class": LinesEndpoint, "options": {"port": 0}}, {"type": "http"}],
    "auth": [{"class": Tokens, "options": {"tokens": {"secret a": "alice"}}}],
    "permission": {"class": OwnNames},
}


async def connect(s):
    return await asyncio.open_connection(*s.services.connection_endpoints[0].addresses[0])


async def ask(streams, line):
    reader, writer = streams
    writer.write(line)
    async with asyncio.timeout(PATIENCE):
        return await reader.readline()


async def test_events_over_lines():
    async with served(CONFIG) as s:
        one, two = await connect(s), await connect(s)
        for client in (one, two):
            assert await ask(client, b'{"token": "secret a"}\n') == b"OK\n"
        assert await ask(one, b"SUB chat/alice\n") == b"OK\n"
        assert await ask(one, b"SUB chat/bob\n") == b"ERROR MESSAGE_DENIED\n"
        two[1].write(b'PUB chat/alice {"text": "hello"}\n')
        assert await one[0].readline() == b'EVENT chat/alice {"text": "hello"}\n'
        assert await ask(two, b"HELLO\n") == b"ERROR what?\n"
        assert await ask(two, b"PUB chat/alice {\n") == b"ERROR INVALID_MESSAGE_DATA\n"
        one[1].close()
        two[1].close()


async def test_who_may_not():
    async with served(CONFIG) as s:
        for login in (b'{"token": "guess"}\n', b"[]\n"):
            client = await connect(s)
            assert await ask(client, login) == b"ERROR login refused\n"
            assert await client[0].read() == b""
            client[1].close()
        client = await connect(s)
        assert await ask(client, b"{\n") == b""
        client[1].close()
