"""Codec of the ws-binary protocol: a table drives both directions (spec/protocol-binary.md sections 2, 3 and 5)."""
from enum import IntEnum

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_AsStringAndSize, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8

from dsfast._core.buffer cimport (
    Buf, Slice, buf_add, buf_free, buf_room, likely, unlikely, varint_get, varint_put, varint_size,
)
from dsfast._core.json_text cimport utf8_check

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


class Topic(IntEnum):
    """Outer topics (spec/protocol-binary.md section 4)."""

    UNKNOWN = T_UNKNOWN
    PARSER = T_PARSER
    CONNECTION = T_CONNECTION
    AUTH = T_AUTH
    EVENT = T_EVENT
    RECORD = T_RECORD
    RPC = T_RPC
    PRESENCE = T_PRESENCE
    MONITORING = T_MONITORING
    CLUSTER = T_CLUSTER
    LOCK = T_LOCK
    STATE_REGISTRY = T_STATE_REGISTRY
    ERROR = T_ERROR


class ParserAction(IntEnum):
    """Actions of topic PARSER (spec/protocol-binary.md section 7)."""

    UNKNOWN = PARSER_UNKNOWN
    UNKNOWN_TOPIC = PARSER_UNKNOWN_TOPIC
    UNKNOWN_ACTION = PARSER_UNKNOWN_ACTION
    INVALID_MESSAGE = PARSER_INVALID_MESSAGE
    MESSAGE_PARSE_ERROR = PARSER_MESSAGE_PARSE_ERROR
    MAXIMUM_MESSAGE_SIZE_EXCEEDED = PARSER_MAXIMUM_MESSAGE_SIZE_EXCEEDED
    ERROR = PARSER_ERROR
    INVALID_META_PARAMS = PARSER_INVALID_META_PARAMS


class ConnectionAction(IntEnum):
    """Actions of topic CONNECTION (spec/protocol-binary.md section 7)."""

    UNKNOWN = CONNECTION_UNKNOWN
    ERROR = CONNECTION_ERROR
    PING = CONNECTION_PING
    PONG = CONNECTION_PONG
    ACCEPT = CONNECTION_ACCEPT
    CHALLENGE = CONNECTION_CHALLENGE
    REJECT = CONNECTION_REJECT
    REDIRECT = CONNECTION_REDIRECT
    CLOSING = CONNECTION_CLOSING
    CLOSED = CONNECTION_CLOSED
    AUTHENTICATION_TIMEOUT = CONNECTION_AUTHENTICATION_TIMEOUT
    INVALID_MESSAGE = CONNECTION_INVALID_MESSAGE


class AuthAction(IntEnum):
    """Actions of topic AUTH (spec/protocol-binary.md section 7)."""

    UNKNOWN = AU_UNKNOWN
    ERROR = AU_ERROR
    REQUEST = AU_REQUEST
    AUTH_SUCCESSFUL = AU_SUCCESSFUL
    AUTH_UNSUCCESSFUL = AU_UNSUCCESSFUL
    TOO_MANY_AUTH_ATTEMPTS = AU_TOO_MANY_AUTH_ATTEMPTS
    INVALID_MESSAGE = AU_INVALID_MESSAGE
    INVALID_MESSAGE_DATA = AU_INVALID_MESSAGE_DATA


class EventAction(IntEnum):
    """Actions of topic EVENT (spec/protocol-binary.md section 7)."""

    UNKNOWN = EVENT_UNKNOWN
    ERROR = EVENT_ERROR
    EMIT = EVENT_EMIT
    SUBSCRIBE = EVENT_SUBSCRIBE
    UNSUBSCRIBE = EVENT_UNSUBSCRIBE
    LISTEN = EVENT_LISTEN
    UNLISTEN = EVENT_UNLISTEN
    LISTEN_ACCEPT = EVENT_LISTEN_ACCEPT
    LISTEN_REJECT = EVENT_LISTEN_REJECT
    SUBSCRIPTION_HAS_PROVIDER = EVENT_SUBSCRIPTION_HAS_PROVIDER
    SUBSCRIPTION_HAS_NO_PROVIDER = EVENT_SUBSCRIPTION_HAS_NO_PROVIDER
    SUBSCRIPTION_FOR_PATTERN_FOUND = EVENT_SUBSCRIPTION_FOR_PATTERN_FOUND
    SUBSCRIPTION_FOR_PATTERN_REMOVED = EVENT_SUBSCRIPTION_FOR_PATTERN_REMOVED
    INVALID_LISTEN_REGEX = EVENT_INVALID_LISTEN_REGEX
    LISTEN_RESPONSE_TIMEOUT = EVENT_LISTEN_RESPONSE_TIMEOUT
    LISTEN_UNSUCCESSFUL = EVENT_LISTEN_UNSUCCESSFUL
    MESSAGE_PERMISSION_ERROR = EVENT_MESSAGE_PERMISSION_ERROR
    MESSAGE_DENIED = EVENT_MESSAGE_DENIED
    INVALID_MESSAGE_DATA = EVENT_INVALID_MESSAGE_DATA
    MULTIPLE_SUBSCRIPTIONS = EVENT_MULTIPLE_SUBSCRIPTIONS
    NOT_SUBSCRIBED = EVENT_NOT_SUBSCRIBED


