"""Permission rules applied in the core (spec/valve.md sections 3, 4, 8 and 9).

A message is decided about at once when its rule needs nothing that has to be loaded: constants, the user, the payload,
and records in the memory cache. Everything else is left to dsfast/services/permission/valve.py, which may wait.
"""
import re

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp

from dsfast._core.buffer cimport Slice
from dsfast._core.connection cimport Connection
from dsfast._core.json_path cimport apply_multi, erase_value, parse_path, set_value
from dsfast._core.json_path import PathError
from dsfast._core.json_text cimport JSON_KIND_MASK, JSON_OBJECT, json_check, loads, loads_checked
from dsfast._core.names cimport Named, NameTable
from dsfast._core.protocol cimport *
from dsfast._core.record_cache cimport Record
from dsfast._core.records cimport (
    STEP_DELETE, STEP_HEAD, STEP_READ, STEP_SUBSCRIBE_CREATE_READ, STEP_SUBSCRIBE_READ, RecordCore, Step,
)
from dsfast._core.router cimport (
    VERDICT_ALLOWED, VERDICT_DENIED, VERDICT_FAILED, VERDICT_WAITS, Gate, action_of, answer_error,
)
from dsfast._core.valve cimport Rule, Scope, compile_rule
from dsfast._core.valve_parse cimport IDENTIFIER, MEMBER, Node, parse
from dsfast._core.valve import UNDEFINED, RuleError

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)
    int CLOCK_REALTIME
    int CLOCK_MONOTONIC

# Section and rule type of an action are one number: section * 8 + rule type.
cdef enum:
    RECORD = 0
    EVENT = 8
    RPC = 16
    PRESENCE = 24
    FREE = -1           # needs no permission
    IN_TURN = -2        # decided about when it is the record's turn

PIECES = re.compile(r"\$[A-Za-z0-9]+|[^$]+|\$")
SPECIAL = frozenset("\\^$.*+?()[]{}|")       # means something in a regular expression, or in a path

SECTIONS = (
    ("record", ("create", "read", "write", "delete", "listen", "notify")),
    ("event", ("publish", "subscribe", "listen")),
    ("rpc", ("provide", "request")),
    ("presence", ("allow",)),
)
"""Sections and rule types in the order of their numbers."""

cdef enum:
    RECORD_CREATE = 0
    RECORD_READ = 1
    RECORD_WRITE = 2
    RECORD_DELETE = 3
    RECORD_LISTEN = 4
    RECORD_NOTIFY = 5
    EVENT_PUBLISH = 8
    EVENT_SUBSCRIPTION = 9
    EVENT_LISTENING = 10
    RPC_PROVISION = 16
    RPC_CALL = 17
    PRESENCE_ALLOW = 24

cdef object NOTHING = object()      # not looked up yet
cdef Rule FAILING = compile_rule("null.rule")       # stands where the rule could not be found


cdef int rule_of(int topic, int action) noexcept:
    """The rule that an action of a client needs (section 9)."""
    if topic == T_EVENT:
        if action == EVENT_EMIT:
            return EVENT_PUBLISH
        if action == EVENT_SUBSCRIBE:
            return EVENT_SUBSCRIPTION
        if action == EVENT_LISTEN:
            return EVENT_LISTENING
    elif topic == T_RECORD:
        if (action == REC_SUBSCRIBE or action == REC_SUBSCRIBEANDHEAD or action == REC_SUBSCRIBEANDREAD
                or action == REC_READ or action == REC_HEAD or action == REC_HEAD_BULK):
            return RECORD_READ
        if action == REC_CREATE:
            return RECORD_CREATE
        if action == REC_UPDATE or action == REC_PATCH or action == REC_PATCH_MULTI:
            return RECORD_WRITE
        if action == REC_DELETE or action == REC_ERASE:
            return RECORD_DELETE
        if action == REC_LISTEN:
            return RECORD_LISTEN
        if action == REC_NOTIFY:
            return RECORD_NOTIFY
    elif topic == T_RPC:
        if action == RPC_PROVIDE:
            return RPC_PROVISION
        if action == RPC_REQUEST:
            return RPC_CALL
    elif topic == T_PRESENCE:
        if (action == PRE_SUBSCRIBE or action == PRE_SUBSCRIBE_ALL or action == PRE_QUERY
                or action == PRE_QUERY_ALL):
            return PRESENCE_ALLOW
    return FREE


cdef int rule_on_arrival(int topic, int action) noexcept:
    """As `rule_of`, for messages that have just arrived."""
    cdef int code = rule_of(topic, action)
    if code == RECORD_CREATE:
        return FREE         # no message of a client; its handler refuses it
    if code == RECORD_WRITE or code == RECORD_DELETE:
        return IN_TURN
    return code


def rule_type(int topic, int action):
    """Section and rule type for an action, or None if it needs no permission."""
    cdef int code = rule_of(topic, action)
    if code < 0:
        return None
    section, types = SECTIONS[code >> 3]
    return section, types[code & 7]


