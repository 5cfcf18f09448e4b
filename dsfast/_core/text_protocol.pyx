"""The protocol of the ws-text endpoint: deepstream.io's v3 text messages (spec/protocol-text-v3.md).

The text of a client becomes a message of the binary protocol and takes the same way from there. Where the text
protocol finds the request of an answer by something else than a correlation id (the name, the version of a write),
that goes into the correlation id.
"""
import orjson

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, strlen

from dsfast._core.buffer cimport Buf, Slice, buf_add, buf_free, buf_room
from dsfast._core.connection cimport ST_AUTH, ST_CLOSING, ST_OPEN, Connection, Protocol
from dsfast._core.fanout cimport Peer
from dsfast._core.json_text cimport JSON_KIND_MASK, JSON_NUMBER, json_check, loads
from dsfast._core.protocol cimport *
from dsfast._core.protocol import AuthAction, EventAction, PresenceAction, RecordAction, RpcAction
from dsfast._core.router cimport action_of, answer_invalid

cdef extern from *:
    """
    #define DSF_ESCAPED(c) (unsigned char)(((c) < 0x20) | ((c) == '"') | ((c) == '\\\\'))
    /* Whether one of 16 bytes cannot stand for itself in a JSON string; without a way out the loop is vector code. */
    __attribute__((optimize("O3"))) static inline int dsf_escaped_16(const char *p) {
        unsigned char found = 0;
        for (int i = 0; i < 16; i++) found |= DSF_ESCAPED((unsigned char)p[i]);
        return found;
    }
    static int dsf_needs_escapes(const char *p, size_t n) {
        int found = 0;
        size_t i;
        if (n < 16) {
            for (i = 0; i < n; i++) found |= DSF_ESCAPED((unsigned char)p[i]);
            return found;
        }
        for (i = 0; i + 16 <= n; i += 16) found |= dsf_escaped_16(p + i);
        return found | dsf_escaped_16(p + n - 16);
    }
    """
    bint needs_escapes "dsf_needs_escapes"(const char *p, size_t n) noexcept nogil

cdef enum:
    US = 0x1F           # between the parts
    RS = 0x1E           # behind every message
    MAX_REQUESTS = 48
    KEPT = 64 * 1024    # size of a buffer that is kept

# What clients send. The layout of a Request has one letter for each part behind the action:
#   n  name                     b  the one name of a request that has several in the binary protocol
#   s  subscription             c  correlation id
#   v  version, and what the answer is found by
#   p  path                     j  JSON text                t  typed value
#   w  options of a write       x  text of an error         u  JSON array of user ids
#   -  nothing of interest
cdef Request[MAX_REQUESTS] REQUESTS
cdef int[T_PRESENCE + 2] FIRST      # of each topic
cdef int n_requests = 0
cdef const char *TOPIC_LETTERS = b"??CAERPU"


cdef inline uint32_t number_of(const char *letters, size_t n) noexcept:
    """The letters of an action with their number in front; 0 if there are too many."""
    cdef uint32_t number = <uint32_t>n
    cdef size_t i
    if n > 3:
        return 0
    for i in range(n):
        number = number << 8 | <unsigned char>letters[i]
    return number


cdef int define(int topic, const char *letters, int action, const char *layout) except -1:
    """Add a message; those of one topic come together, and the common name of an action before others."""
    global n_requests
    cdef Request *r = &REQUESTS[n_requests]
    if FIRST[topic + 1] == 0:
        FIRST[topic] = n_requests
    r.topic = topic
    r.action = action
    r.letters = letters
    r.number = number_of(letters, strlen(letters))
    r.parts = <int>strlen(layout)
    r.layout = layout
    n_requests += 1
    FIRST[topic + 1] = n_requests
    return 0


