"""The protocol of the ws-text endpoint: deepstream.io's v3 text messages (spec/protocol-text-v3.md).

The text of a client becomes a message of the binary protocol and takes the same way from there. Where the text
protocol finds the request of an answer by something else than a correlation id (the name, the version of a write),
that goes into the correlation id.
"""
import orjson

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, strlen

from dsfast._core.buffer cimport Buf, Slice, buf_add, buf_room
from dsfast._core.connection cimport ST_AUTH, ST_CLOSING, ST_OPEN, Connection, Protocol
from dsfast._core.fanout cimport Peer
from dsfast._core.json_text cimport JSON_KIND_MASK, JSON_NUMBER, json_check, loads
from dsfast._core.protocol cimport *
from dsfast._core.protocol import AuthAction, EventAction, PresenceAction, RecordAction, RpcAction

cdef enum:
    US = 0x1F           # between the parts
    RS = 0x1E           # behind every message

cdef Buf typed_buf = Buf(NULL, 0, 0)        # JSON made from a typed value
cdef Buf raw_buf = Buf(NULL, 0, 0)          # the message in binary form
cdef Buf text_buf = Buf(NULL, 0, 0)         # the message in text form

# Letters of the actions that a client can be told about.
cdef dict LETTERS = {
    (T_EVENT, EVENT_EMIT): b"EVT", (T_EVENT, EVENT_SUBSCRIBE): b"S", (T_EVENT, EVENT_UNSUBSCRIBE): b"US",
    (T_EVENT, EVENT_LISTEN): b"L", (T_EVENT, EVENT_UNLISTEN): b"UL", (T_EVENT, EVENT_LISTEN_ACCEPT): b"LA",
    (T_EVENT, EVENT_LISTEN_REJECT): b"LR",
    (T_RECORD, REC_SUBSCRIBECREATEANDREAD): b"CR", (T_RECORD, REC_READ): b"SN", (T_RECORD, REC_HEAD): b"HD",
    (T_RECORD, REC_CREATEANDUPDATE): b"CU", (T_RECORD, REC_CREATEANDPATCH): b"CU", (T_RECORD, REC_UPDATE): b"U",
    (T_RECORD, REC_PATCH): b"P", (T_RECORD, REC_ERASE): b"P", (T_RECORD, REC_DELETE): b"D",
    (T_RECORD, REC_SUBSCRIBE): b"S", (T_RECORD, REC_UNSUBSCRIBE): b"US", (T_RECORD, REC_LISTEN): b"L",
    (T_RECORD, REC_UNLISTEN): b"UL", (T_RECORD, REC_LISTEN_ACCEPT): b"LA", (T_RECORD, REC_LISTEN_REJECT): b"LR",
    (T_RPC, RPC_PROVIDE): b"S", (T_RPC, RPC_UNPROVIDE): b"US", (T_RPC, RPC_REQUEST): b"REQ", (T_RPC, RPC_ACCEPT): b"A",
    (T_RPC, RPC_RESPONSE): b"RES", (T_RPC, RPC_REJECT): b"REJ", (T_RPC, RPC_REQUEST_ERROR): b"E",
    (T_PRESENCE, PRE_QUERY): b"Q", (T_PRESENCE, PRE_QUERY_ALL): b"Q", (T_PRESENCE, PRE_SUBSCRIBE): b"S",
    (T_PRESENCE, PRE_SUBSCRIBE_ALL): b"S", (T_PRESENCE, PRE_UNSUBSCRIBE): b"US",
    (T_PRESENCE, PRE_UNSUBSCRIBE_ALL): b"US",
}
cdef bytes TOPIC_LETTERS = b"???AERPU"      # by number; C has its own messages
cdef frozenset WRITES = frozenset(
    {REC_CREATEANDUPDATE, REC_CREATEANDPATCH, REC_UPDATE, REC_PATCH, REC_ERASE, REC_PATCH_MULTI})


cdef dict error_names():
    """Names of the error actions, by topic and number, as clients know them."""
    cdef dict names = {}
    # The text protocol has one name for these, whatever is subscribed to.
    cdef dict older = {"MULTIPLE_PROVIDERS": b"MULTIPLE_SUBSCRIPTIONS", "NOT_PROVIDED": b"NOT_SUBSCRIBED"}
    for topic, actions in ((T_AUTH, AuthAction), (T_EVENT, EventAction), (T_RECORD, RecordAction), (T_RPC, RpcAction),
                           (T_PRESENCE, PresenceAction)):
        for action in actions:
            if action >= 100:
                names[topic, int(action)] = older.get(action.name, action.name.encode())
    return names


cdef dict ERROR_NAMES = error_names()


# --- values ------------------------------------------------------------------------------------------------------

