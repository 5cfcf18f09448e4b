"""Remote procedure calls (spec/events-rpc-presence-listen.md section 3), for one node.

A call is found by its requestor and correlation id. Towards the provider the same id is used unless another open
call at that provider has it already; then the server makes one up. So an answer belongs to exactly one call, and
only the provider that was asked can give it.
"""
import random

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

from dsfast._core.buffer cimport Slice
from dsfast._core.connection cimport ST_CLOSING, Connection
from dsfast._core.fanout cimport Hub, Registry, Subject
from dsfast._core.json_text cimport dumps, json_check
from dsfast._core.protocol cimport *
from dsfast._core.router cimport (
    Handler, action_of, answer_error, answer_invalid, names_ok, send_ack, subscribe_names, unsubscribe_names,
)
from dsfast._core.timers cimport Timer, TimingWheel, now_ms

from msgspec import UNSET


cdef class Call(Timer):
    """One open call; as a Timer it is also its own time limit."""

    cdef RpcHandler handler
    cdef Connection requestor
    cdef Connection provider
    cdef bytes name
    cdef bytes id               # correlation id of the requestor
    cdef bytes provider_id      # correlation id the provider knows it by
    cdef bytes data             # None: the request had none
    cdef object asked           # providers asked before the present one
    cdef bint accepted          # by the present provider
    cdef bint accept_sent       # the requestor has had its ACCEPT
    cdef uint64_t response_due  # ms, monotonic

    cdef int fire(self) except -1:
        return self.handler.timed_out(self)