cdef int define_all() except -1:
    define(T_CONNECTION, b"PO", CONNECTION_PONG, b"")
    define(T_CONNECTION, b"PI", CONNECTION_PING, b"")
    define(T_CONNECTION, b"CHR", CONNECTION_PONG, b"-")     # to a challenge that we never send
    define(T_AUTH, b"REQ", AU_REQUEST, b"j")
    define(T_AUTH, b"REQ", AU_REQUEST, b"")
    define(T_EVENT, b"EVT", EVENT_EMIT, b"nt")
    define(T_EVENT, b"EVT", EVENT_EMIT, b"n")
    define(T_EVENT, b"S", EVENT_SUBSCRIBE, b"b")
    define(T_EVENT, b"US", EVENT_UNSUBSCRIBE, b"b")
    define(T_EVENT, b"L", EVENT_LISTEN, b"n")
    define(T_EVENT, b"UL", EVENT_UNLISTEN, b"n")
    define(T_EVENT, b"LA", EVENT_LISTEN_ACCEPT, b"ns")
    define(T_EVENT, b"LR", EVENT_LISTEN_REJECT, b"ns")
    define(T_RECORD, b"P", REC_PATCH, b"nvpt")
    define(T_RECORD, b"P", REC_PATCH, b"nvptw")
    define(T_RECORD, b"U", REC_UPDATE, b"nvj")
    define(T_RECORD, b"U", REC_UPDATE, b"nvjw")
    define(T_RECORD, b"CU", REC_CREATEANDUPDATE, b"nvjw")
    define(T_RECORD, b"CU", REC_CREATEANDPATCH, b"nvptw")
    define(T_RECORD, b"CR", REC_SUBSCRIBECREATEANDREAD, b"b")
    define(T_RECORD, b"SN", REC_READ, b"n")
    define(T_RECORD, b"R", REC_READ, b"n")
    define(T_RECORD, b"HD", REC_HEAD, b"n")
    define(T_RECORD, b"H", REC_HEAD, b"n")
    define(T_RECORD, b"D", REC_DELETE, b"n")
    define(T_RECORD, b"S", REC_SUBSCRIBE, b"b")
    define(T_RECORD, b"US", REC_UNSUBSCRIBE, b"b")
    define(T_RECORD, b"L", REC_LISTEN, b"n")
    define(T_RECORD, b"UL", REC_UNLISTEN, b"n")
    define(T_RECORD, b"LA", REC_LISTEN_ACCEPT, b"ns")
    define(T_RECORD, b"LR", REC_LISTEN_REJECT, b"ns")
    define(T_RPC, b"REQ", RPC_REQUEST, b"nct")
    define(T_RPC, b"A", RPC_ACCEPT, b"-nc")
    define(T_RPC, b"RES", RPC_RESPONSE, b"nct")
    define(T_RPC, b"REJ", RPC_REJECT, b"nc")
    define(T_RPC, b"E", RPC_REQUEST_ERROR, b"xnc")
    define(T_RPC, b"S", RPC_PROVIDE, b"b")
    define(T_RPC, b"US", RPC_UNPROVIDE, b"b")
    define(T_PRESENCE, b"Q", PRE_QUERY_ALL, b"-")
    define(T_PRESENCE, b"Q", PRE_QUERY, b"cu")
    define(T_PRESENCE, b"S", PRE_SUBSCRIBE_ALL, b"-")
    define(T_PRESENCE, b"S", PRE_SUBSCRIBE, b"cu")
    define(T_PRESENCE, b"US", PRE_UNSUBSCRIBE_ALL, b"-")
    define(T_PRESENCE, b"US", PRE_UNSUBSCRIBE, b"cu")
    return 0

define_all()


cdef dict error_names():
    """Names of the error actions, by topic and number, as clients know them."""
    cdef dict names = {}
    # The text protocol has one name for these, whatever is subscribed to.
    cdef dict older = {"MULTIPLE_PROVIDERS": b"MULTIPLE_SUBSCRIPTIONS", "NOT_PROVIDED": b"NOT_SUBSCRIBED"}
    for topic, actions in ((T_EVENT, EventAction), (T_RECORD, RecordAction), (T_RPC, RpcAction),
                           (T_PRESENCE, PresenceAction)):
        for action in actions:
            if action >= 100 and action.name != "LISTEN_RESPONSE_TIMEOUT":      # which no client understands
                names[topic, int(action)] = older.get(action.name, action.name.encode())
    return names


cdef dict ERROR_NAMES = error_names()


# --- values ------------------------------------------------------------------------------------------------------

