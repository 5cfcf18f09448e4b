from my_subscription_registry import ThrottledEvents

from dsfast.protocol import EventAction, Topic
from dsfast.testing import served


async def test_the_newest_of_each_interval_arrives():
    config = {"subscriptions": {"class": ThrottledEvents, "options": {"interval": 50}}}
    async with served(config) as s:
        reader, writer = await s.connect(), await s.connect()
        await reader.send(Topic.EVENT, EventAction.SUBSCRIBE, names=["n"], correlationId="1")
        await reader.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        for number in range(100):
            await writer.send(Topic.EVENT, EventAction.EMIT, name="n", parsedData=number)
        numbers = []
        while 99 not in numbers:
            numbers.append((await reader.expect(Topic.EVENT, EventAction.EMIT))["parsedData"])
        assert numbers[0] == 0
        assert numbers == sorted(numbers)
        assert len(numbers) < 100
