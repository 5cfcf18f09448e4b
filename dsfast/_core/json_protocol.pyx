"""The protocol of the ws-json endpoint: the messages of the binary protocol as JSON objects (spec/protocol-json.md)."""
from contextlib import suppress

import orjson

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from dsfast._core.buffer cimport Buf, buf_room
from dsfast._core.connection cimport ST_CHALLENGE, ST_OPEN, Connection, Protocol
from dsfast._core.json_text cimport JSON_KIND_MASK, JSON_OBJECT, dumps, json_check, loads_checked
from dsfast._core.protocol cimport *
from dsfast._core.protocol import encode
from dsfast._core.router cimport action_of

cdef enum:
    MAX_VERSION = 0x7FFFFFFF

# Key of each integer and text field, in the order of their numbers; None: not part of the protocol between client and
# server. `data` travels parsed.
cdef tuple INT_KEYS = ("action", "originalAction", "originalTopic", "version", "isError", "isAck", "isWriteAck",
                       None, None, None, None)
cdef tuple TEXT_KEYS = (None, "correlationId", "name", "path", "subscription", "pattern", "url", "protocolVersion",
                        "sdkVersion", "sdkType", "requestorName", "requestorData", None, None)

cdef frozenset BULK = frozenset({
    (T_EVENT, EVENT_SUBSCRIBE), (T_EVENT, EVENT_UNSUBSCRIBE),
    (T_RECORD, REC_NOTIFY), (T_RECORD, REC_HEAD_BULK), (T_RECORD, REC_SUBSCRIBEANDHEAD),
    (T_RECORD, REC_SUBSCRIBEANDREAD), (T_RECORD, REC_SUBSCRIBECREATEANDREAD), (T_RECORD, REC_SUBSCRIBE),
    (T_RECORD, REC_UNSUBSCRIBE),
    (T_RPC, RPC_PROVIDE), (T_RPC, RPC_UNPROVIDE),
    (T_PRESENCE, PRE_QUERY), (T_PRESENCE, PRE_SUBSCRIBE), (T_PRESENCE, PRE_UNSUBSCRIBE),
})
cdef int[8] INVALID = [0, 0, 0, 0, EVENT_INVALID_MESSAGE_DATA, REC_INVALID_MESSAGE_DATA, RPC_INVALID_MESSAGE_DATA,
                       PRE_INVALID_PRESENCE_USERS]


class Invalid(ValueError):
    """A field has a value that it cannot have."""


cdef object text_field(dict fields, str key):
    """A text, or None. Raises Invalid for what is none, or cannot travel (half of a surrogate pair)."""
    value = fields.get(key)
    if value is None:
        return None
    if type(value) is int and key == "correlationId":
        return str(value)
    if type(value) is not str:
        raise Invalid(key)
    try:
        (<str>value).encode()
    except UnicodeEncodeError:
        raise Invalid(key) from None
    return value


cdef object whole_number(object value):
    """The integer that a JSON number stands for (1.0 is 1), or None."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


cdef Message message_of(dict fields, int topic, int action):
    """The message for a client's object; keys that no client may send are left out. Raises Invalid."""
    cdef Message message = Message(topic, action)
    message.correlation_id = text_field(fields, "correlationId")
    names = fields.get("names")
    if (topic, action) in BULK:
        if type(names) is not list or not all([type(name) is str for name in names]):
            raise Invalid("names")
        message.names = names
    elif topic != T_CONNECTION and topic != T_AUTH:
        message.name = text_field(fields, "name")
        message.path = text_field(fields, "path")
        message.subscription = text_field(fields, "subscription")
        version = fields.get("version")
        if version is not None:
            version = whole_number(version)
            if version is None or not -1 <= version <= MAX_VERSION:
                raise Invalid("version")
            message.version = version
        wants_ack = fields.get("isWriteAck")
        if wants_ack is not None and type(wants_ack) is not bool:
            raise Invalid("isWriteAck")
        if wants_ack:
            message.is_write_ack = True
    text = text_field(fields, "data")
    if text:
        message.data = (<str>text).encode()
    elif "parsedData" in fields:
        message.data = dumps(fields["parsedData"])
    if topic == T_CONNECTION:
        message.url = text_field(fields, "url")
        message.protocol_version = text_field(fields, "protocolVersion")
        message.sdk_version = text_field(fields, "sdkVersion")
        message.sdk_type = text_field(fields, "sdkType")
    return message


