"""The elements of an HTTP batch, and what they are inside (http.md section 5).

The classes are the schema: they validate, and the OpenAPI document is made from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from dsfast._core.json_text import dumps
from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic

__all__ = ["KINDS", "Element", "EventEmit", "JifError", "RecordPatch", "RecordWrite", "parse"]

Name = Annotated[str, Meta(min_length=1)]
Version = Annotated[
    int, Meta(ge=-1, le=2**31 - 1, description="The next version, or -1 (as 0) to write whatever it is.")
]
ANSWER_ID = "0"
"""Correlation id of what needs one; each element has a connection of its own."""


class JifError(ValueError):
    """An element makes no sense; the text says why."""


class Element(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One element of a batch."""

    def message(self) -> Message:
        """What a client of the binary protocol would send."""
        raise NotImplementedError


class EventEmit(Element):
    """Tell all subscribers of an event."""

    topic: Literal["event"]
    action: Literal["emit"]
    event_name: Name
    data: Any = UNSET

    def message(self) -> Message:
        message = Message(Topic.EVENT, EventAction.EMIT)
        message.name = self.event_name
        if self.data is not UNSET:
            message.data = dumps(self.data)
        return message


class RpcMake(Element):
    """Call a procedure and answer with its result."""

    topic: Literal["rpc"]
    action: Literal["make"]
    rpc_name: Name
    data: Any = UNSET

    def message(self) -> Message:
        message = Message(Topic.RPC, RpcAction.REQUEST)
        message.name = self.rpc_name
        message.correlation_id = ANSWER_ID
        if self.data is not UNSET:
            message.data = dumps(self.data)
        return message


class RecordRead(Element):
    """Version and data of a record."""

    topic: Literal["record"]
    action: Literal["read"]
    record_name: Name

    def message(self) -> Message:
        return _record(RecordAction.READ, self.record_name)


class RecordHead(Element):
    """Version of a record, -1 if there is none."""

    topic: Literal["record"]
    action: Literal["head"]
    record_name: Name

    def message(self) -> Message:
        return _record(RecordAction.HEAD, self.record_name)


class RecordWrite(Element):
    """Replace a record, or create it."""

    topic: Literal["record"]
    action: Literal["write"]
    record_name: Name
    data: dict[str, Any] | list[Any]
    path: Literal[""] = ""
    version: Version = -1

    def message(self) -> Message:
        return _write(RecordAction.CREATEANDUPDATE, self.record_name, self.data, self.version)


class RecordPatch(Element):
    """Set the value at a path of a record, creating what is missing."""

    topic: Literal["record"]
    action: Literal["write"]
    record_name: Name
    path: Name
    data: Any
    version: Version = -1

    def message(self) -> Message:
        message = _write(RecordAction.CREATEANDPATCH, self.record_name, self.data, self.version)
        message.path = self.path
        return message


class RecordDelete(Element):
    """Delete a record; a missing one is no error."""

    topic: Literal["record"]
    action: Literal["delete"]
    record_name: Name

    def message(self) -> Message:
        return _record(RecordAction.DELETE, self.record_name)


class RecordNotify(Element):
    """Say that records were changed in the storage, behind the server's back."""

    topic: Literal["record"]
    action: Literal["notify"]
    record_names: list[Name]

    def message(self) -> Message:
        message = Message(Topic.RECORD, RecordAction.NOTIFY)
        message.names = self.record_names
        message.correlation_id = ANSWER_ID
        return message


class ListRead(Element):
    """Version and entries of a list."""

    topic: Literal["list"]
    action: Literal["read"]
    list_name: Name

    def message(self) -> Message:
        return _record(RecordAction.READ, self.list_name)


class ListWrite(Element):
    """Replace the entries of a list, or create it."""

    topic: Literal["list"]
    action: Literal["write"]
    list_name: Name
    data: list[str]
    version: Version = -1

    def message(self) -> Message:
        return _write(RecordAction.CREATEANDUPDATE, self.list_name, self.data, self.version)