class RecordAction(IntEnum):
    """Actions of topic RECORD (spec/protocol-binary.md section 7)."""

    UNKNOWN = REC_UNKNOWN
    ERROR = REC_ERROR
    NOTIFY = REC_NOTIFY
    READ = REC_READ
    READ_RESPONSE = REC_READ_RESPONSE
    HEAD = REC_HEAD
    HEAD_RESPONSE = REC_HEAD_RESPONSE
    HEAD_BULK = REC_HEAD_BULK
    HEAD_RESPONSE_BULK = REC_HEAD_RESPONSE_BULK
    DELETE = REC_DELETE
    DELETE_SUCCESS = REC_DELETE_SUCCESS
    DELETE_BULK = REC_DELETE_BULK
    DELETE_BULK_SUCCESS = REC_DELETE_BULK_SUCCESS
    DELETED = REC_DELETED
    WRITE_ACKNOWLEDGEMENT = REC_WRITE_ACKNOWLEDGEMENT
    CREATE = REC_CREATE
    CREATEANDUPDATE = REC_CREATEANDUPDATE
    CREATEANDPATCH = REC_CREATEANDPATCH
    UPDATE = REC_UPDATE
    PATCH = REC_PATCH
    ERASE = REC_ERASE
    SUBSCRIBEANDHEAD = REC_SUBSCRIBEANDHEAD
    SUBSCRIBEANDREAD = REC_SUBSCRIBEANDREAD
    SUBSCRIBECREATEANDREAD = REC_SUBSCRIBECREATEANDREAD
    SUBSCRIBECREATEANDUPDATE = REC_SUBSCRIBECREATEANDUPDATE
    SUBSCRIBE = REC_SUBSCRIBE
    UNSUBSCRIBE = REC_UNSUBSCRIBE
    LISTEN = REC_LISTEN
    UNLISTEN = REC_UNLISTEN
    LISTEN_ACCEPT = REC_LISTEN_ACCEPT
    LISTEN_REJECT = REC_LISTEN_REJECT
    SUBSCRIPTION_HAS_PROVIDER = REC_SUBSCRIPTION_HAS_PROVIDER
    SUBSCRIPTION_HAS_NO_PROVIDER = REC_SUBSCRIPTION_HAS_NO_PROVIDER
    SUBSCRIPTION_FOR_PATTERN_FOUND = REC_SUBSCRIPTION_FOR_PATTERN_FOUND
    SUBSCRIPTION_FOR_PATTERN_REMOVED = REC_SUBSCRIPTION_FOR_PATTERN_REMOVED
    PATCH_MULTI = REC_PATCH_MULTI
    CACHE_RETRIEVAL_TIMEOUT = REC_CACHE_RETRIEVAL_TIMEOUT
    STORAGE_RETRIEVAL_TIMEOUT = REC_STORAGE_RETRIEVAL_TIMEOUT
    VERSION_EXISTS = REC_VERSION_EXISTS
    RECORD_LOAD_ERROR = REC_LOAD_ERROR
    RECORD_CREATE_ERROR = REC_CREATE_ERROR
    RECORD_UPDATE_ERROR = REC_UPDATE_ERROR
    RECORD_DELETE_ERROR = REC_DELETE_ERROR
    RECORD_NOT_FOUND = REC_NOT_FOUND
    INVALID_VERSION = REC_INVALID_VERSION
    INVALID_PATCH_ON_HOTPATH = REC_INVALID_PATCH_ON_HOTPATH
    INVALID_LISTEN_REGEX = REC_INVALID_LISTEN_REGEX
    LISTEN_RESPONSE_TIMEOUT = REC_LISTEN_RESPONSE_TIMEOUT
    LISTEN_UNSUCCESSFUL = REC_LISTEN_UNSUCCESSFUL
    RECORD_NOTIFY_ERROR = REC_NOTIFY_ERROR
    MESSAGE_PERMISSION_ERROR = REC_MESSAGE_PERMISSION_ERROR
    MESSAGE_DENIED = REC_MESSAGE_DENIED
    INVALID_MESSAGE_DATA = REC_INVALID_MESSAGE_DATA
    MULTIPLE_SUBSCRIPTIONS = REC_MULTIPLE_SUBSCRIPTIONS
    NOT_SUBSCRIBED = REC_NOT_SUBSCRIBED


