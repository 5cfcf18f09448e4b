"""Codec of the ws-binary protocol (spec/protocol-binary.md)."""

from enum import IntEnum
from typing import Any

class Topic(IntEnum):
    UNKNOWN = 0
    PARSER = 1
    CONNECTION = 2
    AUTH = 3
    EVENT = 4
    RECORD = 5
    RPC = 6
    PRESENCE = 7
    MONITORING = 8
    CLUSTER = 9
    LOCK = 10
    STATE_REGISTRY = 11
    ERROR = 100

class ParserAction(IntEnum):
    UNKNOWN = 0
    UNKNOWN_TOPIC = 1
    UNKNOWN_ACTION = 2
    INVALID_MESSAGE = 3
    MESSAGE_PARSE_ERROR = 4
    MAXIMUM_MESSAGE_SIZE_EXCEEDED = 5
    ERROR = 6
    INVALID_META_PARAMS = 7

class ConnectionAction(IntEnum):
    UNKNOWN = 0
    ERROR = 1
    PING = 2
    PONG = 3
    ACCEPT = 4
    CHALLENGE = 5
    REJECT = 6
    REDIRECT = 7
    CLOSING = 8
    CLOSED = 9
    AUTHENTICATION_TIMEOUT = 100
    INVALID_MESSAGE = 101

class AuthAction(IntEnum):
    UNKNOWN = 0
    ERROR = 1
    REQUEST = 2
    AUTH_SUCCESSFUL = 3
    AUTH_UNSUCCESSFUL = 4
    TOO_MANY_AUTH_ATTEMPTS = 100
    INVALID_MESSAGE = 101
    INVALID_MESSAGE_DATA = 102

class EventAction(IntEnum):
    UNKNOWN = 0
    ERROR = 1
    EMIT = 2
    SUBSCRIBE = 3
    UNSUBSCRIBE = 4
    LISTEN = 5
    UNLISTEN = 6
    LISTEN_ACCEPT = 7
    LISTEN_REJECT = 8
    SUBSCRIPTION_HAS_PROVIDER = 9
    SUBSCRIPTION_HAS_NO_PROVIDER = 10
    SUBSCRIPTION_FOR_PATTERN_FOUND = 11
    SUBSCRIPTION_FOR_PATTERN_REMOVED = 12
    INVALID_LISTEN_REGEX = 100
    LISTEN_RESPONSE_TIMEOUT = 101
    LISTEN_UNSUCCESSFUL = 102
    MESSAGE_PERMISSION_ERROR = 103
    MESSAGE_DENIED = 104
    INVALID_MESSAGE_DATA = 105
    MULTIPLE_SUBSCRIPTIONS = 106
    NOT_SUBSCRIBED = 107

class RecordAction(IntEnum):
    UNKNOWN = 0
    ERROR = 1
    NOTIFY = 2
    READ = 3
    READ_RESPONSE = 4
    HEAD = 5
    HEAD_RESPONSE = 6
    HEAD_BULK = 7
    HEAD_RESPONSE_BULK = 8
    DELETE = 9
    DELETE_SUCCESS = 10
    DELETE_BULK = 11
    DELETE_BULK_SUCCESS = 12
    DELETED = 13
    WRITE_ACKNOWLEDGEMENT = 14
    CREATE = 15
    CREATEANDUPDATE = 16
    CREATEANDPATCH = 17
    UPDATE = 18
    PATCH = 19
    ERASE = 20
    SUBSCRIBEANDHEAD = 21
    SUBSCRIBEANDREAD = 22
    SUBSCRIBECREATEANDREAD = 23
    SUBSCRIBECREATEANDUPDATE = 24
    SUBSCRIBE = 25
    UNSUBSCRIBE = 26
    LISTEN = 27
    UNLISTEN = 28
    LISTEN_ACCEPT = 29
    LISTEN_REJECT = 30
    SUBSCRIPTION_HAS_PROVIDER = 31
    SUBSCRIPTION_HAS_NO_PROVIDER = 32
    SUBSCRIPTION_FOR_PATTERN_FOUND = 33
    SUBSCRIPTION_FOR_PATTERN_REMOVED = 34
    PATCH_MULTI = 35
    CACHE_RETRIEVAL_TIMEOUT = 100
    STORAGE_RETRIEVAL_TIMEOUT = 101
    VERSION_EXISTS = 102
    RECORD_LOAD_ERROR = 103
    RECORD_CREATE_ERROR = 104
    RECORD_UPDATE_ERROR = 105
    RECORD_DELETE_ERROR = 106
    RECORD_NOT_FOUND = 107
    INVALID_VERSION = 108
    INVALID_PATCH_ON_HOTPATH = 109
    INVALID_LISTEN_REGEX = 110
    LISTEN_RESPONSE_TIMEOUT = 111
    LISTEN_UNSUCCESSFUL = 112
    RECORD_NOTIFY_ERROR = 113
    MESSAGE_PERMISSION_ERROR = 114
    MESSAGE_DENIED = 115
    INVALID_MESSAGE_DATA = 116
    MULTIPLE_SUBSCRIPTIONS = 117
    NOT_SUBSCRIBED = 118

