"""Events: publish and subscribe (spec/events-rpc-presence-listen.md section 2)."""
from dsfast._core.connection cimport Connection
from dsfast._core.fanout cimport Registry, Subject
from dsfast._core.json_text cimport json_check
from dsfast._core.protocol cimport *
from dsfast._core.router cimport (
    Handler, action_of, answer_invalid, names_ok, send_ack, subscribe_names, unsubscribe_names,
)

# Fields an EMIT may have to be forwarded as the bytes it came in.
cdef enum:
    PLAIN_EMIT = (1 << I_ACTION) | (1 << (N_INTS + S_DATA)) | (1 << (N_INTS + S_NAME))


cdef class EmitWatch:
    """Sees every event that is permitted, before and after its subscribers get it; there is one at the most."""

    cdef int before(self, Connection c, const Msg *m, Subject subject) except -1:
        """``subject`` is None if nobody subscribes to exactly this name."""
        return 0

    cdef int after(self) except -1:
        return 0


cdef class EventHandler(Handler):
    """Topic EVENT. ``listen`` takes the messages of listeners (dsfast/handlers/listen.py)."""

    def __init__(self, Registry registry not None, listen):
        self.registry = registry
        self.listen = listen

    cdef int handle(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        cdef int action = action_of(m)
        if action == EVENT_EMIT:
            return self.emit(c, m, raw, n)
        if action == EVENT_SUBSCRIBE:
            if names_ok(c, m):
                subscribe_names(c, m, self.registry, EVENT_MULTIPLE_SUBSCRIPTIONS, "subscription")
                send_ack(c, m)
        elif action == EVENT_UNSUBSCRIBE:
            if names_ok(c, m):
                unsubscribe_names(c, m, self.registry)
                send_ack(c, m)
        elif EVENT_LISTEN <= action <= EVENT_LISTEN_REJECT:
            if not has_text(m, S_NAME) or m.s[S_NAME].n == 0:
                return answer_invalid(c, m)
            self.listen.on_message(c, to_message(m))
        else:
            c.unknown_action(m)
        return 0

    cdef int emit(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        cdef Subject subject
        if not has_text(m, S_NAME) or m.s[S_NAME].n == 0:
            return answer_invalid(c, m)
        # Invalid JSON would end the process of every JavaScript subscriber, so it never leaves here.
        if has_text(m, S_DATA) and json_check(m.s[S_DATA].p, m.s[S_DATA].n) < 0:
            return answer_invalid(c, m)
        subject = self.registry.find(m.s[S_NAME].p, m.s[S_NAME].n)
        if self.watch is None:
            return self.broadcast(c, m, raw, n, subject) if subject is not None else 0
        self.watch.before(c, m, subject)
        try:
            if subject is not None:
                self.broadcast(c, m, raw, n, subject)
        finally:
            self.watch.after()
        return 0

    cdef int broadcast(self, Connection c, Msg *m, const char *raw, size_t n, Subject subject) except -1:
        cdef Msg out
        if m.canonical and m.has & ~<uint32_t>PLAIN_EMIT == 0:
            return self.registry.hub.broadcast_payload(subject, c, raw, n)
        start(&out, T_EVENT, EVENT_EMIT)
        copy_text(&out, m, S_DATA)
        copy_text(&out, m, S_NAME)
        return self.registry.hub.broadcast_msg(subject, c, &out)
