"""Record writes and the fast path of the record handler (spec/records.md).

Every operation on a record is a Step. A step whose record is in the memory cache, and which need not wait for a
permission or for earlier steps of the same name, is performed at once, here. Everything else goes to the queue of
its name in dsfast/handlers/record.py, which calls back into ``perform_now`` when its turn has come.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dsfast._core.buffer cimport Buf, Slice, buf_free
from dsfast._core.connection cimport ST_CLOSING, Connection
from dsfast._core.fanout cimport Hub, Peer, Registry, StateWriter, Subject
from dsfast._core.json_path cimport apply_multi, erase_value, parse_path, set_value
from dsfast._core.json_path import PathError
from dsfast._core.json_text cimport (
    JSON_ARRAY, JSON_HAS_FLOAT, JSON_KIND_MASK, JSON_OBJECT, json_check, loads, loads_checked,
)
from dsfast._core.protocol cimport *
from dsfast._core.record_cache cimport Record, RecordCache
from dsfast._core.router cimport (
    VERDICT_ALLOWED, VERDICT_WAITS, Handler, action_of, answer_error, answer_invalid, names_ok, send_ack,
)

cdef enum:
    HOLE_COST = 5           # "null," of one array hole

EMPTY = b"{}"


cdef class Step:
    """One operation on one record, waiting for its turn or being performed."""

    def __init__(self):
        raise TypeError("only the record handler makes steps")

    @property
    def name(self):
        """Name of the record."""
        return self.key.decode()

    @property
    def is_write(self):
        """Whether it changes the record by UPDATE, PATCH, ERASE or PATCH_MULTI."""
        return self.kind == STEP_WRITE or self.kind == STEP_HOT_WRITE

    cpdef bint shows_record(self, int64_t version):
        """Whether its answer contains the record if that has this version: see `conflict`."""
        if not self.has_version or (self.version != -1 and self.version <= version):
            return True
        return (self.version > version + 1 and self.connection.protocol is not None
                and not self.connection.protocol.knows_gaps)

    def message(self, int action):
        """The message a permission plugin sees, with the given action."""
        cdef Message message = Message(T_RECORD, action, name=self.name)
        if self.is_write:
            message.data = self.data
            message.path = self.path
            message.version = self.version if self.has_version else None
            if self.upsert:
                message.original_action = self.action
        message.is_write_ack = True if self.write_ack else None
        message.correlation_id = self.correlation_id.decode() if self.correlation_id is not None else None
        return message


@cython.internal
cdef class AckWaiter:
    """Answers one write when the storage has decided about it (spec/records.md section 6.5)."""

    cdef RecordCore core
    cdef Step step

    def __call__(self, error):
        cdef Msg m
        if error is None:
            start(&m, T_RECORD, REC_WRITE_ACKNOWLEDGEMENT)
            fill_ack(&m, self.step)
            self.step.connection.reply_msg(&m)
        else:
            self.core.log.error("RECORD_UPDATE_ERROR", f"{self.step.name}: {error}")
            self.core.fail(self.step, REC_UPDATE_ERROR)


cdef inline void put_bytes(Msg *m, int field, bytes value) noexcept:
    set_text(m, field, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))


cdef void fill_ack(Msg *m, Step step) noexcept:
    """Fields by which the client finds the write a message is about; those of reads are found by the name."""
    put_bytes(m, S_NAME, step.key)
    if step.write_ack:
        set_int(m, I_IS_WRITE_ACK, 1)
    if step.correlation_id is not None and (step.kind == STEP_WRITE or step.kind == STEP_HOT_WRITE):
        put_bytes(m, S_CORRELATION_ID, step.correlation_id)


@cython.internal
cdef class RecordState(StateWriter):
    """Gives a slow reader the newest state of a record instead of the updates it has not read."""

    cdef RecordCore core

    cdef int write_state(self, Peer peer, Subject subject) except -1:
        return self.core.write_state(peer, subject)


cdef class RecordCore(Handler):
    """Topic RECORD. Subclassed by dsfast.handlers.record.RecordHandler, which queues what has to wait."""

    def __init__(self, Registry registry not None, RecordCache cache, listen, log, options):
        cdef RecordState state = RecordState()
        self.registry = registry
        self.hub = registry.hub
        self.cache = cache
        self.listen = listen
        self.log = log
        self.options = options
        self.queues = {}
        self.max_size = options.max_size
        self.strict = options.durability == "strict"
        self.ack_from_cache = options.durability == "cache"
        self.max_index_growth = options.max_index_growth
        self.max_array_length = options.max_array_length
        self.excluded = tuple(prefix.encode() for prefix in options.storage_exclusion_prefixes)
        self.hot = tuple(prefix.encode() for prefix in options.storage_hot_path_prefixes)
        state.core = self
        self.hub.state_writer = state

    cdef bint is_stored(self, bytes key) except -1:
        """Whether this record is kept by the storage."""
        return self.writer is not None and not (self.excluded and key.startswith(self.excluded))

    cdef bint is_hot(self, bytes key) except -1:
        return len(self.hot) > 0 and key.startswith(self.hot)

    def stored(self, bytes key not None):
        """Whether this record is kept by the storage."""
        return self.is_stored(key)

    # --- messages --------------------------------------------------------------------------------------------

    cdef int handle(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        cdef int action = action_of(m)
        cdef Step step
        if REC_CREATEANDUPDATE <= action <= REC_ERASE or action == REC_PATCH_MULTI:
            return self.write(c, m, action)
        if action == REC_READ or action == REC_HEAD or action == REC_DELETE:
            if not has_text(m, S_NAME) or m.s[S_NAME].n == 0:
                return answer_invalid(c, m)
            step = new_step(c, m, action)
            step.kind = STEP_READ if action == REC_READ else STEP_HEAD if action == REC_HEAD else STEP_DELETE
            return self.submit(step)
        if action == REC_SUBSCRIBECREATEANDREAD or action == REC_SUBSCRIBEANDREAD:
            if not names_ok(c, m):
                return 0
            send_ack(c, m, names_of(m) if m.items else None)
            return self.names_step(c, m, STEP_SUBSCRIBE_READ if action == REC_SUBSCRIBEANDREAD
                                   else STEP_SUBSCRIBE_CREATE_READ, action)
        if action == REC_SUBSCRIBEANDHEAD:
            return self.subscribe_and_head(c, m)
        if action == REC_SUBSCRIBE or action == REC_UNSUBSCRIBE:
            if not names_ok(c, m):
                return 0
            self.names_step(c, m, STEP_SUBSCRIBE if action == REC_SUBSCRIBE else STEP_UNSUBSCRIBE, action)
            return send_ack(c, m)
        if action == REC_HEAD_BULK:
            if names_ok(c, m):
                self.head_bulk(c, names_of(m), m.s[S_CORRELATION_ID].p[:m.s[S_CORRELATION_ID].n]
                               if has_text(m, S_CORRELATION_ID) else None)
            return 0
        if action == REC_NOTIFY:
            if names_ok(c, m):
                self.notify(c, names_of(m), to_message(m))
            return 0
        if REC_LISTEN <= action <= REC_LISTEN_REJECT:
            if not has_text(m, S_NAME) or m.s[S_NAME].n == 0:
                return answer_invalid(c, m)
            self.listen.on_message(c, to_message(m))
            return 0
        return c.unknown_action(m)

    cdef int names_step(self, Connection c, Msg *m, int kind, int action) except -1:
        """One step for each name of a bulk request."""
        cdef Slice name
        cdef Step step
        cdef const char *cursor = m.body
        cdef bytes correlation_id = None
        if m.items == 0:
            return 0
        if self.gate is not None and has_text(m, S_CORRELATION_ID):
            correlation_id = PyBytes_FromStringAndSize(m.s[S_CORRELATION_ID].p, m.s[S_CORRELATION_ID].n)
        cursor = next_item(m, cursor, &name)
        while cursor != NULL:
            step = Step.__new__(Step)
            step.kind = kind
            step.connection = c
            step.action = action
            step.key = PyBytes_FromStringAndSize(name.p, name.n)
            step.correlation_id = correlation_id        # of a refusal
            self.submit(step)
            cursor = next_item(m, cursor, &name)
        return 0

    cdef int subscribe_and_head(self, Connection c, Msg *m) except -1:
        """Heads of what is cached, subscriptions, the ack, then the heads of the rest (section 4.3)."""
        cdef Slice name
        cdef Record record
        cdef Msg a
        cdef dict heads = {}
        cdef list waiting = []
        cdef bytes key
        cdef const char *cursor = m.body
        if not names_ok(c, m):
            return 0
        if self.cache is None:
            self.plugin_subscribe_and_head(c, names_of(m), to_message(m))
            return 0
        if m.items:
            cursor = next_item(m, cursor, &name)
            while cursor != NULL:
                key = PyBytes_FromStringAndSize(name.p, name.n)
                record = self.cache.find(name.p, name.n)
                if record is None or (self.queues and key in self.queues):
                    waiting.append(key)
                else:
                    heads[key] = record.version
                cursor = next_item(m, cursor, &name)
        start(&a, T_RECORD, REC_HEAD_RESPONSE_BULK)
        c.reply_msg(&a, None, heads)
        if m.items:
            cursor = next_item(m, m.body, &name)
            while cursor != NULL:
                # At once, unless an UNSUBSCRIBE that came before may still be waiting.
                self.submit(self.make_step(STEP_SUBSCRIBE, c, REC_SUBSCRIBEANDHEAD,
                                           PyBytes_FromStringAndSize(name.p, name.n)))
                cursor = next_item(m, cursor, &name)
        send_ack(c, m)
        for key in waiting:
            self.submit(self.make_step(STEP_HEAD, c, REC_SUBSCRIBEANDHEAD, key))
        return 0

    cdef int write(self, Connection c, Msg *m, int action) except -1:
        cdef Step step = self.parse_write(c, m, action)
        return self.submit(step) if step is not None else 0

    cdef Step parse_write(self, Connection c, Msg *m, int action):
        """Check a write before it can have any effect (section 6.1); None if it was answered by an error."""
        cdef Step step
        cdef int kind = 0
        cdef bint has_path = has_text(m, S_PATH), has_data = has_text(m, S_DATA), good
        if not has_text(m, S_NAME) or m.s[S_NAME].n == 0:
            answer_invalid(c, m)
            return None
        step = new_step(c, m, action)
        step.kind = STEP_WRITE
        step.upsert = action == REC_CREATEANDUPDATE or action == REC_CREATEANDPATCH
        step.normal = REC_PATCH if has_path else REC_PATCH_MULTI if action == REC_PATCH_MULTI else REC_UPDATE
        if has_path:
            step.path = m.s[S_PATH].p[:m.s[S_PATH].n].decode()
        if has_data:
            kind = json_check(m.s[S_DATA].p, m.s[S_DATA].n)
            if kind < 0:
                self.invalid(step)
                return None
            step.has_float = kind & JSON_HAS_FLOAT
            kind &= JSON_KIND_MASK
            step.data = PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n)
        if self.hot and action == REC_CREATEANDPATCH and self.is_hot(step.key):
            self.fail(step, REC_INVALID_PATCH_ON_HOTPATH)
            return None
        # The action and the fields must say the same: permission rules look at the action.
        if action == REC_UPDATE or action == REC_CREATEANDUPDATE:
            good = not has_path and (kind == JSON_OBJECT or kind == JSON_ARRAY)
        elif action == REC_ERASE:
            good = has_path and not has_data
        elif action == REC_PATCH:
            good = has_path
        elif action == REC_CREATEANDPATCH:
            good = has_path and has_data
        else:
            good = not has_path and kind == JSON_ARRAY and self.parse_multi(step)
        if good and has_path:
            try:
                parse_path(step.path)
            except PathError:
                good = False
        if not good:
            self.invalid(step)
            return None
        if self.hot and action == REC_CREATEANDUPDATE and self.is_hot(step.key):
            step.kind = STEP_HOT_WRITE
        return step

    def refuses(self, Connection connection not None, Message message not None):
        """Answer a message whose fields make no sense before anybody is asked for permission; True if it was.

        Of the names of a bulk request only their being names is checked here.
        """
        cdef Msg m
        cdef int action = message.action
        message.fill(&m)
        if REC_CREATEANDUPDATE <= action <= REC_ERASE or action == REC_PATCH_MULTI:
            return self.parse_write(connection, &m, action) is None
        if (action == REC_READ or action == REC_HEAD or action == REC_DELETE
                or REC_LISTEN <= action <= REC_LISTEN_REJECT):
            if not message.name:
                answer_invalid(connection, &m)
                return True
        elif message.names is not None and ("" in message.names
                                            or len(message.names) > connection.endpoint.owner.max_names):
            answer_invalid(connection, &m)
            return True
        return False

    cdef bint parse_multi(self, Step step) except -1:
        cdef list operations = []
        entries = loads(step.data)
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                return False
            try:
                parse_path(entry["path"])
            except PathError:
                return False
            operations.append((entry["path"], "data" in entry, entry.get("data")))
        step.operations = operations
        return len(operations) > 0

    cdef int submit(self, Step step) except -1:
        """Perform a step at once if nothing has to be waited for, else queue it."""
        cdef Record record = None
        cdef int verdict
        cdef bint ready = False
        # What can change a record is decided about in its turn (sections 6.2 and 7), all else was on arrival; but by
        # the core's rules nobody reads a record that has become another one since.
        cdef bint undecided = self.gate is not None and (
            step.kind == STEP_WRITE or step.kind == STEP_HOT_WRITE or step.kind == STEP_DELETE
            or step.kind == STEP_SUBSCRIBE_CREATE_READ
            or (self.core_gate is not None and step.collector is None
                and (step.kind == STEP_READ or step.kind == STEP_HEAD or step.kind == STEP_SUBSCRIBE_READ)))
        if (self.cache is not None and (not undecided or self.core_gate is not None)
                and (not self.queues or step.key not in self.queues)):
            record = self.cache.find(step_p(step), step_n(step))
            if step.kind == STEP_WRITE or step.kind == STEP_HOT_WRITE:
                if self.strict and self.is_stored(step.key):
                    pass                # the storage has to confirm before anybody is told
                else:
                    ready = step.kind == STEP_HOT_WRITE or record is not None or not self.is_stored(step.key)
            elif step.kind == STEP_SUBSCRIBE or step.kind == STEP_UNSUBSCRIBE:
                ready = True
            elif step.kind == STEP_DELETE:
                ready = not self.is_stored(step.key)
            elif step.kind != STEP_RELOAD:
                ready = record is not None or not self.is_stored(step.key)
        if ready and undecided:
            verdict = self.core_gate.turn(step, record)
            if verdict == VERDICT_WAITS:
                ready = False
            elif verdict != VERDICT_ALLOWED:
                return 0                # its sender has been told
        if ready:
            return self.perform(step, record)
        self.enqueue(step)
        return 0

    def enqueue(self, Step step not None):
        """Queue a step behind the others of its record (overridden in Python)."""
        raise NotImplementedError

    def turn_now(self, Step step not None, Record record):
        """What the core's permission says of a step whose turn it is (VERDICT_...); a refused one is answered."""
        return self.core_gate.turn(step, record)

    def perform_now(self, Step step not None, Record record):
        """Perform a step whose turn has come on the state of its record (None: there is none)."""
        self.perform(step, record)

    # --- performing ------------------------------------------------------------------------------------------

    cdef int perform(self, Step step, Record record) except -1:
        cdef Msg m
        cdef Connection c = step.connection
        if record is not None and self.cache is not None and step.kind != STEP_DELETE:
            if record.cached:
                self.cache.touch(record)
            else:
                self.cache.put(record)      # evicted while this step was waiting
        if step.kind == STEP_WRITE or step.kind == STEP_HOT_WRITE:
            record = self.prepare_write(step, record)
            return self.commit(step, record) if record is not None else 0
        if step.kind == STEP_SUBSCRIBE_READ:
            if c.state < ST_CLOSING:
                self.subscribe(c, step.key, REC_SUBSCRIBE)
                self.respond(c, step.key, record)
            return 0
        if step.kind == STEP_SUBSCRIBE_CREATE_READ:
            if record is None:
                record = self.create(step)
            if c.state < ST_CLOSING:
                self.subscribe(c, step.key, REC_SUBSCRIBE)
                self.respond(c, step.key, record)
            return 0
        if step.kind == STEP_READ:
            if record is None:
                return self.fail(step, REC_NOT_FOUND)
            return self.respond(c, step.key, record)
        if step.kind == STEP_HEAD:
            if step.collector is not None:
                step.collector(step.name, -1 if record is None else record.version)
                return 0
            start(&m, T_RECORD, REC_HEAD_RESPONSE)
            put_bytes(&m, S_NAME, step.key)
            set_int(&m, I_VERSION, -1 if record is None else record.version)
            return c.reply_msg(&m)
        if step.kind == STEP_SUBSCRIBE:
            if c.state < ST_CLOSING:
                return self.subscribe(c, step.key, step.action)
            return 0
        if step.kind == STEP_UNSUBSCRIBE:
            self.registry.unsubscribe(c, step_p(step), step_n(step))
            return 0
        if step.kind == STEP_DELETE:
            if record is not None and self.cache is not None:
                self.cache.drop(record)
            return self.deleted(step)
        if step.kind == STEP_RELOAD:
            return self.reloaded(step, record)
        if step.kind == STEP_GET:
            step.collector(-1 if record is None else record.version, None if record is None else record.text())
        return 0

    cdef int subscribe(self, Connection c, bytes key, int action) except -1:
        """Subscribe; tell of an active provider, or of a repeated subscription (section 4.1)."""
        cdef bint fresh = False
        cdef Msg m
        cdef Subject subject = self.registry.subscribe(c, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), &fresh)
        if subject.provided:
            start(&m, T_RECORD, REC_SUBSCRIPTION_HAS_PROVIDER)
            put_bytes(&m, S_NAME, key)
            c.reply_msg(&m)
        if not fresh:
            start(&m, T_RECORD, REC_MULTIPLE_SUBSCRIPTIONS)
            set_int(&m, I_ORIGINAL_ACTION, action)
            put_bytes(&m, S_NAME, key)
            c.reply_msg(&m)
            c.endpoint.owner.log_repeated(c, "subscription", key.decode())
        return 0

    cdef int respond(self, Connection c, bytes key, Record record) except -1:
        """READ_RESPONSE with version and data of one moment."""
        cdef Msg m
        cdef bytes text = EMPTY if record is None else record.text()
        start(&m, T_RECORD, REC_READ_RESPONSE)
        put_bytes(&m, S_DATA, text)
        put_bytes(&m, S_NAME, key)
        set_int(&m, I_VERSION, -1 if record is None else record.version)
        return c.reply_msg(&m)

    cdef Record create(self, Step step):
        """A new empty record, version 0 (create if absent: it is the turn of this record)."""
        cdef Record record = Record(step.key, 0, EMPTY)
        try:
            self.store(record, False)
        except Exception as error:
            # As upstream: the client may work with the record, the log tells that it is not stored.
            self.log.error("RECORD_CREATE_ERROR", f"storage:{error}")
        if self.cache is not None:
            self.cache.put(record)
        return record

    cdef int store(self, Record record, bint forced) except -1:
        """Queue the record for the storage, unless it is queued already. Raises StorageFull."""
        if not record.queued and self.is_stored(record.key):
            self.writer.put(record.text_name(), record, forced=forced)
            record.queued = True
        elif forced and record.queued:
            self.writer.put(record.text_name(), record, forced=True)
        return 0

    cdef Record prepare_write(self, Step step, Record record):
        """Version rules and change; the new state is on its way to the storage, but nobody was told yet.

        Returns the changed record, or None if the sender has been answered (sections 6.2 to 6.4).
        """
        cdef int64_t current
        cdef bint fresh = record is None
        if step.kind == STEP_HOT_WRITE:
            return self.prepare_hot_write(step, record)
        if fresh:
            if not step.upsert:
                self.log.error("RECORD_UPDATE_ERROR", f"Received update for non-existant record {step.name}")
                self.fail(step, REC_UPDATE_ERROR)
                return None
            record = Record(step.key, 0, EMPTY)
        current = record.version
        if not step.has_version or (step.version != current + 1 and step.version != -1):
            self.conflict(step, record)
            return None
        if current >= 0x7FFFFFFF:
            self.invalid(step)       # versions are int32 on the wire
            return None
        # An existing record is queued before it is changed: a full queue must refuse the write, not lose it.
        if not fresh and not self.store_for(step, record, False):
            return None
        if not self.apply(step, record, current):
            return None
        if fresh and not self.store_for(step, record, False):
            return None
        self.keep(record, fresh)
        return record

    cdef Record prepare_hot_write(self, Step step, Record record):
        """Hot path: always version 0, no conflict detection (section 8)."""
        cdef bint fresh = record is None
        if PyBytes_GET_SIZE(step.data) > self.max_size:
            self.too_large(step)
            return None
        if fresh:
            record = Record(step.key, 0, step.data)
        if not self.store_for(step, record, True):
            return None
        record.raw = step.data
        record.doc = None
        record.size = PyBytes_GET_SIZE(step.data)
        record.version = 0
        record.saved_version = -1       # the stored version 0 is another state
        self.keep(record, fresh)
        return record

    cdef int keep(self, Record record, bint fresh) except -1:
        if self.cache is not None:
            if fresh:
                self.cache.put(record)
            else:
                self.cache.recharge(record)
        return 0

    cdef bint store_for(self, Step step, Record record, bint forced) except -1:
        """Queue the record for the storage; if that is full, the step gets its error and False is returned."""
        try:
            self.store(record, forced)
        except Exception as error:
            self.log.error("RECORD_UPDATE_ERROR", f"{step.name}: {error}")
            self.fail(step, REC_UPDATE_ERROR)
            return False
        return True

    cdef bint apply(self, Step step, Record record, int64_t base) except -1:
        """Change the record to its next version, all or nothing. False: the sender has been answered."""
        cdef Py_ssize_t grow, holes, most
        cdef bytes before = None
        if step.normal == REC_UPDATE:
            if PyBytes_GET_SIZE(step.data) > self.max_size:
                return self.too_large(step)
            record.raw = step.data
            record.doc = None
            record.size = PyBytes_GET_SIZE(step.data)
            record.version = base + 1
            return True
        grow = 4 + (3 if step.path is None else 1) * (0 if step.data is None else PyBytes_GET_SIZE(step.data))
        most = HOLE_COST * self.max_array_length
        if step.path is not None:
            grow += 6 * len(step.path)
            most = HOLE_COST * self.max_index_growth if has_digit(step.path) else 0
        if record.size + grow + most > self.max_size:
            # The size is kept as an upper estimate: near the bound count exactly, before and after the change.
            before = record.text()
        try:
            if step.normal == REC_PATCH_MULTI:
                holes = apply_multi(record.document(), step.operations, self.max_index_growth, self.max_array_length)
            elif step.data is None:
                holes = erase_value(record.document(), step.path, self.max_index_growth, self.max_array_length)
            else:
                holes = set_value(record.document(), step.path,
                                  loads_checked(step.data, JSON_HAS_FLOAT if step.has_float else 0),
                                  self.max_index_growth, self.max_array_length)
        except PathError:
            self.invalid(step)
            return False
        record.raw = None
        record.size += grow + HOLE_COST * holes
        if before is not None and PyBytes_GET_SIZE(record.text()) > max(self.max_size, PyBytes_GET_SIZE(before)):
            record.raw = before
            record.doc = None
            record.size = PyBytes_GET_SIZE(before)
            return self.too_large(step)
        record.version = base + 1
        return True

    cdef bint too_large(self, Step step) except -1:
        self.log.error("RECORD_UPDATE_ERROR", f"{step.name} would exceed record.maxSize")
        self.fail(step, REC_UPDATE_ERROR)
        return False

    cdef int commit(self, Step step, Record record) except -1:
        """The new state stands: tell the subscribers and, when it is safe, the writer."""
        cdef AckWaiter waiter
        self.changed = record
        self.broadcast_write(step, record)
        self.changed = None
        if step.write_ack:
            waiter = AckWaiter.__new__(AckWaiter)
            waiter.core = self
            waiter.step = step
            if self.is_stored(step.key) and not step.durable and not self.ack_from_cache:
                try:
                    self.writer.put(record.text_name(), record, waiter=waiter)
                    record.queued = True
                except Exception as error:
                    waiter(error)
            else:
                waiter(None)
        return 0

    cdef int broadcast_write(self, Step step, Record record) except -1:
        cdef Subject subject = self.registry.find(step_p(step), step_n(step))
        cdef Msg m
        if subject is None:
            return 0
        start(&m, T_RECORD, step.normal)
        if step.data is not None:
            put_bytes(&m, S_DATA, step.data)
        put_bytes(&m, S_NAME, step.key)
        set_int(&m, I_IS_WRITE_ACK, 0)
        set_int(&m, I_VERSION, record.version if step.kind == STEP_WRITE else step.version if step.has_version else -1)
        if step.normal == REC_PATCH_MULTI:
            return self.broadcast_multi(step, record, subject, &m)
        if step.path is not None:
            path = step.path.encode()
            put_bytes(&m, S_PATH, path)
            if subject.foreign and ("\x1e" in step.path or "\x1f" in step.path):
                # Text clients could be made to read messages of the writer's making.
                return self.broadcast_multi(step, record, subject, &m)
        return self.hub.broadcast_msg(subject, step.connection, &m)

    cdef int broadcast_multi(self, Step step, Record record, Subject subject, Msg *m) except -1:
        """Clients before 7.1.0 ignore PATCH_MULTI and would go stale: they get the whole record."""
        cdef Msg update
        cdef Connection c
        cdef bytes text = None
        cdef uint32_t i
        for i in range(subject.count):
            c = <Connection>subject.subs[i].peer
            if not c.knows_patch_multi and c is not step.connection:
                break
        else:
            return self.hub.broadcast_msg(subject, step.connection, m)
        for i in range(subject.count):
            c = <Connection>subject.subs[i].peer
            if c is step.connection or (self.hub.conflate and c.blocked and self.hub.absorb(c, subject)):
                continue
            if c.knows_patch_multi:
                c.reply_msg(m)
                continue
            if text is None:
                text = record.text()
                start(&update, T_RECORD, REC_UPDATE)
                put_bytes(&update, S_DATA, text)
                put_bytes(&update, S_NAME, step.key)
                set_int(&update, I_IS_WRITE_ACK, 0)
                set_int(&update, I_VERSION, record.version)
            c.reply_msg(&update)
        return 0

    cdef int conflict(self, Step step, Record record) except -1:
        """The version is taken (the sender gets the newest state) or leaves a gap (section 6.2)."""
        cdef Msg m
        cdef bytes text, path
        if (step.has_version and step.version > record.version + 1
                and (step.connection.protocol is None or step.connection.protocol.knows_gaps)):
            start(&m, T_RECORD, REC_INVALID_VERSION)
            path = self.echo(step, &m)
            set_int(&m, I_VERSION, record.version)
            return step.connection.reply_msg(&m)
        start(&m, T_RECORD, REC_VERSION_EXISTS)
        set_int(&m, I_ORIGINAL_ACTION, step.normal)
        if step.may_read or self.gate is None:
            text = record.text()
            put_bytes(&m, S_DATA, text)
        fill_ack(&m, step)
        set_int(&m, I_VERSION, record.version)
        step.connection.endpoint.owner.log_version_exists(step.connection, step.name, step.version, record.version)
        return step.connection.reply_msg(&m)

    cdef int fail(self, Step step, int action) except -1:
        """Answer a step that failed."""
        cdef Msg m
        start(&m, T_RECORD, action)
        if action != REC_UPDATE_ERROR:
            set_int(&m, I_ORIGINAL_ACTION, step.action)
        set_int(&m, I_IS_ERROR, 1)
        fill_ack(&m, step)
        return step.connection.reply_msg(&m)

    def refuse(self, Step step not None, int action):
        """Answer a step with an error action."""
        if step.collector is not None and step.kind != STEP_GET:
            self.fail(step, action)
            step.collector(step.name, None)
        elif step.kind == STEP_GET:
            step.collector(None, action)
        elif step.kind not in (STEP_SUBSCRIBE, STEP_UNSUBSCRIBE):
            self.fail(step, action)

    cdef bytes echo(self, Step step, Msg *m):
        """The fields of the request, for answers that repeat it. The caller keeps what is returned until it sent m."""
        cdef bytes path = None
        set_int(m, I_ORIGINAL_ACTION, step.normal)
        set_int(m, I_IS_ERROR, 1)
        if step.data is not None:
            put_bytes(m, S_DATA, step.data)
        if step.correlation_id is not None:
            put_bytes(m, S_CORRELATION_ID, step.correlation_id)
        put_bytes(m, S_NAME, step.key)
        if step.write_ack:
            set_int(m, I_IS_WRITE_ACK, 1)
        if step.has_version:
            set_int(m, I_VERSION, step.version)
        if step.path is not None:
            path = step.path.encode()
            put_bytes(m, S_PATH, path)
        return path

    cdef int invalid(self, Step step) except -1:
        """INVALID_MESSAGE_DATA; data that is not JSON is left out, no client could read it."""
        cdef Msg m
        cdef bytes path
        start(&m, T_RECORD, REC_INVALID_MESSAGE_DATA)
        path = self.echo(step, &m)
        return step.connection.reply_msg(&m)

    cdef int deleted(self, Step step) except -1:
        """The record is gone: tell everybody, end all subscriptions (section 9)."""
        cdef Subject subject = self.registry.find(step_p(step), step_n(step))
        cdef Msg m
        self.log.info("DELETE", step.name)
        start(&m, T_RECORD, REC_DELETE_SUCCESS)
        put_bytes(&m, S_NAME, step.key)
        step.connection.reply_msg(&m)
        if subject is not None:
            m.i[I_ACTION] = REC_DELETED
            self.hub.broadcast_msg(subject, step.connection, &m)
            self.registry.remove_all(step.name)
        return 0

    cdef int reloaded(self, Step step, Record record) except -1:
        """NOTIFY: give all subscribers, the sender included, what the storage holds now (section 10)."""
        cdef Subject subject = self.registry.find(step_p(step), step_n(step))
        cdef Msg m
        cdef bytes text
        if subject is not None:
            start(&m, T_RECORD, REC_DELETED if record is None else REC_UPDATE)
            put_bytes(&m, S_NAME, step.key)
            if record is not None:
                text = record.text()
                put_bytes(&m, S_DATA, text)
                set_int(&m, I_VERSION, record.version)
            self.hub.broadcast_msg(subject, None, &m)
            if record is None:
                self.registry.remove_all(step.name)
        if step.collector is not None:
            step.collector(step.name, -1 if record is None else record.version)
        return 0

    cdef int write_state(self, Peer peer, Subject subject) except -1:
        """One full UPDATE of the newest version for a reader that was too slow for the single ones."""
        cdef Record record
        cdef Msg m
        cdef bytes text
        cdef Buf out = Buf(NULL, 0, 0)
        record = self.cache.find(subject.p, subject.n) if self.cache is not None else None
        if record is None:
            # Its newest state is not at hand. Without it the reader would stay behind for good; closed, it connects
            # again and reads.
            return peer.on_slow()
        text = record.text()
        start(&m, T_RECORD, REC_UPDATE)
        put_bytes(&m, S_DATA, text)
        put_bytes(&m, S_NAME, subject.key)
        set_int(&m, I_IS_WRITE_ACK, 0)
        set_int(&m, I_VERSION, record.version)
        try:
            peer.encode(&m, &out)
            peer.write_now(out.p, out.n)
        finally:
            buf_free(&out)
        return 0

    # --- for dsfast/handlers/record.py -----------------------------------------------------------------------

    def prepare(self, Step step not None, Record record):
        """First half of a write, for caches that answer later: the changed Record, or None if it was refused."""
        return self.prepare_write(step, record)

    def commit_now(self, Step step not None, Record record not None):
        """Second half of a write: broadcast and acknowledgement."""
        self.commit(step, record)

    def new_record(self, Step step not None):
        """An empty record, version 0, on its way to the storage."""
        return self.create(step)

    def find_cached(self, bytes key not None):
        """The record in the memory cache, or None."""
        if self.cache is None:
            return None
        return self.cache.find(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def admit(self, bytes key not None, int64_t version, bytes text not None, bint stored):
        """A record that was loaded: put it into the memory cache and return it.

        Raises ValueError if it is none: clients must never get what is no JSON document.
        """
        cdef Record record
        cdef int kind = json_check(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        if kind < 0 or (kind & JSON_KIND_MASK != JSON_OBJECT and kind & JSON_KIND_MASK != JSON_ARRAY):
            raise ValueError("not a JSON object or array")
        record = Record(key, version, text)
        if stored:
            record.saved_version = version
        if self.cache is not None:
            self.cache.put(record)
        return record

    def store_again(self, Record record not None):
        """Queue the state of a record for the storage once more, if it is not stored."""
        if record.saved_version < record.version:
            self.store(record, False)

    def forget_cached(self, bytes key not None):
        """Drop a record from the memory cache."""
        cdef Record record = self.find_cached(key)
        if record is not None:
            self.cache.drop(record)

    def head_bulk(self, Connection connection, list names, bytes correlation_id):
        """Answer HEAD_BULK (overridden in Python)."""

    def notify(self, Connection connection, list names, Message message):
        """Handle NOTIFY (overridden in Python)."""

    def plugin_subscribe_and_head(self, Connection connection, list names, Message message):
        """SUBSCRIBEANDHEAD with a cache plugin (overridden in Python)."""

    def subscribe_name(self, Connection connection not None, str name not None, int action):
        """Subscribe a connection to a record, with the messages that belong to it."""
        self.subscribe(connection, name.encode(), action)

    cpdef Step make_step(self, int kind, Connection connection, int action, bytes key, collector=None):
        """A step that is no write; only STEP_GET, which answers through ``collector``, needs no connection."""
        if key is None or (connection is None and kind != STEP_GET):
            raise TypeError("a step needs a key and a connection")
        cdef Step step = Step.__new__(Step)
        step.kind = kind
        step.connection = connection
        step.action = action
        step.key = key
        step.collector = collector
        return step

    def submit_step(self, Step step not None):
        """As for the steps of messages: at once if possible, else queued."""
        self.submit(step)


cdef bint has_digit(str path) noexcept:
    """Whether a path may contain an index."""
    cdef Py_UCS4 c
    for c in path:
        if c'0' <= c <= c'9':
            return True
    return False


cdef inline const char *step_p(Step step) noexcept:
    return PyBytes_AS_STRING(step.key)


cdef inline Py_ssize_t step_n(Step step) noexcept:
    return PyBytes_GET_SIZE(step.key)


cdef Step new_step(Connection c, Msg *m, int action):
    """A step with what all messages that name one record have in common."""
    cdef Step step = Step.__new__(Step)
    step.connection = c
    step.action = action
    step.key = PyBytes_FromStringAndSize(m.s[S_NAME].p, m.s[S_NAME].n)
    step.has_version = has_int(m, I_VERSION)
    if step.has_version:
        step.version = m.i[I_VERSION]
    step.write_ack = has_int(m, I_IS_WRITE_ACK) and m.i[I_IS_WRITE_ACK] != 0
    if has_text(m, S_CORRELATION_ID):
        step.correlation_id = PyBytes_FromStringAndSize(m.s[S_CORRELATION_ID].p, m.s[S_CORRELATION_ID].n)
    return step