class RpcAction(IntEnum):
    """Actions of topic RPC (spec/protocol-binary.md section 7)."""

    UNKNOWN = RPC_UNKNOWN
    ERROR = RPC_ERROR
    REQUEST = RPC_REQUEST
    ACCEPT = RPC_ACCEPT
    RESPONSE = RPC_RESPONSE
    REJECT = RPC_REJECT
    REQUEST_ERROR = RPC_REQUEST_ERROR
    PROVIDE = RPC_PROVIDE
    UNPROVIDE = RPC_UNPROVIDE
    NO_RPC_PROVIDER = RPC_NO_RPC_PROVIDER
    ACCEPT_TIMEOUT = RPC_ACCEPT_TIMEOUT
    MULTIPLE_ACCEPT = RPC_MULTIPLE_ACCEPT
    INVALID_RPC_CORRELATION_ID = RPC_INVALID_RPC_CORRELATION_ID
    RESPONSE_TIMEOUT = RPC_RESPONSE_TIMEOUT
    MULTIPLE_RESPONSE = RPC_MULTIPLE_RESPONSE
    MESSAGE_PERMISSION_ERROR = RPC_MESSAGE_PERMISSION_ERROR
    MESSAGE_DENIED = RPC_MESSAGE_DENIED
    INVALID_MESSAGE_DATA = RPC_INVALID_MESSAGE_DATA
    MULTIPLE_PROVIDERS = RPC_MULTIPLE_PROVIDERS
    NOT_PROVIDED = RPC_NOT_PROVIDED


class PresenceAction(IntEnum):
    """Actions of topic PRESENCE (spec/protocol-binary.md section 7)."""

    UNKNOWN = PRE_UNKNOWN
    ERROR = PRE_ERROR
    QUERY_ALL = PRE_QUERY_ALL
    QUERY_ALL_RESPONSE = PRE_QUERY_ALL_RESPONSE
    QUERY = PRE_QUERY
    QUERY_RESPONSE = PRE_QUERY_RESPONSE
    PRESENCE_JOIN = PRE_JOIN
    PRESENCE_JOIN_ALL = PRE_JOIN_ALL
    PRESENCE_LEAVE = PRE_LEAVE
    PRESENCE_LEAVE_ALL = PRE_LEAVE_ALL
    SUBSCRIBE = PRE_SUBSCRIBE
    UNSUBSCRIBE = PRE_UNSUBSCRIBE
    SUBSCRIBE_ALL = PRE_SUBSCRIBE_ALL
    UNSUBSCRIBE_ALL = PRE_UNSUBSCRIBE_ALL
    INVALID_PRESENCE_USERS = PRE_INVALID_PRESENCE_USERS
    MESSAGE_PERMISSION_ERROR = PRE_MESSAGE_PERMISSION_ERROR
    MESSAGE_DENIED = PRE_MESSAGE_DENIED
    MULTIPLE_SUBSCRIPTIONS = PRE_MULTIPLE_SUBSCRIPTIONS
    NOT_SUBSCRIBED = PRE_NOT_SUBSCRIBED

class ParseError(ValueError):
    """The bytes are not a message of this protocol."""


cdef enum:
    K_NONE = 0
    K_INT = 1
    K_BOOL = 2
    K_TEXT = 3
    K_NAMES = 4
    K_VERSIONS = 5
    K_FULL_STATE = 6

cdef struct FieldKind:
    uint8_t kind
    uint8_t id      # I_... or S_... or R_...

# FIELDS[topic][number]; a kind of 0 means: no such field.
cdef FieldKind FIELDS[12][24]
memset(FIELDS, 0, sizeof(FIELDS))

cdef void define(int topic, int number, int kind, int id) noexcept:
    FIELDS[topic][number].kind = <uint8_t>kind
    FIELDS[topic][number].id = <uint8_t>id


