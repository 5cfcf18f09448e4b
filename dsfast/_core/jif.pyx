"""Batches of the HTTP API: from the body of a request to messages, and from messages to the answer.

A request whose elements are all usual is read without making Python objects of it (``scan``). Everything else, and
everything that is wrong, is left to dsfast/endpoints/http/jif.py, which has the schema.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from dsfast._core.buffer cimport Buf, Slice, buf_free
from dsfast._core.connection cimport ST_OPEN, Connection, Endpoint, VirtualConnection
from dsfast._core.json_text cimport JSON_KIND_MASK, JSON_OBJECT, json_check
from dsfast._core.protocol cimport *

cdef enum:
    SLICE = 500             # elements begun in one turn of the loop, so that a long batch does not stop everybody else
    MAX_ANSWER = 64 << 20   # bytes of answers from which on nothing more is begun

# Keys of an element, as a set of bits.
cdef enum:
    K_TOPIC = 1
    K_ACTION = 2
    K_DATA = 4
    K_PATH = 8
    K_VERSION = 16
    K_EVENT_NAME = 32
    K_RPC_NAME = 64
    K_RECORD_NAME = 128
    K_LIST_NAME = 256
    K_NAMES = K_EVENT_NAME | K_RPC_NAME | K_RECORD_NAME | K_LIST_NAME

cdef bytes SUCCESS = b'{"success":true}'
cdef bytes ANSWER_ID = b"0"
# Has no effect and is acknowledged, after what was sent before has been decided about.
cdef Message FENCE = Message(T_EVENT, EVENT_UNSUBSCRIBE, names=[])


# --- reading -------------------------------------------------------------------------------------------------
#
# The text is known to be JSON and valid UTF-8. Where NULL comes back, the slow way has to be taken.

cdef inline const char *skip_space(const char *p) noexcept nogil:
    while p[0] == c' ' or p[0] == c'\n' or p[0] == c'\r' or p[0] == c'\t':
        p += 1
    return p


cdef inline const char *plain_text(const char *p, Slice *s) noexcept nogil:
    """Behind a string; NULL if it is none, or has escapes."""
    if p[0] != c'"':
        return NULL
    p += 1
    s.p = p
    while p[0] != c'"':
        if p[0] == c'\\':
            return NULL
        p += 1
    s.n = p - s.p
    return p + 1


cdef const char *skip_value(const char *p) noexcept nogil:
    """Behind a value."""
    cdef int depth = 0
    while True:
        if p[0] == c'"':
            p += 1
            while p[0] != c'"':
                p += 2 if p[0] == c'\\' else 1
            p += 1
        elif p[0] == c'{' or p[0] == c'[':
            depth += 1
            p += 1
            continue
        elif p[0] == c'}' or p[0] == c']':
            depth -= 1
            p += 1
        elif depth == 0:
            while (p[0] != c',' and p[0] != c'}' and p[0] != c']' and p[0] != c' ' and p[0] != c'\n'
                    and p[0] != c'\r' and p[0] != c'\t'):
                p += 1
        else:
            p += 1
            continue
        if depth == 0:
            return p


cdef inline bint equal(const Slice *s, const char *text, Py_ssize_t n) noexcept nogil:
    return s.n == n and memcmp(s.p, text, <size_t>n) == 0


cdef int key_of(const Slice *s) noexcept nogil:
    """The bit of a key; 0 for one that is rare or wrong."""
    if s.n == 4:
        if memcmp(s.p, "data", 4) == 0:
            return K_DATA
        if memcmp(s.p, "path", 4) == 0:
            return K_PATH
    elif equal(s, "topic", 5):
        return K_TOPIC
    elif equal(s, "action", 6):
        return K_ACTION
    elif equal(s, "recordName", 10):
        return K_RECORD_NAME
    elif equal(s, "eventName", 9):
        return K_EVENT_NAME
    elif equal(s, "rpcName", 7):
        return K_RPC_NAME
    elif equal(s, "listName", 8):
        return K_LIST_NAME
    elif equal(s, "version", 7):
        return K_VERSION
    return 0


cdef bint parse_version(const Slice *s, int64_t *version) noexcept nogil:
    """A whole number from -1 to 2**31 - 1, as it is usually written."""
    cdef int64_t value = 0
    cdef Py_ssize_t i
    if equal(s, "-1", 2):
        version[0] = -1
        return True
    if s.n > 10:
        return False
    for i in range(s.n):
        if not c'0' <= s.p[i] <= c'9':
            return False
        value = value * 10 + (s.p[i] - c'0')
    version[0] = value if value else -1
    return value <= 0x7FFFFFFF


cdef bint settle(Part *part, int keys, const Slice *topic, const Slice *action) noexcept nogil:
    """Find out which message an element is; False if it is a rare one, or wrong."""
    cdef int others = keys & ~(K_TOPIC | K_ACTION)
    if part.name.n == 0:
        return False
    if equal(topic, "event", 5):
        part.topic, part.action = T_EVENT, EVENT_EMIT
        return equal(action, "emit", 4) and others & ~K_DATA == K_EVENT_NAME
    if equal(topic, "rpc", 3):
        part.topic, part.action = T_RPC, RPC_REQUEST
        return equal(action, "make", 4) and others & ~K_DATA == K_RPC_NAME
    part.topic = T_RECORD
    if equal(topic, "record", 6):
        if equal(action, "write", 5):
            if others & ~(K_PATH | K_VERSION) != (K_RECORD_NAME | K_DATA):
                return False
            if part.path.n:
                part.action = REC_CREATEANDPATCH
                return True
            part.action = REC_CREATEANDUPDATE
            return part.data.p[0] == c'{' or part.data.p[0] == c'['
        if others != K_RECORD_NAME:
            return False
        if equal(action, "head", 4):
            part.action = REC_HEAD
            return True
    elif not equal(topic, "list", 4) or others != K_LIST_NAME:
        return False
    part.action = REC_READ if equal(action, "read", 4) else REC_DELETE
    return part.action == REC_READ or equal(action, "delete", 6)


cdef const char *scan_element(const char *p, Part *part) noexcept nogil:
    """Behind an element, which is filled in; NULL for a rare or wrong one."""
    cdef Slice key, topic, action, version
    cdef int keys = 0, bit
    if p[0] != c'{':
        return NULL
    part.version = -1
    part.name.n = part.path.n = part.data.n = 0
    topic.p = action.p = p
    topic.n = action.n = 0
    p = skip_space(p + 1)
    while p[0] != c'}':
        p = plain_text(p, &key)
        if p == NULL:
            return NULL
        bit = key_of(&key)
        if bit == 0 or keys & bit or (bit & K_NAMES and keys & K_NAMES):
            return NULL
        keys |= bit
        p = skip_space(skip_space(p) + 1)
        if bit == K_DATA:
            part.data.p = p
            p = skip_value(p)
            part.data.n = p - part.data.p
        elif bit == K_VERSION:
            version.p = p
            p = skip_value(p)
            version.n = p - version.p
            if not parse_version(&version, &part.version):
                return NULL
        elif bit == K_TOPIC:
            p = plain_text(p, &topic)
        elif bit == K_ACTION:
            p = plain_text(p, &action)
        elif bit == K_PATH:
            p = plain_text(p, &part.path)
        else:
            p = plain_text(p, &part.name)
        if p == NULL:
            return NULL
        p = skip_space(p)
        if p[0] == c',':
            p = skip_space(p + 1)
    return p + 1 if settle(part, keys, &topic, &action) else NULL


cdef class Scanned:
    """The elements of a request that is right and usual."""

    def __init__(self):
        raise TypeError("scan() makes them")

    def __dealloc__(self):
        free(self.parts)

    def __len__(self):
        return self.count

    cdef int add(self, const Part *part) except -1:
        cdef Part *grown
        if self.count == self.cap:
            self.cap = self.cap * 2 if self.cap else 4
            grown = <Part*>realloc(self.parts, <size_t>self.cap * sizeof(Part))
            if grown == NULL:
                raise MemoryError("dsfast: out of memory")
            self.parts = grown
        self.parts[self.count] = part[0]
        self.count += 1
        return 0

    def messages(self):
        """What the elements are inside."""
        cdef Msg m
        cdef Py_ssize_t i
        messages = []
        for i in range(self.count):
            fill_message(&self.parts[i], &m)
            messages.append(to_message(&m))
        return messages


def scan(bytes body not None):
    """Read a request without making Python objects of it; None if that is not enough."""
    cdef const char *p = PyBytes_AS_STRING(body)
    cdef int flags = json_check(p, PyBytes_GET_SIZE(body))
    cdef Scanned found
    cdef Slice key
    cdef Part part
    cdef const char *value
    if flags < 0 or flags & JSON_KIND_MASK != JSON_OBJECT:
        return None
    found = Scanned.__new__(Scanned)
    found.body = body
    p = skip_space(skip_space(p) + 1)
    while p[0] != c'}':
        p = plain_text(p, &key)
        if p == NULL:
            return None
        p = value = skip_space(skip_space(p) + 1)
        if equal(&key, "body", 4):
            if found.count or p[0] != c'[':
                return None
            p = skip_space(p + 1)
            while p[0] != c']':
                p = scan_element(p, &part)
                if p == NULL:
                    return None
                found.add(&part)
                p = skip_space(p)
                if p[0] == c',':
                    p = skip_space(p + 1)
            p += 1
        else:
            p = skip_value(p)
            if equal(&key, "authData", 8):
                if found.auth_data is not None:
                    return None
                found.auth_data = PyBytes_FromStringAndSize(value, p - value)
            elif equal(&key, "token", 5):
                if found.token is not None:
                    return None
                found.token = PyBytes_FromStringAndSize(value, p - value)
        p = skip_space(p)
        if p[0] == c',':
            p = skip_space(p + 1)
    return found if found.count else None


cdef int fill_message(const Part *part, Msg *m) except -1:
    """The message for an element."""
    start(m, part.topic, part.action)
    set_text(m, S_NAME, part.name.p, part.name.n)
    if part.data.n:
        set_text(m, S_DATA, part.data.p, part.data.n)
    if part.topic == T_RPC:
        set_text(m, S_CORRELATION_ID, PyBytes_AS_STRING(ANSWER_ID), 1)
    elif part.action == REC_CREATEANDUPDATE or part.action == REC_CREATEANDPATCH:
        set_text(m, S_CORRELATION_ID, PyBytes_AS_STRING(ANSWER_ID), 1)
        set_int(m, I_VERSION, part.version)
        set_int(m, I_IS_WRITE_ACK, 1)
        if part.path.n:
            set_text(m, S_PATH, part.path.p, part.path.n)
    return 0


# --- working -------------------------------------------------------------------------------------------------

cdef class Answered(VirtualConnection):
    """The client that an element is."""

    cdef int deliver(self, const Msg *m, list names, dict versions) except -1:
        if self.batch is not None:
            self.batch.take(self, m, names, versions)
        return 0


cdef class Batch:
    """Runs elements as one user and collects the answers."""

    def __init__(self, Endpoint core not None, answers, login, elements):
        self.core = core
        self.answers = answers
        self.login = login
        self.elements = elements
        self.scanned = elements if isinstance(elements, Scanned) else None
        self.open = len(elements)
        self.slots = [None] * self.open
        self.connections = []
        self.conflicts = {}

    def __dealloc__(self):
        buf_free(&self.raw)

    def start(self):
        """Begin. Returns the answer, or None: then ``wait`` has to be called."""
        self.run()
        return self.finish() if self.open == 0 else None

    def wait(self, double timeout, on_timeout, on_done):
        """Call ``on_done(answer)`` when all have answered, or ``timeout`` seconds have passed."""
        self.on_timeout = on_timeout
        self.on_done = on_done
        self.timer = self.core.hub.loop.call_later(timeout, self.time_out)

    def abandon(self, connection):
        """Nobody waits for the answer any more. What was begun takes effect."""
        self.stop()

    cdef int run(self) except -1:
        cdef Py_ssize_t count = len(self.slots), end = min(self.begun + SLICE, count)
        while self.begun < end:
            self.begun += 1
            self.begin(self.begun - 1)
        if end < count:
            self.next = self.core.hub.loop.call_soon(self.run_on)
        return 0

    def run_on(self):
        """Begin some more."""
        self.next = None
        self.run()

    cdef int begin(self, Py_ssize_t index) except -1:
        cdef Answered c = self.idle
        cdef int topic
        if self.size > MAX_ANSWER:
            return self.fill(index, False, self.answers.too_large)
        if c is None:
            c = self.connect()
        self.idle = None
        c.index = index
        if self.scanned is not None:
            topic = self.scanned.parts[index].topic
            self.send_part(c, &self.scanned.parts[index])
        else:
            topic = self.elements[index].topic
            c.handle(self.elements[index])
        if self.slots[index] is None:
            if topic != T_EVENT:
                return 0
            # Nothing comes back for an event that is permitted.
            if c.lane is not None or c.holds:
                c.handle(FENCE)
                return 0
            self.fill(index, True, SUCCESS)
        # What has one answer only, and has had it, leaves its connection to the next one.
        if self.scanned is not None and topic != T_RPC and c.lane is None and c.holds == 0 and c.state == ST_OPEN:
            self.idle = c
        return 0

    cdef Answered connect(self):
        cdef Answered c = Answered.__new__(Answered, self.core)
        login = self.login
        c.personal = True
        c.user_id = login.user_id or "OPEN"
        c.server_data = login.server_data
        c.client_data = login.client_data
        c.handshake = login.connection_data
        c.muted = False
        c.state = ST_OPEN
        c.batch = self
        self.connections.append(c)
        return c

    cdef int send_part(self, Answered c, const Part *part) except -1:
        cdef Msg m
        fill_message(part, &m)
        self.raw.n = 0
        encode_msg(&m, &self.raw)
        if decode_msg(self.raw.p, self.raw.p + self.raw.n, &m) == NULL:
            raise ValueError("a message that cannot be sent")
        return c.on_message(&m, self.raw.p, self.raw.n)

    cdef int take(self, Answered c, const Msg *m, list names, dict versions) except -1:
        """A message for the sender of an element."""
        cdef Message message
        cdef int action = <int>m.i[I_ACTION]
        if self.slots[c.index] is not None:
            return 0        # it has had its answer
        if m.topic == T_RECORD and not self.conflicts:
            if action == REC_READ_RESPONSE:
                return self.fill(c.index, True, b'{"version":%d,"data":%b,"success":true}' % (
                    m.i[I_VERSION], PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n)))
            if action == REC_WRITE_ACKNOWLEDGEMENT or action == REC_DELETE_SUCCESS:
                return self.fill(c.index, True, SUCCESS)
            if action == REC_HEAD_RESPONSE:
                return self.fill(c.index, True, b'{"version":%d,"success":true}' % m.i[I_VERSION])
        message = to_message(m)
        if names is not None:
            message.names = names
        if versions is not None:
            message.versions = versions
        try:
            return self.take_message(c, message)
        except Exception as error:
            return c.log_fault("exception while answering a request", error)

    cdef int take_message(self, Answered c, message) except -1:
        cdef Py_ssize_t index = c.index
        conflict = self.conflicts.get(index)
        if conflict is not None:
            found = message.action == REC_READ_RESPONSE
            version, data = (message.version, message.data) if found else (conflict.version, None)
            return self.fill(index, False, self.answers.conflict(conflict, self.asked(index), version, data))
        if message.topic == T_PARSER:
            return self.fill(index, False, self.answers.disabled(self.topic_of(index)))
        if message.topic == T_RECORD and message.action == REC_INVALID_VERSION:
            # What is there may only be told to those who may read it.
            self.conflicts[index] = message
            c.handle(Message(T_RECORD, REC_READ, name=message.name))
            return 0
        answer = self.answers.final(message)
        if answer is not None:
            success, element = answer
            return self.fill(index, success, element)
        return 0

    def asked(self, Py_ssize_t index):
        """The version that an element wants to write."""
        if self.scanned is not None:
            return self.scanned.parts[index].version
        return self.elements[index].version

    def topic_of(self, Py_ssize_t index):
        """The topic of an element."""
        return self.scanned.parts[index].topic if self.scanned is not None else self.elements[index].topic

    cdef int fill(self, Py_ssize_t index, bint success, bytes element) except -1:
        self.slots[index] = element
        self.size += <size_t>PyBytes_GET_SIZE(element)
        self.failures += not success
        self.open -= 1
        if self.open == 0 and self.on_done is not None:
            # Not now: this may be called in the middle of a step of a record.
            self.next = self.core.hub.loop.call_soon(self.complete)
        return 0

    def time_out(self):
        """Whoever has not answered yet will not be waited for."""
        cdef Py_ssize_t index
        if self.open == 0:
            return      # its answer is on the way
        on_timeout = self.on_timeout
        for index in range(len(self.slots)):
            if self.slots[index] is None:
                self.slots[index] = self.answers.timed_out
                self.failures += 1
        self.open = 0
        on_timeout()
        self.complete()

    def complete(self):
        """All have answered."""
        on_done = self.on_done
        answer = self.finish()
        if on_done is not None:
            on_done(answer)

    cdef bytes finish(self):
        self.stop()
        if self.failures == 0:
            result = b"SUCCESS"
        elif self.failures == len(self.slots):
            result = b"FAILURE"
        else:
            result = b"PARTIAL_SUCCESS"
        return b'{"result":"%b","body":[%b]}' % (result, b",".join(self.slots))

    cdef int stop(self) except -1:
        """Nothing more is waited for; break the circles, so that no garbage collection is needed."""
        cdef Answered c
        if self.timer is not None:
            self.timer.cancel()
        if self.next is not None:
            self.next.cancel()
        self.on_done = self.on_timeout = self.timer = self.next = None
        self.idle = None
        for item in self.connections:
            c = <Answered>item
            c.end()
            c.batch = None
        self.connections = []
        return 0