cdef int string_to_json(Buf *out, const char *p, Py_ssize_t n) except -1:
    """Make a text a JSON string, the only contents of ``out``."""
    cdef char *q
    cdef bytes text
    out.n = 0
    if needs_escapes(p, <size_t>n):
        text = orjson.dumps(p[:n].decode())
        return buf_add(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
    q = buf_room(out, <size_t>n + 2)
    q[0] = c'"'
    memcpy(q + 1, p, <size_t>n)
    q[n + 1] = c'"'
    out.n = <size_t>n + 2
    return 0


cdef bint typed_to_json(const char *p, Py_ssize_t n, Slice *out, Buf *space) except -1:
    """The JSON text of a typed value; False if it is none, ``out.p`` is NULL for undefined.

    Where it cannot be a slice of the value itself it is put into ``space``.
    """
    cdef int kind
    out.p = NULL
    out.n = 0
    if n == 0:
        return False
    if p[0] == c"S":
        string_to_json(space, p + 1, n - 1)
        out.p = space.p
        out.n = <Py_ssize_t>space.n
        return True
    out.p = p + 1
    out.n = n - 1
    if p[0] == c"O":
        return json_check(out.p, out.n) >= 0
    if p[0] == c"N":
        kind = json_check(out.p, out.n)
        if kind >= 0:
            return kind & JSON_KIND_MASK == JSON_NUMBER
        if not is_text(out, b"NaN") and not is_text(out, b"Infinity") and not is_text(out, b"-Infinity"):
            return False
        out.p = b"null"         # what JSON makes of them
        out.n = 4
        return True
    if n == 4 and memcmp(p, b"null", 4) == 0:
        out.p = p
        out.n = 4
        return True
    if n != 1:
        return False
    if p[0] == c"U":
        out.p = NULL
        return True
    if p[0] == c"T" or p[0] == c"F" or p[0] == c"L":
        out.p = b"true" if p[0] == c"T" else b"false" if p[0] == c"F" else b"null"
        out.n = 5 if p[0] == c"F" else 4
        return True
    return False


cdef inline bint is_space(char c) noexcept:
    return c == c" " or c == c"\n" or c == c"\r" or c == c"\t"


cdef int add_typed(Buf *out, const char *p, Py_ssize_t n) except -1:
    """Append a JSON text as a typed value. Control characters cannot stand in JSON, so no separator is in it."""
    cdef bytes text
    while n and is_space(p[0]):
        p += 1
        n -= 1
    while n and is_space(p[n - 1]):
        n -= 1
    if n and p[0] == c'"':
        if memchr(p, c"\\", <size_t>n) == NULL:
            buf_add(out, b"S", 1)
            return buf_add(out, p + 1, <size_t>n - 2)
        value = loads(PyBytes_FromStringAndSize(p, n))
        if "\x1e" not in value and "\x1f" not in value:
            try:
                text = value.encode()
            except UnicodeEncodeError:
                pass        # half of a surrogate pair cannot travel as itself
            else:
                buf_add(out, b"S", 1)
                return buf_add(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
    elif n and (p[0] == c"-" or c"0" <= p[0] <= c"9"):
        buf_add(out, b"N", 1)
        return buf_add(out, p, <size_t>n)
    elif n and (p[0] == c"t" or p[0] == c"f" or p[0] == c"n"):
        return buf_add(out, b"T" if p[0] == c"t" else b"F" if p[0] == c"f" else b"L", 1)
    buf_add(out, b"O", 1)
    return buf_add(out, p, <size_t>n)


def to_json(bytes typed not None):
    """The JSON text of a typed value, b"" for undefined, None if it is no typed value (for tests)."""
    cdef Buf space = Buf(NULL, 0, 0)
    cdef Slice out
    try:
        if not typed_to_json(PyBytes_AS_STRING(typed), PyBytes_GET_SIZE(typed), &out, &space):
            return None
        return b"" if out.p == NULL else out.p[:out.n]
    finally:
        buf_free(&space)


def to_typed(bytes json_text not None):
    """The typed value of a JSON text (for tests)."""
    cdef Buf text = Buf(NULL, 0, 0)
    try:
        add_typed(&text, PyBytes_AS_STRING(json_text), PyBytes_GET_SIZE(json_text))
        return text.p[:text.n]
    finally:
        buf_free(&text)


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


cdef inline bint is_text(const Slice *part, const char *text) noexcept:
    return part.n == <Py_ssize_t>strlen(text) and memcmp(part.p, text, <size_t>part.n) == 0


cdef inline bint is_clean(const Msg *m, int field) noexcept:
    """Whether a text can stand in a message: a client could forge messages for others with separators."""
    return not has_text(m, field) or (memchr(m.s[field].p, US, <size_t>m.s[field].n) == NULL
                                      and memchr(m.s[field].p, RS, <size_t>m.s[field].n) == NULL)


cdef list user_ids(Slice text):
    """The user ids in a JSON array; None if it is something else, or has half of a surrogate pair."""
    if json_check(text.p, text.n) < 0:
        return None
    names = loads(PyBytes_FromStringAndSize(text.p, text.n))
    if type(names) is not list or not all([type(name) is str for name in names]):
        return None
    try:
        return [name.encode() for name in names]
    except UnicodeEncodeError:
        return None


cdef bint read_parts(Msg *m, const Request *r, const Slice *part, Buf *value) except -1:
    """Put the parts of a message where they belong, except names of several; False if one makes no sense."""
    cdef Slice json
    cdef int64_t version
    cdef int i
    cdef char kind
    cdef bint good = True
    for i in range(r.parts):
        kind = r.layout[i]
        if kind == c"n":
            set_text(m, S_NAME, part[i].p, part[i].n)
        elif kind == c"t":
            if not typed_to_json(part[i].p, part[i].n, &json, value):
                good = False
            elif json.p != NULL:
                set_text(m, S_DATA, json.p, json.n)
            elif r.topic == T_RECORD and r.action == REC_PATCH:
                m.i[I_ACTION] = REC_ERASE
        elif kind == c"b" or kind == c"c":
            set_text(m, S_CORRELATION_ID, part[i].p, part[i].n)
        elif kind == c"v":
            if whole_number(part[i], &version):
                set_int(m, I_VERSION, version)
            else:
                good = False
            set_text(m, S_CORRELATION_ID, part[i].p, part[i].n)
        elif kind == c"j":
            set_text(m, S_DATA, part[i].p, part[i].n)
        elif kind == c"p":
            set_text(m, S_PATH, part[i].p, part[i].n)
        elif kind == c"s":
            set_text(m, S_SUBSCRIPTION, part[i].p, part[i].n)
        elif kind == c"x":
            string_to_json(value, part[i].p, part[i].n)
            set_text(m, S_DATA, value.p, <Py_ssize_t>value.n)
        elif kind == c"w" and is_text(&part[i], b'{"writeSuccess":true}'):
            set_int(m, I_IS_WRITE_ACK, 1)
    return good


cdef class TextProtocol(Protocol):
    """The v3 text protocol: parts divided by 0x1F, messages ended by 0x1E.

    ``owner`` is an endpoint that logs what cannot be sent (``log_unsendable(text)``).
    """

    def __init__(self, int number):
        super().__init__(number, "wsText", 1, None, True)
        self.knows_gaps = False
        self.has_separators = True

    def __dealloc__(self):
        buf_free(&self.spare_value)
        buf_free(&self.spare_text)

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
                self.one(c, p, stop)
            p = stop + 1
        return 0

    cdef int one(self, Connection c, const char *p, const char *end) except -1:
        """Handle one message of at least three bytes: the letter of its topic, the letters of its action, its parts."""
        cdef Slice[MAX_PARTS] part
        cdef const char *stop = p + 2
        cdef int count = 0, topic, i
        cdef uint32_t number
        if p[1] != US:
            return self.malformed(c)
        while stop < end and stop[0] != US:
            stop += 1
        number = number_of(p + 2, <size_t>(stop - p) - 2)
        for topic in range(T_CONNECTION, T_PRESENCE + 1):
            if p[0] == TOPIC_LETTERS[topic]:
                break
        else:
            return self.malformed(c)
        part[0].p = p + 2
        part[0].n = stop - p - 2
        while stop < end:
            if count == MAX_PARTS - 1:
                return self.malformed(c)
            p = stop + 1
            stop = <const char*>memchr(p, US, <size_t>(end - p))
            if stop == NULL:
                stop = end
            count += 1
            part[count].p = p
            part[count].n = stop - p
        for i in range(FIRST[topic], FIRST[topic + 1]):
            if REQUESTS[i].number == number and REQUESTS[i].parts == count:
                return self.request(c, &REQUESTS[i], part)
        return self.malformed(c)

    cdef int malformed(self, Connection c) except -1:
        """Dropped, but counted: too many end the connection."""
        c.endpoint.owner.log_limited(c, "INVALID_MESSAGE", "a text message that cannot be understood")
        return c.on_bad()

    cdef int request(self, Connection c, const Request *r, const Slice *part) except -1:
        """Handle a message as if it had come in binary form."""
        # Out of everybody's reach while it is used: whatever runs in between may lead to another message.
        cdef Buf value = self.spare_value
        self.spare_value = Buf(NULL, 0, 0)
        try:
            return self.hand_on(c, r, part, &value)
        finally:
            give_back(&self.spare_value, &value)

    cdef int hand_on(self, Connection c, const Request *r, const Slice *part, Buf *value) except -1:
        cdef Msg m
        cdef list names = None
        cdef Buf raw
        start(&m, r.topic, r.action)
        if not read_parts(&m, r, part + 1, value):
            return answer_invalid(c, &m) if c.state == ST_OPEN else self.malformed(c)
        if r.layout[0] == c"b":
            names = [part[1].p[:part[1].n]]
        elif r.parts == 2 and r.layout[1] == c"u":
            names = user_ids(part[2])
            if names is None:
                return self.malformed(c)
        elif r.topic == T_RECORD and c.state == ST_OPEN and (r.action == REC_READ or r.action == REC_HEAD):
            self.note(c, r.action, part)
        if names is None and c.holds == 0 and not c.waiting:
            # Nobody needs the binary form: the fields stay where they are, in what the client has sent.
            m.canonical = False
            m.body = m.end = part[0].p
            return c.on_message(&m, m.body, 0)
        raw = Buf(NULL, 0, 0)
        try:
            encode_msg(&m, &raw, names)
            decode_msg(raw.p, raw.p + raw.n, &m)
            return c.on_message(&m, raw.p, raw.n)
        finally:
            buf_free(&raw)

    cdef int note(self, Connection c, int action, const Slice *part) except -1:
        """What a READ or HEAD was called has to be known when the answer comes, which only tells the name."""
        cdef tuple key = (action, part[1].p[:part[1].n])
        c.extra.setdefault(key, []).append(part[0].p[:part[0].n])
        return 0

    cdef bytes asked(self, Connection c, const Msg *m):
        """What the request that is answered by `m` was called; None if this connection did not ask."""
        cdef int action
        if m.topic != T_RECORD or not c.extra or not has_text(m, S_NAME):
            return None
        action = action_of(m)
        if action == REC_READ_RESPONSE:
            action = REC_READ
        elif action == REC_HEAD_RESPONSE:
            action = REC_HEAD
        elif action >= 100 and has_int(m, I_ORIGINAL_ACTION):
            action = <int>m.i[I_ORIGINAL_ACTION]
        key = (action, m.s[S_NAME].p[:m.s[S_NAME].n])
        waiting = c.extra.get(key)
        if waiting is None:
            return None
        letters = waiting.pop(0)
        if not waiting:
            del c.extra[key]
        return letters

    # --- to the client -------------------------------------------------------------------------------------------

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        return self.put(m, out, names, None)

    cdef int encode_for(self, Peer peer, const Msg *m, Buf *out, list names, dict versions) except -1:
        return self.put(m, out, names, self.asked(<Connection>peer, m))

    cdef int put(self, const Msg *m, Buf *out, list names, bytes asked) except -1:
        """Append the frame of a message; ``asked``: how its request was called, where only the sender knows."""
        cdef Buf text
        cdef char *q
        cdef size_t h
        if not (is_clean(m, S_NAME) and is_clean(m, S_SUBSCRIPTION) and is_clean(m, S_PATH)
                and is_clean(m, S_CORRELATION_ID)):
            if self.owner is not None:
                self.owner.log_unsendable(f"action {action_of(m)} of topic {m.topic}")
            return 0
        text = self.spare_text
        self.spare_text = Buf(NULL, 0, 0)
        text.n = 0
        try:
            write_text(&text, m, names, asked)
            if text.n:
                q = buf_room(out, text.n + 10)
                h = frame_header(q, text.n, 1)
                memcpy(q + h, text.p, text.n)
                out.n += h + text.n
        finally:
            give_back(&self.spare_text, &text)
        return 0


cdef void give_back(Buf *spare, Buf *used) noexcept:
    """Keep a buffer for the next time, unless there is one or it has become large."""
    if spare.p == NULL and used.cap <= KEPT:
        spare[0] = used[0]
    else:
        buf_free(used)


# --- messages to the client --------------------------------------------------------------------------------------

cdef inline int add(Buf *out, const char *text) except -1:
    return buf_add(out, text, strlen(text))


cdef inline int add_bytes(Buf *out, bytes text) except -1:
    return buf_add(out, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))


cdef inline int add_end(Buf *out) except -1:
    return buf_add(out, b"\x1e", 1)


cdef inline int add_text(Buf *out, const Msg *m, int field) except -1:
    """A separator and a text field; an absent one is empty."""
    buf_add(out, b"\x1f", 1)
    if has_text(m, field):
        buf_add(out, m.s[field].p, <size_t>m.s[field].n)
    return 0


cdef inline int add_version(Buf *out, const Msg *m) except -1:
    cdef char[24] digits
    return buf_add(out, digits, <size_t>snprintf(
        digits, 24, "\x1f%lld", <long long>m.i[I_VERSION] if has_int(m, I_VERSION) else -1))


cdef inline int add_value(Buf *out, const Msg *m) except -1:
    buf_add(out, b"\x1f", 1)
    if has_text(m, S_DATA):
        return add_typed(out, m.s[S_DATA].p, m.s[S_DATA].n)
    return buf_add(out, b"U", 1)


cdef int add_letters(Buf *out, int topic, int action) except -1:
    """What clients call an action; nothing if they have no such action."""
    cdef int i
    if topic == T_RECORD and action == REC_ERASE:
        action = REC_PATCH
    for i in range(FIRST[topic], FIRST[topic + 1]):
        if REQUESTS[i].action == action:
            return add(out, REQUESTS[i].letters)
    return 0


cdef int write_text(Buf *out, const Msg *m, list names, bytes asked) except -1:
    """Append the text of a message; nothing if the protocol has no such message."""
    cdef int topic = m.topic
    cdef int action = action_of(m)
    if topic == T_EVENT and action == EVENT_EMIT:
        add(out, b"E\x1fEVT")
        add_text(out, m, S_NAME)
        add_value(out, m)
        return add_end(out)
    if topic == T_CONNECTION:
        return write_connection(out, m, action)
    if topic == T_AUTH:
        return write_auth(out, m, action)
    if not T_EVENT <= topic <= T_PRESENCE:
        return 0
    if action >= 100:
        return write_error(out, m, topic, action, asked)
    if has_int(m, I_IS_ACK) and m.i[I_IS_ACK]:
        return write_ack(out, m, topic, action)
    if topic == T_RECORD:
        return write_record(out, m, action, asked)
    if topic == T_EVENT:
        return write_pattern(out, m, b"E", action == EVENT_SUBSCRIPTION_FOR_PATTERN_FOUND,
                             action == EVENT_SUBSCRIPTION_FOR_PATTERN_REMOVED)
    if topic == T_RPC:
        return write_rpc(out, m, action)
    return write_presence(out, m, action, names)


cdef int write_connection(Buf *out, const Msg *m, int action) except -1:
    if action == CONNECTION_ACCEPT:
        return add(out, b"C\x1fA\x1e")
    if action == CONNECTION_PING:
        return add(out, b"C\x1fPI\x1e")
    if action == CONNECTION_PONG:
        return add(out, b"C\x1fPO\x1e")
    if action == CONNECTION_CHALLENGE:
        return add(out, b"C\x1fCH\x1e")
    if action == CONNECTION_REJECT:
        return add(out, b"C\x1fREJ\x1e")
    if action == CONNECTION_REDIRECT:
        add(out, b"C\x1fRED")
        add_text(out, m, S_URL)
        return add_end(out)
    if action == CONNECTION_AUTHENTICATION_TIMEOUT:
        return add(out, b"C\x1fE\x1fCONNECTION_AUTHENTICATION_TIMEOUT\x1e")
    return 0


cdef int write_auth(Buf *out, const Msg *m, int action) except -1:
    if action == AU_SUCCESSFUL:
        add(out, b"A\x1fA")
        if has_text(m, S_DATA) and not is_text(&m.s[S_DATA], b"null"):
            add_value(out, m)
        return add_end(out)
    if action == AU_UNSUCCESSFUL:
        add(out, b"A\x1fE\x1fINVALID_AUTH_DATA")
        add_value(out, m)
        return add_end(out)
    if action == AU_TOO_MANY_AUTH_ATTEMPTS:
        return add(out, b"A\x1fE\x1fTOO_MANY_AUTH_ATTEMPTS\x1e")
    if action == AU_INVALID_MESSAGE_DATA:
        # The client stops; after INVALID_AUTH_DATA, which upstream sends, it would connect again for ever.
        return add(out, b"A\x1fE\x1fINVALID_AUTH_MSG\x1finvalid authentication message\x1e")
    return 0


cdef int write_ack(Buf *out, const Msg *m, int topic, int action) except -1:
    buf_add(out, &TOPIC_LETTERS[topic], 1)
    add(out, b"\x1fA\x1f")
    if topic == T_RECORD and action == REC_SUBSCRIBECREATEANDREAD:
        add(out, b"S")
    else:
        add_letters(out, topic, action)
    if topic == T_PRESENCE and (action == PRE_SUBSCRIBE_ALL or action == PRE_UNSUBSCRIBE_ALL):
        add(out, b"\x1f")
        add_letters(out, topic, action)
    else:
        add_text(out, m, S_CORRELATION_ID if has_text(m, S_CORRELATION_ID) else S_NAME)
    return add_end(out)


cdef int write_pattern(Buf *out, const Msg *m, const char *topic, bint found, bint removed) except -1:
    if not found and not removed:
        return 0
    add(out, topic)
    add(out, b"\x1fSP" if found else b"\x1fSR")
    add_text(out, m, S_NAME)
    add_text(out, m, S_SUBSCRIPTION)
    return add_end(out)


cdef int write_record(Buf *out, const Msg *m, int action, bytes asked) except -1:
    if action == REC_UPDATE or action == REC_READ_RESPONSE:
        add(out, b"R\x1fU" if action == REC_UPDATE else b"R\x1fR")
        add_text(out, m, S_NAME)
        add_version(out, m)
        add_text(out, m, S_DATA)
    elif action == REC_PATCH or action == REC_ERASE:
        add(out, b"R\x1fP")
        add_text(out, m, S_NAME)
        add_version(out, m)
        add_text(out, m, S_PATH)
        add_value(out, m)
    elif action == REC_WRITE_ACKNOWLEDGEMENT:
        return add_outcome(out, m, b"L")
    elif action == REC_HEAD_RESPONSE:
        if asked == b"H":
            add(out, b"R\x1fH")
            add_text(out, m, S_NAME)
            add(out, b"\x1fF" if m.i[I_VERSION] < 0 else b"\x1fT")
        else:
            add(out, b"R\x1fHD")
            add_text(out, m, S_NAME)
            add_version(out, m)
            add(out, b"\x1fnull")
    elif action == REC_DELETE_SUCCESS or action == REC_DELETED:
        add(out, b"R\x1fA\x1fD")
        add_text(out, m, S_NAME)
    elif action == REC_SUBSCRIPTION_HAS_PROVIDER or action == REC_SUBSCRIPTION_HAS_NO_PROVIDER:
        add(out, b"R\x1fSH")
        add_text(out, m, S_NAME)
        add(out, b"\x1fT" if action == REC_SUBSCRIPTION_HAS_PROVIDER else b"\x1fF")
    else:
        return write_pattern(out, m, b"R", action == REC_SUBSCRIPTION_FOR_PATTERN_FOUND,
                             action == REC_SUBSCRIPTION_FOR_PATTERN_REMOVED)
    return add_end(out)


cdef int add_outcome(Buf *out, const Msg *m, const char *typed) except -1:
    """The line for the callback of a write: a typed value, L if all is well."""
    add(out, b"R\x1fWA")
    add_text(out, m, S_NAME)
    add(out, b"\x1f[")
    if has_text(m, S_CORRELATION_ID):
        buf_add(out, m.s[S_CORRELATION_ID].p, <size_t>m.s[S_CORRELATION_ID].n)
    add(out, b"]\x1f")
    add(out, typed)
    return add_end(out)


cdef int write_rpc(Buf *out, const Msg *m, int action) except -1:
    if action == RPC_ACCEPT:
        add(out, b"P\x1fA\x1fREQ")
    elif action == RPC_REQUEST:
        add(out, b"P\x1fREQ")
    elif action == RPC_RESPONSE:
        add(out, b"P\x1fRES")
    elif action == RPC_REQUEST_ERROR:
        add(out, b"P\x1fE\x1f")
        if has_text(m, S_DATA):
            value = loads(PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n))
            if type(value) is str:
                add_bytes(out, value.replace("\x1e", "").replace("\x1f", "").encode("utf-8", "replace"))
            else:
                add(out, b"O")
                buf_add(out, m.s[S_DATA].p, <size_t>m.s[S_DATA].n)
    else:
        return 0
    add_text(out, m, S_NAME)
    add_text(out, m, S_CORRELATION_ID)
    if action == RPC_REQUEST or action == RPC_RESPONSE:
        add_value(out, m)
    return add_end(out)


