"""Counts logins and log events, and shows them by HTTP."""

from collections import Counter

from dsfast import Monitoring


class Counts(Monitoring):
    description = "counts at /counts"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.events = Counter()
        self.logins = Counter()

    async def when_ready(self):
        self.services.http_service.register_get_path_prefix("/counts", self.answer)

    def on_error_log(self, level, event, message, meta):
        self.events[event] += 1

    def on_login(self, allowed, endpoint_type):
        self.logins[f"{endpoint_type} {'allowed' if allowed else 'declined'}"] += 1

    def answer(self, meta):
        hub = self.services.message_distributor.hub  # messages are counted in the core already
        received, sent = hub.message_counts()
        return {
            "logins": self.logins,
            "events": self.events,
            "received": sum(received.values()),
            "sent": sum(sent.values()),
        }