cdef void define_all():
    cdef int topic
    for topic in range(1, 12):
        define(topic, 1, K_INT, I_ACTION)
    for topic in (T_CONNECTION, T_AUTH, T_EVENT, T_RECORD, T_RPC, T_PARSER, T_MONITORING, T_CLUSTER, T_STATE_REGISTRY):
        define(topic, 2, K_TEXT, S_DATA)
    for topic in (T_CONNECTION, T_AUTH, T_CLUSTER, T_STATE_REGISTRY):
        define(topic, 3, K_BOOL, I_IS_ERROR)
    for topic in (T_CONNECTION, T_AUTH, T_CLUSTER):
        define(topic, 4, K_BOOL, I_IS_ACK)
    for topic in (T_EVENT, T_RECORD, T_RPC, T_MONITORING):
        define(topic, 3, K_TEXT, S_CORRELATION_ID)
        define(topic, 4, K_BOOL, I_IS_ERROR)
        define(topic, 5, K_BOOL, I_IS_ACK)
    define(T_CONNECTION, 5, K_TEXT, S_URL)
    define(T_CONNECTION, 6, K_TEXT, S_PROTOCOL_VERSION)
    define(T_CONNECTION, 7, K_TEXT, S_SDK_VERSION)
    define(T_CONNECTION, 8, K_TEXT, S_SDK_TYPE)
    for topic in (T_EVENT, T_RECORD):
        define(topic, 6, K_TEXT, S_NAME)
        define(topic, 7, K_NAMES, R_NAMES)
    define(T_EVENT, 8, K_TEXT, S_SUBSCRIPTION)
    define(T_EVENT, 10, K_INT, I_ORIGINAL_TOPIC)
    define(T_EVENT, 11, K_INT, I_ORIGINAL_ACTION)
    define(T_RECORD, 8, K_TEXT, S_PATTERN)
    define(T_RECORD, 9, K_TEXT, S_SUBSCRIPTION)
    define(T_RECORD, 10, K_INT, I_ORIGINAL_ACTION)
    define(T_RECORD, 11, K_BOOL, I_IS_WRITE_ACK)
    define(T_RECORD, 12, K_TEXT, S_PATH)
    define(T_RECORD, 13, K_INT, I_VERSION)
    define(T_RECORD, 14, K_VERSIONS, R_VERSIONS)
    define(T_RPC, 6, K_NAMES, R_NAMES)
    define(T_RPC, 7, K_TEXT, S_NAME)
    define(T_RPC, 9, K_INT, I_ORIGINAL_ACTION)
    define(T_RPC, 10, K_TEXT, S_REQUESTOR_NAME)
    define(T_RPC, 11, K_TEXT, S_REQUESTOR_DATA)
    define(T_PRESENCE, 2, K_INT, I_ORIGINAL_TOPIC)
    define(T_PRESENCE, 3, K_INT, I_ORIGINAL_ACTION)
    define(T_PRESENCE, 4, K_TEXT, S_DATA)
    define(T_PRESENCE, 5, K_TEXT, S_CORRELATION_ID)
    define(T_PRESENCE, 6, K_BOOL, I_IS_ERROR)
    define(T_PRESENCE, 7, K_BOOL, I_IS_ACK)
    define(T_PRESENCE, 8, K_TEXT, S_NAME)
    define(T_PRESENCE, 9, K_NAMES, R_NAMES)
    define(T_PARSER, 8, K_INT, I_ORIGINAL_TOPIC)
    define(T_PARSER, 9, K_INT, I_ORIGINAL_ACTION)
    define(T_CLUSTER, 5, K_INT, I_LEADER_SCORE)
    define(T_CLUSTER, 7, K_TEXT, S_ROLE)
    define(T_LOCK, 3, K_BOOL, I_LOCKED)
    define(T_STATE_REGISTRY, 19, K_INT, I_CHECKSUM)
    define(T_STATE_REGISTRY, 20, K_FULL_STATE, R_FULL_STATE)
    define(T_STATE_REGISTRY, 21, K_TEXT, S_SERVER_NAME)
    define(T_STATE_REGISTRY, 22, K_INT, I_REGISTRY_TOPIC)

define_all()


cdef inline const char *skip_field(const char *p, const char *e, uint64_t wire) noexcept nogil:
    cdef uint64_t v = 0
    if wire == 0:
        return varint_get(p, e, &v)
    if wire == 1:
        return p + 8 if e - p >= 8 else NULL
    if wire == 5:
        return p + 4 if e - p >= 4 else NULL
    if wire == 2:
        p = varint_get(p, e, &v)
        if p == NULL or v > <uint64_t>(e - p):
            return NULL
        return p + v
    return NULL


cdef bint map_entry(const char *p, const char *e, Slice *key, int64_t *value) noexcept nogil:
    """Read one entry of map<string, int32>; a missing key or value reads as "" or 0. False: malformed."""
    cdef uint64_t tag = 0, v = 0
    key.p = p
    key.n = 0
    value[0] = 0
    while p < e:
        p = varint_get(p, e, &tag)
        if p == NULL:
            return False
        if tag == 0x0A:
            p = varint_get(p, e, &v)
            if p == NULL or v > <uint64_t>(e - p) or not utf8_check(p, <Py_ssize_t>v):
                return False
            key.p = p
            key.n = <Py_ssize_t>v
            p += v
        elif tag == 0x10:
            p = varint_get(p, e, &v)
            if p == NULL or not fits_int32(<int64_t>v):
                return False
            value[0] = <int64_t>v
        elif tag >> 3 == 0 or tag >> 3 == 1 or tag >> 3 == 2:
            return False
        else:
            p = skip_field(p, e, tag & 7)
            if p == NULL:
                return False
    return True