cdef bint has_names(int topic, int action) noexcept:
    """Whether the action works on the list of names; all others work on the one name."""
    if topic == T_EVENT:
        return action == EVENT_SUBSCRIBE
    if topic == T_RECORD:
        return (action == REC_SUBSCRIBE or action == REC_SUBSCRIBEANDHEAD or action == REC_SUBSCRIBEANDREAD
                or action == REC_HEAD_BULK or action == REC_NOTIFY)
    if topic == T_RPC:
        return action == RPC_PROVIDE
    return topic == T_PRESENCE and (action == PRE_SUBSCRIBE or action == PRE_QUERY)


cdef bint has_line_break(const char *p, Py_ssize_t n) noexcept nogil:
    """What `*` does not match: line feed, carriage return, U+2028, U+2029."""
    cdef const char *q
    cdef const char *end = p + n
    if memchr(p, c'\n', <size_t>n) != NULL or memchr(p, c'\r', <size_t>n) != NULL:
        return True
    q = <const char*>memchr(p, 0xE2, <size_t>n)
    while q != NULL and end - q >= 3:
        if memcmp(q, b"\xe2\x80\xa8", 3) == 0 or memcmp(q, b"\xe2\x80\xa9", 3) == 0:
            return True
        q = <const char*>memchr(q + 1, 0xE2, <size_t>(end - q - 1))
    return False


cdef double monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <double>t.tv_sec + <double>t.tv_nsec * 1e-9


