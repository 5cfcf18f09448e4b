"""Permission rules applied in the core."""
from cpython.object cimport PyObject

from dsfast._core.buffer cimport Slice
from dsfast._core.connection cimport Connection
from dsfast._core.names cimport Named, NameTable
from dsfast._core.protocol cimport Message, Msg
from dsfast._core.record_cache cimport Record
from dsfast._core.records cimport RecordCore, Step
from dsfast._core.router cimport Gate
from dsfast._core.valve cimport Rule, Scope

cdef class Binding:
    cdef readonly Rule rule
    cdef readonly tuple values      # of the path variables, bytes
    cdef readonly str error
    cdef bint steady                # the value depends on the name and the user's id alone
    cdef object user                # whom a steady rule was last decided for, and how
    cdef int verdict
    cdef tuple members              # of `data`, as bytes and str, if the rule reads nothing else of it; else None
    cdef Slice *slices

cdef class PlainPath:
    cdef Rule rule
    cdef list parts                 # bytes, and None for a variable
    cdef bint rest                  # ends with *
    cdef tuple positions            # of the rule's variables among those of the path
    cdef tuple in_order(self, list values)
    cdef list match(self, const char *p, Py_ssize_t n)

cdef class NameRules(Named):
    cdef list bindings              # by rule type: Binding, None (refused), or MISSING (not looked up yet)

cdef class RuleTable:
    cdef readonly object rules      # RuleSet
    cdef list young                 # by section: NameTable
    cdef list old
    cdef list plain                 # by section and rule type: list of PlainPath, None if not all paths are plain
    cdef list general               # by section and rule type: the Binding of a lone path "*", else None
    cdef dict facts                 # by rule: members and steadiness of its bindings
    cdef NameRules last             # the name that was looked for last
    cdef int last_section
    cdef Py_ssize_t count
    cdef Py_ssize_t limit
    cdef Binding find(self, int section, int rule_type, const char *p, Py_ssize_t n)
    cdef NameRules entry(self, int section, const char *p, Py_ssize_t n)
    cdef NameRules search(self, int section, const char *p, Py_ssize_t n)
    cdef Binding bound(self, Rule rule, tuple values)
    cdef Binding look_up(self, int section, int rule_type, const char *p, Py_ssize_t n)

cdef class RunScope(Scope):
    cdef ValveGate gate
    cdef dict known
    cdef set missing
    cdef str own_name               # the record of the step that is decided about
    cdef object own
    cdef bint own_used

cdef class ValveGate(Gate):
    cdef readonly RuleTable table
    cdef readonly RecordCore records
    cdef int max_runs
    cdef RunScope scope
    cdef int run(self, Connection c, Binding binding, int action, const char *p, Py_ssize_t n, bint own_record) except -1
    cdef int one(self, Connection c, int code, int action, const char *p, Py_ssize_t n, const Msg *m) except -1
    cdef object state(self, const char *p, Py_ssize_t n, bint settled)
    cdef int step(self, Step step, int action, Record record) except -1
    cdef bint reads_record(self, bytes key) except -1
    cdef int refuse_step(self, Step step, int verdict) except -1
    cdef int checks(self, Step step, Record record) except -1