cdef inline bint padded(const char *begin, const char *end) noexcept nogil:
    """Whether the varint in [begin, end) is longer than it needs to be."""
    return end - begin > 1 and (end - 1)[0] == 0


cdef inline bint fits_int32(int64_t v) noexcept nogil:
    return v == <int64_t><int32_t>v


cdef bint decode_body(Msg *m) noexcept nogil:
    cdef const char *p = m.body
    cdef const char *e = m.end
    cdef const char *q
    cdef uint64_t tag = 0, v = 0, number, last = 0
    cdef int64_t ignored = 0
    cdef Slice key
    cdef FieldKind *f
    cdef FieldKind *table = FIELDS[m.topic]
    while p < e:
        q = p
        p = varint_get(p, e, &tag)
        if p == NULL or tag < 8:
            return False
        number = tag >> 3
        if padded(q, p):
            m.canonical = False
        f = &table[number] if number < 24 else NULL
        if f == NULL or f.kind == K_NONE:
            m.canonical = False
            p = skip_field(p, e, tag & 7)
            if p == NULL:
                return False
            continue
        if number <= last and (number < last or f.kind < K_NAMES):
            m.canonical = False
        last = number
        q = p
        p = varint_get(p, e, &v)
        if p == NULL:
            return False
        if padded(q, p):
            m.canonical = False
        if f.kind <= K_BOOL:
            if tag & 7 != 0:
                return False
            if f.kind == K_BOOL:
                if v > 1:
                    v = 1
                    m.canonical = False
            elif not fits_int32(<int64_t>v):
                return False
            m.i[f.id] = <int64_t>v
            m.has |= <uint32_t>1 << f.id
            continue
        if tag & 7 != 2 or v > <uint64_t>(e - p):
            return False
        if f.kind == K_TEXT:
            # data is JSON and is checked as such, with its UTF-8, by whoever uses it
            if f.id != S_DATA and not utf8_check(p, <Py_ssize_t>v):
                return False
            m.s[f.id].p = p
            m.s[f.id].n = <Py_ssize_t>v
            m.has |= <uint32_t>1 << (N_INTS + f.id)
        else:
            if f.kind == K_VERSIONS:
                if not map_entry(p, p + v, &key, &ignored):
                    return False
            elif not utf8_check(p, <Py_ssize_t>v):
                return False
            m.has |= <uint32_t>1 << f.id
            if f.kind != K_VERSIONS:
                m.items += 1
        p += v
    return True


cdef const char *decode_msg(const char *p, const char *e, Msg *m) noexcept nogil:
    """Decode the message that starts at p into slices of the same bytes.

    Returns where the next message starts, or NULL if the bytes up to e do not hold a valid message.
    """
    cdef uint64_t v = 0, tag = 0
    cdef const char *q = p
    m.topic = 0
    m.has = 0
    m.items = 0
    m.canonical = True
    m.body = m.end = p
    p = varint_get(p, e, &v)
    if p == NULL or v > <uint64_t>(e - p):
        return NULL
    if padded(q, p):
        m.canonical = False
    e = p + v
    if v > 5 and p[0] == 0x10 and <uint8_t>p[1] < 128 and p[2] == 0x1A:
        # The order every encoder writes: one-byte topic, then the inner message to the end.
        m.topic = p[1]
        p = varint_get(p + 3, e, &v)
        if p == NULL or v > <uint64_t>(e - p):
            return NULL
        m.body = p
        m.end = p + v
        p += v
    else:
        m.canonical = False
    while p < e:
        m.canonical = False
        p = varint_get(p, e, &tag)
        if p == NULL or tag < 8:
            return NULL
        if tag >> 3 == 2:
            if tag & 7 != 0:
                return NULL
            p = varint_get(p, e, &v)
            if p == NULL or v > 100:
                return NULL
            m.topic = <int>v
        elif tag >> 3 == 3:
            if tag & 7 != 2:
                return NULL
            p = varint_get(p, e, &v)
            if p == NULL or v > <uint64_t>(e - p):
                return NULL
            m.body = p
            m.end = p + v
            p += v
        else:
            p = skip_field(p, e, tag & 7)
            if p == NULL:
                return NULL
    if m.topic < 1 or m.topic > 11 or not decode_body(m):
        return NULL
    return e


cdef const char *next_item(const Msg *m, const char *cursor, Slice *item) noexcept nogil:
    """Walk the names of a decoded message: start with m.body; NULL at the end."""
    return next_entry(m, cursor, item, False)