cdef bint typed_to_json(const char *p, Py_ssize_t n, Slice *out, bint *absent) except -1:
    """The JSON text of a typed value, valid until the next call; False if it is none."""
    cdef Py_ssize_t i
    absent[0] = False
    out.p = NULL
    out.n = 0
    if n == 0:
        return False
    if p[0] == c"U" and n == 1:
        absent[0] = True
        return True
    if n == 1 and (p[0] == c"T" or p[0] == c"F" or p[0] == c"L"):
        out.p = b"true" if p[0] == c"T" else b"false" if p[0] == c"F" else b"null"
        out.n = 5 if p[0] == c"F" else 4
        return True
    if n == 4 and memcmp(p, b"null", 4) == 0:
        out.p = p
        out.n = 4
        return True
    if p[0] == c"O":
        out.p = p + 1
        out.n = n - 1
        return json_check(out.p, out.n) >= 0
    if p[0] == c"N":
        out.p = p + 1
        out.n = n - 1
        if (n == 4 and memcmp(p, b"NNaN", 4) == 0) or (n >= 9 and memcmp(p + n - 8, b"Infinity", 8) == 0):
            out.p = b"null"         # what JSON makes of it
            out.n = 4
            return True
        i = json_check(out.p, out.n)
        return i >= 0 and i & JSON_KIND_MASK == JSON_NUMBER
    if p[0] != c"S":
        return False
    typed_buf.n = 0
    for i in range(1, n):
        if <unsigned char>p[i] < 0x20 or p[i] == c'"' or p[i] == c"\\":
            text = orjson.dumps(p[1:n].decode())
            buf_add(&typed_buf, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
            break
    else:
        buf_room(&typed_buf, <size_t>n + 2)
        typed_buf.p[0] = c'"'
        memcpy(typed_buf.p + 1, p + 1, <size_t>n - 1)
        typed_buf.p[n] = c'"'
        typed_buf.n = <size_t>n + 1
    out.p = typed_buf.p
    out.n = <Py_ssize_t>typed_buf.n
    return True


cdef int add_typed(Buf *out, const char *p, Py_ssize_t n) except -1:
    """Append a JSON text as a typed value. Control characters cannot stand in JSON, so no separator is in it."""
    while n and (p[0] == c" " or p[0] == c"\n" or p[0] == c"\r" or p[0] == c"\t"):
        p += 1
        n -= 1
    while n and (p[n - 1] == c" " or p[n - 1] == c"\n" or p[n - 1] == c"\r" or p[n - 1] == c"\t"):
        n -= 1
    if n and p[0] == c'"':
        if memchr(p, c"\\", <size_t>n) == NULL:
            buf_add(out, b"S", 1)
            return buf_add(out, p + 1, <size_t>n - 2)
        value = loads(PyBytes_FromStringAndSize(p, n))
        if "\x1e" not in value and "\x1f" not in value:
            try:
                text = value.encode()
                buf_add(out, b"S", 1)
                return buf_add(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
            except UnicodeEncodeError:
                pass
    elif n and (p[0] == c"-" or c"0" <= p[0] <= c"9"):
        buf_add(out, b"N", 1)
        return buf_add(out, p, <size_t>n)
    elif n == 4 and memcmp(p, b"true", 4) == 0:
        return buf_add(out, b"T", 1)
    elif n == 5 and memcmp(p, b"false", 5) == 0:
        return buf_add(out, b"F", 1)
    elif n == 4 and memcmp(p, b"null", 4) == 0:
        return buf_add(out, b"L", 1)
    buf_add(out, b"O", 1)
    return buf_add(out, p, <size_t>n)


def to_json(bytes typed not None):
    """The JSON text of a typed value, b"" for undefined, None if it is no typed value (for tests)."""
    cdef Slice out
    cdef bint absent
    if not typed_to_json(PyBytes_AS_STRING(typed), PyBytes_GET_SIZE(typed), &out, &absent):
        return None
    return b"" if absent else out.p[:out.n]


def to_typed(bytes json_text not None):
    """The typed value of a JSON text (for tests)."""
    text_buf.n = 0
    add_typed(&text_buf, PyBytes_AS_STRING(json_text), PyBytes_GET_SIZE(json_text))
    return text_buf.p[:text_buf.n]


cdef bint whole_number(Slice text, int64_t *value) noexcept:
    """A decimal integer that fits the wire."""
    cdef Py_ssize_t i = 1 if text.n and text.p[0] == c"-" else 0
    value[0] = 0
    if text.n == i or text.n > 11:
        return False
    for i in range(i, text.n):
        if not c"0" <= text.p[i] <= c"9":
            return False
        value[0] = value[0] * 10 + (text.p[i] - c"0")
    if text.p[0] == c"-":
        value[0] = -value[0]
    return -0x80000000 <= value[0] <= 0x7FFFFFFF


cdef inline bint equals(Slice part, const char *text) noexcept:
    return part.n == <Py_ssize_t>strlen(text) and memcmp(part.p, text, <size_t>part.n) == 0


cdef inline str letters_of(Slice part):
    return part.p[:part.n].decode()


cdef inline bint is_clean(const Msg *m, int field) noexcept:
    """Whether a text can stand in a message: a client could forge messages for others with separators."""
    return not has_text(m, field) or (memchr(m.s[field].p, US, <size_t>m.s[field].n) == NULL
                                      and memchr(m.s[field].p, RS, <size_t>m.s[field].n) == NULL)


cdef class TextProtocol(Protocol):
    """The v3 text protocol: parts divided by 0x1F, messages ended by 0x1E."""

    def __init__(self, int number):
        super().__init__(number, "wsText", 1, None, True)
        self.knows_gaps = False
        self.has_separators = True

    # --- from the client -----------------------------------------------------------------------------------------

    cdef int opened(self, Connection c) except -1:
        """There is no challenge: the client may log in."""
        cdef Msg m
        c.state = ST_AUTH
        c.extra = {}
        start(&m, T_CONNECTION, CONNECTION_ACCEPT)
        c.hub.send_msg(c, &m)
        return self.beat(c)

    cdef int beat(self, Connection c) except -1:
        """Only our PING keeps the client's watchdog quiet."""
        cdef Msg m
        start(&m, T_CONNECTION, CONNECTION_PING)
        return c.hub.send_msg(c, &m)

    cdef int decode(self, Connection c, const char *p, size_t n) except -1:
        cdef const char *end = p + n
        cdef const char *stop
        while p < end and c.state < ST_CLOSING:
            stop = <const char*>memchr(p, RS, <size_t>(end - p))
            if stop == NULL:
                stop = end
            if stop - p >= 3:
                self.one(c, p, <size_t>(stop - p))
            p = stop + 1
        return 0

    cdef int one(self, Connection c, const char *p, size_t n) except -1:
        cdef Slice[MAX_PARTS] part
        cdef const char *end = p + n
        cdef const char *stop
        cdef int count = 0
        while True:
            stop = <const char*>memchr(p, US, <size_t>(end - p))
            if stop == NULL:
                stop = end
            if count == MAX_PARTS:
                return self.malformed(c)
            part[count].p = p
            part[count].n = stop - p
            count += 1
            if stop == end:
                break
            p = stop + 1
        if part[0].n != 1 or count < 2:
            return self.malformed(c)
        if part[0].p[0] == c"E":
            return self.event_message(c, part, count)
        if part[0].p[0] == c"R":
            return self.record_message(c, part, count)
        if part[0].p[0] == c"P":
            return self.rpc_message(c, part, count)
        if part[0].p[0] == c"U":
            return self.presence_message(c, part, count)
        return self.connection_message(c, part, count)

    cdef int malformed(self, Connection c) except -1:
        """Dropped, but counted: too many end the connection."""
        c.endpoint.owner.log_limited(c, "INVALID_MESSAGE", "a text message that cannot be understood")
        return c.on_bad()

    cdef int hand_on(self, Connection c, const Msg *m, list names=None) except -1:
        """Handle a message as if it had come in binary form."""
        cdef Msg again
        raw_buf.n = 0
        encode_msg(m, &raw_buf, names)
        if decode_msg(raw_buf.p, raw_buf.p + raw_buf.n, &again) == NULL:
            return self.malformed(c)
        return c.on_message(&again, raw_buf.p, raw_buf.n)

    cdef int named(self, Connection c, int topic, int action, Slice name) except -1:
        cdef Msg m
        start(&m, topic, action)
        set_text(&m, S_NAME, name.p, name.n)
        return self.hand_on(c, &m)

    cdef int bulk(self, Connection c, int topic, int action, Slice name) except -1:
        """A request for one name that is one for several in the binary protocol; its ack is found by the name."""
        cdef Msg m
        start(&m, topic, action)
        set_text(&m, S_CORRELATION_ID, name.p, name.n)
        return self.hand_on(c, &m, [name.p[:name.n].decode()])

    cdef int invalid_data(self, Connection c, int topic, int action, Slice name) except -1:
        cdef Message answer
        if c.state != ST_OPEN:
            return self.malformed(c)
        answer = Message(topic, {T_EVENT: EVENT_INVALID_MESSAGE_DATA, T_RECORD: REC_INVALID_MESSAGE_DATA,
                                 T_RPC: RPC_INVALID_MESSAGE_DATA}[topic],
                         original_action=action, is_error=True, name=name.p[:name.n].decode())
        c.endpoint.owner.log_limited(c, "INVALID_MESSAGE_DATA", f"action {action} of topic {topic}")
        c.send(answer)
        return c.on_bad()

    cdef int connection_message(self, Connection c, Slice *part, int count) except -1:
        cdef Msg m
        if part[0].p[0] == c"A" and equals(part[1], b"REQ"):
            start(&m, T_AUTH, AU_REQUEST)
            if count == 3:
                set_text(&m, S_DATA, part[2].p, part[2].n)
            return self.hand_on(c, &m)
        if part[0].p[0] == c"C":
            if equals(part[1], b"PO") or equals(part[1], b"CHR"):
                return 0
            if equals(part[1], b"PI"):
                start(&m, T_CONNECTION, CONNECTION_PING)
                return self.hand_on(c, &m)
        return self.malformed(c)

    cdef int event_message(self, Connection c, Slice *part, int count) except -1:
        cdef Msg m
        cdef Slice json
        cdef bint absent
        if equals(part[1], b"EVT") and (count == 4 or count == 3):
            start(&m, T_EVENT, EVENT_EMIT)
            set_text(&m, S_NAME, part[2].p, part[2].n)
            if count == 4:
                if not typed_to_json(part[3].p, part[3].n, &json, &absent):
                    return self.invalid_data(c, T_EVENT, EVENT_EMIT, part[2])
                if not absent:
                    set_text(&m, S_DATA, json.p, json.n)
            return self.hand_on(c, &m)
        if count == 3 and equals(part[1], b"S"):
            return self.bulk(c, T_EVENT, EVENT_SUBSCRIBE, part[2])
        if count == 3 and equals(part[1], b"US"):
            return self.bulk(c, T_EVENT, EVENT_UNSUBSCRIBE, part[2])
        return self.listen_message(c, T_EVENT, part, count)

    cdef int listen_message(self, Connection c, int topic, Slice *part, int count) except -1:
        cdef bint record = topic == T_RECORD
        cdef Msg m
        if count == 3 and equals(part[1], b"L"):
            return self.named(c, topic, REC_LISTEN if record else EVENT_LISTEN, part[2])
        if count == 3 and equals(part[1], b"UL"):
            return self.named(c, topic, REC_UNLISTEN if record else EVENT_UNLISTEN, part[2])
        if count == 4 and (equals(part[1], b"LA") or equals(part[1], b"LR")):
            if part[1].p[1] == c"A":
                start(&m, topic, REC_LISTEN_ACCEPT if record else EVENT_LISTEN_ACCEPT)
            else:
                start(&m, topic, REC_LISTEN_REJECT if record else EVENT_LISTEN_REJECT)
            set_text(&m, S_NAME, part[2].p, part[2].n)
            set_text(&m, S_SUBSCRIPTION, part[3].p, part[3].n)
            return self.hand_on(c, &m)
        return self.malformed(c)

    cdef int record_message(self, Connection c, Slice *part, int count) except -1:
        if count < 3:
            return self.malformed(c)
        if equals(part[1], b"U") or equals(part[1], b"P") or equals(part[1], b"CU"):
            return self.write(c, part, count)
        if count != 3:
            return self.listen_message(c, T_RECORD, part, count)
        if equals(part[1], b"CR"):
            return self.bulk(c, T_RECORD, REC_SUBSCRIBECREATEANDREAD, part[2])
        if equals(part[1], b"SN") or equals(part[1], b"R"):
            return self.ask(c, letters_of(part[1]), REC_READ, part[2])
        if equals(part[1], b"HD") or equals(part[1], b"H"):
            return self.ask(c, letters_of(part[1]), REC_HEAD, part[2])
        if equals(part[1], b"D"):
            return self.named(c, T_RECORD, REC_DELETE, part[2])
        if equals(part[1], b"S"):
            return self.bulk(c, T_RECORD, REC_SUBSCRIBE, part[2])
        if equals(part[1], b"US"):
            return self.bulk(c, T_RECORD, REC_UNSUBSCRIBE, part[2])
        return self.listen_message(c, T_RECORD, part, count)

    cdef int ask(self, Connection c, str letters, int action, Slice name) except -1:
        """A READ or HEAD: what it was called has to be known when the answer comes, which only tells the name."""
        cdef str key = name.p[:name.n].decode()
        if c.state == ST_OPEN and len(c.extra) < c.endpoint.owner.max_names:
            c.extra.setdefault((action, key), []).append(letters)
        return self.named(c, T_RECORD, action, name)

    cdef str asked(self, Connection c, const Msg *m):
        """What the request that is answered by `m` was called; None if this connection did not ask."""
        cdef int action
        if m.topic != T_RECORD or not c.extra or not has_text(m, S_NAME):
            return None
        action = <int>m.i[I_ACTION]
        if action == REC_READ_RESPONSE:
            action = REC_READ
        elif action == REC_HEAD_RESPONSE:
            action = REC_HEAD
        elif action >= 100 and has_int(m, I_ORIGINAL_ACTION):
            action = <int>m.i[I_ORIGINAL_ACTION]
        key = (action, m.s[S_NAME].p[:m.s[S_NAME].n].decode())
        waiting = c.extra.get(key)
        if waiting is None:
            return None
        letters = waiting.pop(0)
        if not waiting:
            del c.extra[key]
        return letters

    cdef int write(self, Connection c, Slice *part, int count) except -1:
        """`U name version json [config]`, `P name version path typed [config]`, `CU` with either and its config."""
        cdef Msg m
        cdef Slice json, config
        cdef bint absent = False
        cdef bint upsert = part[1].n == 2
        cdef bint patch = part[1].p[0] == c"P" or (upsert and count == 7)
        cdef int fields = 6 if patch else 5
        cdef int64_t version
        if (count != fields and count != fields + 1) or (upsert and count != fields + 1):
            return self.malformed(c)
        start(&m, T_RECORD, REC_PATCH if patch else REC_UPDATE)
        if upsert:
            m.i[I_ACTION] = REC_CREATEANDPATCH if patch else REC_CREATEANDUPDATE
        if not whole_number(part[3], &version):
            return self.invalid_data(c, T_RECORD, <int>m.i[I_ACTION], part[2])
        if patch:
            set_text(&m, S_PATH, part[4].p, part[4].n)
            if not typed_to_json(part[5].p, part[5].n, &json, &absent):
                return self.invalid_data(c, T_RECORD, <int>m.i[I_ACTION], part[2])
            if absent and not upsert:
                m.i[I_ACTION] = REC_ERASE
        else:
            json = part[4]
        if not absent:
            set_text(&m, S_DATA, json.p, json.n)
        set_text(&m, S_NAME, part[2].p, part[2].n)
        set_int(&m, I_VERSION, version)
        set_text(&m, S_CORRELATION_ID, part[3].p, part[3].n)
        if count == fields + 1:
            config = part[fields]
            if equals(config, b'{"writeSuccess":true}'):
                set_int(&m, I_IS_WRITE_ACK, 1)
        return self.hand_on(c, &m)

    cdef int rpc_message(self, Connection c, Slice *part, int count) except -1:
        cdef Msg m
        cdef Slice json
        cdef bint absent = False
        if count == 3 and equals(part[1], b"S"):
            return self.bulk(c, T_RPC, RPC_PROVIDE, part[2])
        if count == 3 and equals(part[1], b"US"):
            return self.bulk(c, T_RPC, RPC_UNPROVIDE, part[2])
        if count == 5 and equals(part[1], b"A") and equals(part[2], b"REQ"):
            start(&m, T_RPC, RPC_ACCEPT)
            set_text(&m, S_NAME, part[3].p, part[3].n)
            set_text(&m, S_CORRELATION_ID, part[4].p, part[4].n)
            return self.hand_on(c, &m)
        if count == 5 and equals(part[1], b"E"):
            start(&m, T_RPC, RPC_REQUEST_ERROR)
            set_text(&m, S_NAME, part[3].p, part[3].n)
            set_text(&m, S_CORRELATION_ID, part[4].p, part[4].n)
            text = orjson.dumps(part[2].p[:part[2].n].decode())
            set_text(&m, S_DATA, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            return self.hand_on(c, &m)
        if count == 4 and equals(part[1], b"REJ"):
            start(&m, T_RPC, RPC_REJECT)
        elif count == 5 and equals(part[1], b"REQ"):
            start(&m, T_RPC, RPC_REQUEST)
        elif count == 5 and equals(part[1], b"RES"):
            start(&m, T_RPC, RPC_RESPONSE)
        else:
            return self.malformed(c)
        set_text(&m, S_NAME, part[2].p, part[2].n)
        set_text(&m, S_CORRELATION_ID, part[3].p, part[3].n)
        if count == 5:
            if not typed_to_json(part[4].p, part[4].n, &json, &absent):
                return self.invalid_data(c, T_RPC, <int>m.i[I_ACTION], part[2])
            if not absent:
                set_text(&m, S_DATA, json.p, json.n)
        return self.hand_on(c, &m)

    cdef int presence_message(self, Connection c, Slice *part, int count) except -1:
        cdef Msg m
        cdef int single, every
        if equals(part[1], b"Q"):
            single, every = PRE_QUERY, PRE_QUERY_ALL
        elif equals(part[1], b"S"):
            single, every = PRE_SUBSCRIBE, PRE_SUBSCRIBE_ALL
        elif equals(part[1], b"US"):
            single, every = PRE_UNSUBSCRIBE, PRE_UNSUBSCRIBE_ALL
        else:
            return self.malformed(c)
        if count == 3:
            start(&m, T_PRESENCE, every)
            return self.hand_on(c, &m)
        if count != 4 or json_check(part[3].p, part[3].n) < 0:
            return self.malformed(c)
        names = loads(PyBytes_FromStringAndSize(part[3].p, part[3].n))
        if type(names) is not list or not all([type(name) is str for name in names]):
            return self.malformed(c)
        start(&m, T_PRESENCE, single)
        set_text(&m, S_CORRELATION_ID, part[2].p, part[2].n)
        try:
            return self.hand_on(c, &m, names)
        except UnicodeEncodeError:
            return self.malformed(c)

    # --- to the client -------------------------------------------------------------------------------------------

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        return self.put(m, out, names, None)

    cdef int encode_for(self, Peer peer, const Msg *m, Buf *out, list names, dict versions) except -1:
        return self.put(m, out, names, self.asked(<Connection>peer, m))

    cdef int put(self, const Msg *m, Buf *out, list names, str asked) except -1:
        """Append the frame of a message; ``asked``: how its request was called, where only the sender knows."""
        cdef char *q
        cdef size_t h
        text_buf.n = 0
        if is_clean(m, S_NAME) and is_clean(m, S_SUBSCRIPTION) and is_clean(m, S_PATH) and is_clean(m, S_CORRELATION_ID):
            write_text(m, names, asked)
        if text_buf.n == 0:
            return 0
        q = buf_room(out, text_buf.n + 10)
        h = frame_header(q, text_buf.n, 1)
        memcpy(q + h, text_buf.p, text_buf.n)
        out.n += h + text_buf.n
        return 0


cdef inline int add(bytes text) except -1:
    return buf_add(&text_buf, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))


cdef inline int add_sep() except -1:
    return buf_add(&text_buf, b"\x1f", 1)


cdef inline int add_end() except -1:
    return buf_add(&text_buf, b"\x1e", 1)


cdef inline int add_field(const Msg *m, int field) except -1:
    """A separator and a text field; an absent one is empty."""
    add_sep()
    if has_text(m, field):
        buf_add(&text_buf, m.s[field].p, <size_t>m.s[field].n)
    return 0


cdef inline int add_number(int64_t value) except -1:
    cdef char digits[24]
    add_sep()
    return buf_add(&text_buf, digits, <size_t>snprintf(digits, 24, "%lld", <long long>value))


cdef inline int add_value(const Msg *m) except -1:
    add_sep()
    if has_text(m, S_DATA):
        return add_typed(&text_buf, m.s[S_DATA].p, m.s[S_DATA].n)
    return buf_add(&text_buf, b"U", 1)


cdef int write_text(const Msg *m, list names, str asked) except -1:
    """Put the text of a message into text_buf; nothing if the protocol has no such message."""
    cdef int topic = m.topic
    cdef int action = <int>m.i[I_ACTION] if has_int(m, I_ACTION) else 0
    if topic == T_EVENT and action == EVENT_EMIT:
        add(b"E\x1fEVT")
        add_field(m, S_NAME)
        add_value(m)
        return add_end()
    if topic == T_CONNECTION:
        return write_connection(m, action)
    if topic == T_AUTH:
        return write_auth(m, action)
    if not T_EVENT <= topic <= T_PRESENCE:
        return 0
    if action >= 100:
        return write_error(m, topic, action, asked)
    if has_int(m, I_IS_ACK) and m.i[I_IS_ACK]:
        return write_ack(m, topic, action, names)
    if topic == T_RECORD:
        return write_record(m, action, asked)
    if topic == T_EVENT:
        return write_pattern(m, b"E", action == EVENT_SUBSCRIPTION_FOR_PATTERN_FOUND,
                             action == EVENT_SUBSCRIPTION_FOR_PATTERN_REMOVED)
    if topic == T_RPC:
        return write_rpc(m, action)
    return write_presence(m, action, names)


cdef int write_connection(const Msg *m, int action) except -1:
    if action == CONNECTION_ACCEPT:
        return add(b"C\x1fA\x1e")
    if action == CONNECTION_PING:
        return add(b"C\x1fPI\x1e")
    if action == CONNECTION_PONG:
        return add(b"C\x1fPO\x1e")
    if action == CONNECTION_CHALLENGE:
        return add(b"C\x1fCH\x1e")
    if action == CONNECTION_REJECT:
        return add(b"C\x1fREJ\x1e")
    if action == CONNECTION_REDIRECT:
        add(b"C\x1fRED")
        add_field(m, S_URL)
        return add_end()
    if action == CONNECTION_AUTHENTICATION_TIMEOUT:
        return add(b"C\x1fE\x1fCONNECTION_AUTHENTICATION_TIMEOUT\x1e")
    return 0


cdef int write_auth(const Msg *m, int action) except -1:
    if action == AU_SUCCESSFUL:
        add(b"A\x1fA")
        if has_text(m, S_DATA) and not (m.s[S_DATA].n == 4 and memcmp(m.s[S_DATA].p, b"null", 4) == 0):
            add_value(m)
        return add_end()
    if action == AU_UNSUCCESSFUL:
        add(b"A\x1fE\x1fINVALID_AUTH_DATA")
        add_value(m)
        return add_end()
    if action == AU_TOO_MANY_AUTH_ATTEMPTS:
        return add(b"A\x1fE\x1fTOO_MANY_AUTH_ATTEMPTS\x1e")
    if action == AU_INVALID_MESSAGE_DATA:
        # The client stops; after INVALID_AUTH_DATA, which upstream sends, it would connect again for ever.
        return add(b"A\x1fE\x1fINVALID_AUTH_MSG\x1finvalid authentication message\x1e")
    return 0


cdef int write_ack(const Msg *m, int topic, int action, list names) except -1:
    cdef bytes letters = LETTERS.get((topic, action))
    if letters is None:
        return 0
    buf_add(&text_buf, &PyBytes_AS_STRING(TOPIC_LETTERS)[topic], 1)
    add(b"\x1fA\x1f")
    if topic == T_RECORD and action == REC_SUBSCRIBECREATEANDREAD:
        add(b"S")
    else:
        add(letters)
    if topic == T_PRESENCE and (action == PRE_SUBSCRIBE_ALL or action == PRE_UNSUBSCRIBE_ALL):
        add_sep()
        add(letters)
    elif has_text(m, S_CORRELATION_ID):
        add_field(m, S_CORRELATION_ID)
    elif names:
        add_sep()
        add((<str>names[0]).encode())
    else:
        add_field(m, S_NAME)
    return add_end()


cdef int write_pattern(const Msg *m, bytes topic, bint found, bint removed) except -1:
    if not found and not removed:
        return 0
    add(topic)
    add(b"\x1fSP" if found else b"\x1fSR")
    add_field(m, S_NAME)
    add_field(m, S_SUBSCRIPTION)
    return add_end()


cdef int write_record(const Msg *m, int action, str asked) except -1:
    if action == REC_UPDATE or action == REC_READ_RESPONSE:
        add(b"R\x1fU" if action == REC_UPDATE else b"R\x1fR")
        add_field(m, S_NAME)
        add_number(m.i[I_VERSION] if has_int(m, I_VERSION) else -1)
        add_field(m, S_DATA)
    elif action == REC_PATCH or action == REC_ERASE:
        add(b"R\x1fP")
        add_field(m, S_NAME)
        add_number(m.i[I_VERSION] if has_int(m, I_VERSION) else -1)
        add_field(m, S_PATH)
        add_value(m)
    elif action == REC_WRITE_ACKNOWLEDGEMENT:
        add(b"R\x1fWA")
        add_field(m, S_NAME)
        add(b"\x1f[")
        if has_text(m, S_CORRELATION_ID):
            buf_add(&text_buf, m.s[S_CORRELATION_ID].p, <size_t>m.s[S_CORRELATION_ID].n)
        add(b"]\x1fL")
    elif action == REC_HEAD_RESPONSE:
        if asked == "H":
            add(b"R\x1fH")
            add_field(m, S_NAME)
            add(b"\x1fF" if m.i[I_VERSION] < 0 else b"\x1fT")
        else:
            add(b"R\x1fHD")
            add_field(m, S_NAME)
            add_number(m.i[I_VERSION])
            add(b"\x1fnull")
    elif action == REC_DELETE_SUCCESS or action == REC_DELETED:
        add(b"R\x1fA\x1fD")
        add_field(m, S_NAME)
    elif action == REC_SUBSCRIPTION_HAS_PROVIDER or action == REC_SUBSCRIPTION_HAS_NO_PROVIDER:
        add(b"R\x1fSH")
        add_field(m, S_NAME)
        add(b"\x1fT" if action == REC_SUBSCRIPTION_HAS_PROVIDER else b"\x1fF")
    else:
        return write_pattern(m, b"R", action == REC_SUBSCRIPTION_FOR_PATTERN_FOUND,
                             action == REC_SUBSCRIPTION_FOR_PATTERN_REMOVED)
    return add_end()


cdef int write_rpc(const Msg *m, int action) except -1:
    cdef bytes text
    if action == RPC_ACCEPT:
        add(b"P\x1fA\x1fREQ")
    elif action == RPC_REQUEST:
        add(b"P\x1fREQ")
    elif action == RPC_RESPONSE:
        add(b"P\x1fRES")
    elif action == RPC_REQUEST_ERROR:
        add(b"P\x1fE\x1f")
        text = b""
        if has_text(m, S_DATA):
            value = loads(PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n))
            if type(value) is str:
                text = value.replace("\x1e", "").replace("\x1f", "").encode("utf-8", "replace")
            else:
                text = b"O" + m.s[S_DATA].p[:m.s[S_DATA].n]
        add(text)
    else:
        return 0
    add_field(m, S_NAME)
    add_field(m, S_CORRELATION_ID)
    if action == RPC_REQUEST or action == RPC_RESPONSE:
        add_value(m)
    return add_end()


cdef int write_presence(const Msg *m, int action, list names) except -1:
    if action == PRE_QUERY_ALL_RESPONSE:
        add(b"U\x1fQ")
        for name in names if names is not None else names_of(m) if m.items else ():
            if "\x1e" not in name and "\x1f" not in name:
                add_sep()
                add((<str>name).encode())
    elif action == PRE_QUERY_RESPONSE:
        add(b"U\x1fQ")
        add_field(m, S_CORRELATION_ID)
        add_field(m, S_DATA)
    elif action == PRE_JOIN or action == PRE_JOIN_ALL:
        add(b"U\x1fPNJ")
        add_field(m, S_NAME)
    elif action == PRE_LEAVE or action == PRE_LEAVE_ALL:
        add(b"U\x1fPNL")
        add_field(m, S_NAME)
    else:
        return 0
    return add_end()


cdef int write_error(const Msg *m, int topic, int action, str asked) except -1:
    """Errors; a request that has a callback of its own gets a line for it as well (section 7)."""
    cdef int original = <int>m.i[I_ORIGINAL_ACTION] if has_int(m, I_ORIGINAL_ACTION) else 0
    cdef bint write = topic == T_RECORD and original in WRITES
    cdef bytes name = ERROR_NAMES.get((topic, action), b"ERROR")
    cdef bytes letters = LETTERS.get((topic, original), b"")
    if topic == T_RECORD and action == REC_LISTEN_RESPONSE_TIMEOUT or topic == T_EVENT and action == EVENT_LISTEN_RESPONSE_TIMEOUT:
        return 0
    if asked is not None:
        letters = asked.encode()
        if action == REC_NOT_FOUND and asked == "SN":
            add(b"R\x1fE\x1fSN")
            add_field(m, S_NAME)
            add(b"\x1fRECORD_NOT_FOUND\x1e")
        elif action == REC_MESSAGE_DENIED or action == REC_MESSAGE_PERMISSION_ERROR:
            add(b"R\x1fE\x1f")
            add(letters)
            add_field(m, S_NAME)
            add_sep()
            add(name)
            add_end()
    if write and has_int(m, I_IS_WRITE_ACK) and m.i[I_IS_WRITE_ACK] and action != REC_VERSION_EXISTS:
        add(b"R\x1fWA")
        add_field(m, S_NAME)
        add(b"\x1f[")
        if has_text(m, S_CORRELATION_ID):
            buf_add(&text_buf, m.s[S_CORRELATION_ID].p, <size_t>m.s[S_CORRELATION_ID].n)
        add(b"]\x1fS")
        add(name)
        add_end()
    if topic == T_RECORD and action == REC_VERSION_EXISTS and not has_text(m, S_DATA):
        # It may not see the record, and could not recover without.
        name = b"MESSAGE_DENIED"
        action = REC_MESSAGE_DENIED
    buf_add(&text_buf, &PyBytes_AS_STRING(TOPIC_LETTERS)[topic], 1)
    add(b"\x1fE\x1f")
    add(name)
    if name == b"INVALID_MESSAGE_DATA" or name == b"INVALID_PRESENCE_USERS":
        add_field(m, S_DATA if has_text(m, S_DATA) else S_NAME)
        return add_end()
    add_field(m, S_NAME)
    if name == b"MESSAGE_DENIED":
        add_sep()
        add(letters)
        if topic == T_RPC or topic == T_PRESENCE or write:
            add_field(m, S_CORRELATION_ID)
    elif topic == T_RECORD and action == REC_VERSION_EXISTS:
        add_number(m.i[I_VERSION])
        add_field(m, S_DATA)
        if has_int(m, I_IS_WRITE_ACK) and m.i[I_IS_WRITE_ACK]:
            add(b'\x1f{"writeSuccess":true}')
    elif topic == T_RPC and has_text(m, S_CORRELATION_ID) and action != RPC_MULTIPLE_PROVIDERS:
        add_field(m, S_CORRELATION_ID)
    elif topic != T_RECORD and name == b"MESSAGE_PERMISSION_ERROR" and has_text(m, S_CORRELATION_ID):
        add_field(m, S_CORRELATION_ID)
    return add_end()
