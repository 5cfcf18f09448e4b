from my_custom import Visitors

from dsfast.protocol import EventAction, Topic
from dsfast.testing import served

CONFIG = {"plugins": {"visitors": {"class": Visitors, "options": {"topic": "who"}}}}


async def test_visitors_are_counted_logged_and_told():
    async with served(CONFIG) as s:
        watcher = await s.connect()
        await watcher.send(Topic.EVENT, EventAction.SUBSCRIBE, names=["who"], correlationId="1")
        await watcher.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        visitor = await s.connect()
        event = await watcher.expect(Topic.EVENT, EventAction.EMIT)
        assert event["parsedData"] == {"user": "open", "what": "came"}
        assert await s.get("/visitors") == (200, {"open": 2})
        await visitor.close()
        event = await watcher.expect(Topic.EVENT, EventAction.EMIT)
        assert event["parsedData"] == {"user": "open", "what": "left"}
        await s.log.wait_for("open left, from 127.0.0.1")
