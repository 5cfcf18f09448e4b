"""Logs who comes and goes, and tells those who subscribe to an event."""

import json
from collections import Counter

from dsfast import Plugin
from dsfast.plugin import StateTopic
from dsfast.protocol import EventAction, Message, Topic


class Visitors(Plugin):
    description = "visitors"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.sessions = Counter()
        self.topic = options.get("topic", "visitors")

    async def when_ready(self):
        self.services.http_service.register_get_path_prefix("/visitors", lambda meta: dict(self.sessions))

    def on_client_connected(self, socket):
        self.sessions[socket.user_id] += 1
        self.tell(socket, "came")

    def on_client_disconnected(self, socket):
        self.sessions[socket.user_id] -= 1
        self.tell(socket, "left")

    def tell(self, socket, what):
        address = socket.handshake_data.get("remoteAddress")
        self.logger.info("VISITOR", f"{socket.user_id} {what}, from {address} by {socket.socket_type}")
        data = json.dumps({"user": socket.user_id, "what": what}).encode()
        message = Message(Topic.EVENT, EventAction.EMIT, name=self.topic, data=data)
        subscriptions = self.services.subscriptions.get_subscription_registry(
            Topic.EVENT, StateTopic.EVENT_SUBSCRIPTIONS
        )
        subscriptions.send_to_subscribers(self.topic, message, False, socket)