cdef double epoch_ms() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <double>(<long long>t.tv_sec * 1000 + t.tv_nsec // 1000000)


cdef class Binding:
    """A rule, and what its path variables are for one name.

    `error` says why the rule could not be found, if it could not; its `rule` then fails.
    """

    def __cinit__(self, Rule rule not None, values):
        cdef Py_ssize_t i
        self.rule = rule
        self.user = NOTHING
        self.values = tuple([value.encode("utf-8", "surrogatepass") for value in values])
        self.slices = <Slice*>calloc(<size_t>len(self.values) + 1, sizeof(Slice))
        if self.slices == NULL:
            raise MemoryError("dsfast: out of memory")
        for i in range(len(self.values)):
            self.slices[i].p = PyBytes_AS_STRING(<bytes>self.values[i])
            self.slices[i].n = PyBytes_GET_SIZE(<bytes>self.values[i])

    def __dealloc__(self):
        free(self.slices)

    def failure(self, name, error):
        """What is logged when the rule fails for a name."""
        if self.error is not None:
            return f"error when looking for the rule for {name}: {self.error}"
        return f"error when executing {self.rule.source} for {name}: {error}"


cdef tuple members_read(str source):
    """The members of `data` that a rule names, if it does nothing else with `data`; else None."""
    cdef set names = set()
    cdef list nodes = [parse(source).root]
    cdef Node node, child
    while nodes:
        node = nodes.pop()
        for child in node.children or ():
            if child.kind != IDENTIFIER or child.value != "data":
                nodes.append(child)
            elif node.kind == MEMBER:
                names.add(node.value)
            else:
                return None
    return tuple([(name.encode("utf-8", "surrogatepass"), name) for name in names]) or None


cdef bint is_steady(Rule rule) except -1:
    """Whether the value depends on nothing but the name and the user's id."""
    cdef list nodes
    cdef Node node, child
    if rule.uses_data or rule.uses_old_data or rule.uses_references or rule.uses_now or "action" in rule.names:
        return False
    nodes = [parse(rule.source).root]
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        for child in node.children or ():
            if child.kind != IDENTIFIER or child.value != "user":
                nodes.append(child)
            elif node.kind != MEMBER or (node.value != "id" and node.value != "isAuthenticated"):
                return False
    return True


cdef const char *behind_string(const char *p, const char *end) noexcept nogil:
    """Behind the string of a valid JSON text whose contents start at p."""
    cdef const char *q
    while True:
        q = <const char*>memchr(p, c'"', <size_t>(end - p))
        p = q
        while (p - 1)[0] == c'\\':
            p -= 1
        if (q - p) & 1 == 0:
            return q + 1
        p = q + 1


cdef const char *behind_value(const char *p, const char *end) noexcept nogil:
    """Behind the value of a valid JSON text that starts at p."""
    cdef Py_ssize_t depth = 0
    while True:
        if p[0] == c'"':
            p = behind_string(p + 1, end)
        elif p[0] == c'{' or p[0] == c'[':
            depth += 1
            p += 1
        elif p[0] == c'}' or p[0] == c']':
            depth -= 1
            p += 1
        elif depth:
            p += 1
        else:
            while p[0] != c',' and p[0] != c'}' and p[0] != c' ' and p[0] != c'\n' and p[0] != c'\r' and p[0] != c'\t':
                p += 1
        if depth == 0:
            return p


cdef inline const char *behind_space(const char *p) noexcept nogil:
    while p[0] == c' ' or p[0] == c'\n' or p[0] == c'\r' or p[0] == c'\t':
        p += 1
    return p


cdef object value_at(const char *p, const char *q, int flags):
    """The value of a part of a valid JSON text."""
    if p[0] == c'"' and memchr(p, c'\\', <size_t>(q - p)) == NULL:
        return p[1:q - p - 1].decode("utf-8")
    if q - p == 1 and c'0' <= p[0] <= c'9':
        return <int>(p[0] - c'0')
    return loads_checked(PyBytes_FromStringAndSize(p, q - p), flags)


cdef object load_members(const char *p, Py_ssize_t n, tuple names, int flags):
    """A valid JSON text with only some of its members, if it is an object; else all of it.

    Making Python objects of a whole payload costs several times as much as a rule about two of its members.
    """
    cdef const char *start = p
    cdef const char *end = p + n
    cdef const char *key
    cdef const char *key_end
    cdef const char *end_of_value
    cdef bytes name
    cdef dict found = {}
    if flags & JSON_KIND_MASK != JSON_OBJECT:
        return loads_checked(PyBytes_FromStringAndSize(start, n), flags)
    p = behind_space(behind_space(p) + 1)
    while p[0] == c'"':
        key = p + 1
        key_end = behind_string(key, end) - 1
        p = behind_space(behind_space(key_end + 1) + 1)
        if memchr(key, c'\\', <size_t>(key_end - key)) != NULL:
            return loads_checked(PyBytes_FromStringAndSize(start, n), flags)     # a name that has to be decoded
        end_of_value = behind_value(p, end)
        for pair in names:
            name = <bytes>(<tuple>pair)[0]
            if PyBytes_GET_SIZE(name) == key_end - key and memcmp(PyBytes_AS_STRING(name), key, <size_t>(key_end - key)) == 0:
                found[(<tuple>pair)[1]] = value_at(p, end_of_value, flags)
                break
        p = behind_space(end_of_value)
        if p[0] == c',':
            p = behind_space(p + 1)
    return found


def payload(bytes text not None, str source not None):
    """What a rule gets as `data` of this JSON text: all of it, or if it is an object what the rule may look at.

    Raises ValueError if it is no JSON.
    """
    cdef tuple names = members_read(source)
    cdef int flags = json_check(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    if flags < 0:
        raise ValueError("not a JSON text")
    return loads(text) if names is None else load_members(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), names, flags)


cdef class PlainPath:
    """A path that needs no regular expression: literal text, variables that each fill the space between two slashes,
    and `*` at the end at most."""

    def __cinit__(self, path, str rule_type not None):
        cdef list names = [piece[1:] for piece in PIECES.findall(path.text) if piece[0] == "$"]
        self.rule = path.rules[rule_type]
        self.parts = plain_parts(path.text)
        self.rest = path.text.endswith("*")
        # Of two variables of the same name the last counts.
        last = {name: i for i, name in enumerate(names)}
        self.positions = tuple([last[name] for name in self.rule.variables])

    cdef tuple in_order(self, list values):
        """The values of the rule's variables."""
        return tuple([values[i] for i in self.positions])

    cdef list match(self, const char *p, Py_ssize_t n):
        """The texts of the variables in their order, or None."""
        cdef const char *end = p + n
        cdef const char *q
        cdef list values = None         # most paths end at their first part
        cdef bytes part
        for part in self.parts:
            if part is None:
                q = <const char*>memchr(p, c'/', <size_t>(end - p))
                if q == NULL:
                    q = end
                if q == p:
                    return None
                if values is None:
                    values = []
                values.append(p[:q - p].decode("utf-8", "surrogatepass"))
                p = q
            else:
                if end - p < PyBytes_GET_SIZE(part) or memcmp(p, PyBytes_AS_STRING(part), <size_t>PyBytes_GET_SIZE(part)) != 0:
                    return None
                p += PyBytes_GET_SIZE(part)
        if p != end and (not self.rest or has_line_break(p, end - p)):
            return None
        return [] if values is None else values


cdef list plain_parts(str text):
    """The parts of a plain path: bytes, and None for a variable. None: it is no plain one."""
    cdef list parts = []
    cdef str piece
    cdef bint after_variable = False        # there only a slash or the end leaves but one way to match
    for piece in PIECES.findall(text.removesuffix("*")):
        if len(piece) > 1 and piece[0] == "$":
            if after_variable:
                return None
            parts.append(None)
            after_variable = True
        elif SPECIAL.isdisjoint(piece) and (not after_variable or piece[0] == "/"):
            parts.append(piece.encode("utf-8", "surrogatepass"))
            after_variable = False
        else:
            return None
    return None if after_variable and text.endswith("*") else parts


cdef bint is_plain(str text) except -1:
    return plain_parts(text) is not None


cdef class NameRules(Named):
    """The rules that hold for one name in one section, as far as they were asked for."""


cdef class RuleTable:
    """Finds the rule for a name; what was found is remembered.

    At most `limit` names, which clients choose, are kept, in two generations: when the younger one is full, and at
    every :meth:`sweep`, the older one is dropped, that is, what was not used since the sweep before.
    """

    def __init__(self, rules not None, Py_ssize_t limit=100_000):
        self.rules = rules
        self.limit = limit
        self.young = [NameTable() for _ in SECTIONS]
        self.old = self.young
        self.facts = {}
        self.general = [[None] * len(types) for _, types in SECTIONS]
        self.plain = [[self._find_plain(section, kind) for kind in types] for section, types in SECTIONS]
        self._find_general()

    def _find_plain(self, section, kind):
        """The paths of a rule type, the most specific first, if all of them are plain; else None."""
        paths = self.rules.paths(section, kind)
        return [PlainPath(path, kind) for path in paths] if all(is_plain(path.text) for path in paths) else None

    def _find_general(self):
        """Where the path `*` is the only one with a rule type, its rule holds for every name."""
        number = {section: i for i, (section, _) in enumerate(SECTIONS)}
        paths = {}
        for section, path, kind, rule in self.rules.rules():
            paths.setdefault((section, kind), []).append((path, rule))
        for (section, kind), entries in paths.items():
            if len(entries) == 1 and entries[0][0] == "*":
                i = number[section]
                self.general[i][SECTIONS[i][1].index(kind)] = self.bound(entries[0][1], ())

    cdef Binding find(self, int section, int rule_type, const char *p, Py_ssize_t n):
        """The rule for a name; None: there is none, which refuses."""
        cdef NameRules entry
        cdef object found = (<list>self.general[section])[rule_type]
        if found is not None:
            return None if has_line_break(p, n) else <Binding>found
        entry = self.entry(section, p, n)
        found = entry.bindings[rule_type]
        if found is NOTHING:
            try:
                found = self.look_up(section, rule_type, p, n)
            except RuleError as error:
                # Not remembered: another time there may be time enough.
                found = Binding(FAILING, ())
                (<Binding>found).error = str(error)
                return <Binding>found
            entry.bindings[rule_type] = found
        return <Binding>found

    cdef NameRules entry(self, int section, const char *p, Py_ssize_t n):
        cdef NameRules entry = self.last
        # Often a name comes several times in a row.
        if entry is not None and self.last_section == section and entry.n == n and memcmp(entry.p, p, <size_t>n) == 0:
            return entry
        entry = self.search(section, p, n)
        self.last = entry
        self.last_section = section
        return entry

    cdef NameRules search(self, int section, const char *p, Py_ssize_t n):
        cdef PyObject *found = (<NameTable>self.young[section]).find(p, n)
        cdef NameRules entry
        if found != NULL:
            return <NameRules>found
        found = (<NameTable>self.old[section]).find(p, n)
        if found != NULL:
            entry = <NameRules>found
        else:
            entry = NameRules.__new__(NameRules)
            entry.set_name(p, n)
            entry.bindings = [NOTHING] * len(<list>self.general[section])
        if self.count * 2 >= self.limit:
            self.sweep()
        (<NameTable>self.young[section]).add(entry)
        self.count += 1
        return entry

    cdef Binding look_up(self, int section, int rule_type, const char *p, Py_ssize_t n):
        cdef list plain = (<list>self.plain[section])[rule_type]
        cdef list values
        cdef PlainPath path
        if plain is None:
            name, types = SECTIONS[section]
            found = self.rules.find(name, types[rule_type], p[:n].decode("utf-8", "surrogatepass"))
            return None if found is None else self.bound(found[0], found[1])
        for path in plain:
            values = path.match(p, n)
            if values is not None:
                return self.bound(path.rule, path.in_order(values))
        return None

    cdef Binding bound(self, Rule rule, tuple values):
        """A Binding that knows what can be known of its rule beforehand."""
        cdef Binding binding = Binding(rule, values)
        cdef tuple facts = self.facts.get(rule)
        if facts is None:
            facts = (members_read(rule.source) if rule.uses_data else None, is_steady(rule))
            self.facts[rule] = facts
        binding.members = facts[0]
        binding.steady = facts[1]
        return binding

    def sweep(self):
        """Forget the names that were not asked for since the last sweep."""
        self.old = self.young
        self.young = [NameTable() for _ in SECTIONS]
        self.count = 0
        self.last = None

    def __len__(self):
        return sum([(<NameTable>table).count for table in self.young]) + (
            0 if self.old is self.young else sum([(<NameTable>table).count for table in self.old]))

    def bind(self, int topic, int action, str name):
        """The Binding for an action on a name, None if no rule allows it; ValueError if none is needed."""
        cdef int code = rule_of(topic, action)
        if code < 0:
            raise ValueError("this action needs no permission")
        cdef bytes key = b"undefined" if name is None else name.encode("utf-8", "surrogatepass")
        return self.find(code >> 3, code & 7, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))


