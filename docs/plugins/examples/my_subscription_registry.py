"""Sends at most one event of a name in each interval to its subscribers: the newest one."""

import asyncio

from dsfast.protocol import Topic
from dsfast.services.subscriptions import CoreSubscriptionRegistry, DefaultSubscriptionRegistryFactory


class Throttled(CoreSubscriptionRegistry):
    """As the built-in registry, but for the moment at which something is sent."""

    def __init__(self, factory, topic, core):
        super().__init__(factory, topic, core, None)
        self.interval = factory.options.get("interval", 100) / 1000
        self.held = {}  # name -> the newest event of this interval that was not sent, or None

    def send_to_subscribers(self, name, message, no_delay, sender, suppress_remote=False):
        if name in self.held:
            self.held[name] = (message, sender)
            return
        super().send_to_subscribers(name, message, no_delay, sender, suppress_remote)
        self.held[name] = None
        asyncio.get_running_loop().call_later(self.interval, self.send_held, name)

    def send_held(self, name):
        held = self.held.pop(name)
        if held is not None:
            message, sender = held
            self.send_to_subscribers(name, message, False, sender)


class ThrottledEvents(DefaultSubscriptionRegistryFactory):
    description = "throttled events"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.events = None

    def get_subscription_registry(self, topic, cluster_topic):
        registry = super().get_subscription_registry(topic, cluster_topic)
        if topic != Topic.EVENT:
            return registry
        if self.events is None:  # the same object whenever it is asked for
            self.events = Throttled(self, topic, registry.core)
        return self.events