cdef int write_presence(Buf *out, const Msg *m, int action, list names) except -1:
    if action == PRE_QUERY_ALL_RESPONSE:
        add(out, b"U\x1fQ")
        for name in names or ():
            if "\x1e" not in name and "\x1f" not in name:
                add(out, b"\x1f")
                add_bytes(out, (<str>name).encode())
    elif action == PRE_QUERY_RESPONSE:
        add(out, b"U\x1fQ")
        add_text(out, m, S_CORRELATION_ID)
        add_text(out, m, S_DATA)
    elif action == PRE_JOIN or action == PRE_JOIN_ALL:
        add(out, b"U\x1fPNJ")
        add_text(out, m, S_NAME)
    elif action == PRE_LEAVE or action == PRE_LEAVE_ALL:
        add(out, b"U\x1fPNL")
        add_text(out, m, S_NAME)
    else:
        return 0
    return add_end(out)


cdef int write_error(Buf *out, const Msg *m, int topic, int action, bytes asked) except -1:
    """Errors; a request that has a callback of its own gets a line for it as well (section 7)."""
    cdef int original = <int>m.i[I_ORIGINAL_ACTION] if has_int(m, I_ORIGINAL_ACTION) else 0
    cdef bytes name
    if topic == T_RECORD and action == REC_VERSION_EXISTS and not has_text(m, S_DATA):
        action = REC_MESSAGE_DENIED     # it may not see the record, without which it could not recover
    name = ERROR_NAMES.get((topic, action))
    if name is None:
        return 0
    if asked is not None:
        add(out, b"R\x1fE\x1f")
        add_bytes(out, asked)
        add_text(out, m, S_NAME)
        add(out, b"\x1f")
        add_bytes(out, name)
        add_end(out)
    elif has_int(m, I_IS_WRITE_ACK) and m.i[I_IS_WRITE_ACK] and action != REC_VERSION_EXISTS:
        add_outcome(out, m, b"S" + name)
    buf_add(out, &TOPIC_LETTERS[topic], 1)
    add(out, b"\x1fE\x1f")
    add_bytes(out, name)
    if topic != T_RPC and (name == b"INVALID_MESSAGE_DATA" or name == b"INVALID_PRESENCE_USERS"):
        add_text(out, m, S_DATA if has_text(m, S_DATA) else S_NAME)
        return add_end(out)
    add_text(out, m, S_NAME)
    if name == b"MESSAGE_DENIED":
        add(out, b"\x1f")
        if asked is None:
            add_letters(out, topic, original)
        else:
            add_bytes(out, asked)
    elif topic == T_RECORD and action == REC_VERSION_EXISTS:
        add_version(out, m)
        add_text(out, m, S_DATA)
        if has_int(m, I_IS_WRITE_ACK) and m.i[I_IS_WRITE_ACK]:
            add(out, b'\x1f{"writeSuccess":true}')
    if has_text(m, S_CORRELATION_ID) and (topic == T_RPC or topic == T_PRESENCE or (
            action == REC_MESSAGE_DENIED and topic == T_RECORD and is_write(original))):
        add_text(out, m, S_CORRELATION_ID)
    return add_end(out)


cdef inline bint is_write(int action) noexcept:
    return REC_CREATEANDUPDATE <= action <= REC_ERASE or action == REC_PATCH_MULTI