cdef class RunScope(Scope):
    """What one rule sees, and the records it asked for: `known` ones, and in `missing` those to be loaded."""

    def __init__(self):
        super().__init__()
        self.known = {}
        self.missing = set()

    cdef object reference(self, str name):
        cdef object value = self.known.get(name, NOTHING)
        cdef Py_ssize_t n
        cdef const char *p
        if value is not NOTHING:
            return value
        if self.own_name is not None and name == self.own_name:
            self.own_used = True
            return self.own
        if self.gate is not None and not self.missing:
            try:
                p = PyUnicode_AsUTF8AndSize(name, &n)
            except UnicodeEncodeError:
                raise RuleError("crossreference to a name that is not valid Unicode") from None
            value = self.gate.state(p, n, False)
            if value is not NOTHING:
                self.known[name] = value
                return value
        self.missing.add(name)
        return UNDEFINED


cdef object copied_along(object root, str path):
    """A copy of `root` that can be changed at `path`: only what lies on the way is copied."""
    cdef object copy, node, child, key
    if type(root) is not dict and type(root) is not list:
        return root
    copy = node = root.copy()
    for key in parse_path(path):
        if type(node) is dict:
            key = key if type(key) is str else str(key)
            child = (<dict>node).get(key)
        else:
            if type(key) is not int:
                key = int(key) if key.isascii() and key.isdecimal() and len(key) < 16 else -1
            child = (<list>node)[key] if 0 <= key < len(<list>node) else None
        if type(child) is not dict and type(child) is not list:
            break
        child = child.copy()
        node[key] = child
        node = child
    return copy