cdef const char *next_entry(const Msg *m, const char *cursor, Slice *item, bint versions) noexcept nogil:
    """Walk the names, or the versions; a record message may have both, in any order."""
    cdef uint64_t tag = 0, v = 0
    cdef const char *p = cursor
    cdef const FieldKind *table = FIELDS[m.topic]
    while p < m.end:
        p = varint_get(p, m.end, &tag)
        if tag >> 3 < 24 and table[tag >> 3].kind >= K_NAMES and (table[tag >> 3].kind == K_VERSIONS) == versions:
            p = varint_get(p, m.end, &v)
            item.p = p
            item.n = <Py_ssize_t>v
            return p + v
        p = skip_field(p, m.end, tag & 7)
    return NULL


cdef inline char *put_text(char *q, uint64_t tag, const char *p, size_t n) noexcept nogil:
    q = varint_put(q, tag)
    q = varint_put(q, n)
    memcpy(q, p, n)
    return q + n


cdef int put_names(Buf *out, int number, list names) except -1:
    cdef const char *p
    cdef Py_ssize_t n = 0
    cdef char *q
    for name in names:
        if isinstance(name, bytes):
            PyBytes_AsStringAndSize(name, <char**>&p, &n)
        else:
            p = PyUnicode_AsUTF8AndSize(name, &n)
        q = buf_room(out, <size_t>n + 20)
        out.n += put_text(q, <uint64_t>number << 3 | 2, p, <size_t>n) - q
    return 0


cdef int put_versions(Buf *out, int number, dict versions) except -1:
    cdef const char *p
    cdef Py_ssize_t n = 0
    cdef char *q
    cdef char *start
    cdef uint64_t version
    cdef size_t size
    for name, value in versions.items():
        if isinstance(name, bytes):
            PyBytes_AsStringAndSize(name, <char**>&p, &n)
        else:
            p = PyUnicode_AsUTF8AndSize(name, &n)
        version = <uint64_t><int64_t>value
        size = 1 + varint_size(n) + <size_t>n + 1 + varint_size(version)
        start = q = buf_room(out, size + 20)
        q = varint_put(q, <uint64_t>number << 3 | 2)
        q = varint_put(q, size)
        q = put_text(q, 0x0A, p, <size_t>n)
        q = varint_put(q, 0x10)
        q = varint_put(q, version)
        out.n += q - start
    return 0


# The inner message is built here first, since its length goes in front of it.
cdef Buf body = Buf(NULL, 0, 0)

cdef enum:
    BODY_KEEP = 4 << 20     # memory kept between messages


cdef inline void end_body() noexcept nogil:
    if unlikely(body.cap > BODY_KEEP):
        buf_free(&body)


cdef int encode_body(const Msg *m, list names, dict versions) except -1:
    cdef int number
    cdef const FieldKind *f
    cdef char *q
    cdef char *start
    cdef const Slice *s
    body.n = 0
    if m.topic < 1 or m.topic > 11:
        raise ValueError(f"topic {m.topic} has no message type")
    for number in range(1, 24):
        f = &FIELDS[m.topic][number]
        if f.kind == K_NONE:
            continue
        if f.kind <= K_BOOL:
            if (m.has >> f.id) & 1:
                start = q = buf_room(&body, 24)
                q = varint_put(q, <uint64_t>number << 3)
                q = varint_put(q, <uint64_t>m.i[f.id])
                body.n += q - start
        elif f.kind == K_TEXT:
            if (m.has >> (N_INTS + f.id)) & 1:
                s = &m.s[f.id]
                q = buf_room(&body, <size_t>s.n + 20)
                body.n += put_text(q, <uint64_t>number << 3 | 2, s.p, <size_t>s.n) - q
        elif f.kind == K_VERSIONS:
            if versions is not None:
                put_versions(&body, number, versions)
        elif names is not None:
            put_names(&body, number, names)
    return 0


cdef inline size_t message_size() noexcept nogil:
    """Bytes after the length prefix for the body just built."""
    return 3 + varint_size(body.n) + body.n


cdef inline char *put_message(char *q, int topic, size_t size) noexcept nogil:
    q = varint_put(q, size)
    q[0] = 0x10
    q[1] = <char>topic
    q[2] = 0x1A
    q = varint_put(q + 3, body.n)
    memcpy(q, body.p, body.n)
    return q + body.n


cdef int encode_msg(const Msg *m, Buf *out, list names=None, dict versions=None) except -1:
    """Append one message, fields in ascending order, exactly those that are present."""
    cdef size_t size
    cdef char *q
    encode_body(m, names, versions)
    size = message_size()
    q = buf_room(out, size + 10)
    out.n += put_message(q, m.topic, size) - q
    end_body()
    return 0