cdef class JsonProtocol(Protocol):
    """One JSON object per text frame; fields and numbers are those of the binary protocol."""

    def __init__(self, int number):
        super().__init__(number, "wsJSON", 1)

    cdef int decode(self, Connection c, const char *p, size_t n) except -1:
        cdef bytes raw
        cdef const char *q
        cdef Msg m
        cdef int topic, action
        cdef int flags = json_check(p, <Py_ssize_t>n)
        if flags < 0 or flags & JSON_KIND_MASK != JSON_OBJECT:
            c.endpoint.owner.log_limited(c, "INVALID_MESSAGE", "a message that is no JSON object")
            return c.close(1007)
        fields = loads_checked(PyBytes_FromStringAndSize(p, <Py_ssize_t>n), flags)
        number = whole_number(fields.get("topic"))
        topic = number if number is not None and 0 <= number <= T_ERROR else 0
        value = whole_number(fields.get("action"))
        action = value if value is not None and 0 <= value <= MAX_VERSION else 0
        if not T_CONNECTION <= topic <= T_PRESENCE:
            return self.unknown_topic(c, number, action)
        try:
            raw = encode(message_of(fields, topic, action))
        except (Invalid, UnicodeEncodeError):       # half of a surrogate pair cannot travel
            return self.invalid(c, fields, topic, action)
        q = PyBytes_AS_STRING(raw)
        if decode_msg(q, q + PyBytes_GET_SIZE(raw), &m) == NULL:
            return self.invalid(c, fields, topic, action)
        return c.on_message(&m, q, <size_t>PyBytes_GET_SIZE(raw))

    cdef int unknown_topic(self, Connection c, object topic, int action) except -1:
        """A topic that no client uses: refused as the present phase of the connection refuses things."""
        cdef Message answer
        if c.state == ST_OPEN:
            answer = Message(T_PARSER, PARSER_UNKNOWN_TOPIC)
        else:
            answer = Message(T_CONNECTION if c.state == ST_CHALLENGE else T_AUTH, CONNECTION_INVALID_MESSAGE)
            answer.original_action = action
        c.endpoint.owner.log_limited(c, "UNKNOWN_TOPIC", "message of a topic without handler")
        if type(topic) is int and 0 <= topic <= MAX_VERSION:
            answer.original_topic = topic
        c.send(answer)
        return c.on_bad()

    cdef int invalid(self, Connection c, dict fields, int topic, int action) except -1:
        """A message whose fields make no sense."""
        cdef Message answer
        cdef Msg m
        if topic < T_EVENT:
            # Without its fields: the handshake refuses it, and an invalid login ends the connection.
            start(&m, topic, action)
            return c.on_message(&m, b"", 0)
        if c.state != ST_OPEN:
            return self.unknown_topic(c, topic, action)
        answer = Message(topic, INVALID[topic], original_action=action, is_error=True)
        with suppress(Invalid):
            answer.name = text_field(fields, "name")
        with suppress(Invalid):
            answer.correlation_id = text_field(fields, "correlationId")
        if topic == T_RECORD and fields.get("isWriteAck") is True:
            answer.is_write_ack = True
        c.endpoint.owner.log_limited(c, "INVALID_MESSAGE_DATA", f"action {action} of topic {topic}")
        c.send(answer)
        return c.on_bad()

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        cdef dict fields = {"topic": m.topic}
        cdef bytes text
        cdef char *q
        cdef size_t h
        cdef int i
        for i in range(N_INTS):
            if has_int(m, i) and INT_KEYS[i] is not None:
                if I_IS_ERROR <= i <= I_IS_WRITE_ACK:
                    if m.i[i]:
                        fields[INT_KEYS[i]] = True
                else:
                    fields[INT_KEYS[i]] = m.i[i]
        for i in range(1, N_TEXTS):
            if has_text(m, i) and TEXT_KEYS[i] is not None:
                fields[TEXT_KEYS[i]] = m.s[i].p[:m.s[i].n].decode()
        if has_text(m, S_DATA):
            # The JSON text itself; it has been checked where it came in.
            fields["parsedData"] = orjson.Fragment(PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n))
        if names is not None:
            fields["names"] = names
        elif m.items and (m.has >> R_NAMES) & 1:
            fields["names"] = names_of(m)
        elif m.topic == T_PRESENCE and action_of(m) == PRE_QUERY_ALL_RESPONSE:
            fields["names"] = []        # the official client takes it as it is
        if versions is not None:
            fields["versions"] = {
                key.decode() if type(key) is bytes else key: version for key, version in versions.items()}
        text = orjson.dumps(fields)
        q = buf_room(out, <size_t>PyBytes_GET_SIZE(text) + 10)
        h = frame_header(q, <size_t>PyBytes_GET_SIZE(text), 1)
        memcpy(q + h, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
        out.n += h + <size_t>PyBytes_GET_SIZE(text)
        return 0