cdef object changed(object document, str path, bytes data, list operations, bint apart):
    """The document as a patch would make it. `apart`: share nothing with the original, so that `===` tells them apart."""
    cdef object copy
    if apart:
        document = deep_copy(document)
    if operations is not None:
        copy = document
        for at, _, _ in operations:
            copy = copied_along(copy, at)
        apply_multi(copy, operations)
        return copy
    copy = copied_along(document, path)
    if data is None:
        erase_value(copy, path)
    else:
        set_value(copy, path, loads(data))
    return copy


cdef object deep_copy(object value):
    """A copy of a JSON value; its depth is bounded by JSON_MAX_DEPTH."""
    if type(value) is dict:
        return {key: deep_copy(item) for key, item in (<dict>value).items()}
    if type(value) is list:
        return [deep_copy(item) for item in <list>value]
    return value


def operations_of(bytes data, str name):
    """The (path, has_value, value) triples of a PATCH_MULTI. Raises RuleError."""
    entries = loads(data) if data is not None else None
    if not isinstance(entries, list):
        raise RuleError(f"Invalid MultiPatch Data {name}")
    operations = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise RuleError(f"Invalid MultiPatch Data {name}")
        operations.append((entry["path"], "data" in entry, entry.get("data")))
    return operations


cdef class Run:
    """One check that may have to wait for records: `attempt` again until it needs no more (section 8)."""

    cdef Binding binding
    cdef RunScope scope
    cdef object user_data
    cdef bytes user_id
    cdef bytes key
    cdef Message message
    cdef readonly bint uses_record  # the rule needs the present state of the record itself
    cdef bint merges                # its `data` is that state with the message's change

    def __init__(self, Binding binding not None, user_id, user_data, Message message not None):
        cdef Rule rule = binding.rule
        cdef bint write = message.topic == T_RECORD and rule_of(T_RECORD, message.action) == RECORD_WRITE
        self.binding = binding
        self.message = message
        self.user_id = ("" if user_id is None else user_id).encode("utf-8", "surrogatepass")
        self.user_data = user_data
        self.key = None if message.name is None else message.name.encode("utf-8", "surrogatepass")
        self.merges = write and rule.uses_data and message.action != REC_UPDATE
        self.uses_record = message.topic == T_RECORD and (self.merges or rule.uses_old_data)
        self.scope = RunScope()

    @property
    def data(self):
        """What the last attempt gave the rule as `data`."""
        return self.scope.data

    @property
    def old_data(self):
        """What the last attempt gave the rule as `oldData`."""
        return self.scope.old_data

    def value(self):
        """What the rule evaluates to with what the last attempt gave it; UNDEFINED for undefined."""
        self.scope.variable_count = len(self.binding.values)
        return self.binding.rule.value(self.scope)

    def attempt(self, dict known not None, double now=-1):
        """Evaluate with the records known so far (name → data, None: no such record).

        `now`, in ms since 1970, is what the rule sees as such; without it the clock is asked.

        Returns the decision and the set of names that are still to be loaded; while there are any, the decision
        means nothing. Raises RuleError if the rule fails.
        """
        cdef RunScope scope = self.scope
        cdef Message message = self.message
        cdef object verdict = False
        cdef str name = message.name
        scope.known = known
        scope.missing = set()
        scope.user_id.p = PyBytes_AS_STRING(self.user_id)
        scope.user_id.n = PyBytes_GET_SIZE(self.user_id)
        scope.user_data = self.user_data
        scope.action = message.action
        scope.now = epoch_ms() if now < 0 else now
        scope.has_name = self.key is not None
        if scope.has_name:
            scope.name.p = PyBytes_AS_STRING(self.key)
            scope.name.n = PyBytes_GET_SIZE(self.key)
        scope.variables = self.binding.slices if scope.has_name else NULL
        scope.data = scope.old_data = UNDEFINED
        if self.uses_record and name not in known:
            scope.missing.add(name)
        elif self.uses_record and self.binding.rule.uses_old_data:
            scope.old_data = known[name]
        try:
            if self.binding.rule.uses_data:
                scope.data = self.payload(known)
            verdict = self.binding.rule.evaluate(scope) == 1
        except RuleError:
            # With something unknown an error means no more than a value does.
            if not scope.missing:
                raise
        return verdict, scope.missing

    cdef object payload(self, dict known):
        cdef Message message = self.message
        cdef Rule rule = self.binding.rule
        cdef bint write = message.topic == T_RECORD and rule_of(T_RECORD, message.action) == RECORD_WRITE
        cdef list operations = None
        if not write and (message.topic == T_RECORD or message.data is None):
            return UNDEFINED
        if write and message.action == REC_PATCH_MULTI:
            operations = operations_of(message.data, message.name)
        if not self.merges:
            return parsed(message.data)
        if message.name not in known:
            return UNDEFINED
        document = known[message.name]
        if document is None:
            if message.original_action != REC_CREATEANDPATCH:
                raise RuleError(f"Tried to apply patch to non-existant record {message.name}")
            document = {}
        try:
            return changed(document, message.path, message.data, operations,
                           rule.uses_old_data or rule.uses_references)
        except PathError as error:
            raise RuleError(f"invalid path: {error}") from None


