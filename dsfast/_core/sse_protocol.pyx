"""Server-sent events: a record or an event as a stream by HTTP (docs/http.md).

A change of a record is sent as the whole record with its version as id, so that a reader that comes back says by
``Last-Event-ID`` what it has. Events carry no id: what was missed is gone, as for every other subscriber.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcpy

from dsfast._core.buffer cimport Buf, Slice, buf_add, buf_room
from dsfast._core.connection cimport ST_OPEN, Connection, Protocol
from dsfast._core.fanout cimport Peer
from dsfast._core.json_text cimport dumps
from dsfast._core.protocol cimport *
from dsfast._core.protocol import EventAction, RecordAction
from dsfast._core.record_cache cimport Record
from dsfast._core.records cimport RecordCore
from dsfast._core.timers cimport now_ms

cdef extern from "string.h" nogil:
    void *memmem(const void *haystack, size_t n, const void *needle, size_t k)

cdef enum:
    LOGIN_ENDED = 3000
    IN_TEXT = 32            # room for what surrounds id and data

cdef bytes GONE = b"event: deleted\nid\ndata: null\n\n"
cdef bytes EXPIRED = b'event: ended\ndata: {"reason":"the login has expired"}\n\n'


cdef int put_state(Buf *out, int64_t version, const char *p, Py_ssize_t n) except -1:
    """One event with a JSON text as its data; ``version`` below 1 gives it no id that could be resumed from."""
    cdef bytes head
    cdef char *q
    cdef Py_ssize_t i
    if version > 0:
        head = b"id: %d\ndata: " % version
    elif version == 0:
        head = b"id\ndata: "
    else:
        head = b"data: "
    q = buf_room(out, <size_t>n + IN_TEXT)
    memcpy(q, PyBytes_AS_STRING(head), <size_t>PyBytes_GET_SIZE(head))
    q += PyBytes_GET_SIZE(head)
    for i in range(n):
        # Outside of strings, where JSON allows them, line breaks are white space; here they would end the line.
        q[i] = c' ' if p[i] == c'\n' or p[i] == c'\r' else p[i]
    memcpy(q + n, "\n\n", 2)
    out.n += <size_t>(PyBytes_GET_SIZE(head) + n + 2)
    return 0


cdef class SseProtocol(Protocol):
    """Turns the messages that a subscriber gets into events. Nothing is ever read."""

    def __init__(self, int number):
        super().__init__(number, "sse", beats=True)
        self.asking = set()

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        cdef int action = <int>m.i[I_ACTION]
        if m.topic == T_EVENT:
            if action == EVENT_EMIT:
                if has_text(m, S_DATA):
                    return put_state(out, -1, m.s[S_DATA].p, m.s[S_DATA].n)
                return put_state(out, -1, "null", 4)
        elif m.topic == T_RECORD:
            if action == REC_UPDATE:
                return self.state(m, out)
            if action == REC_PATCH or action == REC_ERASE or action == REC_PATCH_MULTI:
                return self.changed(m, out)
            if action == REC_DELETED:
                return self.gone(m, out)
        return 0

    cdef int encode_for(self, Peer peer, const Msg *m, Buf *out, list names, dict versions) except -1:
        cdef Connection c = <Connection>peer
        cdef int action = <int>m.i[I_ACTION]
        if m.topic == T_RECORD and action == REC_READ_RESPONSE:
            known, c.extra = c.extra, None
            if known == m.i[I_VERSION]:
                return 0
            if m.i[I_VERSION] < 0:
                return buf_add(out, GONE, <size_t>len(GONE))    # there is no such record (yet)
            return self.state(m, out)
        if (m.topic == T_RECORD and action >= REC_CACHE_RETRIEVAL_TIMEOUT and action != REC_NOT_FOUND
                or m.topic == T_EVENT and action >= EVENT_INVALID_LISTEN_REGEX):
            return self.end(c, m, out)
        return self.encode(m, out, names, versions)

    cdef int state(self, const Msg *m, Buf *out) except -1:
        """The whole record is in the message."""
        return put_state(out, m.i[I_VERSION] if has_int(m, I_VERSION) and m.i[I_VERSION] > 0 else 0,
                         m.s[S_DATA].p, m.s[S_DATA].n)

    cdef int changed(self, const Msg *m, Buf *out) except -1:
        """Only the change is in the message: the record is in the cache, else everybody reads it again."""
        cdef Record record = None
        cdef bytes text
        if self.records is not None and self.records.cache is not None:
            record = self.records.cache.find(m.s[S_NAME].p, m.s[S_NAME].n)
        if record is not None and record.version == m.i[I_VERSION]:
            text = record.text()
            return put_state(out, record.version, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        name = m.s[S_NAME].p[:m.s[S_NAME].n].decode()
        for c in self.streams(m):
            if c not in self.asking:
                self.asking.add(c)
                self.records.hub.loop.call_soon(self.ask, c, Message(T_RECORD, REC_READ, name=name))
        return 0

    def ask(self, Connection c not None, Message message not None):
        """Handle a message as if the client had sent it."""
        self.asking.discard(c)
        c.handle(message)

    cdef int gone(self, const Msg *m, Buf *out) except -1:
        """The record was deleted, which ends its subscriptions; the streams wait for the next one of that name."""
        message = Message(T_RECORD, REC_SUBSCRIBEANDREAD, names=[m.s[S_NAME].p[:m.s[S_NAME].n].decode()])
        for c in self.streams(m):
            (<Connection>c).extra = -1
            self.records.hub.loop.call_soon(self.ask, c, message)
        return buf_add(out, GONE, <size_t>len(GONE))

    cdef list streams(self, const Msg *m):
        """The streams that subscribe to the record of a message."""
        if self.records is None:
            return []
        name = m.s[S_NAME].p[:m.s[S_NAME].n].decode()
        return [c for c in self.records.registry.subscribers(name) if (<Connection>c).protocol is self]

    cdef int end(self, Connection c, const Msg *m, Buf *out) except -1:
        """The client may not go on, or its record cannot be read: say so and hang up."""
        cdef int action = <int>m.i[I_ACTION]
        cdef bytes text
        if (m.topic == T_RECORD and action == REC_MULTIPLE_SUBSCRIPTIONS
                or m.topic == T_EVENT and action == EVENT_MULTIPLE_SUBSCRIPTIONS):
            return 0
        reason = (RecordAction if m.topic == T_RECORD else EventAction)(action).name
        text = b"event: ended\ndata: %b\n\n" % dumps({"reason": reason})
        c.hub.loop.call_soon(c.destroy)
        return buf_add(out, text, <size_t>len(text))

    cdef size_t frame_end(self, const char *p, size_t n, size_t at) noexcept nogil:
        cdef size_t begin = at - 1 if at else 0
        cdef const char *found = <const char*>memmem(p + begin, n - begin, "\n\n", 2)
        return n if found == NULL else <size_t>(found - p) + 2

    cdef int beat(self, Connection c) except -1:
        """A comment, so that proxies and the client know that the stream lives. Nobody answers it."""
        c.last_seen = now_ms()
        return c.hub.send_frame(c, ":\n\n", 3)

    cdef int closing(self, Connection c, int code) except -1:
        if code == LOGIN_ENDED:
            return c.hub.send_frame(c, EXPIRED, <size_t>len(EXPIRED))
        return 0
