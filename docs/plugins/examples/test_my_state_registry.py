from my_state_registry import CountedStates

from dsfast.plugin import StateTopic
from dsfast.protocol import EventAction, Topic
from dsfast.testing import StateRegistryConformance, served


class TestCountedStates(StateRegistryConformance):
    plugin_class = CountedStates


async def test_subscriptions_are_counted_here():
    async with served(cluster_states=CountedStates) as s:
        events = s.services.cluster_states.get_state_registry(StateTopic.EVENT_SUBSCRIPTIONS)
        seen = []
        events.on_add(lambda name: seen.append(("added", name)))
        events.on_remove(lambda name: seen.append(("removed", name)))
        for _ in range(2):
            client = await s.connect()
            await client.send(Topic.EVENT, EventAction.SUBSCRIBE, names=["news"], correlationId="1")
            await client.expect(Topic.EVENT, EventAction.SUBSCRIBE)
            await client.send(Topic.EVENT, EventAction.UNSUBSCRIBE, names=["news"], correlationId="2")
            await client.expect(Topic.EVENT, EventAction.UNSUBSCRIBE)
        assert seen == [("added", "news"), ("removed", "news")] * 2
        assert events.get_all() == []