cdef object parsed(data):
    """A payload as rules see it. Raises RuleError if it is no JSON."""
    if data is None:
        return UNDEFINED
    try:
        return loads(data)
    except ValueError as error:
        raise RuleError(f"payload is no JSON: {error}") from None


cdef class ValveGate(Gate):
    """Decides with the rules of one server; see the module."""

    def __init__(self, RuleTable table not None, int max_runs):
        self.table = table
        self.max_runs = max_runs
        self.scope = RunScope()
        self.scope.gate = self

    def use(self, RuleTable table not None):
        """From now on these rules hold."""
        self.table = table

    def set_records(self, RecordCore records not None):
        """Where to look for the records that rules refer to."""
        self.records = records

    cdef object state(self, const char *p, Py_ssize_t n, bint settled):
        """The newest state of a record if it is known now, else NOTHING. None: there is no such record.

        `settled`: only if nothing is going on that may change it before a message that has arrived now is handled.
        """
        cdef Record record
        cdef bytes key
        if self.records is None or self.records.cache is None:
            return NOTHING
        record = self.records.cache.find(p, n)
        if record is None or (settled and self.records.queues):
            key = PyBytes_FromStringAndSize(p, n)
            if key in self.records.queues:
                return NOTHING
            if record is None:
                return NOTHING if self.records.is_stored(key) else None
        self.records.cache.touch(record)
        return record.document()

    cdef int run(self, Connection c, Binding binding, int action, const char *p, Py_ssize_t n, bint own_record) except -1:
        """Evaluate with what the scope has been given as `data` and `old_data`; never raises RuleError."""
        cdef RunScope scope = self.scope
        cdef int verdict
        cdef Py_ssize_t loads
        cdef Rule rule = binding.rule
        if rule.uses_user:
            scope.user_id.p = PyUnicode_AsUTF8AndSize(c.user_id, &scope.user_id.n)
            scope.user_data = c.server_data
        scope.action = action
        if rule.uses_now:
            scope.now = epoch_ms()
        scope.has_name = p != NULL
        scope.name.p = p
        scope.name.n = n
        scope.variables = binding.slices if p != NULL else NULL
        try:
            verdict = rule.evaluate(scope)
        except RuleError as error:
            verdict = VERDICT_FAILED
            if not scope.missing:
                self.report(c, binding, "undefined" if p == NULL else p[:n].decode("utf-8", "replace"), error)
        if rule.uses_references:
            loads = len(scope.known) + len(scope.missing) + (own_record or scope.own_used)
            # One run finds at least one record, and the last finds none: so few cannot need too many runs.
            if scope.missing or loads >= self.max_runs:
                verdict = VERDICT_WAITS
            scope.known = {}
            if scope.missing:
                scope.missing = set()
            scope.own_name = scope.own = None
            scope.own_used = False
        if rule.uses_data or rule.uses_old_data:
            scope.data = scope.old_data = UNDEFINED
        scope.user_data = None
        return verdict

    def report(self, Connection c not None, Binding binding not None, str name, error):
        """Log that a rule failed; a client may cause that as often as it likes."""
        c.endpoint.owner.log_limited(c, "MESSAGE_PERMISSION_ERROR", binding.failure(name, error))

    cdef int one(self, Connection c, int code, int action, const char *p, Py_ssize_t n, const Msg *m) except -1:
        """Decide about one name of a message that has just arrived."""
        cdef Binding binding
        cdef Rule rule
        cdef int flags, verdict
        cdef bint own = False
        if p == NULL:
            binding = self.table.find(code >> 3, code & 7, b"undefined", 9)
        else:
            binding = self.table.find(code >> 3, code & 7, p, n)
        if binding is None:
            return VERDICT_DENIED
        rule = binding.rule
        if rule.constant >= 0:
            return rule.constant
        if binding.steady and binding.user is c.user_id:
            return binding.verdict
        if rule.uses_old_data and code == RECORD_READ and (action == REC_READ or action == REC_HEAD):
            return VERDICT_ALLOWED          # decided about in turn, on the record as it is shown
        if rule.uses_data and (code == EVENT_PUBLISH or code == RPC_CALL) and has_text(m, S_DATA):
            flags = json_check(m.s[S_DATA].p, m.s[S_DATA].n)
            if flags < 0:
                return VERDICT_ALLOWED      # to its handler, which refuses it as no JSON
            if binding.members is not None:
                self.scope.data = load_members(m.s[S_DATA].p, m.s[S_DATA].n, binding.members, flags)
            else:
                self.scope.data = loads_checked(PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n), flags)
        if rule.uses_old_data:
            document = self.state(p, n, True)
            if document is NOTHING:
                self.scope.data = UNDEFINED
                return VERDICT_WAITS
            self.scope.old_data = document
            own = True
        verdict = self.run(c, binding, action, p, n, own)
        if binding.steady and verdict != VERDICT_FAILED:
            binding.user = c.user_id
            binding.verdict = verdict
        return verdict

    cdef int arrival(self, Connection c, const Msg *m) except -1:
        """Decide about a message; refusals have been answered."""
        cdef int action = action_of(m)
        cdef int code = rule_on_arrival(m.topic, action)
        cdef int verdict
        cdef Slice name
        cdef const char *cursor
        if code < 0:
            return VERDICT_ALLOWED
        if has_names(m.topic, action):
            # A refusal of one of several names is rare, and told for each: left to the Python gate.
            if m.items == 0 or m.items > <uint32_t>c.endpoint.owner.max_names:
                return VERDICT_ALLOWED
            cursor = next_item(m, m.body, &name)
            while cursor != NULL:
                if name.n and self.one(c, code, action, name.p, name.n, m) != VERDICT_ALLOWED:
                    return VERDICT_WAITS
                cursor = next_item(m, cursor, &name)
            return VERDICT_ALLOWED
        if m.topic == T_PRESENCE:           # of those without a list, which have no name either
            if has_text(m, S_NAME):
                return VERDICT_WAITS        # the Python gate takes it away
            verdict = self.one(c, code, action, NULL, 0, m)
        elif has_text(m, S_NAME) and m.s[S_NAME].n:
            verdict = self.one(c, code, action, m.s[S_NAME].p, m.s[S_NAME].n, m)
        else:
            return VERDICT_ALLOWED      # without a name its handler answers it as invalid
        if verdict == VERDICT_DENIED:
            answer_error(c, m, DENIED[m.topic & 7])
        elif verdict == VERDICT_FAILED:
            answer_error(c, m, FAILED[m.topic & 7])
        return verdict

    def measure(self, Connection connection not None, list messages not None, Py_ssize_t rounds=1):
        """Seconds that `rounds` times all these decisions took, on messages as they arrive. For benchmarks.

        Raises ValueError if one of them is not allowed at once.
        """
        cdef Py_ssize_t i, j, count = len(messages)
        cdef Msg *arrived = <Msg*>calloc(<size_t>count + 1, sizeof(Msg))
        cdef double start
        if arrived == NULL:
            raise MemoryError("dsfast: out of memory")
        try:
            for i in range(count):
                (<Message?>messages[i]).fill(&arrived[i])
            start = monotonic()
            for j in range(rounds):
                for i in range(count):
                    if self.arrival(connection, &arrived[i]) != VERDICT_ALLOWED:
                        raise ValueError(f"not allowed: {messages[i]!r}")
            return monotonic() - start
        finally:
            free(arrived)

    cdef int turn(self, object step, object record) except -1:
        """Decide about a step whose turn it is, on the state of its record; refusals have been answered."""
        return self.checks(<Step>step, <Record>record)

    cdef int checks(self, Step step, Record record) except -1:
        cdef int verdict
        if step.kind == STEP_READ or step.kind == STEP_HEAD or step.kind == STEP_SUBSCRIBE_READ:
            if step.collector is not None:
                return VERDICT_ALLOWED
            # Not decided about yet, or on what may have changed since: the record, by steps that came before this one
            # and by others while the message waited for its turn, and the rules.
            verdict = self.step(step, REC_READ, record)
            if verdict == VERDICT_WAITS and not self.reads_record(step.key):
                return VERDICT_ALLOWED      # decided when the message came; only other records are missing here
            return self.refuse_step(step, verdict)
        if step.kind == STEP_DELETE:
            return self.refuse_step(step, self.step(step, REC_DELETE, record))
        if step.kind == STEP_SUBSCRIBE_CREATE_READ:
            # Both before anything is created: a record that its creator may not read would be left over.
            if record is None:
                verdict = self.step(step, REC_CREATE, record)
                if verdict != VERDICT_ALLOWED:
                    return self.refuse_step(step, verdict)
            return self.refuse_step(step, self.step(step, REC_READ, record))
        if step.upsert:
            verdict = self.step(step, REC_CREATE, record)
            if verdict == VERDICT_ALLOWED:
                verdict = self.step(step, REC_PATCH if step.normal == REC_PATCH else REC_UPDATE, record)
        else:
            # A patch without data erases, and needs the right to.
            verdict = self.step(step, REC_ERASE if step.data is None else step.action, record)
        if verdict != VERDICT_ALLOWED:
            return self.refuse_step(step, verdict)
        if record is None:
            step.may_read = True        # nothing to hide
        elif step.shows_record(record.version):
            # The answer to a conflict contains the record.
            verdict = self.step(step, REC_READ, record)
            if verdict == VERDICT_WAITS:
                return verdict
            step.may_read = verdict == VERDICT_ALLOWED
        return VERDICT_ALLOWED

    cdef bint reads_record(self, bytes key) except -1:
        """Whether the read rule of a record looks at the record."""
        cdef Binding binding = self.table.find(RECORD_READ >> 3, RECORD_READ & 7, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return binding is None or binding.rule.uses_old_data

    cdef int step(self, Step step, int action, Record record) except -1:
        cdef const char *p = PyBytes_AS_STRING(step.key)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(step.key)
        cdef int code = rule_of(T_RECORD, action)
        cdef Binding binding = self.table.find(0, code & 7, p, n)
        cdef Rule rule
        cdef bint own = False
        if binding is None:
            return VERDICT_DENIED
        rule = binding.rule
        if rule.constant >= 0:
            return rule.constant
        if rule.uses_old_data:
            self.scope.old_data = None if record is None else record.document()
            own = True
        if rule.uses_data and code == RECORD_WRITE:
            if action == REC_UPDATE:
                self.scope.data = loads(step.data)
            else:
                own = True
                if record is None and not step.upsert:
                    self.report(step.connection, binding, step.name,
                                f"Tried to apply patch to non-existant record {step.name}")
                    self.scope.old_data = UNDEFINED
                    return VERDICT_FAILED
                try:
                    self.scope.data = changed({} if record is None else record.document(), step.path, step.data,
                                              step.operations, rule.uses_old_data or rule.uses_references)
                except PathError as error:
                    self.report(step.connection, binding, step.name, f"invalid path: {error}")
                    self.scope.old_data = UNDEFINED
                    return VERDICT_FAILED
        if rule.uses_references:
            # The record itself, as of this step; its queue would have to be waited for otherwise.
            self.scope.own_name = step.name
            self.scope.own = None if record is None else record.document()
        return self.run(step.connection, binding, action, p, n, own)

    cdef int refuse_step(self, Step step, int verdict) except -1:
        """Answer a refused step."""
        cdef Msg m
        if verdict != VERDICT_DENIED and verdict != VERDICT_FAILED:
            return verdict
        start(&m, T_RECORD, REC_MESSAGE_DENIED if verdict == VERDICT_DENIED else REC_MESSAGE_PERMISSION_ERROR)
        set_int(&m, I_ORIGINAL_ACTION, step.action)
        set_int(&m, I_IS_ERROR, 1)
        set_text(&m, S_NAME, PyBytes_AS_STRING(step.key), PyBytes_GET_SIZE(step.key))
        if step.correlation_id is not None:
            set_text(&m, S_CORRELATION_ID, PyBytes_AS_STRING(step.correlation_id), PyBytes_GET_SIZE(step.correlation_id))
        if step.write_ack:
            set_int(&m, I_IS_WRITE_ACK, 1)
        step.connection.reply_msg(&m)
        return verdict


cdef int[8] DENIED = [0, 0, 0, 0, EVENT_MESSAGE_DENIED, REC_MESSAGE_DENIED, RPC_MESSAGE_DENIED, PRE_MESSAGE_DENIED]
cdef int[8] FAILED = [0, 0, 0, 0, EVENT_MESSAGE_PERMISSION_ERROR, REC_MESSAGE_PERMISSION_ERROR,
                      RPC_MESSAGE_PERMISSION_ERROR, PRE_MESSAGE_PERMISSION_ERROR]
