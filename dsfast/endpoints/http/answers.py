"""From the server's messages to the answers of an HTTP batch (http.md sections 5 and 6)."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import orjson

from dsfast._core.json_text import dumps
from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic

__all__ = ["Answers"]

SUCCESS = b'{"success":true}'
_DONE = frozenset(
    {
        (Topic.EVENT, EventAction.UNSUBSCRIBE),  # the fence behind an event (dsfast/_core/jif.pyx)
        (Topic.RECORD, RecordAction.WRITE_ACKNOWLEDGEMENT),
        (Topic.RECORD, RecordAction.DELETE_SUCCESS),
        (Topic.RECORD, RecordAction.NOTIFY),
    }
)
_DENIED = frozenset(
    {
        (Topic.RECORD, RecordAction.MESSAGE_DENIED),
        (Topic.RPC, RpcAction.MESSAGE_DENIED),
        (Topic.PRESENCE, PresenceAction.MESSAGE_DENIED),
    }
)
_ACTIONS: dict[int, type[IntEnum]] = {
    Topic.EVENT: EventAction,
    Topic.RECORD: RecordAction,
    Topic.RPC: RpcAction,
    Topic.PRESENCE: PresenceAction,
}
FIRST_ERROR = 100
"""Actions from this number on are errors."""


class Answers:
    """Makes the elements of answers; ``names``: with the names of topics and actions instead of numbers."""

    def __init__(self, *, names: bool) -> None:
        self._names = names
        self.timed_out = _cut_off(
            "Request exceeded timeout before a response was received.", "HTTP_REQUEST_TIMEOUT"
        )
        self.too_large = _cut_off("The answers before this one are too large already.", "RESPONSE_TOO_LARGE")

    def final(self, message: Message) -> tuple[bool, bytes] | None:
        """Whether a message means success, and the element for it; None if another one will follow."""
        topic, action = message.topic, message.action
        if topic == Topic.RECORD:
            if action == RecordAction.READ_RESPONSE:
                version, data = message.version or 0, message.data or b"{}"
                return True, b'{"version":%d,"data":%b,"success":true}' % (version, data)
            if action == RecordAction.HEAD_RESPONSE:
                return True, b'{"version":%d,"success":true}' % (message.version or 0)
        elif topic == Topic.RPC:
            if action == RpcAction.RESPONSE:
                return True, _with_data(b'{"data":%b,"success":true}', message)
            if action == RpcAction.REQUEST_ERROR:
                return False, _with_data(b'{"errorTopic":"rpc","error":%b,"success":false}', message, b"null")
        elif topic == Topic.PRESENCE:
            if action == PresenceAction.QUERY_ALL_RESPONSE:
                return True, dumps({"users": message.names or [], "success": True})
            if action == PresenceAction.QUERY_RESPONSE:
                return True, _with_data(b'{"users":%b,"success":true}', message, b"{}")
        if (topic, action) in _DONE:
            return True, SUCCESS
        if action < FIRST_ERROR:
            return None  # such as the ACCEPT of a call, or news about providers
        return False, self._error(message)

    def conflict(self, message: Message, asked: int, version: int, data: bytes | None) -> bytes:
        """The element for a write of a version that does not fit, with what is there."""
        if message.action == RecordAction.VERSION_EXISTS:
            text = f'Record update failed. Version {version} exists for record "{message.name}".'
        else:
            text = f'Record update failed. Version {asked} is not valid for record "{message.name}".'
        element = self._element(message, text)
        element["currentVersion"] = version
        if data is not None:
            element["currentData"] = orjson.Fragment(data)
        return dumps(element)

    def _error(self, message: Message) -> bytes:
        topic, action, name = message.topic, message.action, message.name
        if topic == Topic.EVENT:
            # Alone in being told by names.
            return dumps(
                {
                    "success": False,
                    "error": "Message denied. Action 'emit' is not permitted.",
                    "errorEvent": "MESSAGE_DENIED",
                    "errorAction": "emit",
                    "errorTopic": "event",
                }
            )
        if (topic, action) in _DENIED:
            asked = _name_of(topic, message.original_action or 0)
            element = self._element(message, "")
            element["action"] = asked if self._names else message.original_action
            element["error"] = f'Message denied. Action "{asked}" is not permitted.'
        elif topic == Topic.RECORD and action == RecordAction.VERSION_EXISTS:
            return self.conflict(message, 0, message.version or 0, message.data)
        elif topic == Topic.RECORD and action == RecordAction.RECORD_NOT_FOUND:
            element = self._element(message, f'Record read failed. Record "{name}" could not be found.')
        elif topic == Topic.RPC and action == RpcAction.NO_RPC_PROVIDER:
            element = self._element(message, f'No provider was available to handle the RPC "{name}".')
        elif topic == Topic.RPC and action == RpcAction.RESPONSE_TIMEOUT:
            element = self._element(message, "The RPC response timeout was exceeded by the provider.")
        else:
            element = self._element(message, f"An error occurred: {_name_of(topic, action)}.")
            if name is not None:
                element["errorParams"] = name
        return dumps(element)

    def _element(self, message: Message, text: str) -> dict[str, Any]:
        topic, action = message.topic, message.action
        return {
            "errorTopic": Topic(topic).name.lower(),
            "errorEvent": _name_of(topic, action) if self._names else action,
            "success": False,
            **({"error": text} if text else {}),
        }

    @staticmethod
    def disabled(topic: int) -> bytes:
        """The element for a topic that the server does not answer."""
        name = Topic(topic).name.lower()
        return dumps(
            {
                "success": False,
                "error": f'The topic "{name}" is disabled on this server.',
                "errorTopic": name,
                "errorEvent": "UNKNOWN_TOPIC",
            }
        )


def _cut_off(text: str, event: str) -> bytes:
    """The element for what was given up."""
    return dumps({"success": False, "error": text, "errorTopic": "connection", "errorEvent": event})


def _with_data(form: bytes, message: Message, default: bytes | None = None) -> bytes:
    data = message.data if message.data is not None else default
    return SUCCESS if data is None else form % data


def _name_of(topic: int, action: int) -> str:
    try:
        return _ACTIONS[topic](action).name
    except (KeyError, ValueError):
        return "UNKNOWN"
