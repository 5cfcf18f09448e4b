from pathlib import Path

from dsfast.protocol import EventAction, Topic
from dsfast.testing import served


async def test_the_file_is_found_and_used():
    config = {"libDir": str(Path(__file__).parent), "permission": {"path": "./my_first.py"}}
    async with served(config) as s:
        client = await s.connect()  # with open authentication everybody is "open"
        await client.send(Topic.EVENT, EventAction.SUBSCRIBE, names=["mine/open"], correlationId="1")
        await client.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        await client.send(Topic.EVENT, EventAction.SUBSCRIBE, names=["yours/other"], correlationId="2")
        await client.expect(Topic.EVENT, EventAction.MESSAGE_DENIED)
