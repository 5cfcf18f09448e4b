"""Numbers of the wire protocol and the C form of a message (spec/protocol-binary.md sections 4, 5 and 7)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from dsfast._core.buffer cimport Buf, Slice

cdef enum:
    T_UNKNOWN = 0
    T_PARSER = 1
    T_CONNECTION = 2
    T_AUTH = 3
    T_EVENT = 4
    T_RECORD = 5
    T_RPC = 6
    T_PRESENCE = 7
    T_MONITORING = 8
    T_CLUSTER = 9
    T_LOCK = 10
    T_STATE_REGISTRY = 11
    T_ERROR = 100

cdef enum:
    PARSER_UNKNOWN = 0
    PARSER_UNKNOWN_TOPIC = 1
    PARSER_UNKNOWN_ACTION = 2
    PARSER_INVALID_MESSAGE = 3
    PARSER_MESSAGE_PARSE_ERROR = 4
    PARSER_MAXIMUM_MESSAGE_SIZE_EXCEEDED = 5
    PARSER_ERROR = 6
    PARSER_INVALID_META_PARAMS = 7

cdef enum:
    CONNECTION_UNKNOWN = 0
    CONNECTION_ERROR = 1
    CONNECTION_PING = 2
    CONNECTION_PONG = 3
    CONNECTION_ACCEPT = 4
    CONNECTION_CHALLENGE = 5
    CONNECTION_REJECT = 6
    CONNECTION_REDIRECT = 7
    CONNECTION_CLOSING = 8
    CONNECTION_CLOSED = 9
    CONNECTION_AUTHENTICATION_TIMEOUT = 100
    CONNECTION_INVALID_MESSAGE = 101

cdef enum:
    AU_UNKNOWN = 0
    AU_ERROR = 1
    AU_REQUEST = 2
    AU_SUCCESSFUL = 3
    AU_UNSUCCESSFUL = 4
    AU_TOO_MANY_AUTH_ATTEMPTS = 100
    AU_INVALID_MESSAGE = 101
    AU_INVALID_MESSAGE_DATA = 102

cdef enum:
    EVENT_UNKNOWN = 0
    EVENT_ERROR = 1
    EVENT_EMIT = 2
    EVENT_SUBSCRIBE = 3
    EVENT_UNSUBSCRIBE = 4
    EVENT_LISTEN = 5
    EVENT_UNLISTEN = 6
    EVENT_LISTEN_ACCEPT = 7
    EVENT_LISTEN_REJECT = 8
    EVENT_SUBSCRIPTION_HAS_PROVIDER = 9
    EVENT_SUBSCRIPTION_HAS_NO_PROVIDER = 10
    EVENT_SUBSCRIPTION_FOR_PATTERN_FOUND = 11
    EVENT_SUBSCRIPTION_FOR_PATTERN_REMOVED = 12
    EVENT_INVALID_LISTEN_REGEX = 100
    EVENT_LISTEN_RESPONSE_TIMEOUT = 101
    EVENT_LISTEN_UNSUCCESSFUL = 102
    EVENT_MESSAGE_PERMISSION_ERROR = 103
    EVENT_MESSAGE_DENIED = 104
    EVENT_INVALID_MESSAGE_DATA = 105
    EVENT_MULTIPLE_SUBSCRIPTIONS = 106
    EVENT_NOT_SUBSCRIBED = 107

cdef enum:
    REC_UNKNOWN = 0
    REC_ERROR = 1
    REC_NOTIFY = 2
    REC_READ = 3
    REC_READ_RESPONSE = 4
    REC_HEAD = 5
    REC_HEAD_RESPONSE = 6
    REC_HEAD_BULK = 7
    REC_HEAD_RESPONSE_BULK = 8
    REC_DELETE = 9
    REC_DELETE_SUCCESS = 10
    REC_DELETE_BULK = 11
    REC_DELETE_BULK_SUCCESS = 12
    REC_DELETED = 13
    REC_WRITE_ACKNOWLEDGEMENT = 14
    REC_CREATE = 15
    REC_CREATEANDUPDATE = 16
    REC_CREATEANDPATCH = 17
    REC_UPDATE = 18
    REC_PATCH = 19
    REC_ERASE = 20
    REC_SUBSCRIBEANDHEAD = 21
    REC_SUBSCRIBEANDREAD = 22
    REC_SUBSCRIBECREATEANDREAD = 23
    REC_SUBSCRIBECREATEANDUPDATE = 24
    REC_SUBSCRIBE = 25
    REC_UNSUBSCRIBE = 26
    REC_LISTEN = 27
    REC_UNLISTEN = 28
    REC_LISTEN_ACCEPT = 29
    REC_LISTEN_REJECT = 30
    REC_SUBSCRIPTION_HAS_PROVIDER = 31
    REC_SUBSCRIPTION_HAS_NO_PROVIDER = 32
    REC_SUBSCRIPTION_FOR_PATTERN_FOUND = 33
    REC_SUBSCRIPTION_FOR_PATTERN_REMOVED = 34
    REC_PATCH_MULTI = 35
    REC_CACHE_RETRIEVAL_TIMEOUT = 100
    REC_STORAGE_RETRIEVAL_TIMEOUT = 101
    REC_VERSION_EXISTS = 102
    REC_LOAD_ERROR = 103
    REC_CREATE_ERROR = 104
    REC_UPDATE_ERROR = 105
    REC_DELETE_ERROR = 106
    REC_NOT_FOUND = 107
    REC_INVALID_VERSION = 108
    REC_INVALID_PATCH_ON_HOTPATH = 109
    REC_INVALID_LISTEN_REGEX = 110
    REC_LISTEN_RESPONSE_TIMEOUT = 111
    REC_LISTEN_UNSUCCESSFUL = 112
    REC_NOTIFY_ERROR = 113
    REC_MESSAGE_PERMISSION_ERROR = 114
    REC_MESSAGE_DENIED = 115
    REC_INVALID_MESSAGE_DATA = 116
    REC_MULTIPLE_SUBSCRIPTIONS = 117
    REC_NOT_SUBSCRIBED = 118

cdef enum:
    RPC_UNKNOWN = 0
    RPC_ERROR = 1
    RPC_REQUEST = 2
    RPC_ACCEPT = 4
    RPC_RESPONSE = 5
    RPC_REJECT = 6
    RPC_REQUEST_ERROR = 7
    RPC_PROVIDE = 8
    RPC_UNPROVIDE = 9
    RPC_NO_RPC_PROVIDER = 100
    RPC_ACCEPT_TIMEOUT = 101
    RPC_MULTIPLE_ACCEPT = 102
    RPC_INVALID_RPC_CORRELATION_ID = 103
    RPC_RESPONSE_TIMEOUT = 104
    RPC_MULTIPLE_RESPONSE = 105
    RPC_MESSAGE_PERMISSION_ERROR = 106
    RPC_MESSAGE_DENIED = 107
    RPC_INVALID_MESSAGE_DATA = 108
    RPC_MULTIPLE_PROVIDERS = 109
    RPC_NOT_PROVIDED = 110

cdef enum:
    PRE_UNKNOWN = 0
    PRE_ERROR = 1
    PRE_QUERY_ALL = 2
    PRE_QUERY_ALL_RESPONSE = 3
    PRE_QUERY = 4
    PRE_QUERY_RESPONSE = 5
    PRE_JOIN = 6
    PRE_JOIN_ALL = 7
    PRE_LEAVE = 8
    PRE_LEAVE_ALL = 9
    PRE_SUBSCRIBE = 10
    PRE_UNSUBSCRIBE = 11
    PRE_SUBSCRIBE_ALL = 12
    PRE_UNSUBSCRIBE_ALL = 13
    PRE_INVALID_PRESENCE_USERS = 100
    PRE_MESSAGE_PERMISSION_ERROR = 101
    PRE_MESSAGE_DENIED = 102
    PRE_MULTIPLE_SUBSCRIPTIONS = 103
    PRE_NOT_SUBSCRIBED = 104

# Integer fields: index into Msg.i and bit number in Msg.has.
cdef enum:
    I_ACTION = 0
    I_ORIGINAL_ACTION = 1
    I_ORIGINAL_TOPIC = 2
    I_VERSION = 3
    I_IS_ERROR = 4
    I_IS_ACK = 5
    I_IS_WRITE_ACK = 6
    I_LEADER_SCORE = 7
    I_LOCKED = 8
    I_CHECKSUM = 9
    I_REGISTRY_TOPIC = 10
    N_INTS = 11

# Text fields: index into Msg.s; bit number in Msg.has is N_INTS + index.
cdef enum:
    S_DATA = 0
    S_CORRELATION_ID = 1
    S_NAME = 2
    S_PATH = 3
    S_SUBSCRIPTION = 4
    S_PATTERN = 5
    S_URL = 6
    S_PROTOCOL_VERSION = 7
    S_SDK_VERSION = 8
    S_SDK_TYPE = 9
    S_REQUESTOR_NAME = 10
    S_REQUESTOR_DATA = 11
    S_ROLE = 12
    S_SERVER_NAME = 13
    N_TEXTS = 14

# Repeated fields: only presence and count are kept while decoding; next_item() walks them in the body.
cdef enum:
    R_NAMES = 25
    R_VERSIONS = 26
    R_FULL_STATE = 27

cdef struct Msg:
    int topic
    uint32_t has
    uint32_t items          # how many entries names, versions or fullState has
    bint canonical          # the bytes are what encode() would make of these fields
    const char *body        # inner message, for walking repeated fields
    const char *end
    int64_t i[11]
    Slice s[14]

cdef inline bint has_int(const Msg *m, int field) noexcept nogil:
    return (m.has >> field) & 1

cdef inline bint has_text(const Msg *m, int field) noexcept nogil:
    return (m.has >> (11 + field)) & 1

cdef inline void set_int(Msg *m, int field, int64_t value) noexcept nogil:
    m.i[field] = value
    m.has |= <uint32_t>1 << field

cdef inline void set_text(Msg *m, int field, const char *p, Py_ssize_t n) noexcept nogil:
    m.s[field].p = p
    m.s[field].n = n
    m.has |= <uint32_t>1 << (11 + field)

cdef inline void copy_text(Msg *to, const Msg *frm, int field) noexcept nogil:
    """Copy a text field if it is present."""
    if has_text(frm, field):
        to.s[field] = frm.s[field]
        to.has |= <uint32_t>1 << (11 + field)

cdef inline void start(Msg *m, int topic, int action) noexcept nogil:
    """Begin a message to be sent: only topic and action present."""
    m.topic = topic
    m.has = 1
    m.items = 0
    m.i[0] = action

cdef const char *decode_msg(const char *p, const char *e, Msg *m) noexcept nogil
cdef const char *next_item(const Msg *m, const char *cursor, Slice *item) noexcept nogil
cdef int encode_msg(const Msg *m, Buf *out, list names=*, dict versions=*) except -1
cdef int encode_frame(const Msg *m, Buf *out, list names=*, dict versions=*) except -1
cdef size_t frame_header(char *q, size_t n, uint8_t opcode) noexcept nogil

cdef class Message:
    cdef public int topic
    cdef public int action
    cdef public object name
    cdef public object names
    cdef public object data
    cdef public object correlation_id
    cdef public object path
    cdef public object version
    cdef public object versions
    cdef public object subscription
    cdef public object pattern
    cdef public object is_ack
    cdef public object is_error
    cdef public object is_write_ack
    cdef public object original_topic
    cdef public object original_action
    cdef public object requestor_name
    cdef public object requestor_data
    cdef public object url
    cdef public object protocol_version
    cdef public object sdk_version
    cdef public object sdk_type
    cdef public object leader_score
    cdef public object role
    cdef public object locked
    cdef public object checksum
    cdef public object registry_topic
    cdef public object server_name
    cdef public object full_state
    cdef list _keep
    cdef int fill(self, Msg *m) except -1
    cdef int put_text(self, Msg *m, int field, value) except -1

cdef Message to_message(const Msg *m)
cdef list names_of(const Msg *m)