cdef int encode_frame(const Msg *m, Buf *out, list names=None, dict versions=None) except -1:
    """Append one message as a complete binary websocket frame."""
    cdef size_t size
    cdef char *q
    cdef char *start
    encode_body(m, names, versions)
    size = message_size()
    start = q = buf_room(out, size + 24)
    q += frame_header(q, varint_size(size) + size, 2)
    out.n += put_message(q, m.topic, size) - start
    end_body()
    return 0


cdef size_t frame_header(char *q, size_t n, uint8_t opcode) noexcept nogil:
    """Write the header of an unmasked, final websocket frame of n bytes; returns its size (2, 4 or 10)."""
    cdef uint8_t *p = <uint8_t*>q
    cdef int i
    p[0] = 0x80 | opcode
    if n < 126:
        p[1] = <uint8_t>n
        return 2
    if n < 65536:
        p[1] = 126
        p[2] = <uint8_t>(n >> 8)
        p[3] = <uint8_t>n
        return 4
    p[1] = 127
    for i in range(8):
        p[2 + i] = <uint8_t>(<uint64_t>n >> (56 - 8 * i))
    return 10


cdef inline object text_of(const Msg *m, int field):
    if has_text(m, field):
        return PyUnicode_DecodeUTF8(m.s[field].p, m.s[field].n, NULL)
    return None


cdef inline object int_of(const Msg *m, int field):
    if has_int(m, field):
        return m.i[field]
    return None


cdef inline object bool_of(const Msg *m, int field):
    if has_int(m, field):
        return m.i[field] != 0
    return None


cdef list names_of(const Msg *m):
    """The entries of names (or fullState) as str; empty if the field is absent."""
    cdef list names = []
    cdef Slice item
    cdef const char *cursor = m.body
    if m.items:
        cursor = next_item(m, cursor, &item)
        while cursor != NULL:
            names.append(PyUnicode_DecodeUTF8(item.p, item.n, NULL))
            cursor = next_item(m, cursor, &item)
    return names


cdef dict versions_of(const Msg *m):
    cdef dict versions = {}
    cdef Slice item, key
    cdef int64_t value = 0
    cdef const char *cursor = next_entry(m, m.body, &item, True)
    while cursor != NULL:
        map_entry(item.p, item.p + item.n, &key, &value)
        versions[PyUnicode_DecodeUTF8(key.p, key.n, NULL)] = value
        cursor = next_entry(m, cursor, &item, True)
    return versions


cdef Message to_message(const Msg *m):
    """A Python object that owns its values, for plugins and for messages that have to wait."""
    cdef Message o = Message.__new__(Message)
    o.topic = m.topic
    o.action = <int>m.i[I_ACTION] if has_int(m, I_ACTION) else 0
    o.name = text_of(m, S_NAME)
    if has_text(m, S_DATA):
        o.data = PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n)
    if (m.has >> R_NAMES) & 1:
        o.names = names_of(m)
    if (m.has >> R_FULL_STATE) & 1:
        o.full_state = names_of(m)
    if (m.has >> R_VERSIONS) & 1:
        o.versions = versions_of(m)
    o.correlation_id = text_of(m, S_CORRELATION_ID)
    o.path = text_of(m, S_PATH)
    o.version = int_of(m, I_VERSION)
    o.subscription = text_of(m, S_SUBSCRIPTION)
    o.pattern = text_of(m, S_PATTERN)
    o.is_ack = bool_of(m, I_IS_ACK)
    o.is_error = bool_of(m, I_IS_ERROR)
    o.is_write_ack = bool_of(m, I_IS_WRITE_ACK)
    o.original_topic = int_of(m, I_ORIGINAL_TOPIC)
    o.original_action = int_of(m, I_ORIGINAL_ACTION)
    o.requestor_name = text_of(m, S_REQUESTOR_NAME)
    o.requestor_data = text_of(m, S_REQUESTOR_DATA)
    o.url = text_of(m, S_URL)
    o.protocol_version = text_of(m, S_PROTOCOL_VERSION)
    o.sdk_version = text_of(m, S_SDK_VERSION)
    o.sdk_type = text_of(m, S_SDK_TYPE)
    o.leader_score = int_of(m, I_LEADER_SCORE)
    o.role = text_of(m, S_ROLE)
    o.locked = bool_of(m, I_LOCKED)
    o.checksum = int_of(m, I_CHECKSUM)
    o.registry_topic = int_of(m, I_REGISTRY_TOPIC)
    o.server_name = text_of(m, S_SERVER_NAME)
    return o


_MESSAGE_FIELDS = (
    "topic", "action", "name", "names", "data", "correlation_id", "path", "version", "versions", "subscription", "pattern",
    "is_ack", "is_error", "is_write_ack", "original_topic", "original_action", "requestor_name", "requestor_data",
    "url", "protocol_version", "sdk_version", "sdk_type", "leader_score", "role", "locked", "checksum",
    "registry_topic", "server_name", "full_state",
)
_FIELD_SET = frozenset(_MESSAGE_FIELDS)


