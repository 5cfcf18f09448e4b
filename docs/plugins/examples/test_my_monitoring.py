from my_monitoring import Counts

from dsfast.testing import served


async def test_counts():
    async with served({"monitoring": [{"class": Counts}, {"type": "none"}]}) as s:
        await s.connect()
        s.services.logger.warn("ODD", "line")
        status, counts = await s.get("/counts")
        assert status == 200
        assert counts["logins"] == {"websocket allowed": 1}
        assert counts["events"] == {"ODD": 1}
        assert counts["sent"] >= 2