class ListDelete(Element):
    """Delete a list; a missing one is no error."""

    topic: Literal["list"]
    action: Literal["delete"]
    list_name: Name

    def message(self) -> Message:
        return _record(RecordAction.DELETE, self.list_name)


class PresenceQuery(Element):
    """Who is logged in: all others, or for each of some names whether it is."""

    topic: Literal["presence"]
    action: Literal["query"]
    names: list[Name] | msgspec.UnsetType = UNSET

    def message(self) -> Message:
        if self.names is UNSET:
            return Message(Topic.PRESENCE, PresenceAction.QUERY_ALL)
        message = Message(Topic.PRESENCE, PresenceAction.QUERY)
        message.names = self.names
        message.correlation_id = ANSWER_ID
        return message


def _record(action: RecordAction, name: str) -> Message:
    message = Message(Topic.RECORD, action)
    message.name = name
    return message


def _write(action: RecordAction, name: str, data: Any, version: int) -> Message:
    message = Message(Topic.RECORD, action)
    message.name = name
    message.data = dumps(data)
    message.version = version or -1
    message.is_write_ack = True
    message.correlation_id = ANSWER_ID
    return message


KINDS: dict[tuple[str, str], tuple[type[Element], ...]] = {
    ("event", "emit"): (EventEmit,),
    ("rpc", "make"): (RpcMake,),
    ("record", "read"): (RecordRead,),
    ("record", "head"): (RecordHead,),
    ("record", "write"): (RecordWrite, RecordPatch),
    ("record", "delete"): (RecordDelete,),
    ("record", "notify"): (RecordNotify,),
    ("list", "read"): (ListRead,),
    ("list", "write"): (ListWrite,),
    ("list", "delete"): (ListDelete,),
    ("presence", "query"): (PresenceQuery,),
}
"""By topic and action; of two the second is the one with a path."""
_ACTIONS: dict[str, list[str]] = {}
for _topic, _action in KINDS:
    _ACTIONS.setdefault(_topic, []).append(_action)


def parse(value: Any) -> Message:
    """The message for an element. Raises :class:`JifError`."""
    if type(value) is not dict:
        raise JifError("it is no object")
    topic, action = value.get("topic"), value.get("action")
    kinds = KINDS.get((topic, action)) if type(topic) is str and type(action) is str else None
    if kinds is None:
        raise JifError(_unknown(value, topic))
    kind = kinds[1] if len(kinds) > 1 and value.get("path") else kinds[0]
    try:
        message: Message = msgspec.convert(value, kind).message()
    except msgspec.ValidationError as error:
        raise JifError(_reason(value, kind, str(error))) from None
    for text in (message.name, message.path, *(message.names or ())):
        if text is not None and not text.isascii() and not _is_unicode(text):
            raise JifError("a name or path has half of a surrogate pair")
    return message


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unknown(value: dict[str, Any], topic: Any) -> str:
    if "topic" not in value:
        return "property 'topic' is required"
    if type(topic) is not str or topic not in _ACTIONS:
        return f"property 'topic' must be one of {', '.join(_ACTIONS)}"
    if "action" not in value:
        return f"property 'action' is required for topic '{topic}'"
    return f"property 'action' must be one of {', '.join(_ACTIONS[topic])} for topic '{topic}'"


def _reason(value: dict[str, Any], kind: type[Element], text: str) -> str:
    """What is wrong, in the words of the request."""
    topic, action = value["topic"], value["action"]
    fields = msgspec.structs.fields(kind)
    for field in fields:
        if field.required and field.encode_name not in value:
            return f"property '{field.encode_name}' is required for topic '{topic}'"
    known = {field.encode_name for field in fields}
    for key in value:
        if key not in known:
            return f"property '{key[:64]}' is not known for topic '{topic}', action '{action}'"
    problem, _, place = text.partition(" - at `$.")
    problem = problem.replace("`", "").replace("object | array", "an object or an array")
    return f"property '{place.rstrip('`')}': {problem[:1].lower()}{problem[1:]}"