cdef class RpcHandler(Handler):
    """Topic RPC. Time limits in ms are read at use, so that they can change at run time."""

    cdef readonly Registry registry
    cdef TimingWheel wheel
    cdef dict calls             # (requestor, id) → Call
    cdef dict asked             # (provider, provider_id) → Call
    cdef dict parties           # connection → set of its open calls, as requestor or provider
    cdef dict made              # requestor → number of its open calls
    cdef object options         # RpcConfig
    cdef uint64_t counter

    def __init__(self, Registry registry not None, TimingWheel wheel not None, options):
        self.registry = registry
        self.wheel = wheel
        self.options = options
        self.calls = {}
        self.asked = {}
        self.parties = {}
        self.made = {}

    @property
    def open_calls(self):
        """Number of calls without an answer yet."""
        return len(self.calls)

    cdef int handle(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        cdef int action = action_of(m)
        if action == RPC_PROVIDE:
            if names_ok(c, m):
                subscribe_names(c, m, self.registry, RPC_MULTIPLE_PROVIDERS, "provider")
                send_ack(c, m)
            return 0
        if action == RPC_UNPROVIDE:
            if names_ok(c, m):
                unsubscribe_names(c, m, self.registry)
                send_ack(c, m)
            return 0
        if action == RPC_REQUEST or action == RPC_ACCEPT or RPC_RESPONSE <= action <= RPC_REQUEST_ERROR:
            if (not has_text(m, S_NAME) or m.s[S_NAME].n == 0 or not has_text(m, S_CORRELATION_ID)
                    or (has_text(m, S_DATA) and json_check(m.s[S_DATA].p, m.s[S_DATA].n) < 0)):
                return answer_invalid(c, m)
            if action == RPC_REQUEST:
                return self.request(c, m)
            return self.answer_of_provider(c, m, action)
        return c.unknown_action(m)

    cdef int request(self, Connection c, Msg *m) except -1:
        cdef bytes id = PyBytes_FromStringAndSize(m.s[S_CORRELATION_ID].p, m.s[S_CORRELATION_ID].n)
        cdef Call call
        made = self.made.get(c, 0)
        if (c, id) in self.calls or made >= self.options.max_open_calls:
            # A second call of the same id could not be told from the first; and their number is bounded. Those the
            # connection was asked do not count, or others could keep it from making its own.
            c.endpoint.owner.log_limited(c, "INVALID_MESSAGE_DATA", "call with the id of an open call, or too many calls")
            return answer_invalid(c, m)
        call = Call.__new__(Call)
        call.handler = self
        call.requestor = c
        call.id = id
        call.name = PyBytes_FromStringAndSize(m.s[S_NAME].p, m.s[S_NAME].n)
        if has_text(m, S_DATA):
            call.data = PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n)
        call.asked = None
        call.accept_sent = False
        self.calls[(c, id)] = call
        self.made[c] = made + 1
        self.join(c, call)
        return self.ask_next(call)

    cdef Connection choose(self, Call call):
        """A random provider that was not asked yet, or None."""
        cdef Subject subject = self.registry.find(PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name))
        cdef uint32_t i, first
        cdef Connection c
        if subject is None:
            return None
        first = <uint32_t>(random.random() * subject.count)
        for i in range(subject.count):
            c = <Connection>subject.subs[(first + i) % subject.count].peer
            if (call.asked is None or c not in call.asked) and c.state < ST_CLOSING:
                return c
        return None

    cdef int ask_next(self, Call call) except -1:
        """Ask a provider, or tell the requestor that there is none."""
        cdef Connection provider
        cdef uint64_t ack, response
        cdef Msg m
        cdef bytes data, base
        if call.requestor.state >= ST_CLOSING:
            return self.forget(call)
        provider = self.choose(call)
        if provider is None:
            call.requestor.endpoint.owner.log_limited(call.requestor, "NO_RPC_PROVIDER", call.name.decode())
            return self.end(call, RPC_NO_RPC_PROVIDER)
        call.provider = provider
        call.accepted = False
        base = call.id
        if provider.protocol is not None and provider.protocol.has_separators and (b"\x1e" in base or b"\x1f" in base):
            base = b"call"
        call.provider_id = base
        while base is not call.id and call.provider_id is base or (provider, call.provider_id) in self.asked:
            self.counter += 1
            call.provider_id = b"%b-%d" % (base, self.counter)
        self.asked[(provider, call.provider_id)] = call
        self.join(provider, call)
        ack = self.options.ack_timeout
        response = self.options.response_timeout
        call.response_due = now_ms() + response
        self.wheel.schedule(call, ack if ack < response else response)
        start(&m, T_RPC, RPC_REQUEST)
        if call.data is not None:
            set_text(&m, S_DATA, PyBytes_AS_STRING(call.data), PyBytes_GET_SIZE(call.data))
        set_text(&m, S_CORRELATION_ID, PyBytes_AS_STRING(call.provider_id), PyBytes_GET_SIZE(call.provider_id))
        set_text(&m, S_NAME, PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name))
        name = None
        data = None
        if self.options.provide_requestor_name:
            name = call.requestor.user_id.encode()
            set_text(&m, S_REQUESTOR_NAME, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if self.options.provide_requestor_data:
            value = call.requestor.client_data
            data = dumps(None if value is UNSET else value)
            set_text(&m, S_REQUESTOR_DATA, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return provider.reply_msg(&m)

    cdef int answer_of_provider(self, Connection c, Msg *m, int action) except -1:
        cdef bytes id = PyBytes_FromStringAndSize(m.s[S_CORRELATION_ID].p, m.s[S_CORRELATION_ID].n)
        cdef object found = self.asked.get((c, id))
        cdef Call call
        cdef Msg out
        if found is None or (<Call>found).name != m.s[S_NAME].p[:m.s[S_NAME].n]:
            c.endpoint.owner.log_limited(c, "INVALID_RPC_CORRELATION_ID", f"no open call for action {action}")
            return answer_error(c, m, RPC_INVALID_RPC_CORRELATION_ID)
        call = <Call>found
        if action == RPC_ACCEPT:
            if call.accepted:
                start(&out, T_RPC, RPC_MULTIPLE_ACCEPT)
                copy_text(&out, m, S_NAME)
                copy_text(&out, m, S_CORRELATION_ID)
                return c.reply_msg(&out)
            call.accepted = True
            self.wheel.schedule(call, self.remaining(call))
            if call.accept_sent:
                return 0
            call.accept_sent = True
            self.fill(call, &out, RPC_ACCEPT)
            return call.requestor.reply_msg(&out)
        if action == RPC_REJECT:
            return self.reroute(call)
        self.fill(call, &out, action)
        copy_text(&out, m, S_DATA)
        call.requestor.reply_msg(&out)
        return self.forget(call)

    cdef uint64_t remaining(self, Call call) noexcept:
        cdef uint64_t now = now_ms()
        return call.response_due - now if call.response_due > now else 0

    cdef int reroute(self, Call call) except -1:
        """The present provider will not answer: ask another one."""
        if call.asked is None:
            call.asked = set()
        call.asked.add(call.provider)
        self.leave_provider(call)
        return self.ask_next(call)

    cdef int timed_out(self, Call call) except -1:
        if not call.accepted and self.remaining(call) > 0:
            return self.end(call, RPC_ACCEPT_TIMEOUT)
        return self.end(call, RPC_RESPONSE_TIMEOUT)

    cdef void fill(self, Call call, Msg *m, int action) noexcept:
        """A message to the requestor about its call."""
        start(m, T_RPC, action)
        set_text(m, S_CORRELATION_ID, PyBytes_AS_STRING(call.id), PyBytes_GET_SIZE(call.id))
        set_text(m, S_NAME, PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name))

    cdef int end(self, Call call, int action) except -1:
        cdef Msg m
        self.fill(call, &m, action)
        call.requestor.reply_msg(&m)
        return self.forget(call)

    cdef int forget(self, Call call) except -1:
        call.unlink()
        if self.calls.pop((call.requestor, call.id), None) is not None:
            made = self.made.pop(call.requestor) - 1
            if made:
                self.made[call.requestor] = made
        self.leave_provider(call)
        self.leave(call.requestor, call)
        return 0

    cdef int leave_provider(self, Call call) except -1:
        cdef Connection provider = call.provider
        if provider is not None:
            self.asked.pop((provider, call.provider_id), None)
            call.provider = None
            if provider is not call.requestor:
                self.leave(provider, call)
        return 0

    cdef int join(self, Connection c, Call call) except -1:
        """Remember that this connection takes part, to be told when it goes."""
        calls = self.parties.get(c)
        if calls is None:
            calls = self.parties[c] = set()
            # One registration per connection, for as long as it lives.
            c.on_close(self.on_connection_closed)
        calls.add(call)
        return 0

    cdef int leave(self, Connection c, Call call) except -1:
        calls = self.parties.get(c)
        if calls is not None:
            calls.discard(call)
        return 0

    def on_connection_closed(self, Connection c not None):
        """Drop the calls this connection made; others must answer those it was asked."""
        cdef Call call
        self.registry.hub.expand()
        for item in self.parties.pop(c, ()):
            call = <Call>item
            if call.requestor is c:
                if call.provider is None or call.provider is c:
                    self.forget(call)
                # else its provider is working: what it answers has to be known, and goes nowhere
            elif call.provider is c:
                if call.accepted:
                    # It may have done its work; a second provider must not do it again. The time limit decides.
                    self.asked.pop((c, call.provider_id), None)
                    call.provider = None
                else:
                    self.reroute(call)
