"""Everybody may use what has their user id in its name; the owner of a record may do everything with it."""

from dsfast import Permission
from dsfast.protocol import EventAction, RecordAction, Topic

LISTEN = {(Topic.EVENT, EventAction.LISTEN), (Topic.RECORD, RecordAction.LISTEN)}


class OwnNames(Permission):
    description = "user id in the name, or owner"

    def set_record_handler(self, handler):
        self.records = handler

    def can_perform_action(self, socket, message):
        if message.name is None:
            return True  # presence of everybody
        if (message.topic, message.action) in LISTEN:
            return False  # the name is a pattern, which may match everything
        if socket.user_id in message.name.split("/"):
            return True  # a bool at once: the fast way
        if message.topic != Topic.RECORD:
            return False
        return self.is_owner(message.name, socket.user_id)  # an awaitable: later messages of the client wait

    async def is_owner(self, name, user):
        version, data = await self.records.get_record(name)
        return version >= 0 and isinstance(data, dict) and data.get("owner") == user