cdef class Message:
    """One protocol message with Python values; an absent field is None, ``data`` is raw JSON text (bytes).

    Plugins treat messages as read-only; ``replace`` makes a changed copy (spec/plugins.md A.3).
    """

    def __init__(self, int topic, int action, **fields):
        self.topic = topic
        self.action = action
        for key, value in fields.items():
            if key not in _FIELD_SET:
                raise TypeError(f"Message has no field {key!r}")
            setattr(self, key, value)

    def payload(self):
        """The parsed value of ``data``; None if there is none. Raises ValueError on invalid JSON."""
        from dsfast._core.json_text import loads
        return None if self.data is None else loads(self.data)

    def replace(self, **changes):
        """A copy with some fields changed."""
        fields = {key: getattr(self, key) for key in _MESSAGE_FIELDS}
        fields.update(changes)
        return Message(**fields)

    def to_dict(self):
        """The fields that are present."""
        return {key: value for key in _MESSAGE_FIELDS if (value := getattr(self, key)) is not None}

    def __eq__(self, other):
        return isinstance(other, Message) and self.to_dict() == other.to_dict()

    __hash__ = None

    def __repr__(self):
        return f"Message({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"

    cdef int fill(self, Msg *m) except -1:
        """Make m describe this message; its slices stay valid while this object lives unchanged."""
        self._keep = []
        start(m, self.topic, self.action)
        m.canonical = False
        m.body = m.end = NULL
        self.put_text(m, S_NAME, self.name)
        self.put_text(m, S_DATA, self.data)
        self.put_text(m, S_CORRELATION_ID, self.correlation_id)
        self.put_text(m, S_PATH, self.path)
        self.put_text(m, S_SUBSCRIPTION, self.subscription)
        self.put_text(m, S_PATTERN, self.pattern)
        self.put_text(m, S_URL, self.url)
        self.put_text(m, S_PROTOCOL_VERSION, self.protocol_version)
        self.put_text(m, S_SDK_VERSION, self.sdk_version)
        self.put_text(m, S_SDK_TYPE, self.sdk_type)
        self.put_text(m, S_REQUESTOR_NAME, self.requestor_name)
        self.put_text(m, S_REQUESTOR_DATA, self.requestor_data)
        self.put_text(m, S_ROLE, self.role)
        self.put_text(m, S_SERVER_NAME, self.server_name)
        for field, value in (
            (I_VERSION, self.version), (I_IS_ACK, self.is_ack), (I_IS_ERROR, self.is_error),
            (I_IS_WRITE_ACK, self.is_write_ack), (I_ORIGINAL_TOPIC, self.original_topic),
            (I_ORIGINAL_ACTION, self.original_action), (I_LEADER_SCORE, self.leader_score), (I_LOCKED, self.locked),
            (I_CHECKSUM, self.checksum), (I_REGISTRY_TOPIC, self.registry_topic),
        ):
            if value is not None:
                set_int(m, field, value)
        if self.names is not None:
            m.has |= <uint32_t>1 << R_NAMES
            m.items = len(self.names)
        return 0

    cdef int put_text(self, Msg *m, int field, value) except -1:
        cdef Py_ssize_t n = 0
        cdef const char *p
        if value is None:
            return 0
        if isinstance(value, bytes):
            PyBytes_AsStringAndSize(value, <char**>&p, &n)
        else:
            p = PyUnicode_AsUTF8AndSize(value, &n)
        self._keep.append(value)
        set_text(m, field, p, n)
        return 0


def encode(Message message not None):
    """The bytes of one message, without a websocket frame around it (spec/protocol-binary.md section 2)."""
    cdef Msg m
    cdef Buf out = Buf(NULL, 0, 0)
    message.fill(&m)
    try:
        encode_msg(&m, &out, message.names if message.full_state is None else message.full_state, message.versions)
        return PyBytes_FromStringAndSize(out.p, <Py_ssize_t>out.n)
    finally:
        buf_free(&out)


def decode(bytes data not None):
    """All messages in ``data``. Raises ParseError if there is none or a part is malformed."""
    cdef const char *p = PyBytes_AS_STRING(data)
    cdef const char *e = p + len(data)
    cdef Msg m
    cdef list messages = []
    while True:
        p = decode_msg(p, e, &m)
        if p == NULL or (has_text(&m, S_DATA) and not utf8_check(m.s[S_DATA].p, m.s[S_DATA].n)):
            raise ParseError("malformed message")
        messages.append(to_message(&m))
        if p == e:
            return messages