class RpcAction(IntEnum):
    UNKNOWN = 0
    ERROR = 1
    REQUEST = 2
    ACCEPT = 4
    RESPONSE = 5
    REJECT = 6
    REQUEST_ERROR = 7
    PROVIDE = 8
    UNPROVIDE = 9
    NO_RPC_PROVIDER = 100
    ACCEPT_TIMEOUT = 101
    MULTIPLE_ACCEPT = 102
    INVALID_RPC_CORRELATION_ID = 103
    RESPONSE_TIMEOUT = 104
    MULTIPLE_RESPONSE = 105
    MESSAGE_PERMISSION_ERROR = 106
    MESSAGE_DENIED = 107
    INVALID_MESSAGE_DATA = 108
    MULTIPLE_PROVIDERS = 109
    NOT_PROVIDED = 110

class PresenceAction(IntEnum):
    UNKNOWN = 0
    ERROR = 1
    QUERY_ALL = 2
    QUERY_ALL_RESPONSE = 3
    QUERY = 4
    QUERY_RESPONSE = 5
    PRESENCE_JOIN = 6
    PRESENCE_JOIN_ALL = 7
    PRESENCE_LEAVE = 8
    PRESENCE_LEAVE_ALL = 9
    SUBSCRIBE = 10
    UNSUBSCRIBE = 11
    SUBSCRIBE_ALL = 12
    UNSUBSCRIBE_ALL = 13
    INVALID_PRESENCE_USERS = 100
    MESSAGE_PERMISSION_ERROR = 101
    MESSAGE_DENIED = 102
    MULTIPLE_SUBSCRIPTIONS = 103
    NOT_SUBSCRIBED = 104

class ParseError(ValueError): ...

class Message:
    topic: int
    action: int
    name: str | None
    names: list[str] | None
    data: bytes | None
    correlation_id: str | None
    path: str | None
    version: int | None
    versions: dict[str, int] | None
    subscription: str | None
    pattern: str | None
    is_ack: bool | None
    is_error: bool | None
    is_write_ack: bool | None
    original_topic: int | None
    original_action: int | None
    requestor_name: str | None
    requestor_data: str | None
    url: str | None
    protocol_version: str | None
    sdk_version: str | None
    sdk_type: str | None
    leader_score: int | None
    role: str | None
    locked: bool | None
    checksum: int | None
    registry_topic: int | None
    server_name: str | None
    full_state: list[str] | None
    def __init__(self, topic: int, action: int, **fields: Any) -> None: ...
    def payload(self) -> Any: ...
    def replace(self, **changes: Any) -> Message: ...
    def to_dict(self) -> dict[str, Any]: ...
    def __eq__(self, other: object) -> bool: ...

def encode(message: Message) -> bytes: ...
def decode(data: bytes) -> list[Message]: ...
