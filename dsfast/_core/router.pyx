"""From a message to its handler, and the answers that all topics share.

With open permission a message goes straight to its handler, in C. With a permission plugin it first passes the
PermissionGate (dsfast/handlers/permission.py), which hands it back through ``forward``.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.string cimport memcpy

from dsfast._core.buffer cimport Slice
from dsfast._core.connection cimport ST_CLOSING, Connection, Dispatcher, outlives_sender
from dsfast._core.fanout cimport Registry, Subject, counter
from dsfast._core.protocol cimport *
from dsfast._core.protocol import encode

# INVALID_MESSAGE_DATA of each topic; presence has none and answers INVALID_PRESENCE_USERS.
cdef int[8] INVALID_DATA = [0, 0, 0, 0, EVENT_INVALID_MESSAGE_DATA, REC_INVALID_MESSAGE_DATA, RPC_INVALID_MESSAGE_DATA, PRE_INVALID_PRESENCE_USERS]


cdef class Gate:
    """Decides in the core about what needs no waiting; refusals it answers itself. Base of the ValveGate."""

    cdef int arrival(self, Connection c, const Msg *m) except -1:
        """Decide about a message that has just arrived."""
        return VERDICT_WAITS

    cdef int turn(self, object step, object record) except -1:
        """Decide about a step of the record handler whose turn it is, on the present state of its record."""
        return VERDICT_WAITS


cdef class Handler:
    """Base of the handlers. Those in Python override ``on_message``, those of the core ``handle``."""

    cdef int handle(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        """Handle one permitted message; ``raw[0:n]`` are its bytes on the wire."""
        self.on_message(c, to_message(m))
        return 0

    def on_message(self, connection, message):
        """Handle one permitted message."""

    def unknown_action(self, Connection connection not None, Message message not None):
        """Answer an action this topic does not have."""
        cdef Msg m
        message.fill(&m)
        connection.unknown_action(&m)


cdef class Router(Dispatcher):
    """Topic → handler, through the permission gate if there is one."""

    def __cinit__(self, *_, **__):
        self.handlers = (None,) * 8

    def __init__(self, handlers, gate=None, Gate core_gate=None):
        cdef Handler handler
        table = [None] * 8
        for topic, handler in handlers.items():
            table[topic] = handler
        self.handlers = tuple(table)
        self.gate = gate
        self.core_gate = core_gate

    cdef int dispatch(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        cdef int verdict
        handler = self.handlers[m.topic]
        if handler is None:
            return c.unknown_topic()
        if self.gate is None:
            c.hub.received[counter(m)] += 1
            return (<Handler>handler).handle(c, m, raw, n)
        # While an earlier message waits for its decision, later ones queue up behind it in the gate.
        if self.core_gate is not None and c.lane is None:
            verdict = self.core_gate.arrival(c, m)
            if verdict == VERDICT_ALLOWED:
                c.hub.received[counter(m)] += 1
                return (<Handler>handler).handle(c, m, raw, n)
            if verdict != VERDICT_WAITS:
                return 0
        self.gate.check(c, to_message(m))
        return 0

    def forward(self, Connection connection not None, Message message not None):
        """Hand a message that has been permitted to its handler. Raises ValueError if it is none a client can send."""
        cdef bytes raw = encode(message)
        cdef const char *p = PyBytes_AS_STRING(raw)
        cdef Msg m
        if decode_msg(p, p + len(raw), &m) == NULL or m.topic >= 8 or self.handlers[m.topic] is None:
            raise ValueError(f"no handler for {message!r}")
        if connection.is_closed and not outlives_sender(&m):
            return
        connection.hub.received[counter(&m)] += 1
        (<Handler>self.handlers[m.topic]).handle(connection, &m, p, <size_t>len(raw))


cdef int answer(Connection c, const Msg *m, int action) except -1:
    """Answer with name and originalAction of the request (the MULTIPLE_... messages)."""
    cdef Msg a
    start(&a, m.topic, action)
    set_int(&a, I_ORIGINAL_ACTION, action_of(m))
    copy_text(&a, m, S_NAME)
    return c.reply_msg(&a)


cdef int answer_error(Connection c, const Msg *m, int action) except -1:
    """Answer an error with everything that lets the client find its request."""
    cdef Msg a
    start(&a, m.topic, action)
    set_int(&a, I_ORIGINAL_ACTION, action_of(m))
    set_int(&a, I_IS_ERROR, 1)
    copy_text(&a, m, S_NAME)
    copy_text(&a, m, S_CORRELATION_ID)
    if m.topic == T_RECORD and has_int(m, I_IS_WRITE_ACK) and m.i[I_IS_WRITE_ACK]:
        set_int(&a, I_IS_WRITE_ACK, 1)
    return c.reply_msg(&a)


cdef int answer_invalid(Connection c, const Msg *m) except -1:
    """Answer a message whose fields or payload make no sense."""
    return answer_error(c, m, INVALID_DATA[m.topic & 7])


cdef int send_ack(Connection c, const Msg *m, list names=None) except -1:
    """The acknowledgement of a bulk request."""
    cdef Msg a
    start(&a, m.topic, action_of(m))
    set_int(&a, I_IS_ACK, 1)
    copy_text(&a, m, S_CORRELATION_ID)
    return c.reply_msg(&a, names)


cdef bint names_ok(Connection c, const Msg *m) except -1:
    """Check the names of a bulk request (bounded, none empty) before any of them has an effect."""
    cdef Slice name
    cdef const char *cursor = m.body
    if m.items > <uint32_t>c.endpoint.owner.max_names:
        answer_invalid(c, m)
        return False
    if m.items:
        cursor = next_item(m, cursor, &name)
        while cursor != NULL:
            if name.n == 0:
                answer_invalid(c, m)
                return False
            cursor = next_item(m, cursor, &name)
    return True


cdef int subscribe_names(Connection c, const Msg *m, Registry registry, int repeated, str what) except -1:
    """Subscribe to every name of a bulk request; a repeated one is told so and stays subscribed."""
    cdef Slice name
    cdef Msg a
    cdef bint fresh = False
    cdef const char *cursor = m.body
    if m.items == 0:
        return 0
    cursor = next_item(m, cursor, &name)
    while cursor != NULL and c.state < ST_CLOSING:
        registry.subscribe(c, name.p, name.n, &fresh)
        if not fresh:
            start(&a, m.topic, repeated)
            set_int(&a, I_ORIGINAL_ACTION, action_of(m))
            set_text(&a, S_NAME, name.p, name.n)
            c.reply_msg(&a)
            c.endpoint.owner.log_repeated(c, what, name.p[:name.n].decode())
        cursor = next_item(m, cursor, &name)
    return 0


cdef int unsubscribe_names(Connection c, const Msg *m, Registry registry) except -1:
    """End the subscriptions of a bulk request; names that are not subscribed are no error."""
    cdef Slice name
    cdef const char *cursor = m.body
    if m.items == 0:
        return 0
    cursor = next_item(m, cursor, &name)
    while cursor != NULL:
        registry.unsubscribe(c, name.p, name.n)
        cursor = next_item(m, cursor, &name)
    return 0
